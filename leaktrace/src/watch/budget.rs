//! What tracing may cost, what it has cost, when the next window may open and how long.

use std::time::Duration;

/// Part of a hit's cost that is paid while the kernel takes breakpoints out: the trap is still there, the program is not.
const TRAP_SHARE: f64 = 0.5;
/// CPU seconds of the target for which the account is good at the start, so that the first window does not have to wait.
const ADVANCE: f64 = 0.05;
/// A window is open for so long: below, arming and disarming is most of it.
const SHORTEST: Duration = Duration::from_millis(60);
const LONGEST: Duration = Duration::from_millis(300);
/// Slowdown from which on a request that meets a window notices.
const NOTICED: f64 = 0.05;
/// Share of the time in which such windows may be open, as a part of the share that tracing may cost: so that of a hundred
/// requests less than one meets one.
const NOTICED_SHARE: f64 = 0.7;
/// Seconds of such windows that are granted at the start: the first ones have to learn what sites cost.
const NOTICED_ADVANCE: f64 = 0.3;

/// An account in CPU seconds of the target.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    /// Share of the target's CPU time that tracing may cost.
    share: f64,
    /// CPU time of the target when the account was opened.
    opened_at: f64,
    spent: f64,
    /// Seconds for which windows were open that a request could notice.
    noticed: f64,
    /// What the next window waits for, as a multiple of its expected cost: random, so that windows do not keep step with
    /// what the target does at regular times.
    patience: f64,
}

/// What a window may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grant {
    pub open: Duration,
    /// CPU seconds of hits.
    pub seconds: f64,
}

impl Budget {
    /// An account for `share` (0.01: one per cent) of the CPU time that the target uses from `cpu_seconds` on.
    pub fn new(share: f64, cpu_seconds: f64) -> Self {
        Self { share, opened_at: cpu_seconds, spent: 0.0, noticed: 0.0, patience: 1.0 }
    }

    /// What a window may take that is expected to cost `per_second` CPU seconds in each second that it is open, and to take
    /// `closing` seconds to close; as long as the account affords, but not longer than `longest`. `None`: not yet.
    /// `cpu_seconds` is what the target has used, `wall` the seconds since the account was opened.
    pub fn grant(
        &self,
        per_second: f64,
        closing: f64,
        longest: Option<Duration>,
        cpu_seconds: f64,
        wall: f64,
    ) -> Option<Grant> {
        let earned = self.share * ((cpu_seconds - self.opened_at).max(0.0) + ADVANCE);
        let saved = (earned - self.spent) / self.patience;
        let longest = longest.unwrap_or(LONGEST).as_secs_f64();
        let shortest = SHORTEST.as_secs_f64().min(longest);
        let tail = TRAP_SHARE * closing;
        let mut open = (saved / per_second.max(1e-9) - tail).min(longest);
        let busy = (cpu_seconds - self.opened_at) / wall.max(1e-3);
        if per_second > NOTICED * busy {
            let left = NOTICED_ADVANCE + NOTICED_SHARE * self.share * wall - self.noticed;
            open = open.min(left - closing);
        }
        (open >= shortest).then(|| Grant { open: Duration::from_secs_f64(open), seconds: saved })
    }

    /// Enters a window: `hit_seconds` of hits while it was open for `open` seconds, in which the target's work took `slowdown`
    /// times as long, and `closing` seconds until the last breakpoint was gone. `patience` is a random number from 0 to 1.
    pub fn enter(&mut self, hit_seconds: f64, open: f64, closing: f64, slowdown: f64, patience: f64) {
        let tail = if open > 0.0 { closing / open } else { 0.0 };
        self.spent += hit_seconds * (1.0 + TRAP_SHARE * tail);
        if slowdown > 1.0 + NOTICED {
            self.noticed += open + TRAP_SHARE * closing;
        }
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
        let grant = |budget: &Budget, cpu: f64| budget.grant(0.04, 0.0, None, cpu, 10.0 * (cpu - 100.0));
        assert_eq!(grant(&budget, 100.1), None);
        let first = grant(&budget, 101.0).unwrap();
        assert!((first.open.as_secs_f64() - 0.2625).abs() < 1e-9, "{first:?}");
        budget.enter(0.0105, 0.2625, 0.0, 1.04, 1.0);
        assert_eq!(grant(&budget, 101.2), None);
        assert!(grant(&budget, 101.4).is_some());
    }

    #[test]
    fn what_is_spent_never_passes_the_share_by_more_than_the_advance() {
        let mut budget = Budget::new(0.01, 0.0);
        for step in 1..2000 {
            let cpu = f64::from(step) * 0.2;
            if let Some(grant) = budget.grant(0.03, 0.03, None, cpu, cpu) {
                let open = grant.open.as_secs_f64();
                budget.enter(0.03 * open, open, 0.03, 1.03, f64::from(step % 10) / 10.0);
            }
        }
        let share = budget.spent_share(400.0);
        assert!((0.008..=0.01 + 0.01 * ADVANCE / 400.0).contains(&share), "{share}");
    }

    #[test]
    fn windows_that_requests_notice_are_open_for_less_of_the_time() {
        let mut budget = Budget::new(0.01, 0.0);
        let mut open = 0.0;
        for step in 1..2000 {
            let wall = f64::from(step) * 0.2;
            // At a tenth of a core.
            if let Some(grant) = budget.grant(0.05, 0.03, None, wall / 10.0, wall) {
                let seconds = grant.open.as_secs_f64();
                open += seconds;
                budget.enter(0.05 * seconds, seconds, 0.03, 1.5, 0.5);
            }
        }
        assert!((0.2..=NOTICED_ADVANCE + 2.8).contains(&open), "{open}");
    }

    #[test]
    fn an_idle_target_earns_nothing() {
        let mut budget = Budget::new(0.01, 5.0);
        budget.enter(0.01 * ADVANCE, 0.1, 0.0, 1.0, 0.0);
        assert_eq!(budget.grant(0.001, 0.0, None, 5.0, 1000.0), None);
    }
}
