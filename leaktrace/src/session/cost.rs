//! What the session has cost the target so far, estimated from measured parts.

use std::{os::fd::OwnedFd, path::Path, time::Duration};

use leaktrace_common::wire::counter;

use crate::tracer::{
    Counters, Tracer,
    cost::{Runs, enable_statistics},
};

/// Collects the parts: the kernel's time for a hit, and the programs' time for a run.
#[derive(Debug, Default)]
pub struct CostMeter {
    hit: Option<Duration>,
    sample: Option<(OwnedFd, Runs)>,
    runs: Runs,
}

impl CostMeter {
    /// Measures the kernel's part of a hit once; where that fails the cost is told without it.
    pub fn calibrate(&mut self, tracer: &mut Tracer, tracefs: &Path) {
        if self.hit.is_none() {
            self.hit = Some(tracer.calibrate(tracefs).unwrap_or_default());
        }
    }

    /// Begins to time the programs. It costs some 30 ns a run, so only for moments.
    pub fn begin_sample(&mut self, tracer: &Tracer) {
        if let Ok(statistics) = enable_statistics() {
            self.sample = Some((statistics, tracer.run_statistics()));
        }
    }

    /// Ends the timing, if one is under way.
    pub fn end_sample(&mut self, tracer: &Tracer) {
        if let Some((_statistics, before)) = self.sample.take() {
            let runs = tracer.run_statistics().since(before);
            self.runs.count += runs.count;
            self.runs.nanos += runs.nanos;
        }
    }

    /// The kernel's part of a hit.
    pub fn hit(&self) -> Duration {
        self.hit.unwrap_or_default()
    }

    /// CPU seconds that the probes took from the target.
    pub fn probe_seconds(&self, counters: &Counters) -> f64 {
        let hits = counters[counter::HITS as usize] + counters[counter::RETURNS as usize];
        let run = if self.runs.count == 0 { 0.0 } else { self.runs.nanos as f64 / self.runs.count as f64 };
        let hit = self.hit.unwrap_or_default().as_nanos() as f64;
        hits as f64 * (hit + run) * 1e-9
    }
}
