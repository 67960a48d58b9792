//! `leaktrace completions` and `leaktrace man`: what shells and manuals want to know of the command line.

use std::path::Path;

use anyhow::Result;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::output::print;
use crate::cli::{Cli, ManArgs};
use crate::exit::{ExitCode, Failure};

/// Prints the completion script of a shell.
pub(crate) fn completions(shell: Shell) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "leaktrace", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::Success)
}

/// Prints a manual page, or writes all of them.
pub(crate) fn man(args: &ManArgs) -> Result<ExitCode> {
    let cli = built();
    if let Some(folder) = &args.folder {
        for command in std::iter::once(&cli).chain(cli.get_subcommands()).filter(|command| !command.is_hide_set()) {
            let page = page(command)?;
            let path = folder.join(format!("{}.1", command.get_display_name().unwrap_or("leaktrace")));
            std::fs::write(&path, page).map_err(|error| unwritable(&path, &error))?;
        }
        return Ok(ExitCode::Success);
    }
    let command = match &args.command {
        None => Some(&cli),
        Some(name) => cli.get_subcommands().find(|command| command.get_name() == name && !command.is_hide_set()),
    };
    let command = command.ok_or_else(|| {
        let name = args.command.as_deref().unwrap_or_default();
        Failure::new(ExitCode::Usage, format!("no subcommand {name:?}"), "`leaktrace help` lists them")
    })?;
    print(&String::from_utf8_lossy(&page(command)?))?;
    Ok(ExitCode::Success)
}

/// The command line with names filled in ("leaktrace-run"), without the `help` that clap adds.
fn built() -> Command {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    cli
}

fn page(command: &Command) -> std::io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.get_subcommands().any(|sub| !sub.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(notes) = command.get_after_long_help().or(command.get_after_help()) {
        // As it is laid out: these are tables.
        let mut section = Roff::new();
        section.control("SH", ["EXAMPLES AND EXIT CODES"]).control("nf", []);
        section.text([roman(notes.to_string())]).control("fi", []);
        section.to_writer(&mut page)?;
    }
    if command.get_version().is_some() {
        man.render_version_section(&mut page)?;
    }
    Ok(page)
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    let what = format!("cannot write {}: {error}", path.display());
    Failure::new(ExitCode::Output, what, "name a folder that exists and can be written")
}
