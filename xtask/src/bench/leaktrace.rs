//! A `leaktrace run` beside a target.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::process;

/// Options for every event, with a look each second.
pub(crate) const EXACT: &[&str] = &["--mode", "exact", "--interval", "1s"];
/// Options for windows within the default budget.
pub(crate) const WATCH: &[&str] = &["--mode", "watch"];

/// Longest waits for the attach, and for the report: both may read the whole heap of the target.
const PATIENCE: Duration = Duration::from_mins(2);

/// What is read of `leaktrace.report/1`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Report {
    pub(crate) target: ReportTarget,
    pub(crate) capture: Capture,
    pub(crate) totals: Totals,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ReportTarget {
    pub(crate) python: ReportPython,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ReportPython {
    pub(crate) version: String,
    pub(crate) features: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Capture {
    pub(crate) events: Events,
    /// Numbers by kind of loss.
    pub(crate) lost: serde_json::Map<String, Value>,
    /// In watch mode only.
    pub(crate) watch: Option<Watch>,
}

/// What leaktrace says of its own windows.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Watch {
    pub(crate) windows: u64,
    /// Share of the target's CPU time that tracing might cost, and what it did cost.
    pub(crate) overhead_limit: f64,
    pub(crate) overhead: f64,
    /// Blocks that outlived their window and are believed to live.
    pub(crate) followed_blocks: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Events {
    alloc: u64,
    realloc: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Totals {
    pub(crate) live_blocks: u64,
}

impl Capture {
    /// Allocations and reallocations. Frees are not counted in: most take no probe.
    pub(crate) fn allocations(&self) -> u64 {
        self.events.alloc + self.events.realloc
    }

    pub(crate) fn losses(&self) -> u64 {
        self.lost.values().filter_map(Value::as_u64).sum()
    }
}

/// A tracer that has armed its plan. Dropping it kills it.
pub(crate) struct Leaktrace {
    child: Child,
    stderr: BufReader<ChildStderr>,
    json: PathBuf,
    /// From the command to the line that says that everything is armed.
    pub(crate) attach: Duration,
}

impl Leaktrace {
    /// Starts the tracer, with more options of `leaktrace run`; its report goes through a file in `scratch`.
    pub(crate) fn attach(executable: &Path, pid: u32, options: &[&str], scratch: &Path) -> Result<Self> {
        let json = scratch.join("report.json");
        let begun = Instant::now();
        let mut child = Command::new(executable)
            .args(["run", "--pid"])
            .arg(pid.to_string())
            .args(options)
            .arg("--json")
            .arg(&json)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", executable.display()))?;
        let stderr = BufReader::new(child.stderr.take().context("leaktrace has no stderr")?);
        let mut leaktrace = Self { child, stderr, json, attach: Duration::ZERO };
        let line = process::next_line(&mut leaktrace.stderr, PATIENCE).context("leaktrace did not attach")?;
        leaktrace.attach = begun.elapsed();
        if !line.as_ref().is_some_and(|line| line.contains("tracing pid")) {
            bail!("leaktrace did not attach: {}", line.unwrap_or_default().trim_end());
        }
        Ok(leaktrace)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU seconds so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.pid())
    }

    /// Ends it as Ctrl-C does; its report, and the time until its process was gone.
    pub(crate) fn detach(mut self) -> Result<(Report, Duration)> {
        let begun = Instant::now();
        process::interrupt(&self.child);
        // The little that it says by now finds room in the pipe.
        let status = process::wait_for(&mut self.child, PATIENCE).context("leaktrace did not detach")?;
        let took = begun.elapsed();
        let mut said = String::new();
        self.stderr.read_to_string(&mut said)?;
        if !status.success() {
            bail!("leaktrace ended with {status}: {}", said.trim_end());
        }
        let text = std::fs::read_to_string(&self.json).context("leaktrace wrote no report")?;
        Ok((serde_json::from_str(&text).context("the report of leaktrace is not what was expected")?, took))
    }
}

impl Drop for Leaktrace {
    fn drop(&mut self) {
        // After a detach both calls do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
