//! Finds the BPF object for `src/tracer/object.rs` to embed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Where to take the object from, for builds that do not come from `cargo xtask`.
const OBJECT: &str = "LEAKTRACE_BPF_OBJECT";

fn main() {
    println!("cargo:rerun-if-env-changed={OBJECT}");
    let object = match env::var_os(OBJECT) {
        Some(path) => PathBuf::from(path),
        None => built_by_xtask(),
    };
    println!("cargo:rerun-if-changed={}", object.display());
    println!("cargo:rustc-env={OBJECT}={}", object.display());
}

/// The object of `cargo xtask build`. Without a BPF toolchain there is none: an empty file stands in at the same path,
/// so that everything compiles and cargo notices when the real one comes.
fn built_by_xtask() -> PathBuf {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let object = manifest.parent().unwrap_or(&manifest).join("target/bpf/leaktrace.bpf.o");
    if object.is_file() || write_empty(&object) {
        return object;
    }
    // A source tree that cannot be written to.
    let empty = Path::new(&env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("leaktrace.bpf.o");
    assert!(write_empty(&empty), "cannot write {}", empty.display());
    empty
}

fn write_empty(path: &Path) -> bool {
    path.parent().is_some_and(|dir| fs::create_dir_all(dir).is_ok()) && fs::write(path, []).is_ok()
}
