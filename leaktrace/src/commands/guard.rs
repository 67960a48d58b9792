//! `leaktrace guard`: what `leaktrace run` starts beside itself, in case it is killed.

use std::path::Path;

use anyhow::{Context as _, Result};
use leaktrace::tracer::guardian;

use crate::exit::ExitCode;

pub(crate) fn run(owner: &str, tracefs: &Path) -> Result<ExitCode> {
    guardian::watch(owner, tracefs).with_context(|| format!("cannot guard {owner}"))?;
    Ok(ExitCode::Success)
}
