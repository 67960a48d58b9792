//! What the session has cost the target so far, estimated from measured parts.

use std::{
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use leaktrace_common::wire::counter;

use crate::{
    host::kernel::{KernelVersion, ReturnProbes},
    target::Seccomp,
    tracer::{
        Counters, Tracer,
        cost::{HitTimes, Runs, enable_statistics},
    },
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
    /// Measures the kernel's part of a hit once; what cannot be measured is as elsewhere. `returns`: also of functions' returns, where a
    /// kernel lets them pass whatever confines this process.
    pub fn calibrate(&mut self, tracer: &mut Tracer, tracefs: &Path, returns: bool) {
        if self.times.is_none() {
            let safe = |kernel| ReturnProbes::on(kernel, Seccomp::Filter) == ReturnProbes::Safe;
            let returns = returns && KernelVersion::running().is_some_and(safe);
            let (times, error) = tracer.calibrate(tracefs, returns);
            if let Some(error) = error {
                log::debug!("what a hit costs cannot be measured: {error}");
            }
            log::debug!("a hit costs, without its program, {times:?} s");
            self.times = Some(times);
        }
    }

    /// Begins to time the programs, unless that is under way. It costs some 30 ns a run, so only for moments.
    pub fn begin_sample(&mut self, tracer: &Tracer) {
        if self.sample.is_none()
            && let Ok(statistics) = enable_statistics()
        {
            let before = tracer.run_statistics();
            self.sample = Some(Sample { _statistics: statistics, before, begin: Instant::now() });
        }
    }

    /// Ends the timing, if one is under way that has seen enough.
    pub fn end_sample_if_enough(&mut self, tracer: &Tracer) {
        let is_enough = self.sample.as_ref().is_some_and(|sample| {
            let runs = tracer.run_statistics().since(sample.before);
            runs.count() >= ENOUGH_RUNS || sample.begin.elapsed() >= LONG_ENOUGH
        });
        if is_enough {
            self.end_sample(tracer);
        }
    }

    /// Ends the timing, if one is under way.
    pub fn end_sample(&mut self, tracer: &Tracer) {
        if let Some(sample) = self.sample.take() {
            self.runs = self.runs.and(tracer.run_statistics().since(sample.before));
        }
    }

    /// What the kernel takes for a hit.
    pub fn times(&self) -> HitTimes {
        self.times.unwrap_or_else(|| HitTimes::elsewhere(true))
    }

    /// CPU seconds that the probes took from the target.
    pub fn probe_seconds(&self, counters: &Counters) -> f64 {
        let (entries, returns) = (counters[counter::HITS as usize], counters[counter::RETURNS as usize]);
        self.times().cost(self.runs.scaled(entries, returns))
    }
}
