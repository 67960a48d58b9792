//! `leaktrace doctor`: what the kernel, the privileges and an interpreter allow, and why not.

mod check;
mod host;
mod interpreter;
mod target;

use anyhow::Result;
use leaktrace::plan;

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
        let (target, plan) = target::checks(pid);
        print(&render(&format!("process {pid}"), &target))?;
        checks.extend(target);
        if let Some(plan) = plan.filter(|_| args.plan) {
            print(&format!("\n{}", plan::render(&plan)))?;
        }
    }
    Ok(checks.iter().find_map(Check::failure).unwrap_or(ExitCode::Success))
}
