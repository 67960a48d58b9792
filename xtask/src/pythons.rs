//! `cargo xtask pythons`: the distribution's interpreters of several releases, to test on. They are what production runs: profile-
//! optimised, static, stripped.
//!
//! Each release's packages are unpacked into a folder of its own in a cache outside the checkout, without touching the system's
//! packages: apt works on a private state. An interpreter is run by a script that changes the root in a mount namespace of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{self, setup_log};
use crate::{root, step};

/// Debian releases, and the minor versions of their packages `python3.X` that are wanted.
const RELEASES: &[(&str, &[&str])] =
    &[("bullseye", &["3.9"]), ("trixie", &["3.13"]), ("sid", &["3.13", "3.14", "3.15"])];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Gets what is missing, and gives the scripts that run the interpreters.
pub(crate) fn ensure() -> Result<Vec<PathBuf>> {
    if !root::is_root() {
        bail!("other releases' interpreters run in a root of their own: run as root");
    }
    let cache = cache()?;
    for (release, versions) in RELEASES {
        let files = cache.join("roots").join(release);
        let missing = |version: &&str| !files.join(format!("usr/bin/python{version}")).exists();
        if versions.iter().any(missing) {
            unpack(&cache, release, versions, &files)?;
        }
        for version in *versions {
            launcher(&cache, release, version, &files)?;
        }
    }
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

/// Downloads the packages with all that they depend on, and unpacks them. No script of theirs is run.
fn unpack(cache: &Path, release: &str, versions: &[&str], files: &Path) -> Result<()> {
    let state = cache.join("apt").join(release);
    for dir in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(state.join(dir))?;
    }
    fs::write(state.join("status"), "")?;
    fs::write(state.join("sources.list"), format!("deb [signed-by={KEYRING}] {} {release} main\n", mirror()?))?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-q", "-y", "-o", "APT::Sandbox::User=root", "-o", "Dir::Etc::sourceparts=/dev/null"]);
        for (option, path) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{option}={}", state.join(path).display()));
        }
        command.args(arguments);
        command
    };
    step::run(&format!("package lists of {release}"), &mut apt(&["update"]), &setup_log())?;
    let packages: Vec<String> = versions.iter().map(|version| format!("python{version}")).collect();
    let mut arguments = vec!["--no-install-recommends", "--download-only", "install"];
    arguments.extend(packages.iter().map(String::as_str));
    step::run(&format!("interpreters of {release}"), &mut apt(&arguments), &setup_log())?;
    // Where /lib and the like are links, as they are in an installed system.
    for dir in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(files.join("usr").join(dir))?;
        if !files.join(dir).exists() {
            symlink(Path::new("usr").join(dir), files.join(dir))?;
        }
    }
    for entry in fs::read_dir(state.join("cache/archives"))? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            let script = r#"dpkg-deb --fsys-tarfile "$0" | tar -x --keep-directory-symlink --no-same-owner -C "$1""#;
            let status = Command::new("sh").args(["-c", script]).arg(&package).arg(files).status()?;
            if !status.success() {
                bail!("cannot unpack {}", package.display());
            }
        }
    }
    fs::remove_dir_all(&state)?;
    Ok(())
}

/// The mirror that the system's own packages come from.
fn mirror() -> Result<String> {
    let dir = Path::new("/etc/apt");
    let lists = fs::read_dir(dir.join("sources.list.d")).into_iter().flatten().flatten().map(|entry| entry.path());
    // Other names apt ignores as well.
    let lists = lists.filter(|path| path.extension().is_some_and(|end| end == "sources" || end == "list"));
    let texts = lists.chain([dir.join("sources.list")]).filter_map(|path| fs::read_to_string(path).ok());
    let found = texts
        .flat_map(|text| text.lines().filter_map(|line| source(line).map(str::to_owned)).collect::<Vec<_>>())
        .next();
    found.context("no package source is configured in /etc/apt")
}

/// The address in a line of a list of sources.
fn source(line: &str) -> Option<&str> {
    let line = line.trim();
    let rest = line.strip_prefix("URIs:").or_else(|| line.strip_prefix("deb "))?;
    rest.split_whitespace().find(|word| word.contains("://"))
}

/// A script that runs one interpreter like any other: it sees `/tmp`, `/proc`, `/dev` and this checkout where they are outside.
fn launcher(cache: &Path, release: &str, version: &str, files: &Path) -> Result<()> {
    let path = cache.join("bin").join(format!("{release}-python{version}"));
    fs::create_dir_all(cache.join("bin"))?;
    let checkout = workspace::root().display();
    let script = format!(
        "#!/bin/sh\n\
         exec unshare -m sh -c '\n\
         for dir in proc tmp dev \"{checkout}\"; do\n\
         mkdir -p \"{root}/$dir\" && mount --rbind \"/$dir\" \"{root}/$dir\" || exit 1\n\
         done\n\
         exec chroot \"{root}\" /usr/bin/python{version} \"$@\"' sh \"$@\"\n",
        root = files.display(),
    );
    fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::source;

    #[test]
    fn addresses_of_both_formats() {
        assert_eq!(source("URIs: https://a.example/debian"), Some("https://a.example/debian"));
        assert_eq!(source("deb [signed-by=/k.gpg] http://b.example/debian sid main"), Some("http://b.example/debian"));
        assert_eq!(source("Types: deb"), None);
        assert_eq!(source("# deb http://c.example sid main"), None);
    }
}
