//! What the runs of the matrix found: `docs/pythons.json`, and the table that `docs/pythons.md` shows of it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::CHECKS;
use crate::workspace;

/// Between these lines of the page is the table.
const BEGIN: &str = "<!-- The table is written by `cargo xtask test --matrix`. -->\n";
const END: &str = "<!-- End of the table. -->\n";

/// One test program on one interpreter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Finding {
    version: String,
    build: String,
    check: String,
    /// "ok" (and what was left out, if anything was), or "wrong".
    result: String,
    date: String,
}

/// Replaces what was known of a check on an interpreter. Several runs of the matrix may do so at once.
pub(super) fn add(version: &str, build: &str, check: &str, result: &str) -> Result<()> {
    // A file of its own: the record is replaced while it is held. Let go when it is closed.
    let lock = File::create(workspace::root().join("target/pythons.lock")).context("target/ is not writable")?;
    lock.lock().context("the record of the matrix cannot be locked")?;
    let json = workspace::root().join("docs/pythons.json");
    let page = workspace::root().join("docs/pythons.md");
    let read = |path| fs::read_to_string(path).with_context(|| "the record of the matrix cannot be read");
    let mut findings: Vec<Finding> = serde_json::from_str(&read(&json)?).context("docs/pythons.json is damaged")?;
    findings.retain(|of| (of.version.as_str(), of.build.as_str(), of.check.as_str()) != (version, build, check));
    let date = Command::new("date").arg("+%Y-%m-%d").output().context("cannot run date")?;
    findings.push(Finding {
        version: version.to_owned(),
        build: build.to_owned(),
        check: check.to_owned(),
        result: result.to_owned(),
        date: String::from_utf8_lossy(&date.stdout).trim().to_owned(),
    });
    findings.sort_by_cached_key(|of| (numbers(&of.version), of.clone()));
    fs::write(&json, serde_json::to_string_pretty(&findings)? + "\n")?;
    fs::write(&page, with_table(&read(&page)?, &table(&findings))?)?;
    Ok(())
}

/// For an order in which 3.9 is before 3.10.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|number| number.trim_end_matches('t').parse().unwrap_or(0)).collect()
}

/// A row for each interpreter; a cell is empty where nothing was run.
fn table(findings: &[Finding]) -> String {
    let shown: Vec<&str> = CHECKS.iter().map(|(_, shows)| *shows).collect();
    let mut table =
        format!("| version | build | {} | run |\n|---|---|{}---|\n", shown.join(" | "), "---|".repeat(shown.len()));
    let is_same = |a: &Finding, b: &Finding| a.version == b.version && a.build == b.build;
    for of in findings.chunk_by(is_same) {
        let cell = |(check, _): &(&str, &str)| {
            let result = of.iter().find(|of| of.check == *check).map_or("", |of| of.result.as_str());
            if result == "wrong" { "**wrong**".to_owned() } else { result.to_owned() }
        };
        let cells: Vec<String> = CHECKS.iter().map(cell).collect();
        let dates: BTreeSet<&str> = of.iter().map(|of| of.date.as_str()).collect();
        let run: Vec<&str> =
            dates.first().into_iter().chain(dates.last().filter(|_| dates.len() > 1)).copied().collect();
        let _ =
            writeln!(table, "| {} | {} | {} | {} |", of[0].version, of[0].build, cells.join(" | "), run.join(" to "));
    }
    table
}

/// The page with its table replaced.
fn with_table(page: &str, table: &str) -> Result<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.context("docs/pythons.md has no place for the table")?;
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_an_interpreter_in_the_order_of_versions() {
        let finding = |version: &str, check: &str, result: &str| Finding {
            version: version.to_owned(),
            build: "x".to_owned(),
            check: check.to_owned(),
            result: result.to_owned(),
            date: "2026-01-02".to_owned(),
        };
        let mut findings =
            vec![finding("3.10.1", "gc", "wrong"), finding("3.9.2", "truth", "ok"), finding("3.9.2", "stacks", "ok")];
        findings.sort_by_cached_key(|of| (numbers(&of.version), of.clone()));
        let table = table(&findings);
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(rows[0], "| 3.9.2 | x | ok |  |  | ok |  |  |  |  |  |  | 2026-01-02 |");
        assert!(rows[1].starts_with("| 3.10.1 | x |  |  | **wrong** |") && rows.len() == 2);
        let page = with_table(&format!("a\n{BEGIN}old\n{END}b\n"), "new\n").unwrap();
        assert_eq!(page, format!("a\n{BEGIN}new\n{END}b\n"));
        assert!(with_table("a\n", "new\n").is_err());
    }
}
