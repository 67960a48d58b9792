//! What tracing may cost, what it has cost, and when the next window may open.

/// Part of a hit's cost that is paid while the kernel takes breakpoints out: the trap is still there, the program is not.
const TRAP_SHARE: f64 = 0.5;

/// CPU seconds of the target for which the account is good at the start, so that the first window does not have to wait.
const ADVANCE: f64 = 0.05;

/// An account in CPU seconds of the target.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    /// Share of the target's CPU time that tracing may cost.
    share: f64,
    /// CPU time of the target when the account was opened.
    opened_at: f64,
    spent: f64,
    /// What the next window waits for, as a multiple of its expected cost: random, so that windows do not keep step with
    /// what the target does at regular times.
    patience: f64,
}

impl Budget {
    /// An account for `share` (0.01: one per cent) of the CPU time that the target uses from `cpu_seconds` on.
    pub fn new(share: f64, cpu_seconds: f64) -> Self {
        Self { share, opened_at: cpu_seconds, spent: 0.0, patience: 1.0 }
    }

    /// Whether a window of the cost `expected` may open when the target has used `cpu_seconds`.
    pub fn affords(&self, expected: f64, cpu_seconds: f64) -> bool {
        let earned = self.share * ((cpu_seconds - self.opened_at).max(0.0) + ADVANCE);
        earned - self.spent >= expected * self.patience
    }

    /// Enters a window: `hit_seconds` of hits while it was open for `open` seconds, and `closing` seconds until the last
    /// breakpoint was gone. `patience` is a random number from 0 to 1.
    pub fn enter(&mut self, hit_seconds: f64, open: f64, closing: f64, patience: f64) {
        let tail = if open > 0.0 { closing / open } else { 0.0 };
        self.spent += hit_seconds * (1.0 + TRAP_SHARE * tail);
        self.patience = 1.0 + patience / 2.0;
    }

    /// CPU seconds that the windows have cost.
    pub fn spent(&self) -> f64 {
        self.spent
    }

    /// Share of the target's CPU time that the windows have cost so far.
    pub fn spent_share(&self, cpu_seconds: f64) -> f64 {
        let used = cpu_seconds - self.opened_at;
        if used > 0.0 { self.spent / used } else { 0.0 }
    }

    pub fn share(&self) -> f64 {
        self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_waits_until_its_cost_is_earned() {
        let mut budget = Budget::new(0.01, 100.0);
        assert!(!budget.affords(0.1, 105.0));
        assert!(budget.affords(0.1, 110.0));
        budget.enter(0.1, 0.1, 0.06, 0.5);
        assert!((budget.spent() - 0.13).abs() < 1e-9);
        assert!(!budget.affords(0.1, 122.0));
        assert!(budget.affords(0.1, 125.5));
    }

    #[test]
    fn what_is_spent_never_passes_the_share_by_more_than_a_window() {
        let mut budget = Budget::new(0.01, 0.0);
        let mut cpu = 0.0;
        for window in 0..1000 {
            while !budget.affords(0.05, cpu) {
                cpu += 0.2;
            }
            budget.enter(0.05, 0.1, 0.06, f64::from(window % 10) / 10.0);
        }
        assert!(budget.spent_share(cpu) <= 0.01 + (0.1 + ADVANCE * 0.01) / cpu, "{}", budget.spent_share(cpu));
    }

    #[test]
    fn an_idle_target_earns_nothing() {
        assert!(!Budget::new(0.01, 5.0).affords(0.001, 5.0));
    }
}
