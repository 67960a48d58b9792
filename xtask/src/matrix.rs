//! `cargo xtask test --matrix`: the core tests on every interpreter there is, and a table of what passed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile, cargo};
use crate::{python, pythons, root, workspace};

/// The test programs of a whole run, and what each shows.
const CORE: &[(&str, &str)] = &[("truth", "live memory and events"), ("stacks", "stacks"), ("gc", "collections")];
/// Those that take minutes an interpreter: to be asked for.
const LONG: &[(&str, &str)] = &[("verdicts", "verdicts"), ("safety", "safety")];
/// Need packages from PyPI, which other releases' interpreters do not have a way to install.
const NEED_PACKAGES: [&str; 3] = ["numpy", "flask", "gevent"];

/// Runs `checks`; if there are none, the core ones, and writes `docs/pythons.md`.
pub(crate) fn matrix(checks: &[String]) -> Result<()> {
    if !root::is_root() {
        bail!("tracing needs root: run as root");
    }
    let executable = build::leaktrace(Profile::Release)?;
    let asked = |(name, _): &&(&str, &str)| checks.iter().any(|check| check == name);
    let wanted: Vec<_> =
        if checks.is_empty() { CORE.iter().collect() } else { CORE.iter().chain(LONG).filter(asked).collect() };
    let in_roots = pythons::ensure()?;
    let mut rows = Vec::new();
    for (python, in_root) in
        python::every()?.into_iter().map(|p| (p, false)).chain(in_roots.into_iter().map(|p| (p, true)))
    {
        let mut row = vec![version(&python)?, build_of(&python, in_root)];
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
            if in_root {
                command.args(NEED_PACKAGES.iter().flat_map(|name| ["--skip", name]));
            }
            command.env("LEAKTRACE_BIN", &executable).env("LEAKTRACE_TEST_PYTHONS", &python);
            let passed = command.status().context("cannot start cargo test")?.success();
            row.push(if passed { "ok" } else { "**wrong**" }.to_owned());
        }
        eprintln!("{}", row.join("  "));
        rows.push(row);
    }
    let table = table(&wanted.iter().map(|(_, shows)| *shows).collect::<Vec<_>>(), &rows);
    std::io::stdout().write_all(table.as_bytes())?;
    if checks.is_empty() {
        let path = workspace::root().join("docs/pythons.md");
        std::fs::write(&path, page(&table)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if rows.iter().flatten().any(|cell| cell.contains("wrong")) {
        bail!("some interpreters are not traced right");
    }
    Ok(())
}

fn version(python: &PathBuf) -> Result<String> {
    let code = "import platform; print(platform.python_version())";
    let output = Command::new(python).args(["-c", code]).output();
    let output = output.with_context(|| format!("cannot run {}", python.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where an interpreter comes from, without a path of this machine.
fn build_of(python: &std::path::Path, in_root: bool) -> String {
    let name = python.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.split_once("-python") {
        Some((release, _)) if in_root => format!("Debian {release}: PGO, LTO, static, stripped"),
        _ if python.starts_with("/usr") => "this system's: PGO, LTO, static, stripped".to_owned(),
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
         tests that need packages from PyPI\nare left out for the interpreters of other Debian releases.\n\n{table}",
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
