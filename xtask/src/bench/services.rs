//! `cargo xtask bench --services` and `--curves`: what leaktrace and others cost real services, and how its own cost grows.

mod curves;
mod goals;
mod load;
mod measure;
mod page;
mod plot;
mod results;
mod server;
mod twins;
mod workload;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::contender::{Contender, Tools};
use super::machine::Machine;
use super::peers;
use crate::build::{self, Profile};
use crate::workspace;

use load::Load;
use measure::Plan;
use results::{Comparison, Interpreter, Results};
use workload::{PACKAGES, Workload};

/// Rounds where nothing else is asked for.
const ROUNDS: u32 = 4;
/// Seconds of a window under watch.
const SECONDS: f64 = 20.0;
const LEAKING_SECONDS: f64 = 60.0;
const CURVE_ROUNDS: u32 = 2;
/// Of the curves; windows of watch are rare.
const CURVE_SECONDS: f64 = 12.0;
/// Names of the environment of the services, and of the results.
const PURPOSE: &str = "services";

/// What `--contender` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    Watch,
    Exact,
    Tracemalloc,
    Memray,
    Memleak,
    PySpy,
}

#[derive(Debug, clap::Args)]
pub(super) struct Extent {
    /// With --services: only this one (may be repeated)
    #[arg(long, value_enum, value_name = "SERVICE", requires = "services")]
    only: Vec<Workload>,
    /// With --services: only this tool (may be repeated)
    #[arg(long, value_enum, value_name = "NAME", requires = "services")]
    contender: Vec<Name>,
    /// With --services: the three services leak, each has an untraced twin, and they are watched for a minute before anything is measured:
    /// a part of its own
    #[arg(long, requires = "services", conflicts_with = "contender")]
    leaking: bool,
    /// With --services: seconds of a window under watch, 20 unless told otherwise, 60 if leaking (others have a tenth); with --curves:
    /// of a point
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// With --services: connections of the load, which twins share
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..1000), requires = "services")]
    connections: u32,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.trim_end_matches('s').parse().map_err(|error| format!("{error}"))?;
    if (1.0..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("must be from 1 to 3600".to_owned()) }
}

impl Name {
    fn contenders(self) -> Vec<Contender> {
        match self {
            Self::Watch => vec![Contender::Watch],
            Self::Exact => vec![Contender::Exact],
            Self::Tracemalloc => vec![Contender::Tracemalloc(1), Contender::Tracemalloc(25)],
            Self::Memray => vec![Contender::Memray { python_allocators: true }],
            Self::Memleak => vec![Contender::Memleak],
            Self::PySpy => vec![Contender::PySpy],
        }
    }
}

impl Extent {
    fn workloads(&self) -> Vec<Workload> {
        let all = Workload::ALL.into_iter().filter(|one| !self.leaking || one.is_plain_service());
        all.filter(|one| self.only.is_empty() || self.only.contains(one)).collect()
    }

    fn contenders(&self) -> Vec<Contender> {
        use clap::ValueEnum as _;
        if self.leaking {
            return vec![Contender::Watch];
        }
        let names = Name::value_variants().iter();
        let names = names.filter(|name| self.contender.is_empty() || self.contender.contains(name));
        names.flat_map(|name| name.contenders()).collect()
    }

    /// Twins share them.
    fn connections_of_each(&self) -> u32 {
        if self.leaking { self.connections.div_ceil(2) } else { self.connections }
    }

    /// Whether only a part is asked for, which must not take the place of the whole.
    fn is_part(&self) -> bool {
        !self.only.is_empty() || !self.contender.is_empty()
    }
}

