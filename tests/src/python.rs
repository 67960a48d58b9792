//! The interpreters that tests run on, and environments with packages from PyPI.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache_folder;

/// A CPython executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python {
    pub executable: PathBuf,
    /// "3.11.2", as the interpreter says.
    pub version: String,
    /// Built without the GIL.
    pub free_threaded: bool,
}

impl Python {
    /// Asks the executable for its version.
    ///
    /// # Errors
    /// A sentence when it does not run or is not CPython.
    pub fn new(executable: &Path) -> Result<Self, String> {
        let code = "import platform, sys; print(platform.python_implementation(), platform.python_version(), \
            int('free-threading' in sys.version))";
        let output = Command::new(executable)
            .args(["-c", code])
            .output()
            .map_err(|error| format!("cannot run {}: {error}", executable.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        match text.split_whitespace().collect::<Vec<_>>()[..] {
            ["CPython", version, free_threaded] => Ok(Self {
                executable: executable.to_path_buf(),
                version: version.to_owned(),
                free_threaded: free_threaded == "1",
            }),
            _ => Err(format!("{} is not CPython: it answered {text:?}", executable.display())),
        }
    }

    /// 14 of 3.14.
    ///
    /// # Panics
    /// When the version has no minor number.
    pub fn minor(&self) -> u32 {
        self.version.split('.').nth(1).and_then(|minor| minor.parse().ok()).expect("versions have a minor number")
    }

    /// A name for folders: `3.11.2-usr-bin-python3.11`.
    pub fn label(&self) -> String {
        let path = self.executable.to_string_lossy().replace('/', "-");
        format!("{}{path}", self.version)
    }

    /// The interpreter of a virtual environment that has `packages`, made once and kept under `target/`.
    #[must_use]
    pub fn with_packages(&self, packages: &[&str]) -> Self {
        let folder = cache_folder().join(format!("test-venv-{}", self.label()));
        std::fs::create_dir_all(&folder).expect("target/ is writable");
        // Tests run at once and in several processes: one makes the environment, the others wait.
        let lock = File::create(folder.join("lock")).expect("target/ is writable");
        lock.lock().expect("the file system has locks");
        let executable = folder.join("bin/python");
        if !executable.exists() {
            run(Command::new(&self.executable).args(["-m", "venv"]).arg(&folder));
        }
        let installed = folder.join("installed");
        let mut have: BTreeSet<String> =
            std::fs::read_to_string(&installed).unwrap_or_default().lines().map(str::to_owned).collect();
        if packages.iter().any(|package| !have.contains(*package)) {
            run(Command::new(&executable).args(["-m", "pip", "install", "--quiet"]).args(packages));
            have.extend(packages.iter().map(|&package| package.to_owned()));
            let text = have.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
            std::fs::write(&installed, text).expect("target/ is writable");
        }
        Self { executable, version: self.version.clone(), free_threaded: self.free_threaded }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
}

/// The interpreters of version 3.11 to test on: `LEAKTRACE_TEST_PYTHONS` (colon separated), or else the distribution's and pyenv's.
///
/// # Panics
/// When there is none: a test that ran on nothing would pass.
pub fn supported() -> Vec<Python> {
    let candidates = match std::env::var("LEAKTRACE_TEST_PYTHONS") {
        Ok(list) => list.split(':').map(PathBuf::from).collect(),
        Err(_) => [vec![PathBuf::from("/usr/bin/python3.11")], pyenv("3.11.")].concat(),
    };
    let found: Vec<Python> = candidates.iter().filter_map(|path| Python::new(path).ok()).collect();
    assert!(!found.is_empty(), "no CPython 3.11 among {candidates:?}: install one or set LEAKTRACE_TEST_PYTHONS");
    found
}

/// One interpreter of each supported minor version that is here, and the distribution's: `LEAKTRACE_TEST_PYTHONS` (colon
/// separated), or else /usr/bin/python3.11 and pyenv's.
///
/// # Panics
/// When there is none.
pub fn each_minor() -> Vec<Python> {
    if std::env::var_os("LEAKTRACE_TEST_PYTHONS").is_some() {
        return supported();
    }
    let minors = (8..=13).filter_map(|minor| pyenv(&format!("3.{minor}.")).pop());
    let candidates = std::iter::once(PathBuf::from("/usr/bin/python3.11")).chain(minors);
    let found: Vec<Python> = candidates.filter_map(|path| Python::new(&path).ok()).collect();
    assert!(!found.is_empty(), "no CPython to test on: install one or set LEAKTRACE_TEST_PYTHONS");
    found
}

/// An interpreter that leaktrace does not support: `LEAKTRACE_TEST_OLD_PYTHON`, or else pyenv's 3.7 or 3.6.
pub fn unsupported() -> Python {
    let candidates = match std::env::var("LEAKTRACE_TEST_OLD_PYTHON") {
        Ok(path) => vec![PathBuf::from(path)],
        Err(_) => [pyenv("3.7."), pyenv("3.6.")].concat(),
    };
    let found = candidates.iter().find_map(|path| Python::new(path).ok());
    found.unwrap_or_else(|| panic!("no CPython 3.6 or 3.7 among {candidates:?}: set LEAKTRACE_TEST_OLD_PYTHON"))
}

fn pyenv(prefix: &str) -> Vec<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let root = root.or_else(|| std::env::home_dir().map(|home| home.join(".pyenv")));
    let Some(entries) = root.and_then(|root| std::fs::read_dir(root.join("versions")).ok()) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join("bin/python3"))
        .collect();
    found.sort();
    found
}
