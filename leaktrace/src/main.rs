//! The `leaktrace` executable.

mod cli;
mod commands;
mod exit;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => commands::run::run(&args),
        Command::Record(args) => commands::run::record(args),
        Command::Top(args) => commands::top::run(*args),
        Command::Report(args) => commands::report::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Heap(args) => commands::heap::run(&args),
        Command::Diff(args) => commands::diff::run(&args),
        Command::Refs(args) => commands::refs::run(&args),
        Command::Gc(args) => commands::gc::run(&args),
        Command::Completions { shell } => commands::shell::completions(shell),
        Command::Man(args) => commands::shell::man(&args),
        Command::Guard { owner, tracefs } => commands::guard::run(&owner, &tracefs),
    };
    let code = result.unwrap_or_else(|error| {
        let (line, code) = exit::report(&error);
        // Not eprintln: a closed stderr must not turn an exit code into a panic.
        let _ = writeln!(std::io::stderr(), "{line}");
        code
    });
    code.into()
}
