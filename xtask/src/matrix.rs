//! `cargo xtask test --matrix`: the core tests on every interpreter there is, and a table of what passed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile, cargo};
use crate::{python, pythons, root};

mod record;

/// The test programs, and what each shows.
const CHECKS: &[(&str, &str)] = &[
    ("stacks", "stacks"),
    ("threads", "threads"),
    ("gc", "collections"),
    ("truth", "live memory and events"),
    ("free_lists", "objects from free lists"),
    ("allocators", "other allocators"),
    ("census", "what is in the heap"),
    ("refs", "who holds it"),
    ("verdicts", "leaks named, innocents left in peace"),
    ("safety", "attach, detach and kill in a storm"),
];
/// What CI has no time for on each interpreter.
const NOT_CORE: [&str; 5] = ["allocators", "census", "refs", "verdicts", "safety"];
/// Spends most of its time waiting: CI runs it beside the others.
const BESIDE: &str = "gc";
/// The interpreters of `pythons` that CI runs on.
const CORE: [&str; 6] = [
    "bullseye-python3.9",
    "trixie-python3.13",
    "sid-python3.14",
    "sid-python3.15",
    "manylinux-python3.14t",
    "musl-python3.14",
];
/// The minor version that the other tests run on.
const TESTED: &str = "3.11";
/// Need packages from PyPI, which other releases' interpreters do not have a way to install.
const NEED_PACKAGES: [&str; 5] = ["numpy", "flask", "gevent", "greenlet", "objgraph"];
/// Tests with this in their name make interpreters in the process; these checks have some.
const NEED_INTERPRETERS: (&str, [&str; 2]) = ("interpreters", ["threads", "gc"]);

/// An interpreter of the matrix.
pub(crate) struct Row {
    pub(crate) python: PathBuf,
    pub(crate) version: String,
    /// It comes from [`pythons`], without a way to install packages.
    pub(crate) bare: bool,
}

impl Row {
    pub(crate) fn is_free_threaded(&self) -> bool {
        self.python.to_string_lossy().ends_with('t')
    }

    /// Whether the module that makes interpreters is there: some wheels come without it.
    pub(crate) fn makes_interpreters(&self) -> Result<bool> {
        let code = "try: import _interpreters\nexcept ImportError: import _xxsubinterpreters";
        let mut command = Command::new(&self.python);
        let status = command.args(["-c", code]).stderr(Stdio::null()).status();
        Ok(status.with_context(|| format!("cannot run {}", self.python.display()))?.success())
    }
}

/// Runs `checks`, if there are none all, on the interpreters whose path has one of `pythons` in it, if there are none on all. What
/// came out goes into `docs/pythons.md`, beside what earlier runs left there. `core`: only what CI has time for, and nothing is written.
pub(crate) fn matrix(checks: &[String], pythons: &[String], core: bool) -> Result<()> {
    if !root::is_root() {
        bail!("tracing needs root: run as root");
    }
    let is_wanted = |name: &str| match checks {
        [] => !core || !NOT_CORE.contains(&name),
        _ => checks.iter().any(|check| check == name),
    };
    let wanted: Vec<&str> = CHECKS.iter().map(|(name, _)| *name).filter(|name| is_wanted(name)).collect();
    if let Some(unknown) = checks.iter().find(|check| !wanted.contains(&check.as_str())) {
        let known: Vec<&str> = CHECKS.iter().map(|(name, _)| *name).collect();
        bail!("there is no check {unknown}; there are {}", known.join(", "));
    }
    let executable = build::leaktrace(Profile::Release)?;
    let is_asked = |row: &Row| {
        pythons.is_empty() || pythons.iter().any(|part| row.python.to_string_lossy().contains(part.as_str()))
    };
    let mut wrong = Vec::new();
    for row in rows(core)?.into_iter().filter(is_asked) {
        let mut enter = |check: &str, result: &'static str| -> Result<()> {
            eprintln!("==> {} {} {check}: {result}", row.version, build_of(&row));
            if result == WRONG {
                wrong.push(format!("{} ({check})", row.version));
            }
            // At once: a run takes hours.
            if core { Ok(()) } else { record::add(&row.version, &build_of(&row), check, result) }
        };
        let (beside, others): (Vec<&str>, Vec<&str>) = wanted.iter().partition(|check| core && **check == BESIDE);
        let running: Vec<Running> =
            beside.iter().map(|check| start(&row, check, &executable)).collect::<Result<_>>()?;
        for check in others {
            enter(check, start(&row, check, &executable)?.result()?)?;
        }
        for (check, running) in beside.iter().zip(running) {
            enter(check, running.result()?)?;
        }
    }
    if !wrong.is_empty() {
        bail!("not traced right: {}", wrong.join(", "));
    }
    Ok(())
}

