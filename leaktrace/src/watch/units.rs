//! What can be armed by itself: nearly each site of CPython's allocator; the C allocator as a whole.
//!
//! A window arms all that may hand out blocks of some size classes: then no address of theirs changes hands unseen, and who is
//! charged with a block that survives has asked for it. Where all of a class would cost too much, windows leave out some of it in
//! turn, and a stack is charged only with what it has whichever of them is left out ([`super::exposure`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use leaktrace_common::{
    site::{Operand, domain, op, reg, slot},
    wire::SiteStats,
};

use super::{classes::LARGE, exposure::Sight, shown::Shown, sizes::Sizes};
use crate::plan::{Probe, ProbePlan};

/// Sites of CPython's malloc below which a plan has no parts: one instruction sees all.
const FEWEST_SITES: usize = 16;
/// So often a site would have been seen to ask for a class, if all growth of the class came from it, before it is believed not
/// to: chance then hides that once in 20 times, and what windows show of the growth tells.
pub(super) const ENOUGH_SIGHTINGS: f64 = 3.0;
/// Slowdown expected of the first units of unknown cost, as a share of the limit.
const UNKNOWN: f64 = 0.25;
/// Slowdown by scouts, as a share of the limit, above which the next ones are fewer.
const SCOUTS_SLOWDOWN: f64 = 0.7;
/// CPU seconds of the target below which a few hits make no rate; and up to which a rate may be far too high.
const LEAST_CPU: f64 = 1e-4;
const ENOUGH_CPU: f64 = 1e-3;
/// Least slowdown expected of units of unknown cost.
pub(super) const LEAST: f64 = 0.02;

/// Sites that are armed together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Unit {
    /// Indices of the plan's probes and returns.
    pub probes: Vec<usize>,
    pub returns: Vec<usize>,
    /// Slots of the probes.
    pub slots: Vec<u32>,
    /// Rare by nature, or needed by the others: in every window.
    pub always: bool,
    /// What it was seen to ask for, bits as in [`SiteStats::classes`].
    pub classes: u64,
    /// It asks for nothing else: the size is a constant in its code.
    pub(super) fixed: bool,
    /// It resizes objects, some of them where they are.
    pub(super) resizes: bool,
    /// The C allocator itself; what it is asked for.
    pub(super) is_c: bool,
    pub sizes: Option<Box<Sizes>>,
    /// Hits so far; for how long the unit was armed, and CPU seconds of the target's own work meanwhile.
    pub(super) hits: u64,
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    /// CPU seconds of work that are usual in that time.
    pub(super) usual_seconds: f64,
    /// Of the hits in windows that followed what they saw, and of these what only was counted.
    pub(super) followed_hits: u64,
    pub(super) skipped_hits: u64,
    /// It was seen, and has no blocks of the classes that grow: it is only armed as a witness, to see whose addresses it hands out.
    pub(super) quiet: bool,
}

impl Unit {
    /// Hits per CPU second of the target, `None` for a unit that was never armed, but for those that are rare by nature.
    pub fn rate(&self) -> Option<f64> {
        if self.always && self.cpu_seconds <= 0.0 {
            return Some(0.0);
        }
        (self.cpu_seconds > 0.0).then(|| self.hits as f64 / self.work().max(LEAST_CPU))
    }

    /// The same at the least, of one of which little is known: who was seen in a bad moment is not taken to be that hot for good.
    pub(super) fn least_rate(&self) -> f64 {
        self.hits as f64 / self.work().max(ENOUGH_CPU)
    }

    /// CPU seconds for which the target has worked while it was armed. What hits cost is an estimate, and so is the rest of a window's
    /// CPU time: where that is short of what is usual, that is believed.
    fn work(&self) -> f64 {
        self.cpu_seconds.max(self.usual_seconds)
    }

