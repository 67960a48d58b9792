//! Watching: windows of tracing within a budget, and the survivors of the windows followed by reading memory.

use std::{thread, time::Duration};

use leaktrace_common::wire::{Block, window};

use super::{
    Ended, Session, SessionError,
    window::{LEAST_WORK, LOOK},
};
use crate::{
    cpython::Interpreter,
    model::trail::seconds,
    tracer::{Window, sweep::now_ns},
    watch::{
        Budget, Classes, Exposures, Followers, HitCost, Units,
        budget::{Demand, Grant, LONGEST, SHORTEST, SHORTEST_OF_RARE},
        classes::LARGE,
        exposure::Exposure,
        latency::{MODEST, NOTICED},
        overrun::Overruns,
        sizes::Overlooked,
        units::{Gentle, Growing, Selection},
    },
};

/// How long a window is open at least that is to learn what sites cost and serve, seconds.
const SCOUTING: f64 = 0.02;
/// How long one is open that no request notices: it costs next to nothing, and what is rare takes long to be seen. Part of the time
/// since the attach, and most seconds.
const LASTING_SHARE: f64 = 1.0 / 30.0;
const MOST_LASTING: f64 = 3.0;
/// Between two windows, seconds: from here to twice as much, at random. Arming and disarming takes 40 ms of our own time.
const PAUSE: f64 = 2.0;
/// Slowdown, as a share, that is expected of windows that no request is to notice: what they cost is an estimate.
const GENTLE: f64 = 0.6 * NOTICED;
/// How long a window that was drawn waits until it is afforded, seconds; then another one is drawn.
const MOST_PATIENCE: f64 = 20.0;
/// After how long what no window could be afforded for is looked at again, nanoseconds: to choose takes up to a millisecond of a processor.
const AGAIN_NS: u64 = 1_000_000_000;
/// For one in so many of these there are meanwhile also such windows that no request notices that have shown little, or less than others show.
const SELDOM: u64 = 4;
/// Who allows that much cost, or more, is in a hurry: the shortest pause.
const HURRY: f64 = 0.08;
/// Between two looks at all that is followed, and between two windows: how much longer than the last look took.
pub(super) const LOOK_SHARE: f64 = 60.0;
/// Looks at a target that cannot be armed, until it is said to be there still.
const DYING_LOOKS: u32 = 40;
/// Cores from which on a target has more to do than time for it.
pub(super) const SATURATED: f64 = 0.9;
/// How much more or less work than is usual in its time a window is believed to have seen.
pub(super) const MOST_UNUSUAL: f64 = 3.0;
/// Blocks that the kernel's table has room for, at most: it is gone through after each window, and the empty places of a larger one take
/// the kernel milliseconds, in which nobody else has that processor.
pub(super) const MOST_BLOCKS: u32 = 1 << 18;

/// What the user allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Share of the target's CPU time that tracing may cost: 0.01 is one per cent.
    pub overhead: f64,
    /// How many times longer the target's work may take while a window is open, 1 or more.
    pub max_slowdown: f64,
}

/// Size class of a block, and the unit that handed it out.
pub(super) type Of = (u32, Option<usize>);

/// The state of watching.
#[derive(Debug)]
pub struct Watch {
    pub(super) limits: Limits,
    pub(super) units: Units,
    pub(super) budget: Budget,
    pub(super) classes: Classes,
    pub(super) exposures: Exposures,
    pub(super) followers: Followers,
    pub(super) random: fastrand::Rng,
    /// What the next window is drawn by, until there was one: else those that are soonest afforded would be drawn most. And since when.
    draw: u64,
    drawn_ns: u64,
    /// When the pools may be read again, and when the next window may open; in the clock of the wire.
    pub(super) next_reading_ns: u64,
    next_window_ns: u64,
    pub(super) windows: u64,
    /// What the window that is open does about sizes of the C allocator's blocks, and how many entries windows passed over.
    pub(super) overlooked: Overlooked,
    pub(super) passed_over: u64,
    pub(super) open_seconds: f64,
    /// From the closing of a window until its last breakpoint is gone, seconds.
    pub(super) closing: f64,
    /// In windows that requests can notice, and in those that they cannot.
    pub(super) hit_cost: HitCost,
    pub(super) cold_hit_cost: HitCost,
    pub(super) scout_cost: HitCost,
    /// Part of [`GENTLE`] that windows are to cost: less where they cost more than was expected of late.
    pub(super) boldness: f64,
    pub(super) slowest: f64,
    pub(super) overruns: Overruns,
    /// Why it is not to go on.
    pub(super) stopped: Option<Ended>,
    /// Hits after which a window is done, so that the kernel's table of blocks has room for those that follow until it is looked at.
    pub(super) most_hits: u64,
}

