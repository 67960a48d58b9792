//! The process that is measured: tests/bench/target.py, told what to do.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::workspace;

/// What some units of work took.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Window {
    pub(crate) units: u64,
    /// CPU seconds of the process, the kernel's part in it.
    pub(crate) cpu: f64,
    /// Seconds.
    pub(crate) wall: f64,
}

impl Window {
    /// CPU seconds a unit.
    pub(crate) fn per_unit(&self) -> f64 {
        self.cpu / self.units as f64
    }
}

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
        let line = target.line()?;
        if !line.starts_with("READY ") {
            bail!("the target {workload} did not start: {line:?}");
        }
        Ok(target)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Works for `seconds`.
    pub(crate) fn run(&mut self, seconds: f64) -> Result<Window> {
        self.tell(&format!("run {seconds}"))?;
        self.answer()
    }

    /// Works while `action` runs.
    pub(crate) fn storm<T>(&mut self, action: impl FnOnce(u32) -> Result<T>) -> Result<(T, Window)> {
        self.tell("storm")?;
        let result = action(self.pid());
        self.tell("stop")?;
        let window = self.answer()?;
        Ok((result?, window))
    }

    /// Starts tracemalloc with this many frames, 0 stops it.
    pub(crate) fn tracemalloc(&mut self, frames: u32) -> Result<()> {
        self.tell(&format!("tracemalloc {frames}"))?;
        self.line().map(drop)
    }

    /// Makes this many small objects and keeps them.
    pub(crate) fn hold(&mut self, objects: u32) -> Result<()> {
        self.tell(&format!("hold {objects}"))?;
        self.line().map(drop)
    }

    fn tell(&mut self, command: &str) -> Result<()> {
        writeln!(self.stdin, "{command}").with_context(|| format!("the target is gone before {command:?}"))
    }

    fn answer(&mut self) -> Result<Window> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("the target answered {line:?}"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line).context("cannot read from the target")? == 0 {
            bail!("the target ended ({})", self.child.wait()?);
        }
        Ok(line)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It may have ended already; both calls then do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
