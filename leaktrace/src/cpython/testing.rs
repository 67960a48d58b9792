//! Real interpreters for tests: found, started, and held still by a handshake over pipes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::discover::Interpreter;
use super::version::Version;
use crate::target::Target;

/// The interpreters to test with: `LEAKTRACE_TEST_PYTHONS` (colon separated), else the distribution's and those of pyenv that
/// have a table of offsets.
pub(crate) fn pythons() -> Vec<PathBuf> {
    if let Some(list) = std::env::var_os("LEAKTRACE_TEST_PYTHONS") {
        return std::env::split_paths(&list).collect();
    }
    let mut found = vec![PathBuf::from("/usr/bin/python3.11")];
    let supported = super::Offsets::supported();
    let installed = supported.iter().flat_map(|minor| pyenv_versions(&format!("{minor}.")));
    found.extend(installed.map(|dir| dir.join("bin/python3")));
    found.retain(|path| path.exists());
    assert!(!found.is_empty(), "no CPython to test with: set LEAKTRACE_TEST_PYTHONS");
    found
}

/// The version that an interpreter says it has.
pub(crate) fn version_of(python: &Path) -> Version {
    let code = "import platform; print(platform.python_version())";
    let output = Command::new(python).args(["-c", code]).output().expect("the interpreter starts");
    Version::from_text(String::from_utf8_lossy(&output.stdout).trim()).expect("platform.python_version() is a version")
}

/// Installed versions of pyenv whose name begins so.
pub(crate) fn pyenv_versions(prefix: &str) -> Vec<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let root = root.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")));
    let entries = root.and_then(|root| std::fs::read_dir(root.join("versions")).ok()).into_iter().flatten();
    let dirs = entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
    dirs.map(|e| e.path()).collect()
}

/// Shared libraries of CPython that have DWARF and an offset table.
pub(crate) fn libpythons_with_dwarf() -> Vec<PathBuf> {
    let paths = super::Offsets::supported().into_iter().flat_map(|minor| {
        let dirs = pyenv_versions(&format!("{minor}.")).into_iter();
        dirs.map(move |dir| dir.join(format!("lib/libpython{minor}.so.1.0"))).collect::<Vec<_>>()
    });
    let has_dwarf = |path: &Path| {
        use object::Object as _;
        let data = std::fs::read(path).unwrap_or_default();
        object::File::parse(&*data).is_ok_and(|file| file.section_by_name(".debug_info").is_some())
    };
    paths.filter(|path| has_dwarf(path)).collect()
}

/// A Python program that talks in lines and is killed when it goes out of scope.
pub(crate) struct Script {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Script {
    pub(crate) fn start(python: &Path, code: &str) -> Self {
        Self::start_with(Command::new(python).args(["-c", code]), Stdio::inherit())
    }

    pub(crate) fn start_with(command: &mut Command, stderr: Stdio) -> Self {
        let piped = command.env("PYTHONUNBUFFERED", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.stderr(stderr).spawn().expect("the interpreter starts");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, stdout }
    }

    /// The next line that the program prints, without its end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the program prints");
        assert!(line.ends_with('\n'), "the program ended: {line:?}");
        line.pop();
        line
    }

    /// Lets the program go on from `input()` or a read.
    pub(crate) fn go(&mut self) {
        self.stdin.write_all(b"\n").expect("the program reads");
    }

    pub(crate) fn target(&self) -> Target {
        Target::open(self.child.id()).expect("the program lives")
    }

    pub(crate) fn interpreter(&self) -> (Target, Interpreter) {
        let target = self.target();
        let interpreter = Interpreter::find(&target).expect("it is a CPython");
        (target, interpreter)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
