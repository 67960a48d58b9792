//! Whether a budget can be kept at all.

/// CPU seconds that a window may cost beyond what it was granted before that counts. It is looked at every 5 ms: who is more than a few
/// of these late was not there to close it.
const SURPRISE: f64 = 0.1;
/// So many such windows are too many, and so many seconds of all.
const MOST: u32 = 3;
const MOST_SECONDS: f64 = 1.0;

/// Windows that cost far more than they were granted.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Overruns {
    windows: u32,
    seconds: f64,
}

impl Overruns {
    /// Enters a window: CPU seconds that it cost, and that it was granted.
    pub fn enter(&mut self, cost: f64, granted: f64) {
        let beyond = cost - granted;
        if beyond > SURPRISE {
            self.windows += 1;
            self.seconds += beyond;
        }
    }

    /// Whether the next window cannot be trusted to cost what it is granted.
    pub fn are_too_many(&self) -> bool {
        self.windows >= MOST || self.seconds >= MOST_SECONDS
    }

    /// CPU seconds that they cost beyond what they were granted.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_given_up_where_windows_cannot_be_closed_in_time() {
        let after = |windows: &[(f64, f64)]| {
            let mut overruns = Overruns::default();
            for &(cost, granted) in windows {
                overruns.enter(cost, granted);
            }
            overruns.are_too_many()
        };
        assert!(!after(&[(0.05, 0.001); 100]), "each was closed as soon as it was looked at");
        assert!(!after(&[(0.9, 0.85); 100]), "it was granted that much");
        assert!(!after(&[(0.3, 0.01); 2]) && after(&[(0.3, 0.01); 3]));
        assert!(after(&[(1.1, 0.01)]), "once is enough");
    }
}
