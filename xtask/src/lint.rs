//! `cargo xtask lint`: formatting and clippy, on the host's crates and on the BPF programs.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::cargo;
use crate::setup;
use crate::step::display;

pub(crate) fn lint() -> Result<()> {
    check(cargo("fmt").args(["--all", "--check"]))?;
    check(cargo("clippy").args(["--quiet", "--all-targets", "--", "--deny=warnings"]))?;
    let toolchain = setup::ensure()?;
    setup::ensure_clippy(&toolchain)?;
    check(toolchain.cargo("clippy").args(["--quiet", "--", "--deny=warnings"]))?;
    eprintln!("lint: clean");
    Ok(())
}

fn check(command: &mut Command) -> Result<()> {
    eprintln!("==> {}", display(command));
    let status = command.status().with_context(|| format!("cannot start {}", display(command)))?;
    if !status.success() {
        bail!("{} found something ({status})", display(command));
    }
    Ok(())
}