/// The comparison on each interpreter: `out` is where the results go, `docs` where nothing was said.
pub(super) fn compare(pythons: &[PathBuf], repeats: Option<u32>, options: &Extent, out: Option<&Path>) -> Result<()> {
    if options.workloads().is_empty() {
        bail!("with --leaking there are the services json, flask and aiohttp only");
    }
    if options.is_part() && out.is_none() {
        bail!("a part of the comparison would take the place of the whole in docs/: give it a folder with --out");
    }
    let begun = Instant::now();
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let tools = Tools {
        leaktrace: build::leaktrace(Profile::Release)?,
        empty_probes: PathBuf::new(),
        memleak: peers::memleak(),
        scratch: scratch.path().to_path_buf(),
    };
    let mut plan = Plan {
        contenders: options.contenders(),
        missing: Vec::new(),
        rounds: repeats.unwrap_or(ROUNDS),
        seconds: options.seconds.unwrap_or(if options.leaking { LEAKING_SECONDS } else { SECONDS }),
        leaking: options.leaking,
        load: Load { wrk: peers::wrk()?, connections: options.connections_of_each() },
    };
    let mut machine = Machine::look()?;
    let mut packages = Vec::new();
    let mut interpreters = Vec::new();
    for python in pythons {
        let with_packages = peers::with_packages(python, PURPOSE, &PACKAGES)?;
        plan.missing = missing(&tools, python, &plan.contenders);
        packages = peers::versions(&with_packages, &[&PACKAGES[..], &["memray", "py-spy"]].concat())?;
        interpreters.push(interpreter(&tools, &with_packages, &options.workloads(), &plan)?);
    }
    machine.finish();
    let mut results = Results::read(&folder(out).join("services.json"))?;
    let part = if options.leaking { &mut results.leaking } else { &mut results.comparison };
    *part = Some(Comparison {
        machine,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        packages,
        connections: options.connections_of_each(),
        seconds: plan.seconds,
        minutes: begun.elapsed().as_secs_f64() / 60.0,
        interpreters,
    });
    publish(&results, out)
}

/// Contenders that cannot run, and why. What they need is installed if it can be.
fn missing(tools: &Tools, python: &Path, contenders: &[Contender]) -> Vec<(Contender, String)> {
    let why = |contender: &Contender| match contender {
        Contender::Memray { .. } => peers::with_memray(python, PURPOSE).err().map(|error| format!("{error:#}")),
        Contender::PySpy => peers::with_packages(python, PURPOSE, &["py-spy"]).err().map(|error| format!("{error:#}")),
        Contender::Memleak if tools.memleak.is_none() => {
            Some("it is not installed (libbpf-tools of Debian trixie)".to_owned())
        }
        _ => None,
    };
    contenders.iter().filter_map(|contender| Some((*contender, why(contender)?.replace('\n', " ")))).collect()
}

fn interpreter(tools: &Tools, python: &Path, workloads: &[Workload], plan: &Plan) -> Result<Interpreter> {
    let (mut services, mut name) = (Vec::new(), None);
    for &workload in workloads {
        let begun = Instant::now();
        eprintln!("==> {} on {}", workload.name(), python.display());
        let (measured, about) = measure::measure(tools, python, workload, plan)?;
        eprintln!("    done in {} s", begun.elapsed().as_secs());
        services.push(measured);
        name = about.map(|about| format!("{} ({})", about.version, about.features.join(", "))).or(name);
    }
    let name = match name {
        Some(name) => name,
        None => peers::python_version(python)?,
    };
    Ok(Interpreter { name, services })
}

/// The curves, on the first interpreter.
pub(super) fn grow(pythons: &[PathBuf], repeats: Option<u32>, options: &Extent, out: Option<&Path>) -> Result<()> {
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let leaktrace = build::leaktrace(Profile::Release)?;
    let python = pythons.first().context("there is no interpreter")?;
    let seconds = options.seconds.unwrap_or(CURVE_SECONDS).ceil() as u64;
    let mut results = Results::read(&folder(out).join("services.json"))?;
    results.curves =
        Some(curves::measure(&leaktrace, python, repeats.unwrap_or(CURVE_ROUNDS), seconds, scratch.path())?);
    publish(&results, out)
}

fn folder(out: Option<&Path>) -> PathBuf {
    workspace::root().join(out.unwrap_or(Path::new("docs")))
}

/// Prints the page, and writes it with its JSON and pictures.
fn publish(results: &Results, out: Option<&Path>) -> Result<()> {
    let page = page::page(results)?;
    writeln!(std::io::stdout(), "{page}")?;
    let out = folder(out);
    let images = out.join("images");
    fs::create_dir_all(&images).with_context(|| format!("cannot create {}", images.display()))?;
    let mut files = vec![
        (out.join("services.md"), page),
        (out.join("services.json"), serde_json::to_string_pretty(results)? + "\n"),
    ];
    if let Some(comparison) = &results.comparison {
        files.push((images.join(plot::COMPARISON), plot::comparison(comparison)?));
    }
    if let Some(curves) = &results.curves {
        files.push((images.join(plot::CURVES), plot::curves(curves)?));
    }
    for (path, text) in files {
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("==> {}", path.display());
    }
    Ok(())
}
