//! What tracing may cost, what it has cost, when the next window may open and how long.

use super::latency::{NOTICED, noticing};

/// Part of a hit's cost that is paid while the kernel takes breakpoints out: the trap is still there, the program is not.
const TRAP_SHARE: f64 = 0.5;
/// Part of the share that windows aim at: what is left is for those that cost more than they were granted.
const AIM: f64 = 0.95;
/// CPU seconds of the target for which the account is good at the start, so that the first window does not have to wait; and after how many
/// that is paid back: from half of these on no more is spent than was earned.
const ADVANCE: f64 = 0.05;
const ADVANCED_FOR: f64 = 1.0;
/// A window is open for at least so many seconds: below, arming and disarming is most of it.
pub const SHORTEST: f64 = 0.06;
/// The same of what is so rare that hardly one block comes in that time: a fifth of it is too young to count, not a third.
pub const SHORTEST_OF_RARE: f64 = 0.1;
/// And for at most so many where all requests notice it: they meet one or two parts of so many.
pub const LONGEST: f64 = 0.3;
/// Slowdown up to which a request hardly can notice a window, however wrong the estimate.
const CAREFUL: f64 = 0.2 * NOTICED;
/// Share of the time in which windows may be open that every request notices, as a part of the share that tracing may cost: so that
/// of a hundred requests less than one becomes a slow one.
pub(super) const NOTICED_SHARE: f64 = 0.8;
/// The same of a target that uses a core or more: in as much time it shows a hundred times as much as one that idles, and the slowest of
/// its requests differ more among themselves.
const NOTICED_SHARE_OF_BUSY: f64 = 0.25;
/// For how long the target's CPU time is what it does of late, seconds, and between two looks at it.
const LATELY: f64 = 1.0;
const LEAST_LATELY: f64 = 0.1;
/// Part of that which windows may take that few requests are to notice: they need so little at a time that nothing would be left for the
/// others.
const MODEST_PART: f64 = 0.6;
/// Seconds that are to be between two of them.
const NOTICED_APART: f64 = 6.0;
/// Seconds of such windows that are lent at the start, at most, and as what is granted in how many seconds: the first ones have to learn
/// what sites cost.
const NOTICED_ADVANCE: f64 = 0.6;
const NOTICED_IN_ADVANCE: f64 = 90.0;
/// Seconds from the start until that is asked back of a target that uses a core or more, and until all of it is.
const LENT: f64 = 60.0;
const PAID_BACK: f64 = 120.0;
/// A window that turns out to be noticed more than was expected is done when it has used up what becomes free in so many seconds, or
/// so many times what was expected.
const NOTICED_BY_SURPRISE: f64 = 1.0;
const NOTICED_MORE: f64 = 2.0;

/// How many times what it was granted a window may cost if it is to show anything, or to end in a moment of rest; of a target that uses so
/// many cores no more than is saved.
pub const OVERDRAFT: f64 = 2.0;
const BUSY: f64 = 0.1;
/// A window that costs so many times what was expected is done, where that is more than this part of what is saved: it has told what it costs.
const DEARER: f64 = 3.0;
const DEARER_PART: f64 = 0.25;

/// An account in CPU seconds of the target.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    /// Share of the target's CPU time that tracing may cost.
    share: f64,
    /// CPU time of the target when the account was opened.
    opened_at: f64,
    lately: Lately,
    spent: f64,
    /// Seconds for which windows were open, each by the share of its requests that noticed.
    noticed: f64,
    /// Of these, in windows that few were to notice.
    modestly: f64,
    /// What the next window waits for, as a multiple of its expected cost: random, so that windows do not keep step with
    /// what the target does at regular times.
    patience: f64,
}

/// What a window asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// CPU seconds of hits that are expected in each of the target's own work.
    pub slowdown: f64,
    /// Seconds for which it is to be open at least and at most, and that it takes to close.
    pub shortest: f64,
    pub longest: f64,
    pub closing: f64,
    /// Few requests are to notice it, and others are wanted beside such windows: they share what is granted.
    pub is_modest: bool,
}

