//! The tools that leaktrace is compared with, where they are to be had.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::step;
use crate::workspace::{self, find_program, setup_log};

/// Command that runs libbpf-tools' memleak, for where it is not on PATH: words separated by blanks.
pub(crate) const MEMLEAK: &str = "LEAKTRACE_BENCH_MEMLEAK";

/// The words that start memleak, `None` where it is not here. Debian has it in libbpf-tools from trixie on.
pub(crate) fn memleak() -> Option<Vec<String>> {
    if let Ok(words) = env::var(MEMLEAK) {
        return Some(words.split_whitespace().map(str::to_owned).collect());
    }
    find_program("memleak-libbpf").map(|path| vec![path.display().to_string()])
}

/// An interpreter like `python` in an environment that has memray, made once and kept under `target/`. memray attaches
/// through gdb, and must be importable in its target.
pub(crate) fn with_memray(python: &Path) -> Result<PathBuf> {
    find_program("gdb").context("memray attaches through gdb, which is not here")?;
    with_packages(python, "bench", &["memray"])
}

/// An interpreter like `python` in an environment for `purpose` that has packages, made once and kept under `target/`.
pub(crate) fn with_packages(python: &Path, purpose: &str, packages: &[&str]) -> Result<PathBuf> {
    let real = fs::canonicalize(python).with_context(|| format!("cannot find {}", python.display()))?;
    let name = real.display().to_string().replace('/', "-");
    let folder = workspace::root().join(format!("target/{purpose}-venv{name}"));
    let done = folder.join("installed");
    if !done.exists() {
        step::run("making an environment", Command::new(python).args(["-m", "venv"]).arg(&folder), &setup_log())?;
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet"]).args(packages);
        step::run(&format!("installing {}", packages.join(", ")), &mut pip, &setup_log())?;
        fs::write(&done, packages.join("\n")).with_context(|| format!("cannot write {}", done.display()))?;
    }
    Ok(folder.join("bin/python"))
}

/// The command `memray` of the environment of `python`.
pub(crate) fn memray(python: &Path) -> PathBuf {
    python.with_file_name("memray")
}

/// What `memray --version` says, if it is there.
pub(crate) fn memray_version(python: &Path) -> Option<String> {
    let output = Command::new(memray(python)).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
