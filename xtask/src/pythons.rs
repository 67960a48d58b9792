//! `cargo xtask pythons`: interpreters as they are really shipped, to test on, in a cache outside the checkout. A script for each
//! runs it like any other.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::root;

mod releases;
mod wheels;

/// Gets what is missing, and gives the scripts that run the interpreters.
pub(crate) fn ensure() -> Result<Vec<PathBuf>> {
    if !root::is_root() {
        bail!("other releases' interpreters run in a root of their own: run as root");
    }
    let cache = cache()?;
    releases::ensure(&cache)?;
    wheels::ensure(&cache)?;
    present()
}

/// The scripts of the interpreters that are there.
pub(crate) fn present() -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(cache()?.join("bin")) else { return Ok(Vec::new()) };
    let mut scripts: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    scripts.sort();
    Ok(scripts)
}

/// `LEAKTRACE_PYTHONS`, or a folder in the user's cache.
fn cache() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("LEAKTRACE_PYTHONS")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("leaktrace/pythons")))
        .or_else(|| Some(set("HOME")?.join(".cache/leaktrace/pythons")))
        .context("neither LEAKTRACE_PYTHONS, XDG_CACHE_HOME nor HOME is set")
}

/// Writes the script of an interpreter.
fn launcher(cache: &Path, name: &str, script: &str) -> Result<()> {
    let path = cache.join("bin").join(name);
    fs::create_dir_all(cache.join("bin"))?;
    fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
