//! The collector's probes beside the windows: armed for as long as collections are so rare that these cost a small part of the budget.

use leaktrace_common::site::slot;

use super::Session;
use crate::{
    host::priority::Priority,
    plan::{Execution, ProbePlan},
    watch::Allowance,
};

/// Hits of a collection: its two ends.
const HITS_OF_COLLECTION: u64 = 2;
/// What the kernel takes of a hit as a multiple of what was calibrated: that was in a loop, and here caches are cold.
const COLD: f64 = 2.0;
/// What the programs take of a hit before they were timed, seconds, and runs from which on they were.
const RUN_SECONDS: f64 = 1e-6;
const ENOUGH_RUNS: u64 = 20;

/// What may stay armed, and what is known of its cost.
#[derive(Debug)]
pub(super) struct Standing {
    /// Of the probes.
    slots: Vec<u32>,
    /// A probe's hit, and that of its return.
    hits_of_one: u64,
    is_stepped: bool,
    allowance: Allowance,
    /// At the last look.
    last: Seen,
}

/// What the target had done at a moment.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    cpu_seconds: f64,
    /// By the interpreter's own counters.
    collections: u64,
    /// Of the probes, with the returns.
    hits: u64,
}

impl Standing {
    /// `None` where the plan does not show collections. `share` is that of the target's CPU time that all tracing may cost.
    pub(super) fn of(plan: &ProbePlan, site_factor: u64, share: f64) -> Option<Self> {
        let (probes, returns) = plan.collector();
        (!probes.is_empty()).then(|| Self {
            slots: probes.iter().map(|probe| slot(probe.address, site_factor)).collect(),
            hits_of_one: if returns.is_empty() { 1 } else { 2 },
            is_stepped: probes.iter().any(|probe| probe.execution == Execution::SingleStepped),
            allowance: Allowance::new(share),
            last: Seen::default(),
        })
    }
}

impl Session {
    /// Arms the collector's probes once collections are known to be rare enough, and disarms them when they are not any more. While
    /// they are not armed, the interpreter's counters tell of collections.
    pub(super) fn keep_standing(&mut self) {
        self.account_for_standing();
        let Some(allowance) = self.standing.as_ref().map(|standing| &standing.allowance) else { return };
        let (is_armed, is_used_up, is_enough) =
            (self.tracer.has_collector(), allowance.is_used_up(), allowance.is_enough());
        if is_armed && is_used_up {
            let _hurry = Priority::hurry();
            self.tracer.disarm_collector();
            log::debug!(
                "collections are too many for the budget: the collector's probes are disarmed; {}",
                self.told_of_hits()
            );
        } else if !is_armed && is_enough {
            let _hurry = Priority::hurry();
            match self.tracer.arm_collector(&self.tracefs, self.target.pid(), &self.plan) {
                Ok(()) => log::debug!("collections are few: the collector's probes are armed; {}", self.told_of_hits()),
                Err(error) => {
                    log::debug!("the collector's probes cannot be armed: {error}");
                    self.standing = None;
                }
            }
        }
    }

    /// Enters what went by since the last time.
    pub(super) fn account_for_standing(&mut self) {
        let Some((now, hit)) = self.seen().zip(self.hit_of_standing()) else { return };
        let Some(standing) = &mut self.standing else { return };
        let last = std::mem::replace(&mut standing.last, now);
        let is_armed = self.tracer.has_collector();
        // What would have been hits, where there were none.
        let collections = now.collections.saturating_sub(last.collections);
        let hits =
            if is_armed { now.hits.saturating_sub(last.hits) } else { HITS_OF_COLLECTION.saturating_mul(collections) };
        let cost = hits as f64 * hit;
        standing.allowance.enter(now.cpu_seconds - last.cpu_seconds, cost, is_armed);
        if let Some(watch) = self.watch.as_mut().filter(|_| is_armed) {
            watch.budget.pay(cost);
        }
    }

    /// Whether the collector's probes are to be disarmed, since the last look.
    pub(super) fn is_standing_too_hot(&self) -> bool {
        let Some(standing) = self.standing.as_ref().filter(|_| self.tracer.has_collector()) else { return false };
        let (Ok(cpu), Some(hit)) = (self.target.cpu_clock(), self.hit_of_standing()) else { return false };
        let cost = self.hits_of_standing(standing).saturating_sub(standing.last.hits) as f64 * hit;
        standing.allowance.is_used_up_after(cpu.as_secs_f64() - standing.last.cpu_seconds, cost)
    }

    fn seen(&self) -> Option<Seen> {
        let hits = self.hits_of_standing(self.standing.as_ref()?);
        let collections = self.collector_state()?.collections();
        Some(Seen { cpu_seconds: self.target.cpu_clock().ok()?.as_secs_f64(), collections, hits })
    }

    fn hits_of_standing(&self, standing: &Standing) -> u64 {
        standing.slots.iter().map(|&slot| standing.hits_of_one * self.tracer.site_stats(slot).hits).sum()
    }

    fn told_of_hits(&self) -> String {
        let hits = self.standing.as_ref().map_or(0, |standing| standing.last.hits);
        format!("{hits} hits so far, one costs {:.1} us", 1e6 * self.hit_of_standing().unwrap_or_default())
    }

    /// Seconds that a hit costs.
    fn hit_of_standing(&self) -> Option<f64> {
        let runs = self.tracer.collector_runs();
        let run = if runs.count() < ENOUGH_RUNS { RUN_SECONDS } else { runs.mean() };
        let standing = self.standing.as_ref()?;
        // Of a collection's hits only the first is.
        let step = if standing.is_stepped { self.cost.times().step / standing.hits_of_one as f64 } else { 0.0 };
        Some(COLD * self.cost.times().emulated + run + step)
    }
}
