//! A window while it is open: armed, looked at, disarmed.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use leaktrace_common::wire::{Block, SIZE_BUCKETS, SiteStats};

use super::{
    Session, SessionError,
    windows::{SATURATED, Watch, class_of},
};
use crate::{
    host::{priority::Priority, signals::StopSignals},
    model::trail::seconds,
    target::Memory,
    tracer::{Tracer, cost::Runs, sweep::now_ns},
    watch::{
        budget::{Grant, LONGEST, OVERDRAFT, SHORTEST},
        exposure::Exposure,
        followers::Follower,
        latency::{NOTICED, noticing},
        units::Selection,
    },
};

/// How often the hits of an open window are looked at.
pub(super) const LOOK: Duration = Duration::from_millis(5);
/// The same of scouts, which need to see a moment of work.
const QUICK_LOOK: Duration = Duration::from_millis(1);
/// A target that uses less of a core rests, if it usually uses more; and for how long a window that is done waits for that, seconds.
const RESTING: f64 = 0.1;
const MOST_WAIT: f64 = 0.06;
/// Cores up to which a target rests so often that this is worth to wait for.
const OFTEN_RESTS: f64 = 0.5;
/// CPU seconds of work, at least, that a window is reckoned to slow, and one of scouts: one request is.
pub(super) const LEAST_WORK: f64 = 0.005;
const LEAST_WORK_OF_SCOUTS: f64 = 0.002;
/// And so much below which it is not asked who noticed.
const LEAST_NOTICED: f64 = 0.002;
/// How much the clock of another process that is at work is late at most, seconds: a tick of most kernels (`thread_group_cputime`,
/// `kernel/sched/cputime.c`, 6.18).
const CLOCK_LAG: f64 = 0.004;
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
    /// While it was being armed, and while its breakpoints were being taken out: then not all of it was there.
    pub(super) edges: Passed,
    /// It ended when the target had rested for so long that it was in the middle of nothing.
    pub(super) rested: bool,
    /// What its sites did meanwhile, by slot: before and after.
    pub(super) stats: HashMap<u32, (SiteStats, SiteStats)>,
    /// What the C allocator was asked for, by [`leaktrace_common::wire::size_bucket`].
    pub(super) c_requests: [u64; SIZE_BUCKETS as usize],
    /// What it handed out that had outlived its youth when it was closed, and for how long it counts; `None` for a window that was
    /// cut short.
    pub(super) survivors: Option<(HashMap<u64, Follower>, Exposure)>,
}

/// What went by in a window or in a part of it, of [`LONGEST`] seconds or the rest: a request meets one or two parts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
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

impl Opened {
    /// The clock of another process lags by up to a tick while that is at work. So hits that cost more CPU seconds than it says, `hits`, had
    /// the rest of them in the window, not at its edges.
    pub(super) fn bear_with_the_clock(&mut self, hits: f64) {
        let late = (hits - self.whole.cpu_seconds).max(0.0);
        self.whole.cpu_seconds += late;
        self.edges.cpu_seconds = (self.edges.cpu_seconds - late).max(0.0);
        if let Some(last) = self.parts.last_mut() {
            last.cpu_seconds += late;
        }
    }
}

/// What was seen of a window until it was to be closed.
struct Waited {
    /// It was not too slow, or saw little.
    in_bounds: bool,
    /// The parts that are over, and what had gone by when the last of them was.
    parts: Vec<Passed>,
    before: Passed,
    /// The target had rested for so long that it was in the middle of nothing.
    rested: bool,
}

/// CPU seconds of hits, and seconds that are noticed, that a window may take that has been open for so many seconds. What is open for less
/// than [`SHORTEST`] shows next to nothing: most of what it saw is young. So it may take more until then; what it does, the next one
/// waits for.
fn most(grant: Grant, open: f64) -> (f64, f64) {
    if open < SHORTEST.min(grant.open) {
        (grant.most_hits, OVERDRAFT * grant.noticed)
    } else {
        (grant.hits, grant.noticed)
    }
}

/// How much CPU time the clock of a target does not show yet that is always at work.
fn lateness(part: Passed) -> f64 {
    (part.open - part.cpu_seconds).clamp(0.0, CLOCK_LAG)
}

