//! Growth of the heap by size class, from pymalloc's own counts of used blocks.

use leaktrace_common::wire::SiteStats;

use crate::model::{Rate, growth::Point};

/// Readings kept; when they are more, every other one goes.
const MOST: usize = 128;
/// Readings below which nothing is known to grow or not to.
const FEWEST: usize = 4;

/// Used blocks of each size class over time.
#[derive(Debug, Clone, Default)]
pub struct Classes {
    readings: Vec<(f64, Vec<u64>)>,
}

impl Classes {
    /// Enters a reading at `seconds` of the trace: used blocks by class.
    pub fn enter(&mut self, seconds: f64, used: Vec<u64>) {
        if self.readings.len() == MOST {
            let mut index = 0;
            self.readings.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.readings.push((seconds, used));
    }

    /// Blocks a second by which a class grows, from its later half: what filled up at first is past. `None` before enough is
    /// known.
    pub fn growth(&self, class: usize) -> Option<Rate> {
        if self.readings.len() < FEWEST {
            return None;
        }
        let later = &self.readings[self.readings.len() / 2 - 1..];
        let points: Vec<_> = later
            .iter()
            .filter_map(|(seconds, used)| Some(Point { seconds: *seconds, value: *used.get(class)? as f64 }))
            .collect();
        Some(Rate::of_series(&points))
    }

    /// The classes that grow, as bits of [`SiteStats::classes`]; of blocks of the C allocator it is not known. All, before
    /// enough is known.
    pub fn growing(&self) -> u64 {
        let Some((_, used)) = self.readings.last().filter(|_| self.readings.len() >= FEWEST) else { return u64::MAX };
        let grows = |class: usize| self.growth(class).is_some_and(|rate| rate.is_positive());
        let classes = (0..used.len().min(63)).filter(|&class| grows(class)).fold(0, |bits, class| bits | 1 << class);
        classes | SiteStats::LARGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(counts: impl Fn(usize) -> Vec<u64>) -> Classes {
        let mut classes = Classes::default();
        for step in 0..20 {
            classes.enter(step as f64 * 5.0, counts(step));
        }
        classes
    }

    #[test]
    fn a_class_that_rises_grows_and_one_that_sways_does_not() {
        let classes = series(|step| vec![1000 + 250 * step as u64, 5000 + (step as u64 * 7919) % 400, 100]);
        assert_eq!(classes.growing() & 0b111, 0b001);
        let rate = classes.growth(0).unwrap();
        assert!((rate.estimate - 50.0).abs() < 1.0, "{rate:?}");
    }

    #[test]
    fn what_filled_up_at_first_does_not_grow() {
        let classes = series(|step| vec![(1000 * step as u64).min(6000)]);
        assert_eq!(classes.growing() & 1, 0);
    }

    #[test]
    fn at_first_everything_may_grow() {
        let mut classes = Classes::default();
        classes.enter(0.0, vec![1]);
        assert_eq!(classes.growing(), u64::MAX);
    }

    #[test]
    fn readings_stay_bounded() {
        let mut classes = Classes::default();
        for step in 0..10_000 {
            classes.enter(f64::from(step), vec![7]);
        }
        assert!(classes.readings.len() <= MOST);
    }
}
