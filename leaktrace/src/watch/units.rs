//! What can be armed by itself: nearly each site of CPython's allocator; the C allocator as a whole.

use std::collections::HashMap;

use leaktrace_common::{
    site::{domain, op, slot},
    wire::SiteStats,
};

use crate::{model::Timeline, plan::ProbePlan};

/// Sites of CPython's malloc below which a plan has no parts: one instruction sees all.
const FEWEST_SITES: usize = 16;
/// Share of the limit below which a unit is always armed: it costs nothing.
const COLD: f64 = 0.001;
/// Slowdown expected of the first units of unknown cost, as a share of the limit.
const UNKNOWN: f64 = 0.25;
/// CPU seconds of the target below which a rate says little: a few hits in a moment make none.
const ENOUGH_CPU: f64 = 2e-3;
/// Least slowdown expected of units of unknown cost.
const LEAST: f64 = 0.02;

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
    /// Bits as in [`SiteStats::classes`].
    pub classes: u64,
    /// Hits so far, and CPU seconds of the target while the unit was armed.
    hits: u64,
    cpu_seconds: f64,
    /// When the unit was armed, oldest first, without the last time.
    exposures: Vec<Exposure>,
    last: Option<Exposure>,
}

/// When a window was open, or several of one cohort were.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exposure {
    /// In the clock of the wire.
    pub begin_ns: u64,
    pub end_ns: u64,
    /// For how long all in it was armed.
    pub seconds: f64,
}

impl Unit {
    /// Whether it was armed again since a block was born at `time_ns`. An address that the same code hands out again and again
    /// passes for a survivor until a window sees it handed out.
    pub fn has_tested(&self, time_ns: u64) -> bool {
        self.last.is_some_and(|last| last.begin_ns > time_ns)
    }

    /// Seconds for which the unit was armed, without the last time: what was born then is not tested yet.
    pub fn exposure(&self) -> f64 {
        self.exposures.iter().map(|exposure| exposure.seconds).sum()
    }

    /// The same by cohort.
    pub fn exposure_by_cohort(&self, timeline: &Timeline) -> Vec<f64> {
        let mut cohorts = vec![0.0; timeline.cohorts()];
        if !cohorts.is_empty() {
            self.exposures.iter().for_each(|exposure| cohorts[timeline.cohort_of(exposure.end_ns)] += exposure.seconds);
        }
        cohorts
    }

    /// Hits per CPU second of the target, `None` for a unit that was never armed.
    pub fn rate(&self) -> Option<f64> {
        (self.cpu_seconds > 0.0).then(|| self.hits as f64 / self.cpu_seconds.max(ENOUGH_CPU))
    }
}

/// The units of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Units {
    all: Vec<Unit>,
    /// Unit by slot.
    by_slot: HashMap<u32, usize>,
    /// The C allocator, and the refills of pools.
    pub c: Option<usize>,
    pub refill: Option<usize>,
    /// How many units of unknown cost the next window arms.
    scouts: usize,
    /// Slowdown that is expected of these, as a share of the limit.
    scouts_cost: f64,
}

/// What a window arms.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    pub units: Vec<usize>,
    /// Slowdown that is expected of them: seconds of hits per second of the target's own work.
    pub expected: f64,
    /// Units of unknown cost are among them.
    pub scouts: bool,
}

/// A plan whose allocations all pass one instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "every allocation of this interpreter passes the same instruction, so there is no part of it to watch at a bounded cost; \
     use --mode exact, for a short while"
)]
pub struct Indivisible;

impl Units {
    /// The units of a plan, of which `site_factor` gives the slots.
    pub fn of(plan: &ProbePlan, site_factor: u64) -> Result<Self, Indivisible> {
        let mut all =
            Self { all: Vec::new(), by_slot: HashMap::new(), c: None, refill: None, scouts: 24, scouts_cost: UNKNOWN };
        let mut rest = Unit { always: true, ..Unit::default() };
        let (mut c, mut refill) = (Unit::default(), Unit { always: true, ..Unit::default() });
        let mut mallocs = 0;
        for (index, probe) in plan.probes.iter().enumerate() {
            let slot = slot(probe.address, site_factor);
            let unit = match probe.op {
                // What a realloc moves to is foretold at the realloc's own site.
                op::PY_MALLOC | op::PY_CALLOC if probe.domain == domain::SHARED => continue,
                op::PY_WRAPPER | op::PY_FREE | op::C_FREE => continue,
                op::REFILLED => &mut refill,
                o if (op::C_MALLOC..op::GC_START).contains(&o) => &mut c,
                o if o >= op::GC_START => &mut rest,
                _ => {
                    mallocs += usize::from(matches!(probe.op, op::PY_MALLOC | op::PY_CALLOC));
                    all.add(Unit { probes: vec![index], slots: vec![slot], ..Unit::default() });
                    continue;
                }
            };
            unit.probes.push(index);
            unit.slots.push(slot);
        }
        for (index, point) in plan.returns.iter().enumerate() {
            match point.op {
                op::REFILLED => refill.returns.push(index),
                op::GC_START => rest.returns.push(index),
                op::C_FREE => {}
                _ => c.returns.push(index),
            }
        }
        if mallocs < FEWEST_SITES {
            return Err(Indivisible);
        }
        all.c = all.add_some(c);
        all.refill = all.add_some(refill);
        all.add_some(rest);
        Ok(all)
    }

