//! The process that is measured: tests/bench/target.py, told what to do.

use std::io::{BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::process;
use super::subject::{Subject, Window};
use crate::workspace;

/// Longest wait for an answer beyond the time that the work was to take: a tool may have hung the target.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running target, idle until told. Dropping it ends it; it also ends by itself when this process dies.
pub(crate) struct Target {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Target {
    pub(crate) fn start(python: &Path, workload: &str) -> Result<Self> {
        let mut child = Command::new(python)
            .arg("-sB")
            .arg(workspace::root().join("tests/bench/target.py"))
            .arg(workload)
            .env("PYTHONHASHSEED", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let stdin = child.stdin.take().context("the target has no input")?;
        let stdout = BufReader::new(child.stdout.take().context("the target has no output")?);
        let mut target = Self { child, stdin, stdout };
        let line = target.line(Duration::ZERO)?;
        if !line.starts_with("READY ") {
            bail!("the target {workload} did not start: {line:?}");
        }
        Ok(target)
    }

    /// Works while `action` runs.
    pub(crate) fn storm<T>(&mut self, action: impl FnOnce(u32) -> Result<T>) -> Result<(T, Window)> {
        self.tell("storm")?;
        let result = action(self.pid());
        self.tell("stop")?;
        let window = self.answer(Duration::ZERO)?;
        Ok((result?, window))
    }

    /// Makes this many small objects and keeps them.
    pub(crate) fn hold(&mut self, objects: u32) -> Result<()> {
        self.tell(&format!("hold {objects}"))?;
        self.line(Duration::ZERO).map(drop)
    }

    fn tell(&mut self, command: &str) -> Result<()> {
        writeln!(self.stdin, "{command}").with_context(|| format!("the target is gone before {command:?}"))
    }

    fn answer(&mut self, work: Duration) -> Result<Window> {
        let line = self.line(work)?;
        serde_json::from_str(&line).with_context(|| format!("the target answered {line:?}"))
    }

    /// The next line, which comes after `work` and some patience at the latest. Nothing is buffered when it is asked for:
    /// each command has one line for an answer.
    fn line(&mut self, work: Duration) -> Result<String> {
        match process::next_line(&mut self.stdout, work + PATIENCE).context("the target hung")? {
            Some(line) => Ok(line),
            None => bail!("the target ended ({})", self.child.wait()?),
        }
    }
}

impl Subject for Target {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn run(&mut self, seconds: f64) -> Result<Window> {
        self.tell(&format!("run {seconds}"))?;
        self.answer(Duration::from_secs_f64(seconds))
    }

    fn while_working(&mut self, action: &mut dyn FnMut(u32) -> Result<()>) -> Result<()> {
        self.storm(action).map(drop)
    }

    fn tracemalloc(&mut self, frames: u32) -> Result<()> {
        self.tell(&format!("tracemalloc {frames}"))?;
        self.line(Duration::ZERO).map(drop)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It may have ended already; both calls then do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
