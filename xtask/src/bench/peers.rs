//! The tools that leaktrace is compared with, where they are to be had.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::{self, find_program, setup_log};
use crate::{apt, step};

/// Command that runs libbpf-tools' memleak, for where it is not on PATH: words separated by blanks.
pub(crate) const MEMLEAK: &str = "LEAKTRACE_BENCH_MEMLEAK";

/// The words that start memleak, `None` where it is not here. Debian has it in libbpf-tools from trixie on.
pub(crate) fn memleak() -> Option<Vec<String>> {
    if let Ok(words) = env::var(MEMLEAK) {
        return Some(words.split_whitespace().map(str::to_owned).collect());
    }
    find_program("memleak-libbpf").map(|path| vec![path.display().to_string()])
}

/// An interpreter like `python` in an environment for `purpose` that has memray. memray attaches through gdb, and must be
/// importable in its target.
pub(crate) fn with_memray(python: &Path, purpose: &str) -> Result<PathBuf> {
    find_program("gdb").context("memray attaches through gdb, which is not here")?;
    with_packages(python, purpose, &["memray"])
}

/// An interpreter like `python` in an environment for `purpose` that has packages, made once and kept under `target/`; what
/// is missing in it is added.
pub(crate) fn with_packages(python: &Path, purpose: &str, packages: &[&str]) -> Result<PathBuf> {
    let real = fs::canonicalize(python).with_context(|| format!("cannot find {}", python.display()))?;
    let name = real.display().to_string().replace('/', "-");
    let folder = workspace::root().join(format!("target/{purpose}-venv{name}"));
    let done = folder.join("installed");
    if !folder.join("bin/pip").exists() {
        step::run("making an environment", Command::new(python).args(["-m", "venv"]).arg(&folder), &setup_log())?;
    }
    let have = fs::read_to_string(&done).unwrap_or_default();
    let have: Vec<&str> = have.lines().collect();
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !have.contains(package)).collect();
    if !missing.is_empty() {
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet"]).args(&missing);
        step::run(&format!("installing {}", missing.join(", ")), &mut pip, &setup_log())?;
        fs::write(&done, [have, missing].concat().join("\n"))
            .with_context(|| format!("cannot write {}", done.display()))?;
    }
    Ok(folder.join("bin/python"))
}

/// The command `memray` of the environment of `python`.
pub(crate) fn memray(python: &Path) -> PathBuf {
    python.with_file_name("memray")
}

/// The command `py-spy` of the environment of `python`.
pub(crate) fn py_spy(python: &Path) -> PathBuf {
    python.with_file_name("py-spy")
}

/// The load generator, which is installed if it is not here.
pub(crate) fn wrk() -> Result<PathBuf> {
    if find_program("wrk").is_none() && apt::available() {
        apt::install(&["wrk"])?;
    }
    find_program("wrk").context("there is no wrk, which loads the services: install it (Debian: apt-get install wrk)")
}

/// "NAME VERSION" of packages in the environment of `python`, those that it has.
pub(crate) fn versions(python: &Path, packages: &[&str]) -> Result<Vec<String>> {
    let code = "import sys; from importlib.metadata import distributions as d; \
        print(*(f'{p.name} {p.version}' for p in d() if p.name.lower() in sys.argv), sep='\\n')";
    let output = Command::new(python).args(["-c", code]).args(packages).output();
    let output = output.with_context(|| format!("cannot run {}", python.display()))?;
    let mut versions: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    versions.sort_by_key(|version| version.to_lowercase());
    Ok(versions)
}

/// "3.11.2".
pub(crate) fn python_version(python: &Path) -> Result<String> {
    let code = "import platform; print(platform.python_version())";
    let output = Command::new(python).args(["-c", code]).output();
    let output = output.with_context(|| format!("cannot run {}", python.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What `memray --version` says, if it is there.
pub(crate) fn memray_version(python: &Path) -> Option<String> {
    let output = Command::new(memray(python)).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