/// Whether the target rests, while a window that is done waits for that.
#[derive(Debug)]
struct Rest {
    /// Cores below which it does.
    below: f64,
    /// Since when, seconds of the window.
    since: Option<f64>,
    seconds: f64,
    /// It has worked again after a rest: it has no long ones.
    resumed: bool,
}

impl Rest {
    /// Of a target that uses `pace` cores: one that does a little all the time never rests for long.
    fn of(pace: f64) -> Self {
        Self { below: RESTING.min(pace), since: None, seconds: 0.0, resumed: false }
    }

    /// Enters what went by in a moment that ended `at` so many seconds of the window.
    fn enter(&mut self, moment: Passed, at: f64) {
        if moment.cpu_seconds > self.below * moment.open {
            self.resumed |= self.since.is_some();
            self.since = None;
        } else {
            self.since.get_or_insert(at - moment.open);
        }
        self.seconds = self.since.map_or(0.0, |since| at - since);
    }

    fn is_long(&self) -> bool {
        self.seconds >= YOUNG.as_secs_f64()
    }

    fn is_good_moment(&self) -> bool {
        self.is_long() || self.resumed && self.since.is_some()
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
        // It is to be closed when it is to be closed.
        let _hurry = Priority::hurry();
        let units = || selection.units.iter().map(|&unit| watch.units.get(unit));
        let probes: Vec<usize> = units().flat_map(|unit| unit.probes.iter().copied()).collect();
        let returns: Vec<usize> = units().flat_map(|unit| unit.returns.iter().copied()).collect();
        let slots: Vec<u32> = units().flat_map(|unit| unit.slots.iter().copied()).collect();
        let forks = self.tracer.forks()?;
        let arming = Instant::now();
        let unarmed = self.passed(arming);
        if let Err(error) = self.tracer.arm_some(&self.tracefs, self.target.pid(), &self.plan, &probes, &returns) {
            // Of a plan that is refused half-way, a part is armed.
            self.tracer.disarm_window(|| false);
            return Err(error.into());
        }
        let (begin, begin_ns) = (Instant::now(), now_ns());
        // From here on, not from before: what is hit while it is being armed would make its sites look hotter than they are.
        let stats_of = |tracer: &Tracer| slots.iter().map(|&slot| tracer.site_stats(slot)).collect::<Vec<SiteStats>>();
        let (armed_at, stats, c_requests) = (self.passed(arming), stats_of(&self.tracer), self.tracer.c_requests());
        let opening = Passed { open: 0.0, ..armed_at };
        let passed = || self.passed(begin).since(&opening);
        let Waited { in_bounds, mut parts, before, rested } = self.wait(watch, selection, grant, forks, passed);
        let look = in_bounds && selection.scouts.is_none();
        let survivors = if look { self.look_inside(watch, selection, begin_ns, rested) } else { None };
        let (now, stats_after, c_requests_after) = (passed(), stats_of(&self.tracer), self.tracer.c_requests());
        parts.push(now.since(&before));
        let armed = probes.iter().map(|&index| &self.plan.probes[index]);
        let mut left: Vec<(u64, u8)> = armed.map(|p| (p.address, p.bytes[0])).collect();
        let memory = self.target.memory();
        let mut gone_at = None;
        let closing = self.tracer.disarm_window(|| {
            // One after the other: each reading waits for who takes them out, and has these wait.
            let is_gone = |&mut (address, byte): &mut (u64, u8)| {
                let mut now = [0];
                memory.read(address, &mut now).is_ok() && now[0] == byte
            };
            while left.pop_if(is_gone).is_some() {}
            gone_at = self.target.cpu_clock().ok();
            left.is_empty()
        });
        let mut edges = armed_at.since(&unarmed);
        edges.runs = edges.runs.and(self.passed(begin).since(&opening).runs.since(now.runs));
        edges.open += closing.as_secs_f64();
        if let Some(gone) = gone_at {
            edges.cpu_seconds += (gone.as_secs_f64() - armed_at.cpu_seconds - now.cpu_seconds).max(0.0);
        }
        let stats = slots.into_iter().zip(stats.into_iter().zip(stats_after)).collect();
        let c_requests = std::array::from_fn(|bucket| c_requests_after[bucket].saturating_sub(c_requests[bucket]));
        Ok(Opened { closing, whole: now, parts, edges, rested, stats, c_requests, survivors })
    }

