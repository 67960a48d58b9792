//! `cargo xtask test --matrix`: the core tests on every interpreter there is, and a table of what passed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile, cargo};
use crate::{python, pythons, root, workspace};

/// The test programs of a usual run, and what each shows.
const CHECKS: &[(&str, &str)] = &[
    ("stacks", "stacks"),
    ("threads", "threads"),
    ("gc", "collections"),
    ("truth", "live memory and events"),
    ("allocators", "other allocators"),
    ("census", "what is in the heap"),
    ("refs", "who holds it"),
];
/// Those that take minutes an interpreter: to be asked for.
const LONG: &[(&str, &str)] = &[("verdicts", "verdicts"), ("safety", "safety")];
/// What CI has no time for on each interpreter.
const NOT_CORE: [&str; 3] = ["allocators", "census", "refs"];
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
}

/// Runs `checks`; if there are none, the usual ones, and writes `docs/pythons.md`. `core`: only what CI has time for.
pub(crate) fn matrix(checks: &[String], core: bool) -> Result<()> {
    if !root::is_root() {
        bail!("tracing needs root: run as root");
    }
    let executable = build::leaktrace(Profile::Release)?;
    let asked = |(name, _): &&(&str, &str)| checks.iter().any(|check| check == name);
    let wanted: Vec<_> = match checks {
        [] => CHECKS.iter().filter(|(name, _)| !core || !NOT_CORE.contains(name)).collect(),
        _ => CHECKS.iter().chain(LONG).filter(asked).collect(),
    };
    let mut table = Vec::new();
    for row in rows(core)? {
        let mut cells = vec![row.version.clone(), build_of(&row)];
        for (check, _) in &wanted {
            let mut command = cargo("test");
            command.args([
                "--quiet",
                "--release",
                "--package=leaktrace-tests",
                "--test",
                check,
                "--",
                "--test-threads=1",
            ]);
            if row.bare {
                command.args(NEED_PACKAGES.iter().flat_map(|name| ["--skip", name]));
            }
            command.env("LEAKTRACE_BIN", &executable).env("LEAKTRACE_TEST_PYTHONS", &row.python);
            let passed = command.status().context("cannot start cargo test")?.success();
            cells.push(if passed { "ok" } else { "**wrong**" }.to_owned());
        }
        eprintln!("{}", cells.join("  "));
        table.push(cells);
    }
    let text = self::table(&wanted.iter().map(|(_, shows)| *shows).collect::<Vec<_>>(), &table);
    std::io::stdout().write_all(text.as_bytes())?;
    if checks.is_empty() && !core {
        let path = workspace::root().join("docs/pythons.md");
        std::fs::write(&path, page(&text)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if table.iter().flatten().any(|cell| cell.contains("wrong")) {
        bail!("some interpreters are not traced right");
    }
    Ok(())
}

/// What is here and what [`pythons`] gets, by version.
pub(crate) fn rows(core: bool) -> Result<Vec<Row>> {
    let row = |python: PathBuf, bare| Ok(Row { version: version(&python)?, python, bare });
    let mut rows: Vec<Row> = python::every()?.into_iter().map(|python| row(python, false)).collect::<Result<_>>()?;
    if core {
        rows.retain(|row| minor(&row.version) != TESTED);
        rows.sort_by_key(|row| minor(&row.version).to_owned());
        rows.dedup_by_key(|row| minor(&row.version).to_owned());
    }
    let named = |python: &PathBuf| CORE.iter().any(|name| python.ends_with(name));
    for python in pythons::ensure()?.into_iter().filter(|python| !core || named(python)) {
        rows.push(row(python, true)?);
    }
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

fn table(checks: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = format!("| version | build | {} |\n|---|---|{}\n", checks.join(" | "), "---|".repeat(checks.len()));
    for row in rows {
        let _ = writeln!(table, "| {} |", row.join(" | "));
    }
    table
}

fn page(table: &str) -> Result<String> {
    let date = Command::new("date").arg("+%Y-%m-%d").output().context("cannot run date")?;
    Ok(format!(
        "# Interpreters that leaktrace was tested on\n\nWritten by `cargo xtask test --matrix` on {}. What each column means is in `tests/tests/`; \
         tests that need packages from PyPI\nare left out for the interpreters of other Debian releases and of wheels.\n\n{table}",
        String::from_utf8_lossy(&date.stdout).trim()
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_row_an_interpreter() {
        let rows = [vec!["3.8.18".to_owned(), "x".to_owned(), "ok".to_owned()]];
        assert_eq!(
            super::table(&["stacks"], &rows),
            "| version | build | stacks |\n|---|---|---|\n| 3.8.18 | x | ok |\n"
        );
    }
}