    fn add(&mut self, unit: Unit) -> usize {
        let index = self.all.len();
        self.by_slot.extend(unit.slots.iter().map(|slot| (*slot, index)));
        self.all.push(unit);
        index
    }

    fn add_some(&mut self, unit: Unit) -> Option<usize> {
        (!unit.probes.is_empty() || !unit.returns.is_empty()).then(|| self.add(unit))
    }

    pub fn get(&self, index: usize) -> &Unit {
        &self.all[index]
    }

    /// Chooses the units of a window in which the target's work takes at most `1 + limit` times as long: first what costs
    /// next to nothing, then in random order what hands out blocks of `growing` classes (bits of [`SiteStats::classes`]),
    /// each of them or none; while there are units of unknown cost, a few of these instead. `hit_seconds` is the cost of a
    /// hit.
    pub fn choose(&self, growing: u64, limit: f64, hit_seconds: f64, random: &mut fastrand::Rng) -> Selection {
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        random.shuffle(&mut order);
        // Always comes first, then what is cold.
        let cost = |index: usize| self.all[index].rate().map(|rate| rate * hit_seconds);
        let mut selection = Selection { units: Vec::new(), expected: 0.0, scouts: false };
        let mut hot = Vec::new();
        let mut scouts = 0;
        for index in order {
            let unit = &self.all[index];
            match cost(index) {
                _ if unit.always => selection.take(index, cost(index).unwrap_or(0.0)),
                None if scouts < self.scouts => {
                    scouts += 1;
                    selection.scouts = true;
                    selection.take(index, 0.0);
                }
                None => {}
                Some(cost) if cost <= limit * COLD => selection.take(index, cost),
                Some(cost) => hot.push((index, cost)),
            }
        }
        if selection.scouts {
            selection.expected += self.scouts_cost * limit;
        }
        // Beside what may turn out to be hot there is no room for what is.
        if !selection.scouts {
            for (index, cost) in hot.into_iter().filter(|(index, _)| self.all[*index].classes & growing != 0) {
                if selection.expected + cost <= limit {
                    selection.take(index, cost);
                }
            }
        }
        selection
    }

    /// Enters what a window showed: its units were armed during it, while the target worked for
    /// `cpu_seconds` without the hits; `stats` gives a slot's numbers before and after. `limit` as in [`Self::choose`].
    pub fn enter(
        &mut self,
        selection: &Selection,
        window: Exposure,
        cpu_seconds: f64,
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
            }
            unit.exposures.extend(unit.last.replace(window));
            // An idle target tells nothing of what a unit costs.
            unit.cpu_seconds += cpu_seconds;
        }
        if selection.scouts && cpu_seconds > 0.0 {
            let slowdown = window_hits as f64 * hit_seconds / cpu_seconds.max(ENOUGH_CPU);
            let before = self.scouts;
            self.scouts = if slowdown > limit / 2.0 { (before / 2).max(4) } else { (before * 2).min(256) };
            // Others may be hotter than these were.
            let expected = 2.0 * slowdown / limit * self.scouts as f64 / before as f64;
            self.scouts_cost = expected.clamp(LEAST, 1.0);
        }
    }

    /// The unit that the site of a slot belongs to.
    pub fn unit_of(&self, slot: u32) -> Option<usize> {
        self.by_slot.get(&slot).copied()
    }

    /// Joins what lies in one cohort: cohorts only ever merge, so this loses nothing, and the lists stay short.
    pub fn coalesce(&mut self, timeline: &Timeline) {
        for unit in &mut self.all {
            unit.exposures.dedup_by(|later, earlier| {
                let same = timeline.cohort_of(later.end_ns) == timeline.cohort_of(earlier.end_ns);
                if same {
                    *earlier = Exposure { end_ns: later.end_ns, seconds: earlier.seconds + later.seconds, ..*earlier };
                }
                same
            });
        }
    }

    /// Units never armed yet, and those that cost more than `limit` by themselves, so that they never are.
    pub fn unarmed(&self, limit: f64, hit_seconds: f64) -> (usize, usize) {
        let unknown = self.all.iter().filter(|unit| !unit.always && unit.rate().is_none()).count();
        let too_hot = |unit: &&Unit| unit.rate().is_some_and(|rate| rate * hit_seconds > limit);
        (unknown, self.all.iter().filter(too_hot).count())
    }
}

