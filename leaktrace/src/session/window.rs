//! A window while it is open: armed, looked at, disarmed.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use leaktrace_common::wire::Block;

use super::{
    Session, SessionError,
    windows::{Watch, class_of, is_unnoticed},
};
use crate::{
    host::signals::StopSignals,
    model::trail::seconds,
    target::Memory,
    tracer::{cost::Runs, sweep::now_ns},
    watch::{
        budget::{Grant, LONGEST, NOTICED},
        exposure::Exposure,
        followers::Follower,
        units::Selection,
    },
};

/// How often the hits of an open window are looked at.
pub(super) const LOOK: Duration = Duration::from_millis(5);
/// How long a window is open at most, seconds, however idle the target.
const MOST_OPEN: f64 = 0.6;
/// Age in a window from which on a block counts: a fifth of the window, and at least this. What is younger may be in the middle of
/// a request.
const YOUNG: Duration = Duration::from_millis(20);
/// A window that slows the target more than it may is closed at once; with so many hits, without a look at what it saw.
const FEW_HITS: u64 = 5000;
/// Part of its usual work below which a window stays open for longer.
const IDLE: f64 = 0.5;

/// What a window showed.
pub(super) struct Opened {
    pub(super) closing: Duration,
    pub(super) whole: Passed,
    pub(super) parts: Vec<Passed>,
    /// What it handed out that had outlived its youth when it was closed, and for how long it counts; `None` for a window that was
    /// cut short.
    pub(super) survivors: Option<(HashMap<u64, Follower>, Exposure)>,
}

/// What went by in a window or in a part of it, of [`LONGEST`] seconds or the rest: a request meets one or two parts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passed {
    /// Seconds.
    pub(super) open: f64,
    /// CPU seconds of the target.
    pub(super) cpu_seconds: f64,
    pub(super) runs: Runs,
}

impl Passed {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            open: self.open - earlier.open,
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            runs: self.runs.since(earlier.runs),
        }
    }
}

impl Session {
    /// Arms a selection, waits, looks at what it saw, and disarms it.
    pub(super) fn trace(
        &mut self,
        watch: &mut Watch,
        selection: &Selection,
        grant: Grant,
    ) -> Result<Opened, SessionError> {
        let units = || selection.units.iter().map(|&unit| watch.units.get(unit));
        let probes: Vec<usize> = units().flat_map(|unit| unit.probes.iter().copied()).collect();
        let returns: Vec<usize> = units().flat_map(|unit| unit.returns.iter().copied()).collect();
        let (runs, forks) = (self.tracer.run_statistics(), self.tracer.forks()?);
        if let Err(error) = self.tracer.arm_some(&self.tracefs, self.target.pid(), &self.plan, &probes, &returns) {
            // Of a plan that is refused half-way, a part is armed.
            self.tracer.disarm_window(|| false);
            return Err(error.into());
        }
        let (begin, begin_ns) = (Instant::now(), now_ns());
        let cpu = self.target.cpu_clock().unwrap_or_default();
        let is_unnoticed = is_unnoticed(selection);
        let passed = || Passed {
            open: begin.elapsed().as_secs_f64(),
            cpu_seconds: self.target.cpu_clock().unwrap_or(cpu).saturating_sub(cpu).as_secs_f64(),
            runs: self.tracer.run_statistics().since(runs),
        };
        let (mut parts, mut before) = (Vec::new(), Passed::default());
        let in_bounds = loop {
            thread::sleep(LOOK);
            let now = passed();
            let part = now.since(&before);
            let hits = self.cost_of(part.runs);
            let too_slow = hits > watch.limit() * (part.cpu_seconds - hits).max(0.005);
            // It costs more than was expected: not to be noticed, it ends here.
            let noticed = is_unnoticed && hits > NOTICED * (part.cpu_seconds - hits).max(0.002);
            if too_slow || self.target.has_exited() {
                // A look at little costs little.
                break now.runs.count <= FEW_HITS;
            }
            let hits = self.cost_of(now.runs);
            let has_worked = now.open >= grant.open && now.cpu_seconds - hits >= IDLE * grant.work;
            // The child of a fork keeps its copies of the breakpoints until the window is closed.
            let is_waited_for = now.open >= LONGEST && (StopSignals::came() || self.tracer.forks().ok() != Some(forks));
            if has_worked || noticed || is_waited_for || now.open >= MOST_OPEN.max(grant.open) || hits > grant.hits {
                break true;
            }
            if part.open >= LONGEST {
                parts.push(part);
                before = now;
            }
        };
        let look = in_bounds && selection.scouts.is_none();
        let survivors = if look { self.look_inside(watch, selection.classes(), begin_ns) } else { None };
        let now = passed();
        parts.push(now.since(&before));
        let armed = probes.iter().map(|&index| &self.plan.probes[index]);
        let (addresses, bytes): (Vec<u64>, Vec<u8>) = armed.map(|p| (p.address, p.bytes[0])).unzip();
        let memory = self.target.memory();
        let closing = self.tracer.disarm_window(|| {
            let mut now = Vec::new();
            memory.read_many(&addresses, 1, &mut now);
            now == bytes
        });
        Ok(Opened { closing, whole: now, parts, survivors })
    }

    /// CPU seconds that so many hits have cost.
    pub(super) fn cost_of(&self, runs: Runs) -> f64 {
        runs.count as f64 * self.cost.hit().as_secs_f64() + runs.nanos as f64 * 1e-9
    }

    /// Looks at the blocks of some classes that an open window, which began at `begin_ns`, saw handed out and that have outlived
    /// their youth, and says when these were handed out.
    fn look_inside(
        &self,
        watch: &mut Watch,
        classes: u64,
        begin_ns: u64,
    ) -> Option<(HashMap<u64, Follower>, Exposure)> {
        let now = now_ns();
        let age = ((now - begin_ns) / 5).max(YOUNG.as_nanos() as u64);
        let end_ns = now.checked_sub(age).filter(|end| *end > begin_ns)?;
        let mut blocks = Vec::new();
        // What was handed out while it was being armed is not all that was.
        let counts = begin_ns..=end_ns;
        let grown_up =
            |block: &Block| counts.contains(&block.time_ns) && classes & 1 << class_of(&self.interpreter, block) != 0;
        self.tracer.each_block(|address, block| blocks.extend(grown_up(block).then_some((address, *block)))).ok()?;
        let mut survivors = watch.followers.look(&self.target.memory(), blocks);
        if self.plan.unseen_dict_keys {
            survivors.retain(|_, follower| follower.is_object() || !follower.block().in_pool());
        }
        Some((survivors, Exposure { begin_ns, end_ns, seconds: seconds(end_ns - begin_ns) }))
    }
}
