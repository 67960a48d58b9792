//! `cargo xtask`: set-up, build, run, test, lint, bench and dist of leaktrace. No other tool is needed to work on it.

mod apt;
mod bench;
mod build;
mod demo;
mod dist;
mod lint;
mod matrix;
mod offsets;
mod python;
mod pythons;
mod root;
mod run;
mod setup;
mod step;
mod test;
mod toolchain;
mod workspace;

use std::io::Write as _;
use std::path::PathBuf;
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
    /// Trace a process: `leaktrace run` with these arguments, built in release, as root
    ///
    /// Without --pid, the bundled leaking service (tests/services/demo.py) is started and traced for 30 s.
    #[command(disable_help_flag = true)]
    Run {
        /// Arguments of `leaktrace run`, for example --pid PID --duration 1m
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run every test, those with real BPF included (as root, or through sudo)
    Test {
        /// Only the tests that need no privilege and no BPF toolchain
        #[arg(long)]
        unprivileged: bool,
        /// The core tests on every interpreter, those of `pythons` included; writes docs/pythons.md
        #[arg(long, conflicts_with_all = ["unprivileged", "filter"])]
        matrix: bool,
        /// With --matrix: only these test programs, for example truth or stacks
        #[arg(long, requires = "matrix")]
        check: Vec<String>,
        /// With --matrix: only interpreters whose path has this in it, for example sid-
        #[arg(long, requires = "matrix")]
        python: Vec<String>,
        /// With --matrix: only one build of each kind and minor version, as CI has time for
        #[arg(long, requires = "matrix")]
        core: bool,
        /// Only tests whose names contain this
        filter: Option<String>,
    },
    /// Get interpreters of distribution releases and of wheels to test on, into a cache ($LEAKTRACE_PYTHONS)
    Pythons,
    /// Check formatting and clippy, the BPF programs included
    Lint,
    /// Measure what tracing costs, beside other tools: prints tables, writes docs/benchmarks.md and docs/benchmarks.json
    ///
    /// Takes some 15 minutes with two interpreters. Everything is compared with an untraced baseline of the same process,
    /// measured before and after, in CPU time: other load on the machine widens the ranges, but does not move the medians much.
    /// The parts that have an option of their own are measured only when they are asked for.
    Bench(bench::Options),
    /// Make dist/leaktrace: one stripped executable with the BPF programs inside
    ///
    /// It is linked dynamically to glibc only, so it runs where the glibc is as new as this machine's. A static one
    /// (x86_64-unknown-linux-musl) is not made: that target is not part of the set-up.
    Dist,
    /// Make the table of offsets of a CPython minor version (leaktrace/offsets/3.X.toml) from its debug information
    Offsets {
        /// An executable or libpython with DWARF
        #[arg(required_unless_present = "check")]
        file: Option<PathBuf>,
        /// Hold every table against live interpreters, those of `pythons` included (as root)
        #[arg(long, conflicts_with_all = ["file", "version", "free_threaded"])]
        check: bool,
        /// FILE is a folder of CPython's headers, and the table that of the build without the GIL (3.13t.toml)
        #[arg(long, conflicts_with = "version")]
        free_threaded: bool,
        /// Its version, of a CPython before 3.11: 3.8.18
        version: Option<String>,
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
        Command::Run { arguments } => return run::run(&arguments),
        Command::Pythons => {
            for python in pythons::ensure()? {
                writeln!(std::io::stdout(), "{}", python.display())?;
            }
        }
        Command::Test { matrix: true, check, python, core, .. } => matrix::matrix(&check, &python, core)?,
        Command::Test { unprivileged, filter, .. } => test::test(unprivileged, filter.as_deref())?,
        Command::Lint => lint::lint()?,
        Command::Bench(options) => bench::bench(&options)?,
        Command::Dist => dist::dist()?,
        Command::Offsets { file: None, .. } => offsets::check()?,
        Command::Offsets { file: Some(file), free_threaded: true, .. } => offsets::free_threaded(&file)?,
        Command::Offsets { file: Some(file), version, .. } => offsets::offsets(&file, version.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}
