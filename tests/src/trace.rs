//! The `leaktrace` executable under test.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Lines, PATIENCE, signal, wait_for_end};
use crate::profile_folder;
use crate::report::Report;

/// The executable: `LEAKTRACE_BIN`, or else the one that was built beside the test, or else of the other profile.
pub fn executable() -> PathBuf {
    if let Some(path) = std::env::var_os("LEAKTRACE_BIN") {
        return path.into();
    }
    let own = profile_folder();
    let target = own.parent().expect("target/PROFILE has a parent");
    let candidates = [own.join("leaktrace"), target.join("release/leaktrace"), target.join("debug/leaktrace")];
    let found = candidates.iter().find(|path| path.exists()).cloned();
    found.unwrap_or_else(|| panic!("no leaktrace under {}: run the tests by `cargo xtask test`", target.display()))
}

/// # Panics
/// With what to do, when this process may not trace.
pub fn require_privileges() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test traces a process with BPF and needs root: run it as root, or leave it out with `cargo xtask test --unprivileged`"
    );
}

/// How a run of leaktrace ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    pub stderr: Vec<String>,
}

/// A run of `leaktrace run` on one target. Dropping it ends it.
pub struct Trace {
    child: Child,
    stderr: Lines,
    said: Vec<String>,
    folder: TempDir,
}

impl Trace {
    /// Starts a run that writes its report to a file, and does not wait.
    pub fn start(pid: u32, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut child = Command::new(executable())
            .args(["run", "--pid", &pid.to_string()])
            .arg("--json")
            .arg(folder.path().join("report.json"))
            .args(arguments)
            .args(mode(arguments))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", executable().display()));
        let stderr = Lines::of(child.stderr.take().expect("stderr is a pipe"));
        Self { child, stderr, said: Vec::new(), folder }
    }

    /// Starts a run and waits until everything is armed.
    ///
    /// # Panics
    /// With all that leaktrace said, when it ends instead.
    pub fn attach(pid: u32, arguments: &[&str]) -> Self {
        require_privileges();
        let mut trace = Self::start(pid, arguments);
        assert!(trace.armed(), "leaktrace did not attach to {pid}: {:?}", trace.end());
        trace
    }

    /// Waits for the line that says that everything is armed. False: leaktrace ended without it.
    pub fn armed(&mut self) -> bool {
        while let Some(line) = self.stderr.next(PATIENCE) {
            let armed = line.starts_with("leaktrace: tracing pid ");
            self.said.push(line);
            if armed {
                return true;
            }
        }
        false
    }

    /// Waits for the line of the next look; `None` when it has ended.
    pub fn look(&mut self) -> Option<String> {
        let line = self.stderr.next(PATIENCE)?;
        self.said.push(line.clone());
        Some(line)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Presses Ctrl-C, and waits for the report.
    pub fn finish(self) -> Report {
        self.interrupt().0
    }

    /// The same, with all that it said.
    pub fn interrupt(self) -> (Report, Outcome) {
        signal(self.child.id(), Signal::INT);
        self.report()
    }

    /// Waits for the run to end by itself, and gives its report and how it ended.
    ///
    /// # Panics
    /// When it ends with anything but 0, 1 and 12, or wrote no report.
    pub fn report(mut self) -> (Report, Outcome) {
        let outcome = self.end();
        assert!(matches!(outcome.code, Some(0 | 1 | 12)), "leaktrace failed: {outcome:?}");
        (Report::read(&self.folder.path().join("report.json")), outcome)
    }

    /// Waits for the run to end by itself, however it ends.
    pub fn outcome(mut self) -> Outcome {
        self.end()
    }

    /// Kills it with SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    fn end(&mut self) -> Outcome {
        assert!(wait_for_end(self.child.id(), PATIENCE), "leaktrace does not end; it said {:?}", self.said);
        let status = self.child.wait().expect("a child can be waited for");
        let mut stderr = std::mem::take(&mut self.said);
        stderr.extend(self.stderr.rest(Duration::from_secs(10)));
        Outcome { code: status.code(), stderr }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            signal(self.child.id(), Signal::INT);
            if !wait_for_end(self.child.id(), Duration::from_secs(20)) {
                let _ = self.child.kill();
            }
        }
        let _ = self.child.wait();
    }
}

/// What tests trace with, unless they say otherwise: what they count is exact.
fn mode(arguments: &[&str]) -> &'static [&'static str] {
    if arguments.contains(&"--mode") { &[] } else { &["--mode", "exact"] }
}

/// Runs leaktrace with any arguments until it ends.
pub fn run(arguments: &[&str]) -> Outcome {
    let traces = matches!(arguments.first(), Some(&("run" | "record"))) && arguments.contains(&"--pid");
    let mode = if traces { mode(arguments) } else { &[] };
    let child = Command::new(executable()).args(arguments).args(mode).stdin(Stdio::null()).output();
    let output = child.unwrap_or_else(|error| panic!("cannot start {}: {error}", executable().display()));
    let stderr = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
    Outcome { code: output.status.code(), stderr }
}