    /// Whether what a class grows by may come from it. Only what it did since it had been armed for `since` seconds counts.
    fn may_serve(&self, of: &Growing, since: f64) -> bool {
        // All that CPython asks the C allocator for passes that.
        let asks = of.class != LARGE || self.is_c;
        let sightings = (self.seconds - since) * of.blocks_per_second;
        self.always || asks && (self.classes & of.bit() != 0 || !self.fixed && sightings < ENOUGH_SIGHTINGS)
    }
}

/// The units of a plan.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Units {
    pub(super) all: Vec<Unit>,
    pub(super) shown: HashMap<u32, Shown>,
    /// When the last window was, seconds since the attach.
    pub(super) now: f64,
    by_slot: HashMap<u32, usize>,
    /// Units of blocks that outlived their window and are followed; and by class, whose blocks those of the most suspected stack may be.
    pub suspects: BTreeSet<usize>,
    pub doubts: BTreeMap<u32, Doubt>,
    /// The C allocator, and the refills of pools.
    pub c: Option<usize>,
    pub refill: Option<usize>,
    /// How many units of unknown cost the next window arms.
    pub(super) scouts: usize,
    /// Slowdown that is expected of these, as a share of the limit.
    pub(super) scouts_cost: f64,
    /// How many times the limit a unit may cost by itself, or the two that a doubt is about: see [`Self::bear`].
    pub(super) bearing: f64,
}

/// A class whose blocks become more, by its number ([`super::classes::LARGE`]: blocks of the C allocator).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growing {
    pub class: u32,
    pub blocks_per_second: f64,
}

impl Growing {
    pub(super) fn bit(&self) -> u64 {
        1 << self.class
    }
}

/// What keeps a stack from being more than suspected.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Doubt {
    /// Who hands out its blocks.
    pub unit: usize,
    /// Units whose blocks they may be in truth, in the order in which they are asked: armed together with the first, or by themselves, to
    /// see whether they have such blocks.
    pub rivals: Vec<usize>,
    /// Which of them all is to be seen next.
    pub turn: usize,
    /// Which part of the blocks of the class it is about.
    pub share: f64,
}

/// What a window may cost that no request notices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gentle {
    /// Seconds of hits per second of the target's own work.
    pub slowdown: f64,
    /// Seconds that a hit costs there: more than where there are many.
    pub hit_seconds: f64,
    /// And one of scouts, which only count.
    pub scout_seconds: f64,
}

/// What a window arms.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    pub units: Vec<usize>,
    /// Slowdown that is expected of them: seconds of hits per second of the target's own work.
    pub expected: f64,
    /// The window is to learn what sites cost and which classes they serve, not what survives it: seconds for which it is worth to
    /// be open.
    pub scouts: Option<f64>,
    /// The classes that it sees.
    pub sights: Vec<Sight>,
    /// Of the units, those that are only witnesses, in order.
    pub witnesses: Vec<usize>,
    /// It is for a class that comes first: others wait.
    pub is_first: bool,
}

impl Selection {
    /// A window that is to show what some units cost and serve, and for how many seconds it is worth to be open for that.
    pub(super) fn of_scouts(units: Vec<usize>, expected: f64, seconds: f64) -> Self {
        Self { scouts: Some(seconds), ..Self::of(units, expected, Vec::new(), Vec::new()) }
    }

    /// A window that is to show what survives it.
    pub(super) fn of(units: Vec<usize>, expected: f64, sights: Vec<Sight>, witnesses: Vec<usize>) -> Self {
        Self { units, expected, scouts: None, sights, witnesses, is_first: false }
    }

    /// The classes that it sees, bits as in [`SiteStats::classes`].
    pub fn classes(&self) -> u64 {
        self.sights.iter().fold(0, |bits, sight| bits | 1 << sight.class)
    }
}

/// Whom a window leaves out of those that may serve a class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LeftOut {
    #[default]
    Nobody,
    Some,
    /// Among them who may have resized an object where it is.
    SomeWhoResize,
}

/// See [`Units::unwatched`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Unwatched {
    /// Units that may serve the classes and were never armed yet.
    pub units: usize,
    /// Classes of which a part costs too much to be told, as far as is known, and the least that one of them costs as a whole.
    pub classes: usize,
    pub least_cost: Option<f64>,
}