impl Watch {
    pub(super) fn new(limits: Limits, units: Units, glibc: bool, blocks: u32, cpu_seconds: f64) -> Self {
        Self {
            limits,
            units,
            budget: Budget::new(limits.overhead, cpu_seconds),
            classes: Classes::default(),
            exposures: Exposures::default(),
            followers: Followers::new(glibc),
            random: fastrand::Rng::new(),
            draw: 0,
            drawn_ns: 0,
            next_reading_ns: 0,
            next_window_ns: 0,
            windows: 0,
            overlooked: Overlooked::default(),
            passed_over: 0,
            open_seconds: 0.0,
            closing: 0.03,
            hit_cost: HitCost::default(),
            cold_hit_cost: HitCost::cold(),
            scout_cost: HitCost::of_scouts(),
            boldness: 0.5,
            slowest: 1.0,
            overruns: Overruns::default(),
            stopped: None,
            most_hits: u64::from(blocks / 2),
        }
    }

    pub(super) fn limit(&self) -> f64 {
        self.limits.max_slowdown - 1.0
    }

    fn draw_anew(&mut self) {
        (self.draw, self.drawn_ns) = (self.random.u64(..), now_ns());
    }

    pub(super) fn of(&self, interpreter: &Interpreter, block: &Block) -> Of {
        (class_of(interpreter, block), self.units.at_slot(block.site()))
    }
}

impl Session {
    /// Opens a window if there is something to look for and the budget affords it, and brings the ledger up to date with what
    /// survived it. Takes as long as the window, at most as long as is `left`. A target that ends meanwhile is no error: see
    /// [`Self::ended`].
    pub fn watch(&mut self, left: Option<Duration>) -> Result<(), SessionError> {
        let result = self.watch_if_afforded(left.map_or(f64::INFINITY, |left| left.as_secs_f64()));
        if result.is_err() {
            // It may be on its way out: what it lacks is told a moment before its end is.
            for _ in 0..DYING_LOOKS {
                if self.ended().is_some() {
                    return Ok(());
                }
                thread::sleep(LOOK);
            }
        }
        result
    }

    fn watch_if_afforded(&mut self, left: f64) -> Result<(), SessionError> {
        let now = now_ns();
        let Some(watch) = self.watch.as_mut() else { return Ok(()) };
        let cpu = self.target.cpu_clock()?.as_secs_f64();
        let wall = seconds(now - self.start_ns).max(0.1);
        watch.budget.observe(cpu, wall);
        if now < watch.next_window_ns {
            return Ok(());
        }
        let limit = watch.limit();
        let growing = watch.classes.growing();
        let pace = watch.budget.pace(cpu, wall);
        watch.units.bear(pace * SHORTEST, LEAST_WORK);
        if seconds(now.saturating_sub(watch.drawn_ns)) > MOST_PATIENCE {
            watch.draw_anew();
        }
        let hit = watch.hit_cost.seconds();
        let grant = |selection: &Selection| {
            let lasting = (wall * LASTING_SHARE).min(MOST_LASTING).min(left).max(LONGEST);
            let longest = watch.budget.longest(selection.expected, lasting, cpu, wall);
            // What costs more than the limit is borne as long as it is no more than a request may cost.
            let borne = LEAST_WORK * limit / (selection.expected * pace);
            let longest = if selection.expected > limit { longest.min(borne).max(SHORTEST) } else { longest };
            let demand = Demand {
                slowdown: selection.expected,
                shortest: if is_rare(selection, &growing) { SHORTEST_OF_RARE } else { SHORTEST },
                longest: selection.scouts.map_or(longest, |seconds| seconds.clamp(SCOUTING, longest)),
                closing: watch.closing,
                is_modest: is_modest(selection),
            };
            watch.budget.grant(&demand, cpu, wall)
        };
        let gentle = Gentle {
            slowdown: (watch.boldness * GENTLE).min(limit),
            hit_seconds: watch.cold_hit_cost.seconds(),
            scout_seconds: watch.scout_cost.seconds(),
        };
        let mut draw = fastrand::Rng::with_seed(watch.draw);
        let chosen = watch.units.choose(&growing, limit, hit, gentle, &mut draw);
        let afforded = chosen.and_then(|selection| Some((grant(&selection)?, selection)));
        let is_drawn = afforded.is_some();
        let Some((grant, selection)) = afforded.or_else(|| {
            let seldom = watch.draw.is_multiple_of(SELDOM);
            let selection = watch.units.choose_unnoticed(&growing, limit, hit, gentle, seldom, &mut watch.random)?;
            Some((grant(&selection)?, selection))
        }) else {
            watch.next_window_ns = now + AGAIN_NS;
            return Ok(());
        };
        if is_drawn {
            watch.draw_anew();
        }
        self.open(&growing, &selection, grant)
    }