    /// Waits until an open window has seen enough, or has to be closed; `passed` says what went by in it so far.
    fn wait(
        &self,
        watch: &Watch,
        selection: &Selection,
        grant: Grant,
        forks: u64,
        passed: impl Fn() -> Passed,
    ) -> Waited {
        let is_scouting = selection.scouts.is_some();
        // Scouts of what is not known yet, or is hot, are there to meet it: they are short.
        let minds = !is_scouting || selection.expected <= NOTICED;
        let (look, least_work, enough) =
            if is_scouting { (QUICK_LOOK, LEAST_WORK_OF_SCOUTS, 1.0) } else { (LOOK, LEAST_WORK, IDLE) };
        let is_saturated = grant.work > SATURATED * grant.open;
        let waits_for_rest = !is_scouting && grant.work <= OFTEN_RESTS * grant.open;
        let (mut parts, mut before, mut last) = (Vec::new(), Passed::default(), Passed::default());
        let (mut done, mut rest, mut noticed_before) = (None, Rest::of(grant.work / grant.open), 0.0);
        let in_bounds = loop {
            thread::sleep(if done.is_some() { QUICK_LOOK } else { look });
            let now = passed();
            let (moment, part) = (now.since(&last), now.since(&before));
            last = now;
            let hits = self.cost_of(part.runs);
            let late = if is_saturated { lateness(part) } else { 0.0 };
            let too_slow = hits > watch.limit() * (part.cpu_seconds + late - hits).max(least_work);
            // It costs more than was expected: for no more requests to notice it, it ends here.
            let noticed = noticed_before + noticing(hits / (part.cpu_seconds - hits).max(LEAST_NOTICED)) * part.open;
            if too_slow || self.target.has_exited() {
                // A look at little costs little.
                break now.runs.count() <= FEW_HITS;
            }
            let hits = self.cost_of(now.runs);
            let (most_hits, most_noticed) = most(grant, now.open);
            let has_worked = now.open >= grant.open && now.cpu_seconds - hits >= enough * grant.work;
            if has_worked
                || minds && noticed > most_noticed
                || now.open >= MOST_OPEN.max(grant.open)
                || hits > most_hits
                || !is_scouting && now.runs.count() >= watch.most_hits
            {
                // Its breakpoints take long to go, and show nothing then: that is better done while the target rests. Where it works in
                // bursts, all that the window saw is young when one ends.
                rest.enter(moment, now.open);
                let waited = now.open - *done.get_or_insert(now.open);
                if !waits_for_rest || rest.is_good_moment() || waited >= MOST_WAIT || hits > grant.most_hits {
                    break true;
                }
            }
            // The child of a fork keeps its copies of the breakpoints until the window is closed.
            if now.open >= LONGEST && (StopSignals::came() || self.tracer.forks().ok() != Some(forks)) {
                break true;
            }
            if self.is_standing_too_hot() {
                break true;
            }
            if part.open >= LONGEST {
                noticed_before = noticed;
                parts.push(part);
                before = now;
            }
        };
        Waited { in_bounds, parts, before, rested: rest.is_long() }
    }

    /// Where the target and the programs are.
    fn passed(&self, since: Instant) -> Passed {
        Passed {
            open: since.elapsed().as_secs_f64(),
            cpu_seconds: self.target.cpu_clock().unwrap_or_default().as_secs_f64(),
            runs: self.tracer.run_statistics(),
        }
    }

    /// CPU seconds that so many hits have cost.
    pub(super) fn cost_of(&self, runs: Runs) -> f64 {
        self.cost.times().cost(runs)
    }

