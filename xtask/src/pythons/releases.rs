//! The distribution's interpreters of several releases. Each release's packages are unpacked into a root of its own, without
//! touching the system's packages: apt works on a private state. They run in that root, in a mount namespace of their own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::step;
use crate::workspace::{self, setup_log};

/// Debian releases, and the minor versions of their packages `python3.X` that are wanted.
const RELEASES: &[(&str, &[&str])] =
    &[("bullseye", &["3.9"]), ("trixie", &["3.13"]), ("sid", &["3.13", "3.14", "3.15"])];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Gets what is missing.
pub(super) fn ensure(cache: &Path) -> Result<()> {
    for (release, versions) in RELEASES {
        let files = root(cache, release);
        let missing = |version: &&str| !files.join(format!("usr/bin/python{version}")).exists();
        if versions.iter().any(missing) {
            let packages: Vec<String> = versions.iter().map(|version| format!("python{version}")).collect();
            unpack(cache, release, &packages, &files)?;
        }
        for version in *versions {
            let script = in_root(&files, &format!("/usr/bin/python{version}"));
            super::launcher(cache, &format!("{release}-python{version}"), &script)?;
        }
    }
    Ok(())
}

/// Where a release's files are.
fn root(cache: &Path, release: &str) -> PathBuf {
    cache.join("roots").join(release)
}

/// The standard library of a minor version, of the newest release that has it.
pub(super) fn library(cache: &Path, minor: &str) -> Option<PathBuf> {
    let (release, _) = RELEASES.iter().rfind(|(_, versions)| versions.contains(&minor))?;
    Some(root(cache, release).join("usr/lib").join(format!("python{minor}")))
}

/// Downloads the packages with all that they depend on, and unpacks them. No script of theirs is run.
pub(super) fn unpack(cache: &Path, release: &str, packages: &[String], files: &Path) -> Result<()> {
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
    let mut arguments = vec!["--no-install-recommends", "--download-only", "install"];
    arguments.extend(packages.iter().map(String::as_str));
    step::run(&format!("{} of {release}", packages.join(", ")), &mut apt(&arguments), &setup_log())?;
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

/// A script that runs a command in a root like any other: it sees `/tmp`, `/proc`, `/dev` and this checkout where they are outside.
pub(super) fn in_root(files: &Path, command: &str) -> String {
    let checkout = workspace::root().display();
    format!(
        "#!/bin/sh\n\
         exec unshare -m sh -c '\n\
         for dir in proc tmp dev \"{checkout}\"; do\n\
         mkdir -p \"{root}/$dir\" && mount --rbind \"/$dir\" \"{root}/$dir\" || exit 1\n\
         done\n\
         exec chroot \"{root}\" {command} \"$@\"' sh \"$@\"\n",
        root = files.display(),
    )
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
