//! wrk, which loads a service over loopback and says how its requests fared.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::bench::process;
use crate::bench::subject::Requests;
use crate::workspace;

/// Longest wait for wrk to end beyond the time of the load.
const PATIENCE: Duration = Duration::from_secs(20);

/// How services are loaded: so many connections, each of which sends its next request when the last one is answered.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) wrk: PathBuf,
    pub(super) connections: u32,
}

/// What load.lua prints.
#[derive(Debug, Deserialize)]
pub(super) struct Answers {
    /// Those that were answered.
    pub(super) requests: u64,
    microseconds: f64,
    #[serde(flatten)]
    pub(super) how: Requests,
}

impl Answers {
    pub(super) fn seconds(&self) -> f64 {
        self.microseconds / 1e6
    }
}

/// A load that goes on. Dropping it ends it.
pub(super) struct Running {
    wrk: Child,
    seconds: u64,
}

impl Load {
    /// Starts requests to a port, for so many seconds.
    pub(super) fn start(&self, port: u16, seconds: u64) -> Result<Running> {
        let wrk = Command::new(&self.wrk)
            .args(["--latency", "--threads=1", "--timeout=60s"])
            .arg(format!("--connections={}", self.connections))
            .arg(format!("--duration={seconds}s"))
            .arg("--script")
            .arg(workspace::root().join("tests/bench/services/load.lua"))
            .arg(format!("http://127.0.0.1:{port}/"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.wrk.display()))?;
        Ok(Running { wrk, seconds })
    }
}

impl Running {
    /// Ends it before its time.
    pub(super) fn interrupt(mut self) -> Result<()> {
        process::interrupt(&self.wrk);
        process::wait_for(&mut self.wrk, PATIENCE).context("wrk")?;
        Ok(())
    }

    /// Waits for its end.
    pub(super) fn finish(mut self) -> Result<Answers> {
        let status = process::wait_for(&mut self.wrk, Duration::from_secs(self.seconds) + PATIENCE).context("wrk")?;
        let mut said = String::new();
        self.wrk.stdout.take().context("wrk has no output")?.read_to_string(&mut said)?;
        if !status.success() {
            bail!("wrk ended with {status}: {}", said.trim_end());
        }
        let json = said.lines().rfind(|line| line.starts_with('{')).context("wrk measured nothing")?;
        let answers: Answers = serde_json::from_str(json).with_context(|| format!("load.lua printed {json:?}"))?;
        if answers.requests == 0 {
            bail!("the service answered no request in {} s", self.seconds);
        }
        Ok(answers)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended mostly; both calls then do nothing.
        let _ = self.wrk.kill();
        let _ = self.wrk.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::Answers;

    #[test]
    fn what_the_script_prints() {
        let line = r#"{"requests": 10, "microseconds": 2000000, "failed": 1, "p50": 5, "p90": 6, "p99": 7, "p999": 8}"#;
        let answers: Answers = serde_json::from_str(line).unwrap();
        assert_eq!((answers.requests, answers.seconds(), answers.how.failed), (10, 2.0, 1));
        assert_eq!((answers.how.latency.p50, answers.how.latency.p999), (5.0, 8.0));
    }
}
