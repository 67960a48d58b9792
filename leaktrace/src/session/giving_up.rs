//! When a watch ends by itself: where what tracing costs cannot be kept within what the user allows.

use std::{thread, time::Duration};

use super::{Ended, Session, windows::Watch};
use crate::{target::Memory, watch::units::Selection};

/// The instruction that a breakpoint puts in the place of another.
const BREAKPOINT: u8 = 0xcc;
/// For so long our own of the last window may still be on their way out: some ten times what it takes them.
const ON_THEIR_WAY: Duration = Duration::from_millis(300);

impl Session {
    /// Whether someone else's breakpoints are where a window is about to be armed: then the watch ends. What each hit costs is for two, and
    /// only ours is measured.
    pub(super) fn meets_others(&self, watch: &mut Watch, selection: &Selection) -> bool {
        let units = || selection.units.iter().map(|&unit| watch.units.get(unit));
        let probes = units().flat_map(|unit| &unit.probes).map(|&index| &self.plan.probes[index]);
        let returns = units().flat_map(|unit| &unit.returns).map(|&index| &self.plan.returns[index]);
        let (addresses, own): (Vec<u64>, Vec<Option<u8>>) = probes
            .map(|probe| (probe.address, probe.bytes.first().copied()))
            .chain(returns.map(|point| (point.address, point.bytes.first().copied())))
            .unzip();
        let are_there = || {
            let mut now = Vec::new();
            let read = self.target.memory().read_many(&addresses, 1, &mut now);
            let bytes = read.iter().zip(&now).zip(&own);
            bytes.filter(|((read, now), own)| **read && **now == BREAKPOINT && **own != Some(BREAKPOINT)).count() > 0
        };
        let others = are_there() && {
            thread::sleep(ON_THEIR_WAY);
            are_there()
        };
        if others {
            watch.stopped = Some(Ended::OtherTracer);
        }
        others
    }

    /// CPU seconds that windows have cost of late beyond the most that they were granted, where that was much.
    pub fn overrun_seconds(&self) -> f64 {
        self.watch.as_ref().map_or(0.0, |watch| watch.overruns.seconds())
    }
}

impl Watch {
    /// Enters CPU seconds that a window has cost, and the most that it was to, and ends the watch where such cannot be closed in time.
    /// `wall` is for how long the watch lasts, seconds.
    pub(super) fn account_for(&mut self, cost: f64, most: f64, wall: f64) {
        self.overruns.enter(cost, most, wall);
        if self.overruns.are_too_many() {
            self.stopped = Some(Ended::OverBudget);
        }
    }
}
