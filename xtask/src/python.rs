//! Interpreters that leaktrace supports.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace;

/// A Python that leaktrace supports: the system's if it can be, else one of pyenv's. Supported is what has a file of
/// offsets, `leaktrace/offsets/MAJOR.MINOR.toml`.
pub(crate) fn find() -> Result<PathBuf> {
    let supported = supported()?;
    candidates(&supported).find(|python| is_supported(python, &supported)).with_context(|| {
        format!(
            "no Python that leaktrace supports ({}) is installed: `apt-get install python{}`, or trace a process with \
             --pid PID",
            supported.join(", "),
            supported.last().map_or("3", String::as_str)
        )
    })
}

/// Every Python here of the minor version that [`find`] finds, each once.
pub(crate) fn alike() -> Result<Vec<PathBuf>> {
    let found = find()?;
    let minor: Vec<String> =
        supported()?.into_iter().filter(|minor| is_supported(&found, std::slice::from_ref(minor))).collect();
    Ok(every()?.into_iter().filter(|python| is_supported(python, &minor)).collect())
}

/// Every Python here that leaktrace supports, each once.
pub(crate) fn every() -> Result<Vec<PathBuf>> {
    let supported = supported()?;
    let mut every = Vec::new();
    for python in candidates(&supported).filter(|python| is_supported(python, &supported)) {
        let python = executable_of(&python)?;
        if !every.contains(&python) {
            every.push(python);
        }
    }
    Ok(every)
}

/// The standard library of a Python here of a minor version, "3.8".
pub(crate) fn library(minor: &str) -> Result<Option<PathBuf>> {
    let wanted = [minor.to_owned()];
    let Some(python) = every()?.into_iter().find(|python| is_supported(python, &wanted)) else { return Ok(None) };
    let code = "import sysconfig; print(sysconfig.get_path('stdlib'))";
    let output = Command::new(&python).args(["-I", "-c", code]).output();
    let output = output.with_context(|| format!("cannot run {}", python.display()))?;
    Ok(Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())))
}

/// The executable that runs in the end: a candidate may be a link, or a script of a version manager.
fn executable_of(python: &Path) -> Result<PathBuf> {
    let code = "import os, sys; print(os.path.realpath(sys.executable))";
    let output = Command::new(python).args(["-I", "-c", code]).output();
    let output = output.with_context(|| format!("cannot run {}", python.display()))?;
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn candidates(supported: &[String]) -> impl Iterator<Item = PathBuf> {
    let names: Vec<String> = supported.iter().map(|version| format!("python{version}")).collect();
    let system: Vec<PathBuf> = names.iter().map(|name| PathBuf::from("/usr/bin").join(name)).collect();
    let on_path = names.into_iter().chain(["python3".to_owned()]).filter_map(|name| workspace::find_program(&name));
    system.into_iter().chain(on_path).chain(pyenv())
}

fn supported() -> Result<Vec<String>> {
    let dir = workspace::root().join("leaktrace/offsets");
    let entries = std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let versions = names.filter_map(|name| Some(name.strip_suffix(".toml")?.to_owned()));
    // Other tables lie there too: of mimalloc, of sizes, of another collector.
    let is_version = |name: &String| !name.contains('-') && name.contains('.');
    let mut versions: Vec<String> = versions.filter(is_version).collect();
    versions
        .sort_by_key(|version| version.split('.').map(|number| number.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>());
    Ok(versions)
}

fn pyenv() -> Vec<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")));
    let entries = root.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    entries.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path().join("bin/python3"))).collect()
}

fn is_supported(python: &PathBuf, supported: &[String]) -> bool {
    let code = "import sys; print('%d.%d' % sys.version_info[:2], sys.implementation.name)";
    let Ok(output) = Command::new(python).args(["-I", "-c", code]).output() else { return false };
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().strip_suffix(" cpython").is_some_and(|version| supported.iter().any(|known| known == version))
}
