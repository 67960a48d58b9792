//! `cargo xtask offsets`: a table of offsets from debug information. The work is done by an example of leaktrace, so that
//! xtask itself need not be linked with it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::cargo;
use crate::matrix;
use crate::step::display;
use crate::workspace;

/// Tests that need what an interpreter of [`matrix::rows`] may not have: other interpreters where it can see them, pymalloc, the module
/// that makes subinterpreters.
const NEED_OTHERS: &str = "the_initialised_interpreter_is_taken_of_two";
const NOT_FREE_THREADED: [&str; 2] = ["pools::", "pymalloc::"];
const NEED_INTERPRETERS: &str = "sub_interpreters_are_listed";

/// Holds each table against live interpreters: what is read of one's memory by the offsets is what it says of itself.
pub(crate) fn check() -> Result<()> {
    let mut wrong = Vec::new();
    for row in matrix::rows(false)? {
        let mut command = cargo("test");
        command.args(["--quiet", "--package=leaktrace", "--lib", "cpython::", "--"]);
        if row.bare {
            command.args(["--skip", NEED_OTHERS]);
        }
        if row.is_free_threaded() {
            command.args(NOT_FREE_THREADED.iter().flat_map(|name| ["--skip", name]));
        }
        if !row.makes_interpreters()? {
            command.args(["--skip", NEED_INTERPRETERS]);
        }
        let status = command.env("LEAKTRACE_TEST_PYTHONS", &row.python).status();
        if !status.with_context(|| format!("cannot start {}", display(&command)))?.success() {
            wrong.push(format!("{} ({})", row.version, row.python.display()));
        }
    }
    if !wrong.is_empty() {
        bail!("the tables are not right for {}", wrong.join(", "));
    }
    Ok(())
}

/// As [`offsets`], of the build without the GIL that CPython's headers in `headers` describe: distributions have no debug
/// information of one. `pyconfig.h` must be found from there too.
pub(crate) fn free_threaded(headers: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let library = folder.path().join("structs.so");
    let mut gcc = Command::new("gcc");
    // All structs, whether used or not.
    gcc.args(["-g", "-fno-eliminate-unused-debug-types", "-fPIC", "-shared", "-nostdlib", "-DPy_GIL_DISABLED=1"]);
    gcc.arg(format!("-I{}", headers.display())).arg("-o").arg(&library);
    gcc.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/offsets.c"));
    let status = gcc.status().with_context(|| format!("cannot start {}", display(&gcc)))?;
    if !status.success() {
        bail!("the headers in {} cannot be compiled ({status})", headers.display());
    }
    offsets(&library, None)
}

/// `version` is that of a CPython before 3.11, whose file does not tell it.
pub(crate) fn offsets(file: &Path, version: Option<&str>) -> Result<()> {
    let mut command = cargo("run");
    command.args(["--quiet", "--package", "leaktrace", "--example", "offsets", "--"]);
    command.arg(std::path::absolute(file)?).arg(workspace::root().join("leaktrace/offsets")).args(version);
    let status = command.status().with_context(|| format!("cannot start {}", display(&command)))?;
    if !status.success() {
        bail!("no table could be made from {} ({status})", file.display());
    }
    Ok(())
}
