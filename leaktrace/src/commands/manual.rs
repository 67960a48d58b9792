//! `leaktrace completions` and `leaktrace man`: what packages install beside the executable.

use std::path::Path;

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::output::print;
use crate::cli::Cli;
use crate::exit::{ExitCode, Failure};

pub(crate) fn completions(shell: Shell) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "leaktrace", &mut text);
    print(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::Success)
}

/// One page for leaktrace and one for each subcommand.
pub(crate) fn pages(folder: &Path) -> Result<ExitCode> {
    let failure = |error: std::io::Error| {
        Failure::new(ExitCode::Output, format!("cannot write {}: {error}", folder.display()), "choose another folder")
    };
    clap_mangen::generate_to(Cli::command(), folder).map_err(failure)?;
    Ok(ExitCode::Success)
}