/// What a window may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grant {
    /// Seconds for which it may be open.
    pub open: f64,
    /// CPU seconds of the target's own work that are usual in that time: while it is idle, a window costs nothing and shows nothing.
    pub work: f64,
    /// CPU seconds of hits.
    pub hits: f64,
    /// The same that it may cost if it is to show anything, or to end in a moment of rest.
    pub most_hits: f64,
    /// Seconds, by the share of the requests that notice: see [`Budget::noticed`].
    pub noticed: f64,
}

/// What the target does of late.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Lately {
    /// At the last look.
    cpu_seconds: f64,
    wall: f64,
    /// Cores, by a mean in which what was [`LATELY`] ago counts 1/e.
    pace: f64,
}

impl Lately {
    fn observe(&mut self, cpu_seconds: f64, wall: f64) {
        let passed = wall - self.wall;
        if passed >= LEAST_LATELY {
            let weight = 1.0 - (-passed / LATELY).exp();
            self.pace += weight * ((cpu_seconds - self.cpu_seconds) / passed - self.pace);
            (self.cpu_seconds, self.wall) = (cpu_seconds, wall);
        }
    }
}

impl Budget {
    /// An account for `share` (0.01: one per cent) of the CPU time that the target uses from `cpu_seconds` on.
    pub fn new(share: f64, cpu_seconds: f64) -> Self {
        let lately = Lately { cpu_seconds, ..Lately::default() };
        Self { share, opened_at: cpu_seconds, lately, spent: 0.0, noticed: 0.0, modestly: 0.0, patience: 1.0 }
    }

    /// What a window may take; `None`: not yet. `cpu_seconds` is what the target has used, `wall` the seconds since the account was opened.
    pub fn grant(&self, demand: &Demand, cpu_seconds: f64, wall: f64) -> Option<Grant> {
        let &Demand { slowdown, shortest, longest, closing, is_modest } = demand;
        let used = (cpu_seconds - self.opened_at).max(0.0);
        let advance = ADVANCE * (1.0 - used / ADVANCED_FOR).max(0.0);
        let saved = (AIM * self.share * (used + advance) - self.spent) / self.patience;
        let pace = self.pace(cpu_seconds, wall);
        let mut open = (saved / (slowdown * pace).max(1e-9) - TRAP_SHARE * closing).min(longest);
        let granted = self.granted_notice(wall, pace);
        let modestly = if is_modest { MODEST_PART * granted - self.modestly } else { f64::INFINITY };
        let left = modestly.min(granted - self.noticed);
        let noticing = noticing(slowdown);
        // What is expected not to be noticed may be: who has taken too much of that, whether or not it is asked back, gets what hardly can.
        if noticing > 0.0 {
            open = open.min(left / noticing - TRAP_SHARE * closing);
        } else if self.notice_share(pace) * wall + self.lent_notice(pace) < self.noticed && slowdown > CAREFUL {
            return None;
        }
        let surprise = NOTICED_BY_SURPRISE * self.notice_share(pace);
        let noticed = surprise.max(NOTICED_MORE * noticing * open);
        let hits = saved.min((DEARER * slowdown * pace * open).max(DEARER_PART * saved));
        // What a busy target's windows take too much of is much.
        let most_hits = if pace < BUSY { OVERDRAFT * hits } else { (saved * self.patience).min(OVERDRAFT * hits) };
        (open >= shortest.min(longest)).then_some(Grant { open, work: open * pace, hits, most_hits, noticed })
    }

    /// Cores that the target has used so far, or of late, if these are more: a load that has just risen is met by windows that are as much
    /// shorter.
    pub fn pace(&self, cpu_seconds: f64, wall: f64) -> f64 {
        ((cpu_seconds - self.opened_at) / wall.max(1e-3)).max(self.lately.pace).max(1e-6)
    }

    /// Looks at how much the target does of late; `cpu_seconds` and `wall` as for [`Self::grant`].
    pub fn observe(&mut self, cpu_seconds: f64, wall: f64) {
        self.lately.observe(cpu_seconds, wall);
    }

    /// Share of the time for which windows may be open that every request notices; the target uses `pace` cores.
    fn notice_share(&self, pace: f64) -> f64 {
        self.share * (NOTICED_SHARE - (NOTICED_SHARE - NOTICED_SHARE_OF_BUSY) * pace.min(1.0))
    }

