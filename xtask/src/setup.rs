//! `cargo xtask setup`: what the BPF build needs, installed once.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::toolchain::{BPF_LINKER, Compiler, OLDEST_RUSTC, Toolchain, find_linker, llvm_bin, version};
use crate::workspace::{find_program, setup_log};
use crate::{apt, step};

/// LLVM versions that bpf-linker can be built with.
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// Distribution packages with rustc, cargo, the sources and the linter; newest first: `-web` is what browsers in stable
/// releases are built with.
const RUST_PACKAGES: [[&str; 4]; 2] =
    [["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"], ["rustc", "cargo", "rust-src", "rust-clippy"]];

/// The toolchain for BPF; what is missing is installed. Takes some 50 ms when nothing is.
pub(crate) fn ensure() -> Result<Toolchain> {
    if let Some(toolchain) = Toolchain::find() {
        return Ok(toolchain);
    }
    eprintln!("Setting up the BPF toolchain (once; output in {})", setup_log().display());
    let compiler = match Compiler::nightly().or_else(Compiler::distribution) {
        Some(compiler) => compiler,
        None => install_compiler().context("no compiler for BPF could be installed")?,
    };
    if find_linker().is_none() {
        install_linker(compiler.llvm).context("bpf-linker could not be installed")?;
    }
    Toolchain::find().context("the BPF toolchain is still not complete after the set-up: see target/setup.log")
}

/// Adds the linter that belongs to the toolchain's compiler.
pub(crate) fn ensure_clippy(toolchain: &Toolchain) -> Result<()> {
    let bin = toolchain.compiler.rustc.parent().context("rustc has no directory")?;
    if bin.join("cargo-clippy").is_file() {
        return Ok(());
    }
    if !(bin == "/usr/bin" && apt::available()) {
        bail!("{} has no clippy: `rustup component add clippy` for that toolchain", bin.display());
    }
    let packages = distribution_packages()?.context("the distribution has no package with clippy")?;
    apt::install(&packages[3..])
}

fn install_compiler() -> Result<Compiler> {
    if apt::available() {
        if let Some(packages) = distribution_packages()? {
            apt::install(&packages[..3])?;
            return Compiler::distribution().context("/usr/bin/rustc is not usable after its installation");
        }
        let (major, minor) = OLDEST_RUSTC;
        eprintln!("This distribution has no rustc {major}.{minor} or newer; trying rustup's nightly");
    }
    let Some(rustup) = find_program("rustup") else {
        bail!(
            "needed is either a Debian-like distribution with rustc {}.{} or newer and root, or rustup: install rustup, \
             then `rustup toolchain install nightly --component rust-src`",
            OLDEST_RUSTC.0,
            OLDEST_RUSTC.1
        );
    };
    let mut command = Command::new(rustup);
    command.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
    step::run("installing a nightly Rust", &mut command, &setup_log())?;
    Compiler::nightly().context("the nightly that rustup installed has no rust-src or is too old")
}

/// The newest set of packages whose rustc is new enough. Refreshes the lists when they do not know one.
fn distribution_packages() -> Result<Option<[&'static str; 4]>> {
    let find = || -> Result<Option<[&'static str; 4]>> {
        for packages in RUST_PACKAGES {
            let candidate = apt::candidate(packages[0])?;
            if candidate.and_then(|text| version(&text)).is_some_and(|found| found >= OLDEST_RUSTC) {
                return Ok(Some(packages));
            }
        }
        Ok(None)
    };
    if let Some(packages) = find()? {
        return Ok(Some(packages));
    }
    apt::update()?;
    find()
}

/// Builds bpf-linker with an LLVM at least as new as the compiler's: an older one cannot read its bitcode.
fn install_linker(compiler_llvm: u32) -> Result<()> {
    let usable = compiler_llvm.max(*LINKER_LLVM.start())..=*LINKER_LLVM.end();
    let installed = usable.clone().find_map(|major| Some((major, llvm_bin(major)?)));
    let (major, bin) = match installed {
        Some(found) => found,
        None if apt::available() => install_llvm(usable)?,
        None => bail!(
            "it needs the development files of LLVM {compiler_llvm} (on Debian: llvm-{compiler_llvm}-dev, as root); \
             install them, or bpf-linker {BPF_LINKER} itself"
        ),
    };
    let mut path = bin.into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.env("PATH", path).args(["install", "bpf-linker", "--version", BPF_LINKER, "--force"]);
    command.args(["--no-default-features", "--features", &format!("llvm-{major}")]);
    step::run("building bpf-linker (some minutes)", &mut command, &setup_log())
}

fn install_llvm(usable: std::ops::RangeInclusive<u32>) -> Result<(u32, std::path::PathBuf)> {
    for refreshed in [false, true] {
        if refreshed {
            apt::update()?;
        }
        for major in usable.clone() {
            let package = format!("llvm-{major}-dev");
            if apt::candidate(&package)?.is_some() {
                apt::install(&[&package])?;
                let bin = llvm_bin(major).with_context(|| format!("{package} brought no llvm-config"))?;
                return Ok((major, bin));
            }
        }
    }
    bail!("the distribution has no llvm-{}-dev nor a newer one that bpf-linker knows", usable.start())
}
