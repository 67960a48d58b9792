//! `offsets FILE DIR`: makes the table of offsets of the CPython in FILE, which must have debug information, in DIR.
//! `cargo xtask offsets` calls this.

use anyhow::{Context, Result, bail};
use leaktrace::cpython::dwarf;

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [file, dir] = &arguments[..] else {
        bail!("give the file with debug information and the folder of the tables")
    };
    let elf = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let (version, toml) =
        dwarf::offsets_toml(&elf).with_context(|| format!("cannot make a table from {}", file.display()))?;
    let path = std::path::Path::new(dir).join(format!("{}.{}.toml", version.major, version.minor));
    std::fs::write(&path, toml).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("{} (from {version})", path.display());
    Ok(())
}
