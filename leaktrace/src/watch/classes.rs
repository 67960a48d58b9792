//! Growth of the heap by size class: from pymalloc's own counts of used blocks, and for the C allocator from the resident memory
//! that is not pymalloc's.

use super::units::Growing;
use crate::model::{Rate, growth::Point};

/// Readings kept; when they are more, every other one goes.
const MOST: usize = 128;
/// Readings below which nothing is known to grow or not to, and seconds that they must cover.
const FEWEST: usize = 6;
const SHORTEST: f64 = 5.0;
/// Seconds of readings from which on what does not grow is believed not to.
const ENOUGH: f64 = 60.0;
/// Share of its mean pace above which a target works as it did.
const STILL_WORKS: f64 = 0.5;
/// The class of the C allocator's blocks: the highest bit of [`leaktrace_common::wire::SiteStats::classes`].
pub const LARGE: u32 = 63;
/// Bytes that a block of the C allocator is reckoned at, to compare its growth with that of others.
const LARGE_BLOCK: f64 = 1024.0;

/// What outlived a window, of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    pub blocks: u64,
    pub bytes: u64,
    /// Of these, those of which it is known who asked for them.
    pub named: u64,
}

impl Found {
    pub fn add(&mut self, bytes: u64, named: bool) {
        self.blocks += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.named += u64::from(named);
    }

    /// In the blocks that growth is told in.
    pub(super) fn grown(&self, class: u32) -> f64 {
        if class == LARGE { self.bytes as f64 / LARGE_BLOCK } else { self.blocks as f64 }
    }

    /// The same of those that are named.
    pub(super) fn named(&self, class: u32) -> f64 {
        self.grown(class) * self.named as f64 / self.blocks.max(1) as f64
    }
}

/// Used blocks of each size class over time.
#[derive(Debug, Clone, Default)]
pub struct Classes {
    readings: Vec<Reading>,
}

#[derive(Debug, Clone)]
struct Reading {
    seconds: f64,
    cpu_seconds: f64,
    used: Vec<u64>,
    other_bytes: u64,
}

