//! Packages of a Debian-like distribution.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::{find_program, setup_log};
use crate::{root, step};

/// Is this a machine on which [`install`] can work?
pub(crate) fn available() -> bool {
    Path::new("/etc/debian_version").exists() && find_program("apt-get").is_some() && root::available()
}

/// Refreshes the package lists.
pub(crate) fn update() -> Result<()> {
    let mut command = root::command("apt-get", "installing packages")?;
    step::run("refreshing the package lists", command.args(["-q", "update"]), &setup_log())
}

/// The version of `package` that would be installed, `None` when the lists do not know it.
pub(crate) fn candidate(package: &str) -> Result<Option<String>> {
    let output = Command::new("apt-cache")
        .env("LC_ALL", "C")
        .args(["policy", package])
        .output()
        .context("cannot run apt-cache")?;
    Ok(parse_candidate(&String::from_utf8_lossy(&output.stdout)))
}

/// Installs `packages` without their recommendations.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let mut command = root::command("env", "installing packages")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y", "install", "--no-install-recommends"]);
    step::run("installing packages", command.args(packages), &setup_log())
}

fn parse_candidate(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse_candidate;

    #[test]
    fn candidate_of_a_known_package() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n";
        assert_eq!(parse_candidate(policy).as_deref(), Some("1.96.0+dfsg1-1~deb12u2"));
    }

    #[test]
    fn no_candidate() {
        assert_eq!(parse_candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(parse_candidate(""), None);
    }
}