    /// Seconds of windows, each by the share of the requests that notice, that are granted until so many after the start.
    fn granted_notice(&self, wall: f64, pace: f64) -> f64 {
        let asked_back = pace.min(1.0) * ((wall - LENT) / (PAID_BACK - LENT)).clamp(0.0, 1.0);
        self.notice_share(pace) * wall + (1.0 - asked_back) * self.lent_notice(pace)
    }

    /// Seconds of such windows that are lent at the start.
    fn lent_notice(&self, pace: f64) -> f64 {
        NOTICED_ADVANCE.min(self.notice_share(pace) * NOTICED_IN_ADVANCE)
    }

    /// Enters a window or a part of one: `hit_seconds` of hits and `work` CPU seconds of the target's own, that would usually take `usual`
    /// seconds, while it was open for `open` seconds. `patience` is a random number from 0 to 1.
    pub fn enter(&mut self, hit_seconds: f64, work: f64, usual: f64, open: f64, patience: f64) {
        self.charge(hit_seconds, work, usual, open, 1.0);
        self.patience = 1.0 + patience / 2.0;
    }

    /// Enters what the traps of a window cost without their programs, while it was being armed and disarmed: the target did `times` as
    /// much meanwhile as in it, of which the rest is as for [`Self::enter`].
    pub fn enter_edges(&mut self, hit_seconds: f64, work: f64, usual: f64, open: f64, times: f64) {
        self.charge(hit_seconds, work, usual, open, TRAP_SHARE * times);
    }

    fn charge(&mut self, hit_seconds: f64, work: f64, usual: f64, open: f64, times: f64) {
        self.spent += times * hit_seconds;
        // While it was idle, no request was there to notice.
        let slowdown = hit_seconds / work.max(1e-9);
        self.noticed += times * noticing(slowdown) * open.min(usual);
    }

    /// Enters which part of what was noticed was so in a window that is modest.
    pub fn share_out(&mut self, noticed: f64) {
        self.modestly += noticed;
    }

    /// Enters CPU seconds of hits that no request notices much: at the edges of a window, or of what is armed beside them.
    pub fn pay(&mut self, hit_seconds: f64) {
        self.spent += hit_seconds;
    }

    /// How long a window is open at most that is expected to cost so much `slowdown`, seconds; `lasting`: one that no request notices.
    /// A verdict wants to see blocks of all the time: where there are few windows that are noticed, many short ones show more than few
    /// long ones. `cpu_seconds` and `wall` as for [`Self::grant`].
    pub fn longest(&self, slowdown: f64, lasting: f64, cpu_seconds: f64, wall: f64) -> f64 {
        let noticing = noticing(slowdown);
        if noticing <= 0.0 {
            return lasting;
        }
        let apart = self.notice_share(self.pace(cpu_seconds, wall)) * NOTICED_APART / noticing;
        apart.max(2.0 * SHORTEST).min(LONGEST / noticing).min(lasting)
    }

    /// Seconds for which windows were open, each by the share of the requests that became slow ones by it.
    pub fn noticed(&self) -> f64 {
        self.noticed
    }

    /// CPU seconds that windows have cost, and what is armed beside them.
    pub fn spent(&self) -> f64 {
        self.spent
    }

    /// Share of the target's CPU time that this is so far.
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
    use super::{super::latency::MODEST, *};

    fn demand(slowdown: f64, closing: f64, longest: f64) -> Demand {
        Demand { slowdown, shortest: SHORTEST, longest, closing, is_modest: slowdown <= MODEST }
    }

    #[test]
    fn a_window_waits_until_its_cost_is_earned() {
        let mut budget = Budget::new(0.01, 100.0);
        let grant = |budget: &Budget, cpu: f64| budget.grant(&demand(0.04, 0.0, LONGEST), cpu, 10.0 * (cpu - 100.0));
        let first = grant(&budget, 101.0).unwrap();
        assert!((first.work - 0.03).abs() < 1e-9 && (first.open - 0.3).abs() < 1e-9, "the longest: {first:?}");
        budget.enter(0.0105, 0.2625, 0.2625, 0.2625, 1.0);
        assert_eq!(grant(&budget, 101.001), None);
        assert!(grant(&budget, 101.25).is_some());
    }