impl Classes {
    /// Enters a reading at `seconds` of the trace, when the target had used `cpu_seconds`: used blocks by class, and bytes of resident
    /// memory that are not in these.
    pub fn enter(&mut self, seconds: f64, cpu_seconds: f64, used: Vec<u64>, other_bytes: u64) {
        if self.readings.len() == MOST {
            let mut index = 0;
            self.readings.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.readings.push(Reading { seconds, cpu_seconds, used, other_bytes });
    }

    /// Blocks a second by which a class grows, of [`LARGE`] bytes a second; from its later half: what filled up at first is past.
    /// `None` before enough is known.
    pub fn growth(&self, class: u32) -> Option<Rate> {
        self.growth_of_last(self.readings.len().div_ceil(2) + 1, class)
    }

    /// The same of its last third: of what filled up a moment ago this says so first.
    pub fn recent_growth(&self, class: u32) -> Option<Rate> {
        self.growth_of_last((self.readings.len() / 3).max(FEWEST), class)
    }

    fn growth_of_last(&self, readings: usize, class: u32) -> Option<Rate> {
        let (first, last) = (self.readings.first()?, self.readings.last()?);
        if self.readings.len() < FEWEST || last.seconds - first.seconds < SHORTEST {
            return None;
        }
        let later = &self.readings[self.readings.len().saturating_sub(readings)..];
        let value = |reading: &Reading| match class {
            LARGE => Some(reading.other_bytes),
            _ => reading.used.get(class as usize).copied(),
        };
        let point = |reading: &Reading| Some(Point { seconds: reading.seconds, value: value(reading)? as f64 });
        Some(Rate::of_series(&later.iter().filter_map(point).collect::<Vec<_>>()))
    }

    /// The classes that grow; none before enough is known.
    pub fn growing(&self) -> Vec<Growing> {
        let blocks = |class, rate| if class == LARGE { rate / LARGE_BLOCK } else { rate };
        self.rates().map(|(class, rate)| Growing { class, blocks_per_second: blocks(class, rate) }).collect()
    }

    fn rates(&self) -> impl Iterator<Item = (u32, f64)> {
        let small = self.readings.last().map_or(0, |last| last.used.len() as u32);
        let classes = (0..small.min(LARGE)).chain([LARGE]);
        classes.filter_map(|class| Some((class, self.growth(class).filter(Rate::is_positive)?.estimate)))
    }

    /// Whether it was looked long enough, at a target that works as it did, to say that nothing grows: a service without requests
    /// leaks nothing.
    pub fn is_known_not_to_grow(&self) -> bool {
        let (Some(first), Some(last)) = (self.readings.first(), self.readings.last()) else { return false };
        let Some(late) = self.readings.get(self.readings.len() / 3 * 2) else { return false };
        let pace = |since: &Reading| (last.cpu_seconds - since.cpu_seconds) / (last.seconds - since.seconds).max(1e-3);
        let works = pace(late) >= STILL_WORKS * pace(first);
        last.seconds - first.seconds >= ENOUGH && works && self.rates().next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(counts: impl Fn(usize) -> Vec<u64>) -> Classes {
        let mut classes = Classes::default();
        for step in 0..20 {
            classes.enter(step as f64 * 5.0, step as f64, counts(step), 1 << 20);
        }
        classes
    }

    #[test]
    fn a_class_that_rises_grows_and_one_that_sways_does_not() {
        let classes = series(|step| vec![1000 + 250 * step as u64, 5000 + (step as u64 * 7919) % 400, 100]);
        let numbers: Vec<u32> = classes.growing().iter().map(|of| of.class).collect();
        assert_eq!(numbers, [0]);
        let rate = classes.growth(0).unwrap();
        assert!((rate.estimate - 50.0).abs() < 1.0, "{rate:?}");
    }

    #[test]
    fn what_filled_up_at_first_does_not_grow() {
        let classes = series(|step| vec![(1000 * step as u64).min(6000)]);
        assert!(classes.growing().is_empty() && classes.is_known_not_to_grow());
    }

    #[test]
    fn what_has_no_work_is_not_known_not_to_grow() {
        let of = |cpu: fn(u32) -> f64| {
            let mut classes = Classes::default();
            for step in 0..100 {
                classes.enter(f64::from(step), cpu(step), vec![100 * u64::from(step.min(40))], 0);
            }
            assert!(classes.growing().is_empty());
            classes.is_known_not_to_grow()
        };
        assert!(!of(|step| 0.1 * f64::from(step.min(40))), "its load has stopped");
        assert!(of(|step| 0.1 * f64::from(step)), "it works on");
        assert!(of(|_| 5.0), "it never worked");
    }

    #[test]
    fn what_has_just_filled_up_does_not_grow_any_more() {
        // It was full after four fifths of the time.
        let classes = series(|step| vec![(1000 * step as u64).min(16_000), 50 * step as u64]);
        assert!(classes.growth(0).unwrap().is_positive() && !classes.recent_growth(0).unwrap().is_positive());
        assert!(classes.recent_growth(1).unwrap().is_positive());
    }

    #[test]
    fn other_memory_is_a_class_of_its_own() {
        let mut classes = Classes::default();
        for step in 0..20_u32 {
            classes.enter(f64::from(step), 0.0, vec![7 + 10 * u64::from(step)], 5000 + 10240 * u64::from(step));
        }
        let growing = classes.growing();
        assert_eq!((growing[0].class, growing[1].class), (0, LARGE));
        assert!(growing.iter().all(|of| (of.blocks_per_second - 10.0).abs() < 0.1), "{growing:?}");
    }

    #[test]
    fn at_first_nothing_is_known() {
        let mut classes = Classes::default();
        for step in 0..20_u32 {
            classes.enter(f64::from(step) * 0.2, 0.0, vec![u64::from(step) * 100], 0);
        }
        assert!(classes.growing().is_empty() && !classes.is_known_not_to_grow());
    }

    #[test]
    fn readings_stay_bounded() {
        let mut classes = Classes::default();
        for step in 0..10_000 {
            classes.enter(f64::from(step), 0.0, vec![7], 0);
        }
        assert!(classes.readings.len() <= MOST);
    }
}
