//! `cargo xtask dist`: one executable to copy to machines without a toolchain.

use std::fs;
use std::io::Write;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::build::{self, Profile};
use crate::workspace;

pub(crate) fn dist() -> Result<()> {
    let built = build::leaktrace(Profile::Dist)?;
    let dir = workspace::root().join("dist");
    let path = dir.join("leaktrace");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    // A running one cannot be written to, but it can be replaced.
    let _ = fs::remove_file(&path);
    fs::copy(&built, &path).with_context(|| format!("cannot write {}", path.display()))?;
    let bytes = fs::read(&path)?;
    let sum = Sha256::digest(&bytes).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    writeln!(std::io::stdout(), "{sum}  {}  {} bytes", path.display(), bytes.len())?;
    Ok(())
}
