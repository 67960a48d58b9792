//! Whether a budget can be kept at all.

use std::collections::VecDeque;

/// CPU seconds that a window may cost beyond the most that it may before that counts. It is looked at every 5 ms: who is more than a few
/// of these late was not there to close it.
const SURPRISE: f64 = 0.1;
/// So many such windows are too many, and so many seconds of all.
const MOST: usize = 3;
const MOST_SECONDS: f64 = 1.0;
/// Within so many seconds: a run of days meets a moment without a processor now and then.
const SPAN: f64 = 600.0;

/// Windows of the last [`SPAN`] that cost far more than they may: when, and how much more in CPU seconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Overruns(VecDeque<(f64, f64)>);

impl Overruns {
    /// Enters a window: CPU seconds that it cost, and the most that it was to; `wall` is when, seconds.
    pub fn enter(&mut self, cost: f64, most: f64, wall: f64) {
        while self.0.pop_front_if(|(when, _)| wall - *when > SPAN).is_some() {}
        let beyond = cost - most;
        if beyond > SURPRISE {
            self.0.push_back((wall, beyond));
        }
    }

    /// Whether the next window cannot be trusted to cost what it may.
    pub fn are_too_many(&self) -> bool {
        self.0.len() >= MOST || self.seconds() >= MOST_SECONDS
    }

    /// CPU seconds that they cost beyond what they may.
    pub fn seconds(&self) -> f64 {
        self.0.iter().map(|(_, beyond)| beyond).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_given_up_where_windows_cannot_be_closed_in_time() {
        let after = |windows: &[(f64, f64)]| {
            let mut overruns = Overruns::default();
            for &(cost, most) in windows {
                overruns.enter(cost, most, 1.0);
            }
            overruns.are_too_many()
        };
        assert!(!after(&[(0.05, 0.001); 100]), "each was closed as soon as it was looked at");
        assert!(!after(&[(0.9, 0.85); 100]), "it was granted that much");
        assert!(!after(&[(0.3, 0.01); 2]) && after(&[(0.3, 0.01); 3]));
        assert!(after(&[(1.1, 0.01)]), "once is enough");
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let at = |times: &[f64]| {
            let mut overruns = Overruns::default();
            let too_many = times.iter().any(|&wall| {
                overruns.enter(0.4, 0.1, wall);
                overruns.are_too_many()
            });
            (too_many, overruns.seconds())
        };
        let (too_many, seconds) = at(&[0.0, 400.0, 800.0, 1200.0, 1700.0, 2200.0]);
        assert!(!too_many && (seconds - 0.6).abs() < 1e-9, "{seconds}");
        assert!(at(&[0.0, 1000.0, 1300.0, 1599.0]).0);
    }
}
