//! The interpreter for the demo service.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace;

/// A Python that leaktrace supports: the system's if it can be, else one of pyenv's. Supported is what has a file of
/// offsets, `leaktrace/offsets/MAJOR.MINOR.toml`.
pub(crate) fn find() -> Result<PathBuf> {
    let supported = supported()?;
    let names: Vec<String> = supported.iter().map(|version| format!("python{version}")).collect();
    let system = names.iter().map(|name| PathBuf::from("/usr/bin").join(name));
    let on_path = names.iter().map(String::as_str).chain(["python3"]).filter_map(workspace::find_program);
    system.chain(on_path).chain(pyenv()).find(|python| is_supported(python, &supported)).with_context(|| {
        format!(
            "no Python that leaktrace supports ({}) is installed for the demo service: `apt-get install {}`, or trace a \
             process with --pid PID",
            supported.join(", "),
            names.last().map_or("python3", String::as_str)
        )
    })
}

fn supported() -> Result<Vec<String>> {
    let dir = workspace::root().join("leaktrace/offsets");
    let entries = std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut versions: Vec<String> = names.filter_map(|name| Some(name.strip_suffix(".toml")?.to_owned())).collect();
    versions.sort();
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
