//! `cargo xtask bench`: what tracing costs, beside an empty BPF program and other tools.

mod attach;
mod census;
mod contender;
mod goals;
mod holders;
mod leaktrace;
mod machine;
mod memory;
mod peers;
mod process;
mod series;
mod services;
mod slowdown;
mod spread;
mod subject;
mod table;
mod target;
mod verdicts;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::build::{self, Profile};
use crate::{python, root, workspace};

use attach::AttachTimes;
use contender::Tools;
use machine::Machine;
use memory::Memory;
use slowdown::Slowdowns;

/// Modules of tests/bench: a loop that does nothing but allocate, an ordinary service, large blocks.
const WORKLOADS: [&str; 3] = ["allocations", "wsgi", "buffers"];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rounds of each measurement: 5 unless told otherwise (--services: 4, --curves: 2)
    #[arg(long, visible_alias = "rounds", value_parser = clap::value_parser!(u32).range(1..))]
    repeats: Option<u32>,
    /// Measure on this interpreter, not on every one that is found (may be repeated)
    #[arg(long)]
    python: Vec<PathBuf>,
    /// Measure only the heap census, and write census.md and census.json
    #[arg(long)]
    census: bool,
    /// Measure only how long naming a leaking container takes in large heaps, and write holders.md and holders.json
    #[arg(long, conflicts_with = "census")]
    refs: bool,
    /// Measure what leaktrace and others cost real services under load: the first part of services.md and services.json
    /// (with --leaking: the second)
    #[arg(long, conflicts_with_all = ["census", "refs"])]
    services: bool,
    /// Measure how leaktrace's own cost grows with events, heap and threads: the last part of services.md and services.json
    #[arg(long, conflicts_with_all = ["census", "refs", "services"])]
    curves: bool,
    /// Measure after how long watch names the leaking lines of the bundled services, and write verdicts.md and verdicts.json
    #[arg(long, conflicts_with_all = ["census", "refs", "services", "curves"])]
    verdicts: bool,
    #[command(flatten)]
    of_services: services::Extent,
    /// Folder for the page and its JSON, docs unless told otherwise
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Options {
    /// Rounds of what takes minutes at five of them.
    fn rounds(&self) -> u32 {
        self.repeats.unwrap_or(5)
    }
}

/// Everything that was measured: the JSON beside the page.
#[derive(Debug, Serialize)]
struct Results {
    schema: &'static str,
    machine: Machine,
    repeats: u32,
    leaktrace: &'static str,
    memray: Option<String>,
    interpreters: Vec<Interpreter>,
}

/// What was measured on one interpreter.
#[derive(Debug, Serialize)]
struct Interpreter {
    version: String,
    features: Vec<String>,
    workloads: Vec<Slowdowns>,
    attach: AttachTimes,
    memory: Memory,
}

impl Interpreter {
    fn name(&self) -> String {
        format!("CPython {} ({})", self.version, self.features.join(", "))
    }
}

pub(crate) fn bench(options: &Options) -> Result<()> {
    if !root::is_root() {
        bail!("the benchmark reads the tracer's own cost from /proc: run it as root");
    }
    let pythons = if options.python.is_empty() { python::alike()? } else { options.python.clone() };
    if pythons.is_empty() {
        bail!("no Python that leaktrace supports is installed; name one with --python");
    }
    let out = options.out.as_deref();
    if options.services {
        return services::compare(&pythons, options.repeats, &options.of_services, out);
    }
    if options.curves {
        return services::grow(&pythons, options.repeats, &options.of_services, out);
    }
    if options.census {
        return censuses(&pythons, options);
    }
    if options.refs {
        return all_holders(&pythons, options);
    }
    if options.verdicts {
        return all_verdicts(&pythons, options);
    }
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let tools = Tools {
        leaktrace: build::leaktrace(Profile::Release)?,
        empty_probes: build::example(Profile::Release, "empty_probes")?,
        memleak: peers::memleak(),
        scratch: scratch.path().to_path_buf(),
    };
    if tools.memleak.is_none() {
        eprintln!("==> no memleak-libbpf here (libbpf-tools of Debian trixie): install it or set {}", peers::MEMLEAK);
    }
    let mut results = Results {
        schema: "leaktrace.benchmarks/1",
        machine: Machine::look()?,
        repeats: options.rounds(),
        leaktrace: env!("CARGO_PKG_VERSION"),
        memray: None,
        interpreters: Vec::new(),
    };
    for python in &pythons {
        let with_memray = peers::with_memray(python, "bench").map_err(|error| format!("{error:#}"));
        results.memray = with_memray.as_deref().ok().and_then(peers::memray_version).or(results.memray);
        let with_memray = with_memray.as_deref().map_err(String::as_str);
        results.interpreters.push(interpreter(&tools, python, with_memray, options.rounds())?);
    }
    results.machine.finish();
    let page = table::page(&results)?;
    publish(options, &page, "benchmarks", &results)
}