/// A plan whose allocations all pass one instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "every allocation of this interpreter passes the same few instructions, so there is no part of it to watch at a bounded cost; \
     use --mode exact, for a short while"
)]
pub struct Indivisible;

/// At how many places the interpreter asks CPython's allocator for a block, if these are so many that a part of them can be
/// watched.
pub fn parts(plan: &ProbePlan) -> Result<usize, Indivisible> {
    let asks = |probe: &&Probe| matches!(probe.op, op::PY_MALLOC | op::PY_CALLOC) && probe.domain != domain::SHARED;
    let sites = plan.probes.iter().filter(asks).count();
    if sites < FEWEST_SITES { Err(Indivisible) } else { Ok(sites) }
}

impl Units {
    /// The units of a plan, of which `site_factor` gives the slots; `class_of` the size class of a request, `None` for what goes on
    /// to the C allocator.
    pub fn of(
        plan: &ProbePlan,
        site_factor: u64,
        class_of: impl Fn(u64) -> Option<usize>,
    ) -> Result<Self, Indivisible> {
        let mut all = Self { scouts: 32, scouts_cost: UNKNOWN, bearing: 1.0, ..Self::default() };
        let (mut c, mut refill) = (Unit::default(), Unit { always: true, ..Unit::default() });
        parts(plan)?;
        for (index, probe) in plan.probes.iter().enumerate() {
            let slot = slot(probe.address, site_factor);
            let unit = match probe.op {
                // What a realloc moves to is foretold at the realloc's own site.
                op::PY_MALLOC | op::PY_CALLOC if probe.domain == domain::SHARED => continue,
                op::PY_WRAPPER | op::PY_FREE | op::C_FREE => continue,
                // They are armed beside the windows.
                o if op::is_collector(o) => continue,
                op::REFILLED => &mut refill,
                o if op::is_c(o) => &mut c,
                _ => {
                    let size = constant_size(probe);
                    let classes = size.map_or(0, |size| class_of(size).map_or(SiteStats::LARGE, |class| 1 << class));
                    let (probes, slots) = (vec![index], vec![slot]);
                    let is_realloc = matches!(probe.op, op::PY_REALLOC | op::PY_REALLOC_INLINED);
                    let resizes = is_realloc && matches!(probe.domain, domain::OBJ | domain::SHARED);
                    all.add(Unit { probes, slots, classes, fixed: size.is_some(), resizes, ..Unit::default() });
                    continue;
                }
            };
            unit.probes.push(index);
            unit.slots.push(slot);
        }
        for (index, point) in plan.returns.iter().enumerate() {
            match point.op {
                op::REFILLED => refill.returns.push(index),
                op::GC_START | op::C_FREE => {}
                _ => c.returns.push(index),
            }
        }
        c.classes = SiteStats::LARGE;
        (c.fixed, c.is_c, c.sizes) = (true, true, Some(Box::default()));
        all.c = all.add_some(c);
        all.refill = all.add_some(refill);
        Ok(all)
    }

    fn add(&mut self, unit: Unit) -> usize {
        self.by_slot.extend(unit.slots.iter().map(|&slot| (slot, self.all.len())));
        self.all.push(unit);
        self.all.len() - 1
    }

    fn add_some(&mut self, unit: Unit) -> Option<usize> {
        (!unit.probes.is_empty() || !unit.returns.is_empty()).then(|| self.add(unit))
    }

    /// The unit that a block is of, by the slot of its site.
    pub fn at_slot(&self, slot: u32) -> Option<usize> {
        self.by_slot.get(&slot).copied()
    }

    pub fn get(&self, index: usize) -> &Unit {
        &self.all[index]
    }

    /// What the C allocator is asked for; `None` where it is not armed.
    pub fn sizes(&self) -> Option<&Sizes> {
        self.all[self.c?].sizes.as_deref()
    }

