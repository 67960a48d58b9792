//! What units cost the target, and which of them are only witnesses.

use super::{
    classes::LARGE,
    units::{Growing, Unit, Units},
};

/// What a hit of a witness costs, or one of a size that the window is not for, as a part of what one costs with the stack.
pub(super) const CHEAP: f64 = 0.6;
/// See [`Units::bear`].
const MOST_BEARING: f64 = 4.0;

impl Unit {
    /// What a hit of it costs on the mean, as a part of what one costs with the stack.
    fn weight(&self) -> f64 {
        match &self.sizes {
            Some(sizes) => sizes.weight(),
            None if self.quiet => CHEAP,
            None => weight(self.followed_hits as f64, self.skipped_hits as f64),
        }
    }
}

impl Units {
    /// The target works for so many CPU seconds in as short a window as there is: less than a request is reckoned at, `request` CPU
    /// seconds, so that what is slower in it does not make that twice as slow.
    pub fn bear(&mut self, work: f64, request: f64) {
        self.bearing = (request / work.max(1e-9)).clamp(1.0, MOST_BEARING);
    }

    /// Seconds of hits per second of the target's own work, of some units.
    pub(super) fn cost(&self, units: &[usize], hit_seconds: f64) -> f64 {
        let cost = |unit: &Unit| unit.rate().unwrap_or(0.0) * unit.weight();
        units.iter().map(|&index| cost(&self.all[index])).sum::<f64>() * hit_seconds
    }

    /// The same at the least: of some little is known yet.
    pub(super) fn least_cost(&self, units: &[usize], hit_seconds: f64) -> f64 {
        let cost = |unit: &Unit| unit.least_rate() * unit.weight();
        units.iter().map(|&index| cost(&self.all[index])).sum::<f64>() * hit_seconds
    }

    /// The same, at the least, of a unit that is a witness.
    pub(super) fn least_cost_of_witness(&self, index: usize, hit_seconds: f64) -> f64 {
        CHEAP * self.all[index].least_rate() * hit_seconds
    }

    /// What a unit costs that is a witness.
    pub(super) fn cost_of_witness(&self, index: usize, hit_seconds: f64) -> f64 {
        CHEAP * self.cost_of_hits(index, hit_seconds)
    }

    /// The same of a unit of which all hits cost that.
    pub(super) fn cost_of_hits(&self, index: usize, hit_seconds: f64) -> f64 {
        self.all[index].rate().unwrap_or(0.0) * hit_seconds
    }

    /// Tells which units are quiet: `is_quiet` says it of a class and a unit that serves it.
    pub fn quieten(&mut self, growing: &[Growing], is_quiet: impl Fn(u32, usize) -> bool) {
        for (index, unit) in self.all.iter_mut().enumerate().filter(|(_, unit)| !unit.is_c) {
            let mut served = growing.iter().filter(|of| unit.classes & of.bit() != 0).peekable();
            let may_be = !unit.always && served.peek().is_some();
            unit.quiet = may_be && served.all(|of| is_quiet(of.class, index));
        }
    }

    /// Tells of which sizes of the C allocator's blocks nothing lives on, see [`super::sizes::Sizes::quieten`]; the target's work may take at most
    /// `1 + limit` times as long.
    pub fn quieten_sizes(
        &mut self,
        quiet: Option<u64>,
        seconds: f64,
        growing: &[Growing],
        limit: f64,
        hit_seconds: f64,
    ) {
        let Some(of) = growing.iter().find(|of| of.class == LARGE) else { return };
        let room = self.room(of, limit);
        let Some(unit) = self.c.map(|c| &mut self.all[c]) else { return };
        let rate = unit.rate().unwrap_or(0.0);
        if let Some(sizes) = &mut unit.sizes {
            sizes.quieten(quiet, of.blocks_per_second * seconds, |weight| rate * weight * hit_seconds > room);
            unit.quiet = sizes.is_quiet();
        }
    }

    /// Which of some units are quiet, in order.
    pub(super) fn quiet(&self, units: &[usize]) -> Vec<usize> {
        let mut quiet: Vec<usize> = units.iter().copied().filter(|&index| self.all[index].quiet).collect();
        quiet.sort_unstable();
        quiet
    }
}

/// What a hit costs on the mean, as a part of what one costs with the stack, where `cheap` of them are without.
pub fn weight(hits: f64, cheap: f64) -> f64 {
    if hits > 0.0 { 1.0 - (1.0 - CHEAP) * (cheap / hits).min(1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use leaktrace_common::wire::{SIZE_BUCKETS, SiteStats};

    use super::super::units::{
        Selection,
        tests::{HIT, growing, units},
    };
    use super::*;

    #[test]
    fn hits_that_are_only_counted_and_those_of_quiet_units_cost_less() {
        let mut units = units(&[(Some(1e5), 1, true), (Some(1e5), 1, true)]);
        units.all[0].followed_hits = 100;
        units.all[0].skipped_hits = 50;
        assert!((units.cost(&[0], HIT) - 0.1 * (1.0 + CHEAP) / 2.0).abs() < 1e-9);
        units.quieten(&growing(&[0]), |_, unit| unit == 1);
        assert!(units.quiet(&[1, 0]) == [1] && (units.cost(&[1], HIT) - 0.1 * CHEAP).abs() < 1e-9);
        assert!((units.cost_of_hits(1, HIT) - 0.1).abs() < 1e-9, "scouts' all cost the same");
        units.quieten(&growing(&[1]), |_, _| true);
        assert_eq!(units.quiet(&[0, 1]), [0; 0], "nothing that it serves grows any more");
    }

    #[test]
    fn sizes_of_the_c_allocator_that_cost_too_much_together_are_witnessed_first() {
        let mut units = units(&[(Some(6e5), 1 << LARGE, true)]);
        units.c = Some(0);
        (units.all[0].is_c, units.all[0].sizes) = (true, Some(Box::default()));
        units.sizes_mut().unwrap().enter(&[10; SIZE_BUCKETS as usize]);
        assert!((units.cost(&[0], HIT) - 1.2).abs() < 1e-9, "an entry and a return");
        units.quieten_sizes(None, 1.0, &growing(&[LARGE]), 1.0, HIT);
        assert!(units.quiet(&[0]) == [0] && (units.cost(&[0], HIT) - 1.2 * CHEAP).abs() < 1e-9);
        units.quieten_sizes(None, 1.0, &growing(&[LARGE]), 2.0, HIT);
        assert!(units.quiet(&[0]).is_empty(), "that is not too much");
        units.quieten_sizes(Some(1), 1.0, &growing(&[LARGE]), 1.0, HIT);
        assert!(units.quiet(&[0]).is_empty(), "it is known which of them nothing lives of");
    }

    #[test]
    fn a_window_that_is_mostly_hits_does_not_make_them_dear() {
        let mut units = units(&[(None, 1, true)]);
        let selection = Selection::of(vec![0], 0.0, vec![], vec![]);
        let hits = |_| (SiteStats::default(), SiteStats { hits: 1000, classes: 1, skipped: 0 });
        // Of 4 ms that are usual in its time the estimate leaves 1 ms.
        units.enter(&selection, 0.1, (1e-3, 4e-3), 1.0, HIT, hits);
        assert!((units.get(0).rate().unwrap() - 250_000.0).abs() < 1.0);
        units.enter(&selection, 0.1, (9e-3, 4e-3), 1.0, HIT, hits);
        assert!((units.get(0).rate().unwrap() - 200_000.0).abs() < 1.0, "it was busier than usual");
    }
}
