//! Whether what is rare by nature may stay armed beside the windows: as long as it costs a small part of what tracing may.
//!
//! That part of the target's CPU time is saved up, and what the probes cost is paid from it; while they are not armed, what they would
//! cost is. They are armed when enough is saved, and disarmed when it is used up.

/// Part of what tracing may cost that they may.
const PART: f64 = 1.0 / 20.0;
/// CPU seconds of the target of which the part is saved up at most: no rate that is higher than it should be lasts long.
const MOST: f64 = 1.0;
/// And of which it is enough to be armed.
const ENOUGH: f64 = 0.25;

/// What is saved up.
#[derive(Debug, Clone, PartialEq)]
pub struct Allowance {
    /// Share of the target's CPU time.
    share: f64,
    /// CPU seconds of hits; below 0 what has to be earned first.
    saved: f64,
}

impl Allowance {
    /// Of `share` (0.01: one per cent) of the target's CPU time, which all tracing may cost.
    pub fn new(share: f64) -> Self {
        Self { share: PART * share, saved: 0.0 }
    }

    /// Enters what went by: CPU seconds of the target, and of them those of hits, or of what would have been hits while nothing was
    /// armed.
    pub fn enter(&mut self, cpu_seconds: f64, hit_seconds: f64, armed: bool) {
        let most = MOST * self.share;
        // What was not spent does not have to be earned, but a while has to pass.
        let least = if armed { f64::NEG_INFINITY } else { self.saved.min(-most) };
        self.saved = self.after(cpu_seconds, hit_seconds).clamp(least, most);
    }

    /// Whether it would be used up after so much more.
    pub fn is_used_up_after(&self, cpu_seconds: f64, hit_seconds: f64) -> bool {
        self.after(cpu_seconds, hit_seconds) < 0.0
    }

    /// Whether it is used up.
    pub fn is_used_up(&self) -> bool {
        self.saved < 0.0
    }

    /// Whether there is enough of it to arm what was not armed.
    pub fn is_enough(&self) -> bool {
        self.saved >= ENOUGH * MOST * self.share
    }

    fn after(&self, cpu_seconds: f64, hit_seconds: f64) -> f64 {
        self.saved + self.share * cpu_seconds - hit_seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIT: f64 = 2e-6;

    fn allowance() -> Allowance {
        Allowance::new(0.01)
    }

    #[test]
    fn what_was_rare_for_long_is_armed_at_once() {
        let mut allowance = allowance();
        assert!(!allowance.is_enough(), "nothing is known yet");
        allowance.enter(3600.0, 3600.0 * 100.0 * HIT, false);
        assert!(allowance.is_enough());
    }

    #[test]
    fn a_storm_uses_it_up_however_long_it_was_quiet_before() {
        let mut allowance = allowance();
        allowance.enter(3600.0, 0.0, false);
        allowance.enter(0.2, 20.0 * HIT, true);
        assert!(!allowance.is_used_up());
        assert!(allowance.is_used_up_after(0.2, 20_000.0 * HIT));
        allowance.enter(0.2, 20_000.0 * HIT, true);
        assert!(allowance.is_used_up());
        // What it has cost is earned again before they are armed anew: 0.04 s.
        allowance.enter(70.0, 0.0, false);
        assert!(!allowance.is_enough());
        allowance.enter(10.0, 0.0, false);
        assert!(allowance.is_enough());
    }

    #[test]
    fn a_storm_that_cost_nothing_is_forgotten_after_a_while() {
        let mut allowance = allowance();
        allowance.enter(100.0, 1e6 * HIT, false);
        allowance.enter(1.0, 0.0, false);
        assert!(!allowance.is_enough());
        allowance.enter(0.3, 0.0, false);
        assert!(allowance.is_enough());
    }

    #[test]
    fn what_they_cost_never_passes_the_part_by_more_than_was_saved() {
        let mut allowance = allowance();
        let (mut armed, mut cost) = (false, 0.0);
        for step in 0..100_000 {
            // 10 ms each, now 50 hits a second, now 1,000.
            let hits = if step / 1000 % 2 == 0 { 0.5 } else { 10.0 } * HIT;
            cost += if armed { hits } else { 0.0 };
            allowance.enter(0.01, hits, armed);
            armed = if armed { !allowance.is_used_up() } else { allowance.is_enough() };
        }
        assert!(cost <= 0.01 * PART * (1000.0 + 2.0 * MOST), "{cost}");
        assert!(cost > 0.03, "they are armed while they are rare: {cost}");
    }
}
