//! CPython as the Python Packaging Authority builds it for manylinux and musllinux, out of wheels of freeze-core and of cx_Freeze, of
//! which that was a part before: optimised without a profile, static, stripped, also free-threaded.
//!
//! The standard library is that of a distribution release, or of an interpreter of that minor version that is installed here.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::releases;
use crate::workspace::setup_log;
use crate::{python, step};

/// A package that brings interpreters, and the folders in its wheel: of the executable, of its modules and of what these need.
struct Package {
    name: &'static str,
    executables: &'static str,
    modules: &'static str,
    libraries: &'static str,
}

const FREEZE_CORE: Package = Package {
    name: "freeze-core",
    executables: "freeze_core/bases",
    modules: "freeze_core/lib",
    libraries: "freeze_core.libs",
};
const CX_FREEZE: Package = Package {
    name: "cx_Freeze",
    executables: "cx_Freeze/bases",
    modules: "cx_Freeze/bases/lib-dynload",
    libraries: "cx_Freeze/bases/lib",
};

/// A build, and the wheel that brings it.
struct Wheel {
    /// "3.14", "3.14t": free-threaded; with a point release where another one is there too.
    name: &'static str,
    package: Package,
    release: &'static str,
    platform: &'static str,
}

const fn wheel(name: &'static str, release: &'static str, platform: &'static str) -> Wheel {
    Wheel { name, package: FREEZE_CORE, release, platform }
}

const fn older(name: &'static str) -> Wheel {
    Wheel { name, package: CX_FREEZE, release: "7.2.10", platform: "manylinux2014_x86_64" }
}

const MANYLINUX: [Wheel; 12] = [
    older("3.8"),
    older("3.9"),
    older("3.10"),
    wheel("3.11", "0.8.1", "manylinux2014_x86_64"),
    wheel("3.12", "0.8.1", "manylinux2014_x86_64"),
    wheel("3.13t", "0.6.0", "manylinux_2_28_x86_64"),
    // Up to 3.14.4 the collector was another one.
    wheel("3.14.2", "0.6.0", "manylinux_2_28_x86_64"),
    wheel("3.14.3t", "0.6.1", "manylinux2014_x86_64"),
    wheel("3.14", "0.8.1", "manylinux2014_x86_64"),
    wheel("3.14t", "0.8.1", "manylinux2014_x86_64"),
    wheel("3.15", "0.8.1", "manylinux2014_x86_64"),
    wheel("3.15t", "0.8.1", "manylinux2014_x86_64"),
];
const MUSL: [Wheel; 4] = [
    wheel("3.13", "0.8.1", "musllinux_1_2_x86_64"),
    wheel("3.14", "0.8.1", "musllinux_1_2_x86_64"),
    wheel("3.14t", "0.8.1", "musllinux_1_2_x86_64"),
    wheel("3.15", "0.8.1", "musllinux_1_2_x86_64"),
];
/// Of musl's own root.
const MUSL_PACKAGES: [&str; 2] = ["musl", "busybox-static"];

/// Gets what is missing. One whose minor version has no standard library here is left out.
pub(super) fn ensure(cache: &Path) -> Result<()> {
    for wheel in &MANYLINUX {
        let home = cache.join("manylinux").join(wheel.name);
        if !wheel.unpack(cache, &home)? {
            continue;
        }
        let environment = environment(&home.display().to_string());
        let python = home.join("bin").join(wheel.executable());
        let script = format!("#!/bin/sh\nexec env {environment} {} \"$@\"\n", python.display());
        super::launcher(cache, &format!("manylinux-python{}", wheel.name), &script)?;
    }
    let root = cache.join("roots/musl");
    if !root.join("lib/ld-musl-x86_64.so.1").exists() {
        releases::unpack(cache, "sid", &MUSL_PACKAGES.map(str::to_owned), &root)?;
    }
    for wheel in &MUSL {
        let home = format!("/opt/{}", wheel.name);
        if !wheel.unpack(cache, &root.join(home.trim_start_matches('/')))? {
            continue;
        }
        let environment = environment(&home);
        let command = format!("/usr/bin/busybox env {environment} {home}/bin/{}", wheel.executable());
        super::launcher(cache, &format!("musl-python{}", wheel.name), &releases::in_root(&root, &command))?;
    }
    Ok(())
}

