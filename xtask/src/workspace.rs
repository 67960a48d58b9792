//! Where things are in this checkout.

use std::path::{Path, PathBuf};

/// Root of the checkout that this xtask was built from.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Target directory of the BPF build, apart from the host's: another compiler, another lock, another profile.
pub(crate) fn bpf_target_dir() -> PathBuf {
    root().join("target/bpf")
}

/// The BPF object that `leaktrace/build.rs` embeds.
pub(crate) fn bpf_object() -> PathBuf {
    bpf_target_dir().join("leaktrace.bpf.o")
}

/// Where the output of the set-up's steps goes.
pub(crate) fn setup_log() -> PathBuf {
    root().join("target/setup.log")
}

/// The program `name` on PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.is_file())
}
