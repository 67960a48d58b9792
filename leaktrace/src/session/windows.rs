//! Watching: windows of tracing within a budget, and the survivors of the windows followed by reading memory.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use leaktrace_common::wire::{Block, SiteStats, TICK_NS, window};

use super::{ScanStats, Session, SessionError};
use crate::{
    cpython::pools::Pools,
    model::{
        sampling::{Sampling, WatchFacts},
        trail::seconds,
    },
    tracer::{cost::Runs, sweep::now_ns},
    watch::{
        Budget, Classes, Followers, Units,
        units::{Exposure, Selection},
    },
};

/// Longest that a window is open.
const OPEN: Duration = Duration::from_millis(60);
/// How often the hits of an open window are looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Looks at a target that cannot be armed, until it is said to be there still.
const DYING_LOOKS: u32 = 40;
/// A window that costs this much more than it may is closed at once.
const TOO_MUCH: f64 = 1.5;
/// Least share of a window's CPU time that is taken for the target's own work: the cost of hits is an estimate.
const LEAST_OWN: f64 = 0.02;
/// What a hit costs before any was measured.
const HIT_SECONDS: f64 = 1.5e-6;

/// What the user allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Share of the target's CPU time that tracing may cost: 0.01 is one per cent.
    pub overhead: f64,
    /// How many times longer the target's work may take while a window is open, 1 or more.
    pub max_slowdown: f64,
}

/// The state of watching.
#[derive(Debug)]
pub struct Watch {
    limits: Limits,
    units: Units,
    budget: Budget,
    classes: Classes,
    pub(super) followers: Followers,
    random: fastrand::Rng,
    /// What the next window arms.
    next: Option<Selection>,
    windows: u64,
    open_seconds: f64,
    /// From the closing of a window until its last breakpoint is gone, seconds.
    closing: f64,
    hit_seconds: f64,
    slowest: f64,
}

impl Watch {
    pub(super) fn new(limits: Limits, units: Units, cpu_seconds: f64) -> Self {
        Self {
            limits,
            units,
            budget: Budget::new(limits.overhead, cpu_seconds),
            classes: Classes::default(),
            followers: Followers::default(),
            random: fastrand::Rng::new(),
            next: None,
            windows: 0,
            open_seconds: 0.0,
            closing: 0.06,
            hit_seconds: HIT_SECONDS,
            slowest: 1.0,
        }
    }

    fn limit(&self) -> f64 {
        self.limits.max_slowdown - 1.0
    }
}

/// What a window showed.
struct Opened {
    open: Duration,
    closing: Duration,
    cpu_seconds: f64,
    runs: Runs,
}

impl Session {
    /// Opens a window if the budget affords one, and brings the ledger up to date with what survived it. Says whether it
    /// did. Takes as long as the window. A target that ends meanwhile is no error: see [`Self::ended`].
    pub fn watch(&mut self) -> Result<bool, SessionError> {
        let result = self.watch_if_afforded();
        if result.is_err() {
            // It may be on its way out: what it lacks is told a moment before its end is.
            for _ in 0..DYING_LOOKS {
                if self.ended().is_some() {
                    return Ok(false);
                }
                thread::sleep(LOOK);
            }
        }
        result
    }

    fn watch_if_afforded(&mut self) -> Result<bool, SessionError> {
        let Some(watch) = &mut self.watch else { return Ok(false) };
        let cpu = self.target.cpu_clock()?.as_secs_f64();
        let limit = watch.limit();
        let selection = watch.next.take().unwrap_or_else(|| {
            watch.units.choose(watch.classes.growing(), limit, watch.hit_seconds, &mut watch.random)
        });
        let used = (cpu - self.cpu_start.as_secs_f64()) / seconds(now_ns() - self.start_ns).max(0.1);
        let expected = selection.expected * used * (OPEN.as_secs_f64() + watch.closing);
        if !watch.budget.affords(expected, cpu) {
            watch.next = Some(selection);
            return Ok(false);
        }
        self.open(&selection)?;
        Ok(true)
    }

    fn open(&mut self, selection: &Selection) -> Result<(), SessionError> {
        let Some(mut watch) = self.watch.take() else { return Ok(()) };
        let result = self.open_and_scan(&mut watch, selection);
        self.watch = Some(watch);
        result
    }