    pub fn sizes_mut(&mut self) -> Option<&mut Sizes> {
        self.all[self.c?].sizes.as_deref_mut()
    }

    /// Enters what a window showed: its units were armed for `seconds`, in which the target worked for `cpu_seconds` without the hits,
    /// where `usual` ones are usual; `stats` gives a slot's numbers before and after. `limit` as in [`Self::choose`].
    pub fn enter(
        &mut self,
        selection: &Selection,
        seconds: f64,
        (cpu_seconds, usual): (f64, f64),
        limit: f64,
        hit_seconds: f64,
        stats: impl Fn(u32) -> (SiteStats, SiteStats),
    ) {
        let mut window_hits = 0;
        for &index in &selection.units {
            let unit = &mut self.all[index];
            for &slot in &unit.slots {
                let (before, after) = stats(slot);
                let hits = after.hits.saturating_sub(before.hits);
                unit.hits += hits;
                window_hits += hits;
                unit.classes |= after.classes;
                if selection.scouts.is_none() {
                    unit.followed_hits += hits;
                    unit.skipped_hits += after.skipped.saturating_sub(before.skipped);
                }
            }
            unit.seconds += seconds;
            // An idle target tells nothing of what a unit costs.
            unit.cpu_seconds += cpu_seconds;
            unit.usual_seconds += usual;
        }
        if selection.scouts.is_some() && window_hits > 0 && cpu_seconds > 0.0 {
            let slowdown = window_hits as f64 * hit_seconds / cpu_seconds.max(ENOUGH_CPU);
            let before = self.scouts;
            self.scouts = if slowdown > SCOUTS_SLOWDOWN * limit { (before / 2).max(4) } else { (before * 2).min(256) };
            // Others may be hotter than these were.
            let expected = 1.5 * slowdown / limit * self.scouts as f64 / before as f64;
            self.scouts_cost = expected.clamp(LEAST, 1.0);
        }
    }

    /// What no window shows of the `growing` classes.
    pub fn unwatched(&self, growing: &[Growing], limit: f64, hit_seconds: f64) -> Unwatched {
        let classes: Vec<&Growing> = growing.iter().collect();
        let hot = growing.iter().filter(|of| self.is_partly_too_hot(of, limit, hit_seconds));
        let too_hot: Vec<f64> = hot.map(|of| self.cost(&self.serving(&[of]), hit_seconds)).collect();
        Unwatched {
            units: self.serving(&classes).iter().filter(|&&index| self.all[index].rate().is_none()).count(),
            classes: too_hot.len(),
            least_cost: too_hot.into_iter().min_by(f64::total_cmp),
        }
    }

    /// What each of the `growing` classes costs, for diagnostics: all of it, and its dearest units.
    pub fn costs(&self, growing: &[Growing], hit_seconds: f64) -> String {
        let of = |of: &Growing| {
            let units = self.serving(&[of]);
            let mut costs: Vec<f64> = units.iter().map(|&index| self.cost(&[index], hit_seconds)).collect();
            costs.sort_by(|a, b| b.total_cmp(a));
            let dearest: Vec<String> = costs.iter().take(5).map(|cost| format!("{cost:.2}")).collect();
            let (all, rate) = (costs.iter().sum::<f64>(), of.blocks_per_second);
            format!("{}: {rate:.1}/s, {} units cost {all:.2} ({})", of.class, units.len(), dearest.join(" "))
        };
        growing.iter().map(of).collect::<Vec<_>>().join("; ")
    }

    /// What is in doubt, for diagnostics: by class the unit of the most suspected stack, whose blocks these may be, and whose turn it is,
    /// each with its cost.
    pub fn doubted(&self, hit_seconds: f64) -> String {
        let named = |unit: usize| format!("unit {unit} ({:.2})", self.cost(&[unit], hit_seconds));
        let of = |(class, doubt): (&u32, &Doubt)| {
            let rivals: Vec<String> = doubt.rivals.iter().take(5).map(|&rival| named(rival)).collect();
            let (all, rivals) = (doubt.rivals.len(), rivals.join(", "));
            format!("{class}: {}, or of {all}: {rivals}; next unit {}", named(doubt.unit), doubt.turn)
        };
        self.doubts.iter().map(of).collect::<Vec<_>>().join("; ")
    }

