//! A process that contenders trace: it works when told, and says what the work took.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// What some units of work took.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Window {
    pub(crate) units: u64,
    /// CPU seconds of the process, the kernel's part in it.
    pub(crate) cpu: f64,
    /// Seconds.
    pub(crate) wall: f64,
    /// Of units that are requests.
    #[serde(default)]
    pub(crate) requests: Option<Requests>,
}

/// How requests fared.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Requests {
    /// Latencies, microseconds.
    #[serde(flatten)]
    pub(crate) latency: Latency<f64>,
    /// Answered with an error, too late, or not at all.
    pub(crate) failed: u64,
}

/// Percentiles.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Latency<T> {
    pub(crate) p50: T,
    pub(crate) p90: T,
    pub(crate) p99: T,
    pub(crate) p999: T,
}

impl Window {
    /// CPU seconds a unit.
    pub(crate) fn per_unit(&self) -> f64 {
        self.cpu / self.units as f64
    }

    /// Units a second.
    pub(crate) fn throughput(&self) -> f64 {
        self.units as f64 / self.wall
    }
}

pub(crate) trait Subject {
    fn pid(&self) -> u32;

    /// Works for `seconds`.
    fn run(&mut self, seconds: f64) -> Result<Window>;

    /// Works while `action` runs, which is given the pid.
    fn while_working(&mut self, action: &mut dyn FnMut(u32) -> Result<()>) -> Result<()>;

    /// Starts tracemalloc with this many frames, 0 stops it.
    fn tracemalloc(&mut self, frames: u32) -> Result<()>;
}
