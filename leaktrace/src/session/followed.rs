//! Between windows: how the heap grows, and which of the survivors live.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    thread,
    time::Duration,
};

use leaktrace_common::wire::{Block, TICK_NS};

use super::{
    ScanStats, Session, SessionError,
    windows::{LOOK_SHARE, Of, Watch, class_of, is_unnoticed},
};
use crate::{
    cpython::Interpreter,
    model::trail::seconds,
    target::Unhurried,
    tracer::sweep::now_ns,
    watch::{
        classes::{Found, LARGE},
        exposure::{Exposure, Living},
        followers::{Follower, HandedOut},
        owner::Owner,
        units::{Doubt, Growing, Selection},
    },
};

/// So many stacks of a class, those with the most blocks that are followed, are asked what keeps them from being more than suspected.
const MOST_DOUBTED: usize = 8;
/// Between two readings of the pools, seconds, at first, while it is to be learned soon what grows, and from then on; and how much longer
/// than the reading took.
const READING: f64 = 0.9;
const AT_FIRST: f64 = 60.0;
const LATER_READING: f64 = 2.9;
const READING_SHARE: f64 = 100.0;

impl Session {
    /// Between windows: drops what has died, and reads how the heap grows; unless it was not long ago.
    pub fn settle(&mut self) {
        let due = |watch: &mut Watch| now_ns() >= watch.next_reading_ns;
        let Some(mut watch) = self.watch.take_if(due) else { return };
        self.read_heap(&mut watch);
        self.watch = Some(watch);
    }

    /// Whether the pools could be read, and how long it rested meanwhile.
    fn read_heap(&self, watch: &mut Watch) -> (bool, Duration) {
        let begin = now_ns();
        let memory = Unhurried::new(self.target.memory());
        // At the beginning too: to read the pools may take long.
        let used_by_then = (self.target.rss_bytes(), self.target.cpu_clock());
        let pools = self.interpreter.facts.pymalloc.and_then(|state| state.snapshot(&memory).ok());
        watch.followers.settle(&memory, pools.as_ref());
        let pool_size = self.interpreter.facts.pymalloc.map_or(0, |state| state.pool_size);
        if let (Some(pools), (Ok(resident), Ok(cpu))) = (&pools, used_by_then) {
            let totals = pools.totals();
            let used = totals.classes.iter().map(|class| class.used_blocks).collect();
            let other = resident.saturating_sub(totals.pools * pool_size);
            watch.classes.enter(seconds(begin - self.start_ns), cpu.as_secs_f64(), used, other);
        }
        let took = seconds(now_ns() - begin) - memory.rested().as_secs_f64();
        let often = if seconds(begin - self.start_ns) < AT_FIRST { READING } else { LATER_READING };
        watch.next_reading_ns = begin + ((often + READING_SHARE * took) * 1e9) as u64;
        (pools.is_some(), memory.rested())
    }

    /// Brings the ledger up to date with the blocks that live, between windows; unless it was not long ago, for what that takes,
    /// and it is not the `last` time.
    pub fn scan_watch(&mut self, last: bool) -> Result<(), SessionError> {
        let since = seconds(now_ns().saturating_sub(self.ledger.timeline().now_ns()));
        if !last && since < LOOK_SHARE * self.last.took.as_secs_f64() {
            return Ok(());
        }
        let Some(mut watch) = self.watch.take() else { return Ok(()) };
        let result = self.follow(&mut watch);
        self.watch = Some(watch);
        self.keep_standing();
        result
    }

    pub(super) fn follow(&mut self, watch: &mut Watch) -> Result<(), SessionError> {
        let begin_ns = now_ns();
        thread::sleep(Duration::from_nanos(TICK_NS));
        let (pools_read, rested) = self.read_heap(watch);
        if self.ended().is_some() {
            return Ok(());
        }
        self.learn();
        let mut pass = self.ledger.scan(begin_ns);
        let mut unnamed: Vec<Block> = Vec::new();
        for block in that_count(&self.interpreter, watch) {
            if block.stack == 0 || pass.knows(block.stack) {
                pass.observe(block);
            } else {
                unnamed.push(*block);
            }
        }
        let end = super::End { target: &self.target, tracer: &self.tracer, drain: &self.drain, execed: false };
        end.finish(pass, &unnamed, &mut self.totals)?;
        watch.exposures.coalesce(self.ledger.timeline());
        watch.units.suspects = watch.followers.blocks().filter_map(|block| watch.units.at_slot(block.site())).collect();
        let living = living(&self.interpreter, watch);
        let (doubts, refuted) = doubts(&self.interpreter, watch, &living);
        watch.units.doubts = doubts;
        // What is another's tells nothing of what its class grows by.
        let of = |block: &Block| (watch.of(&self.interpreter, block), block.stack);
        let named = watch.followers.blocks().filter(|block| block.stack != Block::WITNESSED);
        let own = named.map(|block| (of(block), block)).filter(|(of, _)| !refuted.contains(of));
        let own = Living::of(own.map(|(((class, unit), _), block)| (class, unit, block.time_ns)));
        watch.units.recount(&own);
        let exposures = &watch.exposures;
        let growing = watch.classes.growing();
        watch.units.quieten(&growing, |class, unit| exposures.is_quiet(class, unit, &living));
        let large = watch.followers.blocks().filter(|block| !block.in_pool()).map(Block::size);
        let quiet = exposures.quiet_sizes(watch.units.c, large);
        let seconds = watch.units.c.map_or(0.0, |c| exposures.seconds_armed(LARGE, c));
        watch.units.quieten_sizes(quiet, seconds, &growing, watch.limits.max_slowdown - 1.0, watch.hit_cost.seconds());
        self.log_collections(false);
        let took = Duration::from_nanos(now_ns() - begin_ns).saturating_sub(rested);
        self.last = ScanStats { pools_read, took, ..ScanStats::default() };
        Ok(())
    }