    fn open(&mut self, growing: &[Growing], selection: &Selection, grant: Grant) -> Result<(), SessionError> {
        self.keep_standing();
        let Some(mut watch) = self.watch.take() else { return Ok(()) };
        let result = self.open_and_scan(&mut watch, growing, selection, grant);
        let hurry = if selection.scouts.is_some() { 0.5 } else { 1.0 };
        let pause = PAUSE * hurry * (1.0 - watch.limits.overhead / HURRY).max(0.25) * (1.0 + watch.random.f64());
        let pause = pause.max(LOOK_SHARE * self.last.took.as_secs_f64());
        watch.next_window_ns = now_ns() + (pause * 1e9) as u64;
        self.watch = Some(watch);
        self.keep_standing();
        result
    }

    fn open_and_scan(
        &mut self,
        watch: &mut Watch,
        growing: &[Growing],
        selection: &Selection,
        grant: Grant,
    ) -> Result<(), SessionError> {
        if self.meets_others(watch, selection) {
            return Ok(());
        }
        watch.windows += 1;
        let armed = |unit: Option<usize>| unit.is_some_and(|unit| selection.units.contains(&unit));
        let mut word = watch.windows << window::BITS | window::PARTIAL;
        word |= if armed(watch.units.c) { 0 } else { window::NO_C };
        word |= if armed(watch.units.refill) { 0 } else { window::NO_REFILL };
        word |= if selection.scouts.is_some() { window::SCOUTS } else { 0 };
        let witnesses = selection.witnesses.iter().flat_map(|&unit| watch.units.get(unit).slots.iter().copied());
        self.tracer.set_witnesses(&witnesses.collect())?;
        // Scouts count only.
        let sizes = watch.units.sizes().filter(|_| selection.scouts.is_none());
        watch.overlooked = sizes.map(|sizes| sizes.overlooked(&mut watch.random)).unwrap_or_default();
        let Overlooked { quiet, passed_over } = watch.overlooked;
        self.tracer.set_window(&Window { word, classes: selection.classes(), quiet, passed_over })?;
        self.cost.begin_sample(&self.tracer);
        let mut opened = self.trace(watch, selection, grant)?;
        self.cost.end_sample(&self.tracer);
        opened.bear_with_the_clock(self.cost_of(opened.whole.runs));
        let seen = self.reckon(watch, growing, selection, grant, &opened);
        let survivors = opened
            .survivors
            .map(|(survivors, exposure)| (survivors, Exposure { seconds: exposure.seconds * seen, ..exposure }));
        self.take_survivors(watch, growing, selection, survivors)?;
        self.follow(watch)
    }
}

/// Whether few requests are to notice a window, and others are wanted beside such.
pub(super) fn is_modest(selection: &Selection) -> bool {
    selection.expected <= MODEST && !selection.is_first
}

/// Whether hardly one block is to come in the shortest window.
fn is_rare(selection: &Selection, growing: &[Growing]) -> bool {
    if selection.scouts.is_some() {
        return false;
    }
    let seen = growing.iter().filter(|of| selection.sights.iter().any(|sight| sight.class == of.class));
    seen.map(|of| of.blocks_per_second).sum::<f64>() * SHORTEST < 1.0
}

/// Whether no request is expected to notice a window.
pub(super) fn is_unnoticed(selection: &Selection) -> bool {
    selection.expected <= GENTLE
}

/// The class of a block, as bits of [`SiteStats::classes`] are numbered.
pub(super) fn class_of(interpreter: &Interpreter, block: &Block) -> u32 {
    let class = if block.in_pool() { size_class(interpreter, block.size()) } else { None };
    class.map_or(LARGE, |class| class as u32)
}

/// Size class of a request that pymalloc serves.
pub(super) fn size_class(interpreter: &Interpreter, size: u64) -> Option<usize> {
    let state = interpreter.facts.pymalloc?;
    usize::try_from(size.checked_sub(1)? >> state.class_shift).ok().filter(|_| size <= state.small_max)
}
