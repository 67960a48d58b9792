//! What the windows of a watch make of what they saw: for how much it stands, and for how much it may.

use std::collections::{BTreeSet, HashMap};

use super::{
    Session,
    followed::{is_tested, living},
    windows::Of,
};
use crate::{
    model::{
        sampling::{Sampling, WatchFacts},
        trail::seconds,
    },
    tracer::sweep::now_ns,
    watch::{Exposures, classes::LARGE, exposure::Living, owner::Owner},
};

impl Session {
    /// What the report needs to know of the windows; `None` where everything is traced.
    pub fn sampling(&self) -> Option<Sampling> {
        let watch = self.watch.as_ref()?;
        let wall = seconds(now_ns() - self.start_ns);
        let sites = self.ledger.sites().len();
        let mut sums = vec![Sum::default(); sites];
        let mut is_tested = is_tested(&self.interpreter, watch);
        for block in watch.followers.blocks() {
            let Some(sum) = self.ledger.site(block.stack).and_then(|site| sums.get_mut(site)) else { continue };
            let of = watch.of(&self.interpreter, block);
            sum.births.entry(of).or_default().push(block.time_ns);
            if is_tested(block) {
                *sum.tested.entry(of).or_default() += 1;
            }
        }
        let weight = |(class, unit): Of| match watch.exposures.seconds(class, unit) {
            seconds if seconds > 0.0 => wall / seconds,
            _ => 0.0,
        };
        // At most so many blocks a second become more of what a site hands out; of the C allocator's only bytes are known.
        let has_stopped = |class| watch.classes.recent_growth(class).is_some_and(|rate| !rate.is_positive());
        let bound = |class: u32| match watch.classes.growth(class) {
            Some(rate) if !rate.is_positive() || has_stopped(class) => Some(0.0),
            Some(rate) if class != LARGE => Some(rate.high),
            Some(_) => None,
            None => Some(f64::INFINITY),
        };
        let classes: BTreeSet<u32> = sums.iter().flat_map(Sum::classes).collect();
        let bounds: HashMap<u32, Option<f64>> = classes.into_iter().map(|class| (class, bound(class))).collect();
        let cpu = self.target.cpu_clock().map_or(0.0, |cpu| cpu.as_secs_f64());
        let growing = watch.classes.growing();
        let unwatched = watch.units.unwatched(&growing, watch.limit(), watch.hit_cost.seconds());
        let mut exposures = Vec::new();
        let mut numbers: HashMap<Of, u32> = HashMap::new();
        let by_site = sums.iter().map(|sum| {
            let (class, unit) = sum.commonest()?;
            Some(*numbers.entry((class, unit)).or_insert_with(|| {
                exposures.push(watch.exposures.by_cohort(class, unit, self.ledger.timeline()));
                exposures.len() as u32 - 1
            }))
        });
        let exposure_of = by_site.collect();
        let living = living(&self.interpreter, watch);
        let owners: Vec<Option<Owner>> = sums.iter().map(|sum| sum.owner(&watch.exposures, &living)).collect();
        Some(Sampling {
            exposures,
            exposure_of,
            weights: sums.iter().map(|sum| sum.mean(weight, wall / watch.open_seconds.max(1e-3))).collect(),
            bounds: sums.iter().map(|sum| sum.classes().iter().map(|class| bounds[class]).sum()).collect(),
            unproven: owners
                .iter()
                .map(|owner| matches!(owner, Some(Owner::Doubtful(_) | Owner::Unlikely(_))))
                .collect(),
            refuted: owners.iter().map(|owner| *owner == Some(Owner::Another)).collect(),
            heap_grows: !watch.classes.is_known_not_to_grow(),
            facts: WatchFacts {
                overhead_limit: watch.limits.overhead,
                overhead: watch.budget.spent_share(cpu),
                max_slowdown: watch.limits.max_slowdown,
                slowest: watch.slowest,
                windows: watch.windows,
                open_seconds: watch.open_seconds,
                followed_blocks: watch.followers.len() as u64,
                reused_unseen: watch.followers.caught(),
                passed_over: watch.passed_over,
                sites_unseen: unwatched.units as u64,
                classes_too_hot: unwatched.classes as u64,
                slowdown_needed: unwatched.least_cost.map_or(0.0, |cost| 1.0 + cost),
                explained: watch.units.explained(&growing),
            },
        })
    }
}

/// What the followed blocks of a site say of it.
#[derive(Debug, Clone, Default)]
struct Sum {
    births: HashMap<Of, Vec<u64>>,
    /// Those that count.
    tested: HashMap<Of, u32>,
}

impl Sum {
    /// Mean of a weight over the blocks that count; `otherwise` where there is none.
    fn mean(&self, weight: impl Fn(Of) -> f64, otherwise: f64) -> f64 {
        let blocks: u32 = self.tested.values().sum();
        let sum: f64 = self.tested.iter().map(|(&of, &count)| weight(of) * f64::from(count)).sum();
        if blocks == 0 { otherwise } else { sum / f64::from(blocks) }
    }

    fn commonest(&self) -> Option<Of> {
        self.births.iter().max_by_key(|(of, births)| (births.len(), **of)).map(|(of, _)| *of)
    }

    fn classes(&self) -> BTreeSet<u32> {
        self.births.keys().map(|(class, _)| *class).collect()
    }

    /// Whose the blocks are; `None` where there is none.
    fn owner(&self, exposures: &Exposures, living: &Living) -> Option<Owner> {
        let owners = self.births.iter().map(|(&(class, unit), births)| exposures.owner(class, unit, births, living));
        owners.reduce(|a, b| match (a, b) {
            (Owner::Stack, _) | (_, Owner::Stack) => Owner::Stack,
            (Owner::Another, other) | (other, _) => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_do_not_count_yet_weigh_nothing() {
        let (seldom, often): (Of, Of) = ((7, Some(1)), (3, Some(2)));
        let births = HashMap::from([(seldom, vec![5; 10]), (often, vec![6; 40])]);
        let sum = Sum { births, tested: HashMap::from([(often, 24)]) };
        let weight = |of: Of| if of == seldom { 50_000.0 } else { 3000.0 };
        assert!((sum.mean(weight, 1.0) - 3000.0).abs() < 1e-9);
        let none = Sum { tested: HashMap::new(), ..sum };
        assert!((none.mean(weight, 7.0) - 7.0).abs() < 1e-9);
    }
}