fn environment(home: &str) -> String {
    format!("PYTHONHOME={home} LD_LIBRARY_PATH={home}/libs LD_PRELOAD={home}/main.so")
}

impl Wheel {
    /// "3.14"
    fn minor(&self) -> &str {
        let end = self.name.match_indices('.').nth(1).map_or(self.name.len(), |(dot, _)| dot);
        self.name[..end].trim_end_matches('t')
    }

    /// "t" without the GIL.
    fn suffix(&self) -> &str {
        if self.name.ends_with('t') { "t" } else { "" }
    }

    fn executable(&self) -> String {
        format!("python{}{}", self.minor(), self.suffix())
    }

    /// "cp314t"
    fn abi(&self) -> String {
        format!("cp{}{}", self.minor().replace('.', ""), self.suffix())
    }

    /// Whether it is there then.
    fn unpack(&self, cache: &Path, home: &Path) -> Result<bool> {
        let executable = home.join("bin").join(self.executable());
        if executable.exists() {
            return Ok(true);
        }
        let Some(library) = library(cache, self.minor())? else {
            eprintln!("==> CPython {} for {}: left out, no standard library of it is here", self.name, self.platform);
            return Ok(false);
        };
        let wheels = cache.join("wheels").join(format!("{}-{}", self.platform, self.name));
        self.download(&wheels)?;
        let python = home.join("lib").join(self.executable());
        let modules = python.join("lib-dynload");
        for dir in [&home.join("bin"), &home.join("libs"), &modules] {
            fs::create_dir_all(dir)?;
        }
        copy_library(&library, &python)?;
        copy_files(&wheels.join(self.package.modules), &modules, ".so")?;
        copy_files(&wheels.join(self.package.libraries), &home.join("libs"), "")?;
        preloaded(&home.join("main.so"))?;
        let console = fs::read_dir(wheels.join(self.package.executables))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("console-")))
            .with_context(|| format!("no interpreter in the wheel in {}", wheels.display()))?;
        // Last: what is there is whole.
        fs::set_permissions(&console, fs::Permissions::from_mode(0o755))?;
        fs::copy(&console, &executable)?;
        fs::remove_dir_all(&wheels)?;
        Ok(true)
    }

    fn download(&self, to: &Path) -> Result<()> {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--implementation=cp"]);
        pip.arg(format!("--python-version={}", self.minor())).arg(format!("--abi={}", self.abi()));
        pip.arg(format!("--platform={}", self.platform)).arg("--dest").arg(to);
        pip.arg(format!("{}=={}", self.package.name, self.release));
        step::run(&format!("CPython {} for {}", self.name, self.platform), &mut pip, &setup_log())?;
        let wheel = fs::read_dir(to)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|end| end == "whl"))
            .context("pip downloaded no wheel")?;
        checked(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(to))
    }
}

/// Where a standard library of a minor version is.
fn library(cache: &Path, minor: &str) -> Result<Option<PathBuf>> {
    match releases::library(cache, minor) {
        Some(found) => Ok(Some(found)),
        None => python::library(minor),
    }
}

/// The pure Python part of a standard library.
fn copy_library(from: &Path, to: &Path) -> Result<()> {
    let script = r#"tar -C "$0" --exclude=__pycache__ --exclude=./test --exclude=./lib-dynload --exclude='./config-*' --exclude='*.so' \
        --exclude='_sysconfig*' --exclude=sitecustomize.py -chf - . | tar -C "$1" -xf -"#;
    checked(Command::new("sh").args(["-c", script]).arg(from).arg(to))
}

fn copy_files(from: &Path, to: &Path, end: &str) -> Result<()> {
    let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name: PathBuf = path.file_name().unwrap_or_default().into();
        if path.is_file() && name.to_string_lossy().ends_with(end) {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// Compiles what makes the executable an ordinary python.
fn preloaded(to: &Path) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pythons/main.c");
    let flags = ["-O2", "-fPIC", "-shared", "-nostdlib", "-fno-stack-protector", "-D_FORTIFY_SOURCE=0", "-o"];
    checked(Command::new("gcc").args(flags).arg(to).arg(source))
}

fn checked(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", step::display(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", step::display(command));
    }
    Ok(())
}
