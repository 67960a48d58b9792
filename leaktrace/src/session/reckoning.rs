//! What a window that has closed cost and showed of its sites, entered where the next ones are planned by it.

use leaktrace_common::wire::SiteStats;

use super::{
    Session,
    window::Opened,
    windows::{MOST_UNUSUAL, SATURATED, Watch, is_modest, is_unnoticed},
    work::{believed_work, own_work},
};
use crate::{
    model::trail::seconds,
    tracer::sweep::now_ns,
    watch::{
        budget::Grant,
        costs::weight,
        latency::MODEST,
        units::{Growing, Selection},
    },
};

/// How much more each window that no request is to notice may cost after one that was not noticed; half as much after one that was, and
/// so much at least.
const BOLDER: f64 = 1.1;
const LEAST_BOLD: f64 = 0.1;
/// CPU seconds that at least are taken to have gone by in a window, where that is compared with what does at its edges: less is not seen
/// in the clock of another process.
const LEAST_CPU: f64 = 5e-4;
/// How many times longer than was thought the next window is thought to take to close, at most: this one may have met a moment in which
/// nobody was there to close it.
const MOST_LONGER: f64 = 2.0;

impl Session {
    /// Enters a window. The result: for how long it counts as having been open, as a multiple of how long it was.
    pub(super) fn reckon(
        &self,
        watch: &mut Watch,
        growing: &[Growing],
        selection: &Selection,
        grant: Grant,
        opened: &Opened,
    ) -> f64 {
        let hits = self.cost_of(opened.whole.runs);
        let runs = opened.whole.runs.count() as f64;
        let cheap = if selection.scouts.is_some() { 0 } else { cheap_hits(watch, selection, opened) };
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
        self.pay(watch, selection, grant, opened);
        watch.open_seconds += open;
        watch.closing = closing.min(MOST_LONGER * watch.closing);
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
        if opened.rested { (usual / open).clamp(1.0 / MOST_UNUSUAL, MOST_UNUSUAL) } else { progress }
    }

    /// Enters into the account what a window cost, and how many requests noticed it.
    fn pay(&self, watch: &mut Watch, selection: &Selection, grant: Grant, opened: &Opened) {
        let patience = watch.random.f64();
        let (noticed_before, spent_before) = (watch.budget.noticed(), watch.budget.spent());
        let usual = |own: f64| own * grant.open / grant.work;
        for part in &opened.parts {
            let hits = self.cost_of(part.runs);
            let own = own_work(*part, hits);
            if own > 0.005 {
                watch.slowest = watch.slowest.max(part.cpu_seconds / own);
            }
            watch.budget.enter(hits, own, usual(own), part.open, patience);
        }
        let Opened { whole, edges, .. } = opened;
        let hits = self.cost_of(whole.runs);
        let own = own_work(*whole, hits);
        watch.budget.pay(self.cost_of(edges.runs));
        // Whoever was kept from closing it, or from being done with arming it, left the traps in: then that is most of what it cost.
        watch.budget.enter_edges(
            hits,
            own,
            usual(own),
            whole.open,
            edges.cpu_seconds / whole.cpu_seconds.max(LEAST_CPU),
        );
        let cost = watch.budget.spent() - spent_before;
        watch.account_for(cost, grant.most_hits, seconds(now_ns() - self.start_ns));
        let noticed = watch.budget.noticed() - noticed_before;
        if is_modest(selection) {
            watch.budget.share_out(noticed);
        }
        if is_unnoticed(selection) {
            let missed = noticed > grant.noticed;
            watch.boldness = if missed { watch.boldness / 2.0 } else { watch.boldness * BOLDER }.clamp(LEAST_BOLD, 1.0);
        }
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
