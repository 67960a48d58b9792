//! For how long each size class was seen whole, and when.

use std::collections::{HashMap, VecDeque};

use super::classes::LARGE;
use crate::model::Timeline;

/// When a window was open, or several of one cohort were.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exposure {
    /// In the clock of the wire.
    pub begin_ns: u64,
    pub end_ns: u64,
    /// For how long what was handed out in it counts.
    pub seconds: f64,
}

/// Windows that must have seen a class whole since a block was born, for it to count. What lies in memory of the C allocator may be
/// written anew each time, and look the same: more of them have to see that its address is not handed out.
const TESTS: usize = 1;
const TESTS_OF_LARGE: usize = 2;

/// The windows in which all of a class was armed.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    /// Oldest first, without the last ones.
    before: Vec<Exposure>,
    /// The last ones, by which those before are tested.
    last: VecDeque<Exposure>,
}

/// The same, by class.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exposures {
    classes: HashMap<u32, Seen>,
}

impl Exposures {
    /// Enters a window in which all of the classes with these bits were armed.
    pub fn enter(&mut self, complete: u64, window: Exposure) {
        for class in (0..64).filter(|class| complete & 1 << class != 0) {
            let seen = self.classes.entry(class).or_default();
            seen.last.push_back(window);
            if seen.last.len() > tests(class) {
                seen.before.extend(seen.last.pop_front());
            }
        }
    }

    /// Forgets that a class was seen: not all of it was armed.
    pub fn forget(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    /// Whether the class was seen whole again, often enough, since a block was born at `time_ns`. An address that is handed out again
    /// and again passes for a survivor until a window sees it handed out.
    pub fn has_tested(&self, class: u32, time_ns: u64) -> bool {
        let first =
            |seen: &Seen| seen.last.front().filter(|_| seen.last.len() == tests(class)).map(|first| first.begin_ns);
        self.classes.get(&class).and_then(first).is_some_and(|begin| begin > time_ns)
    }

    /// Seconds for which the class was seen, without the last times: what was born then is not tested yet.
    pub fn seconds(&self, class: u32) -> f64 {
        self.classes.get(&class).map_or(0.0, |seen| seen.before.iter().map(|exposure| exposure.seconds).sum())
    }

    /// The same by cohort.
    pub fn by_cohort(&self, class: u32, timeline: &Timeline) -> Vec<f64> {
        let mut cohorts = vec![0.0; timeline.cohorts()];
        if let (Some(seen), false) = (self.classes.get(&class), cohorts.is_empty()) {
            for exposure in &seen.before {
                cohorts[timeline.cohort_of(exposure.begin_ns)] += exposure.seconds;
            }
        }
        cohorts
    }

    /// Joins what lies in one cohort: cohorts only ever merge, so this loses nothing, and the lists stay short.
    pub fn coalesce(&mut self, timeline: &Timeline) {
        for seen in self.classes.values_mut() {
            seen.before.dedup_by(|later, earlier| {
                let same = timeline.cohort_of(later.begin_ns) == timeline.cohort_of(earlier.begin_ns);
                if same {
                    *earlier = Exposure { end_ns: later.end_ns, seconds: earlier.seconds + later.seconds, ..*earlier };
                }
                same
            });
        }
    }
}

fn tests(class: u32) -> usize {
    if class == LARGE { TESTS_OF_LARGE } else { TESTS }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(begin_ns: u64, seconds: f64) -> Exposure {
        Exposure { begin_ns, end_ns: begin_ns + 1, seconds }
    }

    #[test]
    fn the_last_window_tests_those_before() {
        let mut exposures = Exposures::default();
        exposures.enter(0b101, window(6, 0.1));
        assert!(!exposures.has_tested(0, 6) && exposures.seconds(0) == 0.0);
        exposures.enter(0b001, window(16, 0.2));
        assert!(exposures.has_tested(0, 15) && !exposures.has_tested(0, 17) && !exposures.has_tested(2, 7));
        assert!((exposures.seconds(0) - 0.1).abs() < 1e-9);
        exposures.forget(0);
        assert!(!exposures.has_tested(0, 15) && exposures.seconds(0) == 0.0);
    }

    #[test]
    fn memory_of_the_c_allocator_is_tested_more_often() {
        let mut exposures = Exposures::default();
        for begin in 1..=3 {
            assert!(!exposures.has_tested(LARGE, 11) && exposures.seconds(LARGE) == 0.0);
            exposures.enter(1 << LARGE, window(10 * begin, 0.1));
        }
        assert!(exposures.has_tested(LARGE, 15) && !exposures.has_tested(LARGE, 25));
        assert!((exposures.seconds(LARGE) - 0.1).abs() < 1e-9);
    }

    #[test]
    fn windows_of_one_cohort_become_one() {
        let mut timeline = Timeline::new(0);
        timeline.push(10);
        let mut exposures = Exposures::default();
        for (begin, seconds) in [(6, 0.1), (8, 0.2), (14, 0.4), (16, 0.8)] {
            exposures.enter(1, window(begin, seconds));
        }
        timeline.push(20);
        exposures.coalesce(&timeline);
        assert_eq!(exposures.classes[&0].before.len(), 2);
        let by_cohort = exposures.by_cohort(0, &timeline);
        assert!((by_cohort[0] - 0.3).abs() < 1e-9 && (by_cohort[1] - 0.4).abs() < 1e-9, "{by_cohort:?}");
    }
}
