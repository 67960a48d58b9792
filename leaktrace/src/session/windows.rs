//! Watching: windows of tracing within a budget, and the survivors of the windows followed by reading memory.

use std::{collections::HashMap, thread, time::Duration};

use leaktrace_common::wire::{Block, SiteStats, window};

use super::{
    Ended, Session, SessionError,
    window::{LEAST_WORK, LOOK, Opened},
    work::{believed_work, own_work},
};
use crate::{
    cpython::Interpreter,
    model::trail::seconds,
    tracer::{Window, sweep::now_ns},
    watch::{
        Budget, Classes, Exposures, Followers, HitCost, Units,
        budget::{Demand, Grant, LONGEST, SHORTEST, SHORTEST_OF_RARE},
        classes::{Found, LARGE},
        costs::weight,
        exposure::Exposure,
        followers::{Follower, HandedOut},
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
/// How much more each may cost after one that was not noticed; half as much after one that was, and so much at least.
const BOLDER: f64 = 1.1;
const LEAST_BOLD: f64 = 0.1;
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
/// What happens while a window is armed and disarmed, as a multiple of what happens in it: at most so much, by at least so many CPU
/// seconds.
const MOST_TAIL: f64 = 10.0;
const LEAST_CPU: f64 = 5e-4;
/// How much more or less work than is usual in its time a window is believed to have seen.
const MOST_UNUSUAL: f64 = 3.0;
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
    random: fastrand::Rng,
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
    closing: f64,
    /// In windows that requests can notice, and in those that they cannot.
    pub(super) hit_cost: HitCost,
    cold_hit_cost: HitCost,
    scout_cost: HitCost,
    /// Part of [`GENTLE`] that windows are to cost: less where they cost more than was expected of late.
    boldness: f64,
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
        let hits = self.cost_of(opened.whole.runs);
        opened.bear_with_the_clock(hits);
        let runs = opened.whole.runs.count() as f64;
        let cheap = if selection.scouts.is_some() { 0 } else { cheap_hits(watch, selection, &opened) };
        let cost = match selection.scouts {
            Some(_) => &mut watch.scout_cost,
            None if selection.expected <= MODEST => &mut watch.cold_hit_cost,
            None => &mut watch.hit_cost,
        };
        cost.enter(runs * weight(runs, cheap as f64), hits);
        let (open, closing) = (opened.whole.open, opened.closing.as_secs_f64());
        let own = own_work(opened.whole, hits);
        let slowdown = if own > 0.0 { opened.whole.cpu_seconds / own } else { 1.0 };
        let (limit, hit_seconds) = (watch.limit(), watch.scout_cost.seconds());
        // What is done in it, where the target has nothing to wait for, is that much less.
        let progress = if opened.whole.cpu_seconds > SATURATED * open { 1.0 / slowdown } else { 1.0 };
        let work = believed_work(opened.whole, hits, grant.work * open / grant.open * progress);
        let usual = work.0 * grant.open / grant.work;
        if let Some(sizes) = watch.units.sizes_mut() {
            sizes.enter(&opened.c_requests);
        }
        watch.passed_over += watch.overlooked.requests(&opened.c_requests);
        watch.units.enter(selection, open.min(usual) * progress, work, limit, hit_seconds, |slot| {
            opened.stats.get(&slot).copied().unwrap_or_default()
        });
        let patience = watch.random.f64();
        let edges = self.cost_of(opened.edges.runs);
        let noticed_before = watch.budget.noticed();
        for (index, part) in opened.parts.iter().enumerate() {
            let hits = self.cost_of(part.runs);
            let own = own_work(*part, hits);
            if own > 0.005 {
                watch.slowest = watch.slowest.max(part.cpu_seconds / own);
            }
            // A process that works in bursts is at work when a window has seen enough.
            let is_last = index + 1 == opened.parts.len();
            let tail = if is_last { opened.edges.cpu_seconds / part.cpu_seconds.max(LEAST_CPU) } else { 0.0 };
            if is_last {
                watch.budget.pay(edges);
            }
            watch.budget.enter(hits, own, own * grant.open / grant.work, part.open, tail.min(MOST_TAIL), patience);
        }
        watch.account_for(hits + edges, grant.most_hits, seconds(now_ns() - self.start_ns));
        let noticed = watch.budget.noticed() - noticed_before;
        if is_modest(selection) {
            watch.budget.share_out(noticed);
        }
        if is_unnoticed(selection) {
            let missed = noticed > grant.noticed;
            watch.boldness = if missed { watch.boldness / 2.0 } else { watch.boldness * BOLDER }.clamp(LEAST_BOLD, 1.0);
        }
        watch.open_seconds += open;
        watch.closing = closing;
        log::debug!(
            "window {}: {} units ({} witnesses){}{}, classes {:x}, {:.0} ms open, {:.0} ms to close, {} hits, {cheap} of \
             them cheap ({:.2} ms; {:.2} of its work, {:.2} expected) in {:.2} ms of CPU of \
             {:.2}, {} survivors",
            watch.windows,
            selection.units.len(),
            selection.witnesses.len(),
            if selection.scouts.is_some() { " (scouts)" } else { "" },
            if selection.sights.iter().any(|sight| !sight.left_out.is_empty()) { " (a part)" } else { "" },
            selection.classes(),
            open * 1e3,
            closing * 1e3,
            opened.whole.runs.count(),
            hits * 1e3,
            hits / work.0,
            selection.expected,
            opened.whole.cpu_seconds * 1e3,
            grant.work * open / grant.open * 1e3,
            opened.survivors.as_ref().map_or(-1, |(survivors, _)| survivors.len() as i64),
        );
        log::debug!("growing: {}", watch.units.costs(growing, watch.hit_cost.seconds()));
        log::debug!("in doubt: {}", watch.units.doubted(watch.hit_cost.seconds()));
        // In a target that works in bursts a window lasts until it has seen one: that is more work than is usual in its time.
        let share = if opened.rested { (usual / open).clamp(1.0 / MOST_UNUSUAL, MOST_UNUSUAL) } else { progress };
        let survivors = opened
            .survivors
            .map(|(survivors, exposure)| (survivors, Exposure { seconds: exposure.seconds * share, ..exposure }));
        self.take_survivors(watch, growing, selection, survivors)?;
        self.follow(watch)
    }

    /// Follows what outlived a window, of the classes that it saw.
    fn take_survivors(
        &mut self,
        watch: &mut Watch,
        growing: &[Growing],
        selection: &Selection,
        survivors: Option<(HashMap<u64, Follower>, Exposure)>,
    ) -> Result<(), SessionError> {
        let (survivors, exposure) = survivors.unzip();
        let mut survivors = survivors.unwrap_or_default();
        let followers = &mut watch.followers;
        let mut handed_out = HandedOut::default();
        // Scouts enter none.
        if selection.scouts.is_none() {
            self.tracer.take_blocks(|address, block| {
                followers.handed_out(address);
                handed_out.enter(address, block);
                // Handed out once more since it was looked at: it is another block.
                if survivors.get(&address).is_some_and(|seen| *seen.block() != block) {
                    survivors.remove(&address);
                }
            })?;
        }
        followers.overlaid(&handed_out);
        survivors.retain(|&address, follower| !handed_out.overlay(address, follower.block()));
        let mut found: HashMap<u32, Found> = HashMap::new();
        for (address, follower) in survivors {
            let block = follower.block();
            let found = found.entry(class_of(&self.interpreter, block)).or_default();
            found.add(block.size(), block.stack != Block::WITNESSED);
            followers.enter(address, follower);
        }
        if let Some(exposure) = exposure {
            selection.sights.iter().for_each(|sight| watch.exposures.enter(sight, exposure));
            let found = |class| found.get(&class).copied().unwrap_or_default();
            let window = (seconds(exposure.begin_ns.saturating_sub(self.start_ns)), exposure);
            let unnoticed = is_unnoticed(selection);
            for class in watch.units.enter_survivors(growing, &selection.sights, window, unnoticed, found) {
                watch.exposures.forget(class);
                watch.followers.retain(|block| class_of(&self.interpreter, block) != class);
            }
        }
        Ok(())
    }
}

/// Hits that only were counted, or were those of witnesses.
fn cheap_hits(watch: &Watch, selection: &Selection, opened: &Opened) -> u64 {
    let cheap = |&unit: &usize| {
        if let Some(sizes) = watch.units.get(unit).sizes.as_deref() {
            return sizes.cheap_hits(&opened.c_requests, watch.overlooked);
        }
        let is_witness = selection.witnesses.binary_search(&unit).is_ok();
        let stats = watch.units.get(unit).slots.iter().filter_map(|slot| opened.stats.get(slot));
        let cheap = |of: &SiteStats| if is_witness { of.hits } else { of.skipped };
        stats.map(|(before, after)| cheap(after).saturating_sub(cheap(before))).sum::<u64>()
    };
    selection.units.iter().map(cheap).sum()
}

/// Whether few requests are to notice a window, and others are wanted beside such.
fn is_modest(selection: &Selection) -> bool {
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
