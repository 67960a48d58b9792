//! Child processes with a handshake: services and truth scripts.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::asset;
use crate::python::Python;
use crate::report::Sum;

/// How long a healthy target may take for anything on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// Lines of a pipe, read by a thread so that waiting for one can end.
pub struct Lines(Receiver<String>);

impl Lines {
    pub fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                if sender.send(text).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Self(receiver)
    }

    /// The next line; `None` at the end of the pipe.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn next(&self, timeout: Duration) -> Option<String> {
        match self.0.recv_timeout(timeout) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing was printed for {timeout:?}"),
        }
    }

    /// What is left until the end of the pipe.
    pub fn rest(&self, timeout: Duration) -> Vec<String> {
        let deadline = Instant::now() + timeout;
        std::iter::from_fn(|| self.next(deadline.saturating_duration_since(Instant::now()))).collect()
    }
}

/// Sends a signal to a process that this test started.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid is not 0");
    kill_process(pid, signal).unwrap_or_else(|error| panic!("cannot signal {pid:?}: {error}"));
}

/// Waits until the process has ended, at most `timeout`. Whether it has.
pub fn wait_for_end(pid: u32, timeout: Duration) -> bool {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid is not 0");
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let timeout = Timespec::try_from(timeout).expect("a timeout fits");
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).expect("a pidfd can be polled") > 0
}

/// A line of the target's source, and the function that it is in.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub function: String,
    pub file: String,
    pub line: u32,
}

#[derive(Debug, Deserialize)]
struct Ready {
    pid: u32,
    #[serde(default)]
    leaks: Vec<Place>,
}

/// What a service answers to `stats`.
#[derive(Debug, Clone, Deserialize)]
pub struct Stats {
    /// Steps of work done.
    pub steps: u64,
    /// storm.py: steps in the current cycle of its work, and the checksum of these.
    #[serde(default)]
    pub cycle_step: u64,
    #[serde(default)]
    pub digest: u64,
    /// storm.py: cycles that did not compute what they computed before they were traced.
    #[serde(default)]
    pub wrong: u64,
    /// `(cycle_step, digest)` of each of storm.py's threads.
    #[serde(default)]
    pub threads: Vec<(u64, u64)>,
    /// Live memory by "file:line" under `python -X tracemalloc`, else empty.
    pub lines: BTreeMap<String, Sum>,
}

/// A running service or truth script. Dropping it ends it.
pub struct Service {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines,
    ready: Ready,
}

impl Service {
    /// Starts a script of this package and waits for its `READY`. It works only after [`Service::go`].
    pub fn start(python: &Python, script: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(&python.executable);
        Self::spawn(command.arg(asset(script)).args(arguments))
    }

    /// Like [`Service::start`], with a command of the caller's.
    pub fn spawn(command: &mut Command) -> Self {
        // A fixed hash seed makes two runs of one script alike.
        command.env("PYTHONHASHSEED", "0").env("PYTHONDONTWRITEBYTECODE", "1");
        let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
        let name = words.join(OsStr::new(" ")).to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let lines = Lines::of(child.stdout.take().expect("stdout is a pipe"));
        let stdin = child.stdin.take();
        let mut service = Self { name, child, stdin, lines, ready: Ready { pid: 0, leaks: Vec::new() } };
        service.ready = service.expect("READY");
        service
    }

    /// The process to trace (not always the child: a gunicorn worker).
    pub fn pid(&self) -> u32 {
        self.ready.pid
    }

    /// The process that was started.
    pub fn child(&self) -> u32 {
        self.child.id()
    }

    /// Where it leaks, as its source is marked.
    pub fn leaks(&self) -> &[Place] {
        &self.ready.leaks
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells it to start.
    pub fn go(&mut self) {
        self.say("go");
    }

    /// Sends a line.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("the pipe is open until the service is dropped");
        writeln!(stdin, "{line}").unwrap_or_else(|error| panic!("{} does not listen any more: {error}", self.name));
    }

    /// Waits for a line that is `word` and JSON, and gives the JSON.
    pub fn expect<T: DeserializeOwned>(&mut self, word: &str) -> T {
        let line = self.lines.next(PATIENCE);
        let line = line.unwrap_or_else(|| panic!("{} ended before it said {word}: {:?}", self.name, self.child.wait()));
        let json = line.strip_prefix(word).unwrap_or_else(|| panic!("{} said {line:?}, not {word}", self.name));
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{} said {line:?}: {error}", self.name))
    }

    pub fn stats(&mut self) -> Stats {
        self.say("stats");
        self.expect("")
    }

    /// Lets it work for a while.
    ///
    /// # Panics
    /// When it ends meanwhile.
    pub fn work_for(&mut self, time: Duration) {
        assert!(!wait_for_end(self.child.id(), time), "{} ended while it worked: {:?}", self.name, self.child.wait());
    }

    /// Works until some steps more are done: it makes progress.
    pub fn progress(&mut self, steps: u64) {
        let goal = self.stats().steps + steps;
        let deadline = Instant::now() + PATIENCE;
        while self.stats().steps < goal {
            assert!(Instant::now() < deadline, "{} makes no progress", self.name);
            self.work_for(Duration::from_millis(20));
        }
    }

    /// Tells it to quit and waits for its end.
    pub fn quit(mut self) -> ExitStatus {
        self.say("quit");
        assert!(wait_for_end(self.child.id(), PATIENCE), "{} does not quit", self.name);
        self.child.wait().expect("a child can be waited for")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // End of input ends every script, and lets web.py end its gunicorn. The signal is for one that is stopped.
        self.stdin = None;
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed())
            && self.child.try_wait().is_ok_and(|status| status.is_none())
        {
            let _ = kill_process(pid, Signal::CONT);
            if !wait_for_end(self.child.id(), Duration::from_secs(20)) {
                let _ = self.child.kill();
            }
        }
        let _ = self.child.wait();
    }
}
