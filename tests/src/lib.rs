//! End-to-end tests: the harness.
//!
//! A test starts a real CPython ([`python`]) on a service or on a truth script ([`process`]), traces it with the
//! `leaktrace` executable ([`trace`]), and compares the report ([`report`]) with what another tool or the target itself
//! says ([`oracle`], [`system`]). Nothing here sleeps: processes are waited for by what they print and by pidfd.

pub mod census;
pub mod net;
pub mod oracle;
pub mod process;
pub mod python;
pub mod report;
pub mod system;
pub mod tmux;
pub mod trace;

use std::path::{Path, PathBuf};

/// A file or folder of this package, e.g. `services/leak_ctypes.py`.
pub fn asset(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// The folder of the profile that the running test was built in: `target/debug`.
pub fn profile_folder() -> PathBuf {
    let exe = std::env::current_exe().expect("the test knows its own executable");
    let folder = exe.parent().and_then(Path::parent).expect("cargo puts tests into target/PROFILE/deps");
    folder.to_path_buf()
}

/// A folder under `target/` that outlives the test: environments and compiled helpers.
pub fn cache_folder() -> PathBuf {
    let target = profile_folder().parent().expect("target/PROFILE has a parent").to_path_buf();
    std::fs::create_dir_all(&target).unwrap_or_else(|error| panic!("cannot make {}: {error}", target.display()));
    target
}

/// The folder of an npm package that is installed under `target/` when it is not there yet.
///
/// # Panics
/// When npm is not there or cannot install it.
pub fn npm_package(name: &str) -> PathBuf {
    let root = cache_folder().join("test-npm");
    std::fs::create_dir_all(&root).unwrap_or_else(|error| panic!("cannot make {}: {error}", root.display()));
    let lock = std::fs::File::create(root.join("lock")).expect("target/ is writable");
    lock.lock().expect("the file system has locks");
    let folder = root.join("node_modules").join(name);
    if !folder.join("package.json").exists() {
        let arguments = ["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", name, "--prefix"];
        let ended = std::process::Command::new("npm").args(arguments).arg(&root).status();
        assert!(ended.as_ref().is_ok_and(std::process::ExitStatus::success), "npm cannot install {name}: {ended:?}");
    }
    folder
}