    /// Follows what outlived a window, of the classes that it saw.
    pub(super) fn take_survivors(
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

    /// Whether only windows are traced.
    pub fn is_watching(&self) -> bool {
        self.watch.is_some()
    }
}

/// By class, what keeps the stack with the most followed blocks of those that are only suspected from being more, of those first that no
/// window speaks against; and the stacks whose blocks are others'. What a unit has handed out that was never but a witness counts as one
/// stack's.
fn doubts(interpreter: &Interpreter, watch: &Watch, living: &Living) -> (BTreeMap<u32, Doubt>, HashSet<(Of, u32)>) {
    let mut births: HashMap<(Of, u32), Vec<u64>> = HashMap::new();
    for block in watch.followers.blocks() {
        births.entry((watch.of(interpreter, block), block.stack)).or_default().push(block.time_ns);
    }
    let mut stacks: Vec<((Of, u32), Vec<u64>)> = births.into_iter().collect();
    stacks.sort_by_key(|(of, births)| (Reverse(births.len()), *of));
    let mut looked: HashMap<u32, usize> = HashMap::new();
    let mut all: HashMap<u32, usize> = HashMap::new();
    for (((class, _), _), births) in &stacks {
        *all.entry(*class).or_default() += births.len();
    }
    let (mut doubts, mut refuted) = (BTreeMap::<u32, (Doubt, bool)>::new(), HashSet::new());
    for (of @ ((class, unit), stack), births) in stacks {
        let looked = looked.entry(class).or_default();
        *looked += 1;
        let Some(unit) = unit.filter(|_| *looked <= MOST_DOUBTED) else { continue };
        let seen = |unit: usize| watch.exposures.seconds_armed(class, unit);
        // What a witness has handed out asks for it to be traced.
        let is_witness = stack == Block::WITNESSED;
        let is_traced = || watch.exposures.seconds(class, Some(unit)) > 0.0;
        if is_witness && (is_traced() || watch.units.is_hot(unit, watch.limit(), watch.hit_cost.seconds())) {
            continue;
        }
        let (mut rivals, likely) = match watch.exposures.owner(class, Some(unit), &births, living) {
            Owner::Doubtful(rivals) => (rivals, true),
            Owner::Unlikely(rivals) => (rivals, is_witness),
            Owner::Another if !is_witness => {
                refuted.insert(of);
                continue;
            }
            Owner::Stack | Owner::Another => continue,
        };
        rivals.retain(|rival| *rival != unit);
        let turn = rivals.first().copied().filter(|&rival| seen(rival) < seen(unit)).unwrap_or(unit);
        let share = births.len() as f64 / all[&class] as f64;
        let doubt = Doubt { unit, rivals, turn, share };
        // What is likely is soonest proven; what is not is found out beside it, or after it.
        doubts.entry(class).or_insert_with(|| (doubt.clone(), likely));
        if likely && let Some(found) = doubts.get_mut(&class).filter(|(_, likely)| !likely) {
            *found = (doubt, true);
        }
    }
    let doubts = doubts.into_iter().map(|(class, (doubt, _))| (class, doubt)).collect();
    (doubts, refuted)
}

/// The births of the blocks that are followed.
pub(super) fn living(interpreter: &Interpreter, watch: &Watch) -> Living {
    Living::of(watch.followers.blocks().map(|block| {
        let (class, unit) = watch.of(interpreter, block);
        (class, unit, block.time_ns)
    }))
}

/// The blocks that are followed and count: of whom it is known who asked for them, and that they still are the same.
fn that_count<'a>(interpreter: &'a Interpreter, watch: &'a Watch) -> impl Iterator<Item = &'a Block> {
    let mut is_tested = is_tested(interpreter, watch);
    watch.followers.blocks().filter(move |block| block.stack != Block::WITNESSED && is_tested(block))
}

/// Whether a block that is followed counts: later windows have tested it.
pub(super) fn is_tested<'a>(interpreter: &'a Interpreter, watch: &'a Watch) -> impl FnMut(&Block) -> bool {
    let mut tested_until: HashMap<Of, u64> = HashMap::new();
    move |block| {
        let of @ (class, unit) = watch.of(interpreter, block);
        block.time_ns < *tested_until.entry(of).or_insert_with(|| watch.exposures.tested_until(class, unit))
    }
}
