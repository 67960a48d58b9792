//! `cargo xtask`: set-up, build, run, test, lint and dist of leaktrace. No other tool is needed to work on it.

mod apt;
mod build;
mod root;
mod setup;
mod step;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, runs and tests leaktrace; sets up what that needs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the BPF build needs (done once; every other command does it by itself)
    Setup,
    /// Build the BPF programs and leaktrace with them inside
    Build {
        /// With optimisation
        #[arg(long)]
        release: bool,
        /// The BPF programs alone
        #[arg(long, conflicts_with = "release")]
        bpf: bool,
    },
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup => {
            let toolchain = setup::ensure()?;
            eprintln!("BPF toolchain: {}", toolchain.compiler.rustc.display());
        }
        Command::Build { bpf: true, .. } => eprintln!("{}", build::bpf()?.display()),
        Command::Build { release, .. } => {
            let profile = if release { build::Profile::Release } else { build::Profile::Dev };
            eprintln!("{}", build::leaktrace(profile)?.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}