impl Selection {
    fn take(&mut self, unit: usize, cost: f64) {
        self.units.push(unit);
        self.expected += cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIT: f64 = 1e-6;

    /// Units with these rates, hits per CPU second; `None`: never armed.
    fn units(rates: &[Option<f64>], classes: &[u64]) -> Units {
        let units = rates.iter().zip(classes).enumerate().map(|(index, (rate, &classes))| Unit {
            slots: vec![index as u32],
            classes,
            hits: rate.unwrap_or(0.0) as u64,
            cpu_seconds: if rate.is_some() { 1.0 } else { 0.0 },
            ..Unit::default()
        });
        let units: Vec<_> = units.collect();
        let by_slot = (0..units.len()).map(|index| (index as u32, index)).collect();
        Units { all: units, by_slot, c: None, refill: None, scouts: 2, scouts_cost: UNKNOWN }
    }

    #[test]
    fn what_is_cold_is_always_armed_and_what_is_hot_within_the_limit() {
        // Slowdowns of 0.6, 0.6, 0.0001 and 5.
        let units = units(&[Some(6e5), Some(6e5), Some(100.0), Some(5e6)], &[1, 1, 0, 1]);
        let mut random = fastrand::Rng::with_seed(7);
        let mut chosen = [0; 4];
        for _ in 0..1000 {
            let selection = units.choose(1, 1.0, HIT, &mut random);
            assert!(selection.expected <= 1.0, "{selection:?}");
            selection.units.iter().for_each(|&unit| chosen[unit] += 1);
        }
        assert_eq!((chosen[2], chosen[3]), (1000, 0));
        assert_eq!(chosen[0] + chosen[1], 1000);
        assert!((400..600).contains(&chosen[0]), "each of two equals has its turn: {chosen:?}");
        assert_eq!(units.unarmed(1.0, HIT), (0, 1));
    }

    #[test]
    fn what_hands_out_nothing_that_grows_is_left_out() {
        let units = units(&[Some(3e5), Some(3e5)], &[0b01, 0b10]);
        let selection = units.choose(0b10, 1.0, HIT, &mut fastrand::Rng::with_seed(1));
        assert_eq!(selection.units, [1]);
    }

    #[test]
    fn units_of_unknown_cost_come_a_few_at_a_time_and_without_hot_ones() {
        let mut units = units(&[None, None, None, Some(5e5)], &[0, 0, 0, 1]);
        let mut random = fastrand::Rng::with_seed(3);
        let selection = units.choose(u64::MAX, 1.0, HIT, &mut random);
        assert!(selection.scouts && selection.units.len() == 2 && !selection.units.contains(&3), "{selection:?}");
        let window = |begin_ns, end_ns, seconds| Exposure { begin_ns, end_ns, seconds };
        let hits = |_| (SiteStats::default(), SiteStats { hits: 10, classes: 4 });
        units.enter(&selection, window(6, 7, 0.1), 0.1, 1.0, HIT, hits);
        assert!(
            selection.units.iter().all(|&unit| units.get(unit).rate() == Some(100.0) && units.get(unit).classes == 4)
        );
        // They cost nothing, so the next time there are more.
        assert_eq!(units.scouts, 4);
        let first = units.unit_of(selection.units[0] as u32).unwrap();
        assert!(!units.get(first).has_tested(6) && units.get(first).exposure() == 0.0);
        // Windows of one cohort become one.
        let mut timeline = Timeline::new(0);
        timeline.push(10);
        units.enter(&selection, window(8, 9, 0.2), 0.1, 1.0, HIT, hits);
        units.enter(&selection, window(14, 15, 0.4), 0.1, 1.0, HIT, hits);
        units.enter(&selection, window(16, 18, 0.8), 0.1, 1.0, HIT, hits);
        assert!(units.get(first).has_tested(15) && !units.get(first).has_tested(17));
        timeline.push(20);
        units.coalesce(&timeline);
        assert_eq!(units.get(first).exposures.len(), 2);
        let by_cohort = units.get(first).exposure_by_cohort(&timeline);
        assert!((by_cohort[0] - 0.3).abs() < 1e-9 && (by_cohort[1] - 0.4).abs() < 1e-9, "{by_cohort:?}");
    }
}
