//! What a hit costs, learned from windows.

/// What a hit costs before any was measured, seconds, among many, among few, and one of scouts; how many hits that counts for; how
/// much less each window counts than the next.
const HIT_SECONDS: f64 = 2e-6;
const COLD_HIT_SECONDS: f64 = 6e-6;
const SCOUT_SECONDS: f64 = 1.5e-6;
const FIRST_HITS: f64 = 500.0;
const MEMORY: f64 = 0.85;

/// What a hit costs: three times as much where there are few, which find cold caches. Most is learned where most is hit.
#[derive(Debug, Clone, PartialEq)]
pub struct HitCost {
    hits: f64,
    seconds: f64,
}

impl Default for HitCost {
    fn default() -> Self {
        Self { hits: FIRST_HITS, seconds: FIRST_HITS * HIT_SECONDS }
    }
}

impl HitCost {
    /// Of windows that have few.
    pub fn cold() -> Self {
        Self { hits: FIRST_HITS, seconds: FIRST_HITS * COLD_HIT_SECONDS }
    }

    /// Of scouts, which only count them.
    pub fn of_scouts() -> Self {
        Self { hits: FIRST_HITS, seconds: FIRST_HITS * SCOUT_SECONDS }
    }

    /// Enters a window with so many hits, and what they cost together.
    pub fn enter(&mut self, hits: f64, seconds: f64) {
        self.hits = MEMORY * self.hits + hits;
        self.seconds = MEMORY * self.seconds + seconds;
    }

    /// Seconds.
    pub fn seconds(&self) -> f64 {
        if self.hits > 0.0 { self.seconds / self.hits } else { HIT_SECONDS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_hit_costs_is_learned_where_many_are() {
        let mut cost = HitCost::default();
        assert!((cost.seconds() - HIT_SECONDS).abs() < 1e-12);
        for _ in 0..20 {
            cost.enter(5000.0, 0.005);
            cost.enter(60.0, 0.0006);
        }
        assert!((1.0e-6..1.2e-6).contains(&cost.seconds()), "{cost:?}");
    }
}