    #[test]
    fn what_turns_out_dearer_does_not_use_up_what_was_saved_for_long() {
        let budget = Budget::new(0.01, 0.0);
        let hits = |slowdown| budget.grant(&demand(slowdown, 0.0, 0.1), 10.0, 100.0).unwrap().hits;
        let saved = AIM * 0.01 * 10.0;
        assert!((hits(1.0) - DEARER * 0.1 * 0.1).abs() < 1e-9, "three times what was expected");
        assert!((hits(0.01) - DEARER_PART * saved).abs() < 1e-9 && hits(10.0) <= saved);
    }

    #[test]
    fn who_is_busy_is_never_given_more_than_is_saved() {
        let most = |wall: f64| {
            let budget = Budget::new(0.01, 0.0);
            let grant = budget.grant(&demand(1.0, 0.0, 0.3), 10.0, wall).unwrap();
            (grant.most_hits, grant.hits)
        };
        let (saved, (calm, hits)) = (AIM * 0.01 * 10.0, most(200.0));
        assert!((calm - OVERDRAFT * hits).abs() < 1e-9 && hits < saved);
        let (busy, hits) = most(11.0);
        assert!(OVERDRAFT * hits > saved && (busy - saved).abs() < 1e-9);
    }

    #[test]
    fn what_is_spent_stays_within_the_share() {
        let mut budget = Budget::new(0.01, 0.0);
        for step in 1..2000 {
            let cpu = f64::from(step) * 0.2;
            if let Some(grant) = budget.grant(&demand(0.03, 0.03, LONGEST), cpu, cpu) {
                let (hits, patience) = (0.03 * grant.work, f64::from(step % 10) / 10.0);
                budget.enter(hits, grant.work, grant.open, grant.open, patience);
                budget.enter_edges(hits, grant.work, grant.open, grant.open, 0.03 / grant.open);
            }
        }
        let share = budget.spent_share(400.0);
        assert!((0.008..=0.01).contains(&share), "{share}");
    }

    #[test]
    fn a_load_that_has_just_risen_counts() {
        let mut budget = Budget::new(0.01, 5.0);
        for step in 1..=600 {
            let wall = f64::from(step) * 0.1;
            budget.observe(5.0 + 0.02 * wall, wall);
        }
        let pace = |budget: &Budget, more: f64| budget.pace(6.2 + more, 60.0 + 2.0);
        assert!((budget.pace(6.2, 60.0) - 0.02).abs() < 1e-6);
        budget.observe(6.4, 61.0);
        assert!((0.1..0.2).contains(&pace(&budget, 0.2)), "ten times as much for a second: {}", pace(&budget, 0.2));
        budget.observe(6.6, 62.0);
        assert!((0.17..0.2).contains(&pace(&budget, 0.4)));
        budget.observe(6.7, 72.0);
        assert!((budget.pace(6.7, 72.0) - 1.7 / 72.0).abs() < 1e-9, "it is over");
    }

    #[test]
    fn windows_that_requests_notice_are_open_for_less_of_the_time() {
        let mut budget = Budget::new(0.01, 0.0);
        let mut open = 0.0;
        for step in 1..2000 {
            let wall = f64::from(step) * 0.2;
            // At ten cores.
            if let Some(grant) = budget.grant(&demand(1.0, 0.03, LONGEST), 10.0 * wall, wall) {
                open += grant.open;
                budget.enter(grant.work, grant.work, grant.open, grant.open, 0.5);
                budget.enter_edges(grant.work, grant.work, grant.open, grant.open, 0.03 / grant.open);
            }
        }
        assert!((0.7..=1.0).contains(&open), "what was lent is paid back: {open}");
    }

