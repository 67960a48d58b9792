//! `offsets FILE DIR [VERSION]`: makes the table of offsets of the CPython in FILE, which must have debug information, in DIR.
//! `cargo xtask offsets` calls this.

use anyhow::{Context, Result, bail};
use leaktrace::cpython::{Version, dwarf};

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [file, dir, told @ ..] = &arguments[..] else {
        bail!(
            "give the file with debug information, the folder of the tables, and the version of a CPython before 3.11"
        )
    };
    let told = told.first().and_then(|version| Version::from_text(version.to_str()?));
    let elf = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let made =
        dwarf::offsets_toml(&elf, told).with_context(|| format!("cannot make a table from {}", file.display()))?;
    for (name, toml) in std::iter::once((made.name, made.toml)).chain(made.mimalloc) {
        let path = std::path::Path::new(dir).join(format!("{name}.toml"));
        std::fs::write(&path, toml).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("{} (from {})", path.display(), made.version);
    }
    Ok(())
}
