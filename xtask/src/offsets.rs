//! `cargo xtask offsets`: a table of offsets from debug information. The work is done by an example of leaktrace, so that
//! xtask itself need not be linked with it.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::build::cargo;
use crate::step::display;
use crate::workspace;

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
