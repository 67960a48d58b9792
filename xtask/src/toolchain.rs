//! A compiler for BPF: rustc and cargo with the sources of `core` beside them, and bpf-linker.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::find_program;

/// Oldest rustc that compiles the workspace; `rust-version` in Cargo.toml.
pub(crate) const OLDEST_RUSTC: (u32, u32) = (1, 95);
/// Oldest bpf-linker that is known to work, and the one that the set-up installs.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// A rustc that has the sources of `core`, so that cargo can build them for BPF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    pub(crate) cargo: PathBuf,
    /// Major version of the LLVM inside; bpf-linker must have at least that.
    pub(crate) llvm: u32,
}

impl Compiler {
    /// The compiler of the sysroot, if all its parts are there and it is new enough.
    fn in_sysroot(sysroot: &Path) -> Option<Self> {
        let (rustc, cargo) = (sysroot.join("bin/rustc"), sysroot.join("bin/cargo"));
        let core = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if !(rustc.is_file() && cargo.is_file() && core.is_file()) {
            return None;
        }
        let output = Command::new(&rustc).arg("-vV").env_remove("RUSTUP_TOOLCHAIN").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let release = version(field(&text, "release:")?)?;
        let (llvm, _) = version(field(&text, "LLVM version:")?)?;
        (release >= OLDEST_RUSTC).then_some(Self { rustc, cargo, llvm })
    }

    /// A nightly of rustup with the component rust-src.
    pub(crate) fn nightly() -> Option<Self> {
        let home = std::env::var_os("RUSTUP_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".rustup")))?;
        let mut toolchains: Vec<PathBuf> = std::fs::read_dir(home.join("toolchains"))
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nightly")))
            .collect();
        // Dated ones sort before `nightly-x86_64-...`, which is the one kept up to date.
        toolchains.sort();
        toolchains.iter().rev().find_map(|toolchain| Self::in_sysroot(toolchain))
    }

    /// The distribution's.
    pub(crate) fn distribution() -> Option<Self> {
        Self::in_sysroot(Path::new("/usr"))
    }
}

/// A compiler and its linker.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    /// PATH with the compiler's directory first (cargo looks there for `cargo-clippy`), then bpf-linker's.
    path: OsString,
}

impl Toolchain {
    /// What is installed, in the order of preference: nightly, distribution. Looks, installs nothing.
    pub(crate) fn find() -> Option<Self> {
        let compiler = Compiler::nightly().or_else(Compiler::distribution)?;
        let linker = find_linker()?;
        let first = [compiler.rustc.parent()?, linker.parent()?].map(Path::to_path_buf);
        let rest = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(first.into_iter().chain(std::env::split_paths(&rest))).ok()?;
        Some(Self { compiler, path })
    }

    /// `cargo SUBCOMMAND` for the BPF crate in release, whatever the host build is told by the environment.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        // Flags as aya-build 0.2 sets them: line information and types, for the verifier's log and for the loader.
        const FLAGS: &str = "--cfg=bpf_target_arch=\"x86_64\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf";
        let mut command = Command::new(&self.compiler.cargo);
        for key in ["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO"] {
            command.env_remove(key);
        }
        command
            .current_dir(crate::workspace::root())
            .env("PATH", &self.path)
            .env("RUSTC", &self.compiler.rustc)
            // `-Z build-std` on a compiler that calls itself stable.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS)
            .args([subcommand, "--package=leaktrace-ebpf", "--release", "--target=bpfel-unknown-none"])
            .args(["-Zbuild-std=core", "--target-dir"])
            .arg(crate::workspace::bpf_target_dir());
        command
    }
}

/// A bpf-linker that starts (its LLVM library may have gone) and is new enough.
pub(crate) fn find_linker() -> Option<PathBuf> {
    let linker =
        find_program("bpf-linker").or_else(|| Some(cargo_home()?.join("bin/bpf-linker")).filter(|p| p.is_file()))?;
    let output = Command::new(&linker).arg("--version").output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    (version(text.strip_prefix("bpf-linker ")?)? >= version(BPF_LINKER)?).then_some(linker)
}

/// The directory with `llvm-config` of this major version of LLVM.
pub(crate) fn llvm_bin(major: u32) -> Option<PathBuf> {
    let dir = PathBuf::from(format!("/usr/lib/llvm-{major}/bin"));
    dir.join("llvm-config").is_file().then_some(dir)
}

fn cargo_home() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
}

/// Runs a build of the BPF crate; its output is the user's to see.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", crate::step::display(command)))?;
    anyhow::ensure!(
        status.success(),
        "the BPF build failed ({status}); if the error above is the linker's, its LLVM may be older than the \
         compiler's: remove bpf-linker and run `cargo xtask setup`"
    );
    Ok(())
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Major and minor of "1.97.0-nightly" or "1.96.0+dfsg1-1".
pub(crate) fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::{field, version};

    #[test]
    fn versions() {
        assert_eq!(version("1.97.0-nightly"), Some((1, 97)));
        assert_eq!(version("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(version(" 22.1.8\n"), Some((22, 1)));
        assert_eq!(version("nightly"), None);
        assert!(version("1.100.0") > version("1.95.0"));
    }

    #[test]
    fn fields_of_rustc() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(field(text, "release:"), Some("1.96.0"));
        assert_eq!(field(text, "LLVM version:"), Some("22.1.8"));
        assert_eq!(field(text, "host:"), None);
    }
}