/// The census alone, on each interpreter.
fn censuses(pythons: &[PathBuf], options: &Options) -> Result<()> {
    let leaktrace = build::leaktrace(Profile::Release)?;
    let plain_read = build::example(Profile::Release, "plain_read")?;
    let mut machine = Machine::look()?;
    let mut all = Vec::new();
    let mut page = String::from("# The heap census, measured\n\nBy `cargo xtask bench --census`.\n");
    for python in pythons {
        eprintln!("==> heap census on {}", python.display());
        let with_peers = peers::with_packages(python, "census", &["objgraph", "guppy3"]).unwrap_or_else(|error| {
            eprintln!("==> without objgraph and guppy3: {error:#}");
            python.clone()
        });
        let measured = census::measure(&leaktrace, &plain_read, &with_peers, options.rounds())?;
        let _ = write!(page, "\n## CPython {}\n\n{}", measured.python, census::table(&measured));
        all.push(measured);
    }
    machine.finish();
    let json =
        serde_json::json!({ "schema": "leaktrace.benchmarks.census/1", "machine": machine, "interpreters": all });
    publish(options, &page, "census", &json)
}

/// The search for leaking containers alone, on each interpreter.
fn all_holders(pythons: &[PathBuf], options: &Options) -> Result<()> {
    let leaktrace = build::leaktrace(Profile::Release)?;
    let mut machine = Machine::look()?;
    let mut all = Vec::new();
    let mut page = String::from(
        "# Naming the container that leaks, measured\n\nBy `cargo xtask bench --refs`: each leaking service of the tests, in a large heap.\n",
    );
    for python in pythons {
        eprintln!("==> leaking containers on {}", python.display());
        let measured = holders::measure(&leaktrace, python, options.rounds())?;
        let version = measured.first().map_or_else(String::new, |of| of.python.clone());
        let _ = write!(page, "\n## CPython {version}\n\n{}", holders::table(&measured));
        all.extend(measured);
    }
    machine.finish();
    let json = serde_json::json!({ "schema": "leaktrace.benchmarks.holders/1", "machine": machine, "sizes": all });
    publish(options, &page, "holders", &json)
}

/// The time that verdicts take alone, on each interpreter.
fn all_verdicts(pythons: &[PathBuf], options: &Options) -> Result<()> {
    let leaktrace = build::leaktrace(Profile::Release)?;
    let mut machine = Machine::look()?;
    let mut all = Vec::new();
    let mut tables = String::new();
    for python in pythons {
        eprintln!("==> verdicts on {}", python.display());
        let with_packages = peers::with_packages(python, "services", &verdicts::PACKAGES)?;
        let measured = verdicts::measure(&leaktrace, &with_packages)?;
        let version = measured.iter().map(|of| &*of.python).find(|version| !version.is_empty()).unwrap_or_default();
        let _ = write!(tables, "\n## CPython {version}\n\n{}", verdicts::page(&measured)?);
        all.extend(measured);
    }
    machine.finish();
    let page = format!(
        "# The time that verdicts take, measured\n\nBy `cargo xtask bench --verdicts`: {}. `leaktrace run` at its default budget, a look every 2 s, one run of each service; \
         those that leak most are watched at once, the others at once after them. Windows are random: another run differs.\n\
         Lines that are kept with what leaks (the key of an entry, the exception that has the frame) are named as well.\n{tables}",
        machine.describe()
    );
    let json = serde_json::json!({ "schema": "leaktrace.benchmarks.verdicts/1", "machine": machine, "services": all });
    publish(options, &page, "verdicts", &json)
}

/// Prints a page, and writes it with its JSON.
fn publish(options: &Options, page: &str, name: &str, json: &impl Serialize) -> Result<()> {
    writeln!(std::io::stdout(), "{page}")?;
    let out = workspace::root().join(options.out.as_deref().unwrap_or(Path::new("docs")));
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let json = serde_json::to_string_pretty(json)? + "\n";
    for (name, text) in [(format!("{name}.md"), page), (format!("{name}.json"), &json)] {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("==> {}", path.display());
    }
    Ok(())
}

fn interpreter(tools: &Tools, python: &Path, with_memray: Result<&Path, &str>, repeats: u32) -> Result<Interpreter> {
    let mut workloads = Vec::new();
    let mut about = None;
    for workload in WORKLOADS {
        eprintln!("==> {workload} on {}", python.display());
        let (slowdowns, report) = slowdown::measure(tools, python, with_memray, workload, repeats)?;
        workloads.push(slowdowns);
        about = Some(report.target.python);
    }
    let about = about.context("there is no workload")?;
    eprintln!("==> attach and detach on {}", python.display());
    let attach = attach::measure(tools, python, "wsgi", repeats)?;
    eprintln!("==> memory on {}", python.display());
    let memory = memory::measure(tools, python, repeats)?;
    Ok(Interpreter { version: about.version, features: about.features, workloads, attach, memory })
}