    fn open_and_scan(&mut self, watch: &mut Watch, selection: &Selection) -> Result<(), SessionError> {
        watch.windows += 1;
        let armed = |unit: Option<usize>| unit.is_some_and(|unit| selection.units.contains(&unit));
        let mut word = watch.windows << window::BITS | window::PARTIAL;
        word |= if armed(watch.units.c) { 0 } else { window::NO_C };
        word |= if armed(watch.units.refill) { 0 } else { window::NO_REFILL };
        self.tracer.set_window(word)?;
        let slots = selection.units.iter().flat_map(|&unit| watch.units.get(unit).slots.iter().copied());
        let before: HashMap<u32, SiteStats> = slots.map(|slot| (slot, self.tracer.site_stats(slot))).collect();
        self.cost.begin_sample(&self.tracer);
        let begin_ns = now_ns();
        let opened = self.trace(watch, selection)?;
        self.cost.end_sample(&self.tracer);
        let hits = opened.runs.count as f64 * self.cost.hit().as_secs_f64() + opened.runs.nanos as f64 * 1e-9;
        if opened.runs.count >= 1000 {
            watch.hit_seconds = hits / opened.runs.count as f64;
        }
        let (open, closing) = (opened.open.as_secs_f64(), opened.closing.as_secs_f64());
        let own = (opened.cpu_seconds - hits).max(LEAST_OWN * opened.cpu_seconds);
        if own > 0.01 {
            watch.slowest = watch.slowest.max(opened.cpu_seconds / own);
        }
        let (tracer, limit, hit_seconds) = (&self.tracer, watch.limit(), watch.hit_seconds);
        let window = Exposure { begin_ns, end_ns: now_ns(), seconds: open };
        watch.units.enter(selection, window, own, limit, hit_seconds, |slot| {
            (before.get(&slot).copied().unwrap_or_default(), tracer.site_stats(slot))
        });
        watch.budget.enter(hits, open, closing, watch.random.f64());
        watch.open_seconds += open;
        watch.closing = closing;
        let begin_ns = now_ns();
        self.tracer.take_blocks(|address, block| watch.followers.enter(address, block))?;
        self.follow(watch, begin_ns)
    }

    /// Arms a selection, waits, and disarms it.
    fn trace(&mut self, watch: &Watch, selection: &Selection) -> Result<Opened, SessionError> {
        let units = || selection.units.iter().map(|&unit| watch.units.get(unit));
        let probes: Vec<usize> = units().flat_map(|unit| unit.probes.iter().copied()).collect();
        let returns: Vec<usize> = units().flat_map(|unit| unit.returns.iter().copied()).collect();
        let runs = self.tracer.run_statistics();
        if let Err(error) = self.tracer.arm_some(&self.tracefs, self.target.pid(), &self.plan, &probes, &returns) {
            // Of a plan that is refused half-way, a part is armed.
            self.tracer.disarm_window();
            return Err(error.into());
        }
        let begin = Instant::now();
        let cpu = self.target.cpu_clock().unwrap_or_default();
        let mut used;
        loop {
            thread::sleep(LOOK);
            used = self.target.cpu_clock().unwrap_or(cpu).saturating_sub(cpu).as_secs_f64();
            let hits = self.tracer.run_statistics().since(runs).count as f64 * watch.hit_seconds;
            let too_much = hits > TOO_MUCH * watch.limit() * (used - hits).max(0.005);
            if begin.elapsed() >= OPEN || too_much || self.target.has_exited() {
                break;
            }
        }
        let open = begin.elapsed();
        let runs = self.tracer.run_statistics().since(runs);
        let closing = Instant::now();
        self.tracer.disarm_window();
        Ok(Opened { open, closing: closing.elapsed(), cpu_seconds: used, runs })
    }

    /// Between windows: drops what has died, and reads how the heap grows.
    pub fn settle(&mut self) {
        let Some(mut watch) = self.watch.take() else { return };
        let pools = self.pools();
        watch.settle(&self.target.memory(), pools.as_ref(), seconds(now_ns() - self.start_ns));
        self.watch = Some(watch);
    }

    /// Brings the ledger up to date with the blocks that live.
    fn follow(&mut self, watch: &mut Watch, begin_ns: u64) -> Result<(), SessionError> {
        thread::sleep(Duration::from_nanos(TICK_NS));
        let pools = self.pools();
        if self.ended().is_some() {
            return Ok(());
        }
        watch.settle(&self.target.memory(), pools.as_ref(), seconds(now_ns() - self.start_ns));
        self.learn();
        let mut pass = self.ledger.scan(begin_ns);
        let mut unnamed: Vec<Block> = Vec::new();
        let tested = |block: &&Block| {
            watch.units.unit_of(block.site()).is_none_or(|unit| watch.units.get(unit).has_tested(block.time_ns))
        };
        for block in watch.followers.blocks().filter(tested) {
            if block.stack == 0 || pass.knows(block.stack) {
                pass.observe(block);
            } else {
                unnamed.push(*block);
            }
        }
        let end = super::End { target: &self.target, tracer: &self.tracer, drain: &self.drain, execed: false };
        end.finish(pass, &unnamed, &mut self.totals)?;
        watch.units.coalesce(self.ledger.timeline());
        self.log_collections(false);
        let took = Duration::from_nanos(now_ns() - begin_ns);
        self.last = ScanStats { pools_read: pools.is_some(), took, ..ScanStats::default() };
        Ok(())
    }