    /// Looks at the blocks that an open window, which began at `begin_ns`, saw handed out and that have outlived their youth, and says
    /// when these were handed out. `rested`: the target has done nothing for as long.
    fn look_inside(
        &self,
        watch: &mut Watch,
        selection: &Selection,
        begin_ns: u64,
        rested: bool,
    ) -> Option<(HashMap<u64, Follower>, Exposure)> {
        let now = now_ns();
        let young = YOUNG.as_nanos() as u64;
        // Who has rested for so long is in the middle of nothing.
        let age = if rested { young } else { young.max((now - begin_ns) / 5) };
        let end_ns = now.checked_sub(age).filter(|end| *end > begin_ns)?;
        let mut blocks = Vec::new();
        // What was handed out while it was being armed is not all that was.
        let counts = begin_ns..=end_ns;
        let classes = selection.classes();
        let grown_up =
            |block: &Block| counts.contains(&block.time_ns) && classes & 1 << class_of(&self.interpreter, block) != 0;
        self.tracer.each_block(|address, block| blocks.extend(grown_up(block).then_some((address, *block)))).ok()?;
        let (offsets, passed_over) = (&self.interpreter.offsets, watch.overlooked.passed_over);
        let left_out = watch.units.left_out(selection);
        let left_out = |block: &Block| left_out.get(&class_of(&self.interpreter, block)).copied().unwrap_or_default();
        let mut survivors = watch.followers.look(&self.target.memory(), offsets, blocks, passed_over, left_out);
        if self.plan.unseen_dict_keys {
            survivors.retain(|_, follower| follower.is_object() || !follower.block().in_pool());
        }
        Some((survivors, Exposure { begin_ns, end_ns, seconds: seconds(end_ns - begin_ns) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_where_the_target_rests() {
        let (busy, idle) = (
            Passed { open: 0.001, cpu_seconds: 0.0009, ..Passed::default() },
            Passed { open: 0.001, ..Passed::default() },
        );
        let mut rest = Rest::of(0.2);
        rest.enter(busy, 0.1);
        assert!(!rest.is_good_moment(), "in the middle of it");
        rest.enter(idle, 0.101);
        assert!(!rest.is_good_moment(), "what it did last is young yet");
        let mut at = 0.101;
        while !rest.is_long() {
            at += 0.001;
            rest.enter(idle, at);
        }
        assert!((0.119..0.123).contains(&at) && rest.is_good_moment());
        rest.enter(busy, at + 0.001);
        assert!(!rest.is_good_moment());
        rest.enter(idle, at + 0.002);
        assert!(rest.is_good_moment() && !rest.is_long(), "it has no long rests");
    }

    #[test]
    fn who_does_a_little_all_the_time_has_no_long_rests() {
        // A step of 0.05 ms every 5 ms.
        let (step, idle) = (
            Passed { open: 0.001, cpu_seconds: 5e-5, ..Passed::default() },
            Passed { open: 0.001, ..Passed::default() },
        );
        let mut rest = Rest::of(0.01);
        for moment in 1..=100 {
            rest.enter(if moment % 5 == 0 { step } else { idle }, f64::from(moment) * 0.001);
            assert!(!rest.is_long());
        }
        rest.enter(idle, 0.101);
        assert!(rest.is_good_moment());
    }

    #[test]
    fn a_window_may_take_more_to_be_as_long_as_shows_something() {
        let grant = |open| Grant { open, work: 0.01, hits: 1.0, most_hits: 1.5, noticed: 1.0 };
        assert_eq!(most(grant(0.3), 0.9 * SHORTEST), (1.5, OVERDRAFT));
        assert_eq!(most(grant(0.3), SHORTEST), (1.0, 1.0), "it is that long");
        assert_eq!(most(grant(0.02), 0.02), (1.0, 1.0), "it was to be that short");
    }

    #[test]
    fn who_is_always_at_work_was_so_in_the_last_moment() {
        let late = |cpu_seconds| lateness(Passed { open: 0.015, cpu_seconds, ..Passed::default() });
        assert!((late(0.014) - 0.001).abs() < 1e-12 && (late(0.005) - CLOCK_LAG).abs() < 1e-12);
        assert!(late(0.03).abs() < 1e-12, "two threads");
    }

    #[test]
    fn hits_that_the_clock_does_not_show_yet_are_not_at_the_edges() {
        let of = |cpu_seconds| Passed { open: 0.03, cpu_seconds, ..Passed::default() };
        let mut opened = Opened {
            closing: Duration::ZERO,
            whole: of(4e-5),
            parts: vec![of(4e-5)],
            edges: of(5e-3),
            rested: false,
            stats: HashMap::new(),
            c_requests: [0; SIZE_BUCKETS as usize],
            survivors: None,
        };
        opened.bear_with_the_clock(1e-3);
        assert!((opened.whole.cpu_seconds - 1e-3).abs() < 1e-12 && opened.parts[0] == opened.whole);
        assert!((opened.edges.cpu_seconds - 4.04e-3).abs() < 1e-12);
        opened.bear_with_the_clock(5e-4);
        assert!((opened.whole.cpu_seconds - 1e-3).abs() < 1e-12, "nothing is missing");
    }
}