    #[test]
    fn windows_that_few_notice_and_others_do_not_take_all_from_each_other() {
        let mut budget = Budget::new(0.01, 0.0);
        let is_granted = |budget: &Budget, slowdown| budget.grant(&demand(slowdown, 0.0, 0.1), 10.0, 100.0).is_some();
        // Of 1.3 s.
        budget.enter(0.025, 0.1, 3.0, 3.0, 0.0);
        assert!(budget.noticed() > 1.0 && is_granted(&budget, 0.1) && is_granted(&budget, 1.0), "{budget:?}");
        let mut budget = Budget::new(0.01, 0.0);
        budget.enter(0.01, 0.1, 24.0, 24.0, 0.0);
        budget.share_out(budget.noticed());
        assert!(budget.noticed() > 0.8 && !is_granted(&budget, 0.1) && is_granted(&budget, 1.0), "{budget:?}");
        let first = Demand { is_modest: false, ..demand(0.1, 0.0, 0.1) };
        assert!(budget.grant(&first, 10.0, 100.0).is_some(), "others wait for it");
        let rare = Demand { shortest: SHORTEST_OF_RARE, ..demand(1.0, 0.0, 0.3) };
        budget.noticed = budget.granted_notice(100.0, 0.1) - 0.08;
        let is_granted = |demand: &Demand| budget.grant(demand, 10.0, 100.0).is_some();
        assert!(is_granted(&demand(1.0, 0.0, 0.3)) && !is_granted(&rare), "it is worth a longer one");
    }

    #[test]
    fn what_is_lent_at_the_start_is_less_where_less_is_granted() {
        let granted = |share, wall, pace| Budget::new(share, 0.0).granted_notice(wall, pace);
        assert!((granted(0.01, 0.0, 0.0) - NOTICED_ADVANCE).abs() < 1e-9 && granted(0.001, 0.0, 0.0) < 0.08);
        assert!((granted(0.01, 100.0, 0.0) - 1.4).abs() < 1e-9 && (granted(0.01, 200.0, 0.0) - 2.2).abs() < 1e-9);
        assert!((granted(0.01, 200.0, 4.0) - 0.5).abs() < 1e-9, "and of who is busy it is asked back");
    }

    #[test]
    fn who_has_only_used_what_was_lent_goes_on_with_what_no_one_notices() {
        let mut budget = Budget::new(0.01, 0.0);
        let is_granted = |budget: &Budget, slowdown| budget.grant(&demand(slowdown, 0.0, 0.1), 100.0, 100.0).is_some();
        budget.enter(0.03, 0.1, 0.8, 0.8, 0.0);
        assert!(budget.noticed() > budget.granted_notice(100.0, 1.0), "{budget:?}");
        assert!(is_granted(&budget, 0.02) && !is_granted(&budget, 0.3), "{budget:?}");
        budget.enter(0.01, 0.01, 1.0, 1.0, 0.0);
        assert!(is_granted(&budget, 0.005) && !is_granted(&budget, 0.02), "{budget:?}");
    }

    #[test]
    fn work_at_the_edges_of_a_window_counts_too() {
        let mut budget = Budget::new(0.01, 0.0);
        budget.enter(0.001, 0.001, 0.03, 0.1, 0.0);
        budget.enter_edges(0.001, 0.001, 0.03, 0.1, 8.0);
        assert!((budget.spent() - 0.005).abs() < 1e-9 && (budget.noticed() - 0.15).abs() < 1e-3, "{budget:?}");
    }

    #[test]
    fn who_may_cost_more_has_longer_windows() {
        let longest = |share, slowdown| Budget::new(share, 0.0).longest(slowdown, 3.0, 1.0, 100.0);
        assert!(longest(0.01, 1.0) < longest(0.05, 1.0) && (longest(0.5, 1.0) - LONGEST).abs() < 1e-3);
        assert!((longest(0.01, 0.04) - 3.0).abs() < 1e-9 && (0.3..0.5).contains(&longest(0.01, 0.15)));
    }

    #[test]
    fn an_idle_target_earns_nothing() {
        let mut budget = Budget::new(0.01, 5.0);
        budget.enter(0.01 * ADVANCE, 0.1, 0.1, 0.1, 0.0);
        assert_eq!(budget.grant(&demand(0.001, 0.0, LONGEST), 5.0, 1000.0), None);
    }
}
