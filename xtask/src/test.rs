//! `cargo xtask test`: every test, and a count at the end.
//!
//! Plain `cargo test` on purpose: one runner everywhere, so that the count means the same on every machine.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile, cargo};
use crate::root;
use crate::workspace::find_program;

/// What is tested without privilege.
const UNPRIVILEGED: [&str; 3] = ["--package=leaktrace-common", "--package=leaktrace", "--package=xtask"];

/// Runs the tests whose names contain `filter`; only those that need no privilege if `unprivileged`.
pub(crate) fn test(unprivileged: bool, filter: Option<&str>) -> Result<()> {
    let mut count = Count::default();
    if unprivileged {
        run(cargo("test").args(UNPRIVILEGED), filter, &[], &mut count)?;
    } else {
        if !root::available() {
            bail!(
                "the privileged tests need root: run as root, or only the others with `cargo xtask test --unprivileged`"
            );
        }
        let executable = build::leaktrace(Profile::Release)?;
        run(cargo("test").args(UNPRIVILEGED), filter, &[], &mut count)?;
        let mut privileged = cargo("test");
        privileged.args(["--release", "--package=leaktrace-tests"]).env("LEAKTRACE_BIN", executable);
        if !root::is_root() {
            let sudo = find_program("sudo").context("sudo is gone")?;
            let runner = format!("{} --preserve-env --", sudo.display());
            privileged.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner);
        }
        // One at a time: they trace services that use a whole core.
        run(&mut privileged, filter, &["--test-threads=1"], &mut count)?;
    }
    eprintln!("\n{} passed, {} failed, {} ignored", count.passed, count.failed, count.ignored);
    if count.failed > 0 || count.broken {
        bail!("tests failed");
    }
    if count.ignored > 0 {
        bail!("{} tests were not run", count.ignored);
    }
    if count.passed == 0 {
        bail!("no test is named like {:?}", filter.unwrap_or(""));
    }
    Ok(())
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u32,
    failed: u32,
    ignored: u32,
    /// Something did not compile, or died without a result.
    broken: bool,
}

impl Count {
    /// Adds a line like "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s".
    fn add(&mut self, line: &str) {
        let Some((_, numbers)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in numbers.split("; ") {
            let Some((number, what)) = part.split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// Runs one `cargo test`, shows what it says, adds up its results.
fn run(command: &mut Command, filter: Option<&str>, options: &[&str], count: &mut Count) -> Result<()> {
    command.args(["--no-fail-fast", "--"]).args(filter).args(options).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo test")?;
    let mut stdout = std::io::stdout();
    for line in BufReader::new(child.stdout.take().context("cargo has no output")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(stdout, "{line}")?;
        count.add(&line);
    }
    count.broken |= !child.wait()?.success();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn results_add_up() {
        let mut count = Count::default();
        count.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 9 filtered out; finished in 0.10s");
        count.add("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s");
        count.add("test a::b ... ok");
        count.add("test result: nonsense");
        assert_eq!(count, Count { passed: 5, failed: 4, ignored: 1, broken: false });
    }
}