/// A check that failed.
const WRONG: &str = "wrong";

/// A check that goes on.
struct Running {
    tests: Child,
    left_out: bool,
}

impl Running {
    /// What came out.
    fn result(mut self) -> Result<&'static str> {
        let passed = self.tests.wait().context("cargo test is gone")?.success();
        Ok(match (passed, self.left_out) {
            (true, false) => "ok",
            (true, true) => "ok, but for other interpreters",
            (false, _) => WRONG,
        })
    }
}

fn start(row: &Row, check: &str, executable: &Path) -> Result<Running> {
    let mut command = cargo("test");
    command.args(["--quiet", "--release", "--package=leaktrace-tests", "--test", check, "--", "--test-threads=1"]);
    if row.bare {
        command.args(NEED_PACKAGES.iter().flat_map(|name| ["--skip", name]));
    }
    let (name, checks) = NEED_INTERPRETERS;
    let left_out = checks.contains(&check) && !row.makes_interpreters()?;
    if left_out {
        command.args(["--skip", name]);
    }
    command.env("LEAKTRACE_BIN", executable).env("LEAKTRACE_TEST_PYTHONS", &row.python);
    Ok(Running { tests: command.spawn().context("cannot start cargo test")?, left_out })
}

/// What is here and what [`pythons`] gets, by version.
pub(crate) fn rows(core: bool) -> Result<Vec<Row>> {
    let row = |python: PathBuf, bare| Ok(Row { version: version(&python)?, python, bare });
    let named = |python: &PathBuf| CORE.iter().any(|name| python.ends_with(name));
    let got = pythons::ensure()?.into_iter().filter(|python| !core || named(python));
    let got: Vec<Row> = got.map(|python| row(python, true)).collect::<Result<_>>()?;
    let mut rows: Vec<Row> = python::every()?.into_iter().map(|python| row(python, false)).collect::<Result<_>>()?;
    if core {
        // One build of a minor version, or those named.
        let is_there = |of: &Row| got.iter().any(|other| minor(&other.version) == minor(&of.version));
        rows.retain(|row| minor(&row.version) != TESTED && !is_there(row));
        rows.sort_by_key(|row| minor(&row.version).to_owned());
        rows.dedup_by_key(|row| minor(&row.version).to_owned());
    }
    rows.extend(got);
    rows.sort_by_cached_key(|row| {
        row.version.split('.').map(|number| number.parse().unwrap_or(0)).collect::<Vec<u32>>()
    });
    Ok(rows)
}

/// "3.14" of "3.14.9"
fn minor(version: &str) -> &str {
    version.rsplit_once('.').map_or(version, |(minor, _)| minor)
}

fn version(python: &Path) -> Result<String> {
    let code = "import platform; print(platform.python_version())";
    let output = Command::new(python).args(["-c", code]).output();
    let output = output.with_context(|| format!("cannot run {}", python.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where an interpreter comes from, without a path of this machine.
fn build_of(row: &Row) -> String {
    let name = row.python.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let free_threaded = if row.is_free_threaded() { ", free-threaded" } else { "" };
    match name.split_once("-python") {
        Some(("manylinux", _)) => format!("manylinux: static, stripped{free_threaded}"),
        Some(("musl", _)) => format!("musllinux: PIE, static, stripped, musl{free_threaded}"),
        Some((release, _)) => format!("Debian {release}: PGO, LTO, static, stripped"),
        _ if row.python.starts_with("/usr") => "this system's: PGO, LTO, static, stripped".to_owned(),
        _ => "shared libpython, -O3".to_owned(),
    }
}
