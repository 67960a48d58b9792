//! `cargo xtask build`: the BPF object, then the host's executables with it inside.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{setup, toolchain, workspace};

/// Profile of the host build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
    /// Release, stripped and optimised as a whole: `[profile.dist]`.
    Dist,
}

/// Builds the BPF programs and puts the object where `leaktrace/build.rs` takes it from.
pub(crate) fn bpf() -> Result<PathBuf> {
    let toolchain = setup::ensure()?;
    toolchain::run(toolchain.cargo("build").arg("--quiet"))?;
    let built = workspace::bpf_target_dir().join("bpfel-unknown-none/release/leaktrace-ebpf");
    let object = workspace::bpf_object();
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    // Its time of change is what makes cargo embed it anew.
    if fs::read(&object).ok().as_ref() != Some(&bytes) {
        fs::write(&object, bytes).with_context(|| format!("cannot write {}", object.display()))?;
    }
    Ok(object)
}

/// Builds the BPF programs and the `leaktrace` executable; its path.
pub(crate) fn leaktrace(profile: Profile) -> Result<PathBuf> {
    bpf()?;
    executable(profile, "--bin", "leaktrace")
}

/// Builds an example of leaktrace, with the BPF programs as they were last built; its path.
pub(crate) fn example(profile: Profile, name: &str) -> Result<PathBuf> {
    executable(profile, "--example", name)
}

fn executable(profile: Profile, kind: &str, name: &str) -> Result<PathBuf> {
    let mut command = cargo("build");
    command.args(["--package=leaktrace", kind, name, "--message-format=json-render-diagnostics"]);
    command.arg(match profile {
        Profile::Dev => "--profile=dev",
        Profile::Release => "--profile=release",
        Profile::Dist => "--profile=dist",
    });
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let mut executable = None;
    for line in BufReader::new(child.stdout.take().context("cargo has no output")?).lines() {
        executable = executable_of(&line?, name).or(executable);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the build of {name} failed ({status})");
    }
    executable.with_context(|| format!("cargo did not say where it put {name}"))
}

/// The cargo that runs this xtask, in the workspace.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace::root()).arg(subcommand);
    command
}

/// The executable named `name` in one of cargo's messages.
fn executable_of(message: &str, name: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let is_it = message["reason"] == "compiler-artifact" && message["target"]["name"] == name;
    is_it.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
}

#[cfg(test)]
mod tests {
    use super::executable_of;

    #[test]
    fn executable_in_a_message() {
        let message = r#"{"reason":"compiler-artifact","target":{"name":"leaktrace"},"executable":"/x/leaktrace"}"#;
        assert_eq!(executable_of(message, "leaktrace").as_deref(), Some(std::path::Path::new("/x/leaktrace")));
    }

    #[test]
    fn other_messages() {
        for message in [
            r#"{"reason":"compiler-artifact","target":{"name":"leaktrace"},"executable":null}"#,
            r#"{"reason":"compiler-artifact","target":{"name":"libc"},"executable":"/x"}"#,
            r#"{"reason":"build-finished","success":true}"#,
            "not json",
        ] {
            assert_eq!(executable_of(message, "leaktrace"), None, "{message}");
        }
    }
}
