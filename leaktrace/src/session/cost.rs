//! What the session has cost the target so far, estimated from measured parts.

use std::{
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use leaktrace_common::wire::counter;

use crate::tracer::{
    Counters, Tracer,
    cost::{HitTimes, Runs, enable_statistics},
};

/// Runs that tell what one takes, and how long they are waited for.
const ENOUGH_RUNS: u64 = 1000;
const LONG_ENOUGH: Duration = Duration::from_millis(200);

/// Collects the parts: the kernel's time for a hit, and the programs' time for a run.
#[derive(Debug, Default)]
pub struct CostMeter {
    times: Option<HitTimes>,
    sample: Option<Sample>,
    runs: Runs,
}

/// A moment in which the programs are timed.
#[derive(Debug)]
struct Sample {
    _statistics: OwnedFd,
    before: Runs,
    begin: Instant,
}

impl CostMeter {
    /// Measures the kernel's part of a hit once; where that fails it is as elsewhere.
    pub fn calibrate(&mut self, tracer: &mut Tracer, tracefs: &Path) {
        if self.times.is_none() {
            let times = tracer.calibrate(tracefs).unwrap_or_else(|error| {
                log::debug!("what a hit costs cannot be measured: {error}");
                HitTimes::default()
            });
            log::debug!("a hit costs, without its program, {times:?} s");
            self.times = Some(times);
        }
    }

    /// Begins to time the programs. It costs some 30 ns a run, so only for moments.
    pub fn begin_sample(&mut self, tracer: &Tracer) {
        if let Ok(statistics) = enable_statistics() {
            let before = tracer.run_statistics();
            self.sample = Some(Sample { _statistics: statistics, before, begin: Instant::now() });
        }
    }

    /// Ends the timing, if one is under way that has seen enough.
    pub fn end_sample_if_enough(&mut self, tracer: &Tracer) {
        let is_enough = |sample: &mut Sample| {
            let runs = tracer.run_statistics().since(sample.before);
            runs.count() >= ENOUGH_RUNS || sample.begin.elapsed() >= LONG_ENOUGH
        };
        if let Some(sample) = self.sample.take_if(is_enough) {
            self.enter(tracer, &sample);
        }
    }

    /// Ends the timing, if one is under way.
    pub fn end_sample(&mut self, tracer: &Tracer) {
        if let Some(sample) = self.sample.take() {
            self.enter(tracer, &sample);
        }
    }

    fn enter(&mut self, tracer: &Tracer, sample: &Sample) {
        self.runs = self.runs.and(tracer.run_statistics().since(sample.before));
    }

    /// What the kernel takes for a hit.
    pub fn times(&self) -> HitTimes {
        self.times.unwrap_or_default()
    }

    /// CPU seconds that the probes took from the target.
    pub fn probe_seconds(&self, counters: &Counters) -> f64 {
        let (entries, returns) = (counters[counter::HITS as usize], counters[counter::RETURNS as usize]);
        let nanos = (entries + returns) as f64 * self.runs.mean() * 1e9;
        self.times().cost(Runs { entries, returns, nanos: nanos as u64, ..Runs::default() })
    }
}
