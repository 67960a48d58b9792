//! What needs root: directly, or through sudo.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Result, bail};

use crate::workspace::find_program;

pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Can [`command`] work at all?
pub(crate) fn available() -> bool {
    is_root() || find_program("sudo").is_some()
}

/// A command that runs `program` as root; `what` says in the error what root is needed for.
pub(crate) fn command(program: impl AsRef<OsStr>, what: &str) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    let Some(sudo) = find_program("sudo") else {
        bail!("{what} needs root, and there is no sudo here: run the same command as root");
    };
    let mut command = Command::new(sudo);
    command.arg("--").arg(program);
    Ok(command)
}