    /// By class that a window sees, whom of those that may serve it it leaves out.
    pub fn left_out(&self, selection: &Selection) -> HashMap<u32, LeftOut> {
        let left_out = |sight: &Sight| match sight.left_out.iter().any(|&unit| self.all[unit].resizes) {
            _ if sight.left_out.is_empty() => LeftOut::Nobody,
            false => LeftOut::Some,
            true => LeftOut::SomeWhoResize,
        };
        selection.sights.iter().map(|sight| (sight.class, left_out(sight))).collect()
    }

    /// What has to be armed so that no block by which these classes grow is missed.
    pub(super) fn serving(&self, classes: &[&Growing]) -> Vec<usize> {
        (0..self.all.len()).filter(|&index| classes.iter().any(|of| self.may_serve(index, of))).collect()
    }

    pub(super) fn may_serve(&self, index: usize, of: &Growing) -> bool {
        let since = self.shown.get(&of.class).and_then(|shown| shown.since.get(index));
        self.all[index].may_serve(of, since.copied().unwrap_or(0.0))
    }

    pub(super) fn is_complete(&self, selection: &Selection, of: &Growing) -> bool {
        (0..self.all.len()).all(|index| !self.may_serve(index, of) || selection.units.contains(&index))
    }
}

/// Bytes that a site always asks for, where that is written in its code.
fn constant_size(probe: &Probe) -> Option<u64> {
    let constant = |of: &Operand| (of.reg == reg::NONE && of.deref == 0).then(|| i64::from(of.disp).max(0) as u64);
    match probe.op {
        op::PY_MALLOC => constant(&probe.a),
        op::PY_CALLOC => Some(constant(&probe.a)?.saturating_mul(constant(&probe.b)?)),
        op::PY_REALLOC | op::PY_REALLOC_INLINED => constant(&probe.b),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const HIT: f64 = 1e-6;
    pub(in super::super) const GENTLE: Gentle =
        Gentle { slowdown: 0.04, hit_seconds: 1.2 * HIT, scout_seconds: 0.5 * HIT };

    /// Units with these rates, hits per CPU second (`None`: never armed), that serve these classes.
    pub(in super::super) fn units(of: &[(Option<f64>, u64, bool)]) -> Units {
        let units = of.iter().enumerate().map(|(index, &(rate, classes, fixed))| Unit {
            slots: vec![index as u32],
            classes,
            fixed,
            hits: rate.unwrap_or(0.0) as u64,
            seconds: if rate.is_some_and(|rate| rate > 10.0) { 1.0 } else { 1e-3 },
            cpu_seconds: if rate.is_some() { 1.0 } else { 0.0 },
            ..Unit::default()
        });
        Units { all: units.collect(), scouts: 2, scouts_cost: UNKNOWN, bearing: 1.0, ..Units::default() }
    }

    #[test]
    fn whom_a_window_leaves_out() {
        let mut units = units(&[(Some(1.0), 6, false), (Some(1.0), 6, false), (Some(1.0), 4, false)]);
        units.all[2].resizes = true;
        let sight = |class, left_out: &[usize]| Sight::new(class, left_out.to_vec(), &[]);
        let sights = vec![sight(0, &[]), sight(1, &[1]), sight(2, &[1, 2])];
        let left_out = units.left_out(&Selection::of(vec![0], 0.1, sights, Vec::new()));
        assert_eq!([0, 1, 2].map(|class| left_out[&class]), [LeftOut::Nobody, LeftOut::Some, LeftOut::SomeWhoResize]);
    }

    pub(in super::super) fn growing(classes: &[u32]) -> Vec<Growing> {
        classes.iter().map(|&class| Growing { class, blocks_per_second: 100.0 }).collect()
    }
}
