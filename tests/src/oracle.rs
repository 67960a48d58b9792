//! Ground truth from elsewhere: the truth script under tracemalloc, and under a counter inside the process.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::process::Service;
use crate::python::Python;
use crate::report::Sum;
use crate::{asset, cache_folder};

/// The truth script, as `Service::start` wants it.
pub const SCRIPT: &str = "truth/truth.py";
/// Lines with fewer live blocks are not compared: a free list may hold one or two of them.
pub const FEWEST_BLOCKS: u64 = 20;

/// Live memory of the truth script by line, as tracemalloc saw it in a run of its own.
#[derive(Debug, Deserialize)]
pub struct Traced {
    /// CPython's allocator, by "file:line".
    pub lines: BTreeMap<String, Sum>,
    /// Memory that an extension reported to tracemalloc by itself (numpy's data).
    pub foreign: BTreeMap<String, Sum>,
    /// CPython's allocator, by whole stacks: "file:line" of each frame, most recent first, joined by newlines.
    pub stacks: BTreeMap<String, Sum>,
}

/// Successful calls of one domain between the start and the end of the work.
#[derive(Debug, Deserialize)]
pub struct Calls {
    pub malloc: u64,
    pub calloc: u64,
    pub realloc: u64,
    /// `realloc(NULL, n)`: an allocation.
    pub realloc_new: u64,
    pub free: u64,
    /// Requests that were refused.
    pub failed: u64,
}

#[derive(Debug, Deserialize)]
pub struct Counted {
    /// raw, mem, obj.
    pub domains: BTreeMap<String, Calls>,
    /// Live memory by line; empty unless it was asked for.
    pub lines: BTreeMap<String, Sum>,
}

impl Counted {
    /// Blocks that came to be, each once.
    pub fn allocations(&self) -> u64 {
        self.domains.values().map(|calls| calls.malloc + calls.calloc + calls.realloc_new).sum()
    }

    pub fn reallocations(&self) -> u64 {
        self.domains.values().map(|calls| calls.realloc).sum()
    }

    pub fn frees(&self) -> u64 {
        self.domains.values().map(|calls| calls.free).sum()
    }
}

/// What the truth script says about itself when it is done.
#[derive(Debug, Deserialize)]
pub struct Done {
    /// Memory of the C allocator by line, which CPython does not see.
    pub native: BTreeMap<String, Sum>,
}

/// A run of the truth script under tracemalloc with so many frames.
pub fn tracemalloc(python: &Python, frames: u32) -> Traced {
    tracemalloc_of(python, SCRIPT, frames)
}

/// The same of another script that takes its arguments.
pub fn tracemalloc_of(python: &Python, script: &str, frames: u32) -> Traced {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("lines.json");
    run(python, script, &["--tracemalloc", &frames.to_string(), path(&output)], "default");
    read(&output)
}

/// A run of the truth script with the counter inside. `malloc`: the value of `PYTHONMALLOC`, "default" or "debug".
pub fn count(python: &Python, malloc: &str) -> Counted {
    counter_run(python, "--counter", malloc)
}

/// A run with the counter's own account of live blocks by line. Reads CPython 3.11's structures.
pub fn account(python: &Python) -> Counted {
    counter_run(python, "--lines", "default")
}

fn counter_run(python: &Python, mode: &str, malloc: &str) -> Counted {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("counts.json");
    run(python, SCRIPT, &[mode, path(&counter()), path(&output)], malloc);
    read(&output)
}

fn run(python: &Python, script: &str, arguments: &[&str], malloc: &str) {
    let mut command = Command::new(&python.executable);
    command.arg(asset(script)).args(arguments).env("PYTHONMALLOC", malloc);
    let mut service = Service::spawn(&mut command);
    service.go();
    let _: Done = service.expect("DONE");
    assert!(service.quit().success());
}

/// The lines on which two accounts of live memory differ by more than `tolerance` (0.01 is 1 %) in bytes or blocks.
pub fn differences(
    truth: &BTreeMap<String, Sum>,
    seen: &BTreeMap<String, Sum>,
    tolerance: f64,
) -> Vec<(String, Sum, Sum)> {
    let lines = truth.keys().chain(seen.keys().filter(|line| !truth.contains_key(*line)));
    let pairs = lines.map(|line| {
        (line.clone(), truth.get(line).copied().unwrap_or_default(), seen.get(line).copied().unwrap_or_default())
    });
    pairs
        .filter(|(_, truth, seen)| truth.blocks.max(seen.blocks) >= FEWEST_BLOCKS)
        .filter(|(_, truth, seen)| {
            !close(truth.bytes, seen.bytes, tolerance) || !close(truth.blocks, seen.blocks, tolerance)
        })
        .collect()
}

/// Whether two counts differ by at most `tolerance` of the first.
pub fn close(truth: u64, seen: u64, tolerance: f64) -> bool {
    truth.abs_diff(seen) as f64 <= tolerance * truth as f64
}

/// counter.c as a shared object, compiled when it is not there or older than its source.
fn counter() -> PathBuf {
    let (source, output) = (asset("truth/counter.c"), cache_folder().join("leaktrace-test-counter.so"));
    let lock = File::create(output.with_extension("lock")).expect("target/ is writable");
    lock.lock().expect("the file system has locks");
    let modified = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    if modified(&output) < modified(&source) {
        let mut gcc = Command::new("cc");
        // Without a C library of its own, so that it serves musl too.
        gcc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread", "-nostdlib"])
            .args(["-U_FORTIFY_SOURCE", "-fno-stack-protector", "-o"])
            .arg(&output)
            .arg(&source);
        let result = gcc.output().unwrap_or_else(|error| panic!("cannot run {gcc:?}: {error}"));
        assert!(result.status.success(), "{gcc:?}: {}", String::from_utf8_lossy(&result.stderr));
    }
    output
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What storm.py's digest must be after so many steps of a cycle, from an undisturbed run.
pub fn digest(python: &Python, steps: u64) -> u64 {
    let mut command = Command::new(&python.executable);
    command.arg(asset("services/storm.py")).args(["--digest", &steps.to_string()]).env("PYTHONHASHSEED", "0");
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("{command:?} printed {text:?}"))
}