    /// A last look at what lives, for the report.
    pub fn finish_watch(&mut self) -> Result<(), SessionError> {
        let Some(mut watch) = self.watch.take() else { return Ok(()) };
        let result = self.follow(&mut watch, now_ns());
        self.watch = Some(watch);
        result
    }

    /// Size class of a request that pymalloc serves.
    fn class_of(&self, size: u64) -> Option<usize> {
        let shift = self.interpreter.facts.pymalloc?.class_shift;
        usize::try_from(size.checked_sub(1)? >> shift).ok()
    }

    /// Whether only windows are traced.
    pub fn is_watching(&self) -> bool {
        self.watch.is_some()
    }

    fn pools(&self) -> Option<Pools> {
        self.interpreter.facts.pymalloc.and_then(|state| state.snapshot(&self.target.memory()).ok())
    }

    /// What the report needs to know of the windows; `None` where everything is traced.
    pub fn sampling(&self) -> Option<Sampling> {
        let watch = self.watch.as_ref()?;
        let wall = seconds(now_ns() - self.start_ns);
        let sites = self.ledger.sites().len();
        let mut sums = vec![Sum::default(); sites];
        for block in watch.followers.blocks() {
            let Some(sum) = self.ledger.site(block.stack).and_then(|site| sums.get_mut(site)) else { continue };
            sum.blocks += 1;
            if let Some(unit) = watch.units.unit_of(block.site()) {
                let exposure = watch.units.get(unit).exposure();
                sum.weight += if exposure > 0.0 { wall / exposure } else { 0.0 };
                *sum.units.entry(unit).or_default() += 1;
            }
            let class = if block.in_pool() { self.class_of(block.size()) } else { None };
            *sum.classes.entry(class).or_default() += 1;
        }
        let bound = |class: Option<usize>| {
            class.map(|class| {
                watch
                    .classes
                    .growth(class)
                    .map_or(f64::INFINITY, |rate| if rate.is_positive() { rate.high } else { 0.0 })
            })
        };
        let cpu = self.target.cpu_clock().map_or(0.0, |cpu| cpu.as_secs_f64());
        let (unseen, too_hot) = watch.units.unarmed(watch.limit(), watch.hit_seconds);
        let mut exposures = Vec::new();
        let mut numbers: HashMap<usize, u32> = HashMap::new();
        let by_site = sums.iter().map(|sum| {
            let unit = commonest(&sum.units)?;
            Some(*numbers.entry(unit).or_insert_with(|| {
                exposures.push(watch.units.get(unit).exposure_by_cohort(self.ledger.timeline()));
                exposures.len() as u32 - 1
            }))
        });
        let exposure_of = by_site.collect();
        Some(Sampling {
            exposures,
            exposure_of,
            weights: sums.iter().map(|sum| sum.mean(wall / watch.open_seconds.max(1e-3))).collect(),
            bounds: sums
                .iter()
                .map(|sum| if sum.blocks == 0 { Some(0.0) } else { bound(commonest(&sum.classes).flatten()) })
                .collect(),
            heap_grows: watch.classes.growing() & !SiteStats::LARGE != 0,
            facts: WatchFacts {
                overhead_limit: watch.limits.overhead,
                overhead: watch.budget.spent_share(cpu),
                max_slowdown: watch.limits.max_slowdown,
                slowest: watch.slowest,
                windows: watch.windows,
                open_seconds: watch.open_seconds,
                followed_blocks: watch.followers.len() as u64,
                reused_unseen: watch.followers.caught(),
                sites_unseen: unseen as u64,
                sites_too_hot: too_hot as u64,
            },
        })
    }
}

impl Watch {
    fn settle(&mut self, memory: &dyn crate::target::Memory, pools: Option<&Pools>, now: f64) {
        self.followers.settle(memory, pools);
        if let Some(pools) = pools {
            self.classes.enter(now, pools.totals().classes.iter().map(|class| class.used_blocks).collect());
        }
    }
}

/// What the followed blocks of a site say of it.
#[derive(Debug, Clone, Default)]
struct Sum {
    blocks: u32,
    weight: f64,
    /// Blocks by size class; `None`: of the C allocator.
    classes: HashMap<Option<usize>, u32>,
    /// Blocks by the unit that saw them.
    units: HashMap<usize, u32>,
}

impl Sum {
    /// `otherwise` where there is no block to tell.
    fn mean(&self, otherwise: f64) -> f64 {
        if self.blocks == 0 { otherwise } else { self.weight / f64::from(self.blocks) }
    }
}

fn commonest<T: Copy + Ord>(counts: &HashMap<T, u32>) -> Option<T> {
    counts.iter().max_by_key(|(key, blocks)| (**blocks, **key)).map(|(key, _)| *key)
}
