//! `leaktrace doctor`: what the kernel, the privileges and an interpreter allow, and why not.

mod check;
mod host;
mod target;

use anyhow::Result;

use self::check::{Check, render};
use super::output::print;
use crate::cli::DoctorArgs;
use crate::exit::ExitCode;

/// Ends with the code of the first thing that stands in the way.
pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    // First: a tracefs can only be mounted while this process has one thread.
    let mut checks = host::checks();
    print(&render("this machine", &checks))?;
    if let Some(pid) = args.pid {
        let target = target::checks(pid);
        print(&render(&format!("process {pid}"), &target))?;
        checks.extend(target);
    }
    Ok(checks.iter().find_map(Check::failure).unwrap_or(ExitCode::Success))
}
