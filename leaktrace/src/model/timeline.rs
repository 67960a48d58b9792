//! The time axis that all sites share: cohort boundaries, sampling points and the reference scan.
//!
//! A cohort is the interval between two scans in which a block was allocated. All three lists are bounded, whatever
//! the length of the trace: cohorts are merged with their neighbours, samples are thinned to every 2nd, 4th, 8th ... scan.

use serde::{Deserialize, Serialize};

/// Most cohorts that are told apart.
pub const MAX_COHORTS: usize = 40;
/// The newest cohorts are never merged.
const FRESH_COHORTS: usize = 8;
/// Most samples in a series.
pub const MAX_SAMPLES: usize = 64;
/// Past scans whose counts are kept, to see what has died since.
pub const REFERENCES: usize = 4;
/// A scan becomes a reference when the trace is 5/4 as long as at the newest one, so that they always lie about at 45,
/// 55, 70 and 90 % of the trace.
const REFERENCE_STRIDE: (u64, u64) = (5, 4);

/// What every site must do to its own lists when a scan is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Cohort that was merged into its predecessor, by its old index.
    pub merged: Option<usize>,
    /// Samples at odd indices were dropped before the new one was added; see [`Timeline::samples`].
    pub thinned: bool,
    /// This scan became the newest reference, and the oldest one was dropped.
    pub referenced: bool,
}

/// Shared time axis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    start_ns: u64,
    cohort_ends: Vec<u64>,
    samples: Vec<u64>,
    /// Scans from one sample to the next, a power of two.
    stride: u64,
    references: [u64; REFERENCES],
    scans: u64,
    last_interval_ns: u64,
}

impl Timeline {
    /// A trace that began at `start_ns`, when nothing had been allocated yet.
    pub fn new(start_ns: u64) -> Self {
        Self {
            start_ns,
            cohort_ends: Vec::new(),
            samples: vec![start_ns],
            stride: 1,
            references: [start_ns; REFERENCES],
            scans: 0,
            last_interval_ns: 0,
        }
    }

    /// Adds a scan: closes a cohort at `now_ns` and takes a sample. A time not after the last scan's is moved behind it.
    pub fn push(&mut self, now_ns: u64) -> Step {
        let now_ns = now_ns.max(self.now_ns() + 1);
        self.last_interval_ns = now_ns - self.now_ns();
        let merged = self.merge_if_full();
        self.cohort_ends.push(now_ns);
        // The last sample is always the last scan; it makes way when it is not one of every `stride`.
        let passing = !self.scans.is_multiple_of(self.stride);
        let thinned = !passing && self.samples.len() >= MAX_SAMPLES;
        if passing {
            self.samples.pop();
        } else if thinned {
            thin(&mut self.samples);
            self.stride *= 2;
        }
        self.samples.push(now_ns);
        self.scans += 1;
        let (times, per) = REFERENCE_STRIDE;
        let referenced = (now_ns - self.start_ns) * per >= (self.references[0] - self.start_ns) * times;
        if referenced {
            self.references.rotate_right(1);
            self.references[0] = now_ns;
        }
        Step { merged, thinned, referenced }
    }

    /// Joins the two neighbours that are shortest together, so that old cohorts stay about equally long.
    fn merge_if_full(&mut self) -> Option<usize> {
        if self.cohort_ends.len() < MAX_COHORTS {
            return None;
        }
        let candidates = 1..self.cohort_ends.len() - FRESH_COHORTS;
        let merged = candidates.min_by_key(|&index| self.cohort_ends[index] - self.cohort_start(index - 1))?;
        self.cohort_ends.remove(merged - 1);
        Some(merged)
    }

    /// Index of the cohort that a block born at `time_ns` belongs to. Blocks born after the last scan count with the
    /// newest cohort. There must have been a scan.
    #[inline]
    pub fn cohort_of(&self, time_ns: u64) -> usize {
        self.cohort_ends.partition_point(|&end| end < time_ns).min(self.cohort_ends.len() - 1)
    }

    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// Time of the last scan, or the start.
    pub fn now_ns(&self) -> u64 {
        self.cohort_ends.last().copied().unwrap_or(self.start_ns)
    }

    /// Time between the last two scans.
    pub fn last_interval_ns(&self) -> u64 {
        self.last_interval_ns
    }

    /// Scans so far.
    pub fn scans(&self) -> u64 {
        self.scans
    }

    /// Times of the reference scans, newest first.
    pub fn references(&self) -> [u64; REFERENCES] {
        self.references
    }

    /// Index of the reference nearest to 55 % of the way from `first_ns` to now.
    pub fn reference_for(&self, first_ns: u64) -> usize {
        let wanted = first_ns + self.now_ns().saturating_sub(first_ns) / 20 * 11;
        let distance = |index: &usize| self.references[*index].abs_diff(wanted);
        (0..REFERENCES).min_by_key(distance).unwrap_or(0)
    }

    pub fn cohorts(&self) -> usize {
        self.cohort_ends.len()
    }

    /// Start of a cohort, exclusive.
    pub fn cohort_start(&self, index: usize) -> u64 {
        if index == 0 { self.start_ns } else { self.cohort_ends[index - 1] }
    }

    /// End of a cohort, inclusive.
    pub fn cohort_end(&self, index: usize) -> u64 {
        self.cohort_ends[index]
    }

    /// Times of the samples: the start of the trace, every so many scans evenly over all of it, and the last one.
    pub fn samples(&self) -> &[u64] {
        &self.samples
    }
}

impl Timeline {
    /// Whether one that was read from outside keeps the rules that the others rely on.
    pub fn is_sound(&self) -> bool {
        let rising =
            |times: &[u64]| times.is_sorted_by(|a, b| a < b) && times.first().is_none_or(|t| *t >= self.start_ns);
        self.cohort_ends.len() <= MAX_COHORTS
            && self.samples.len() <= MAX_SAMPLES
            && self.samples.first() == Some(&self.start_ns)
            && self.samples.last() == Some(&self.now_ns())
            && self.stride.is_power_of_two()
            && rising(&self.cohort_ends)
            && rising(&self.samples)
            && self.references.iter().all(|time| (self.start_ns..=self.now_ns()).contains(time))
    }
}

/// Drops the elements at odd indices.
pub(super) fn thin<T>(list: &mut Vec<T>) {
    let mut index = 0;
    list.retain(|_| {
        index += 1;
        index % 2 == 1
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn lists_stay_bounded_and_cohorts_cover_the_trace_without_gaps() {
        let mut timeline = Timeline::new(7);
        for scan in 1..=5000 {
            timeline.push(7 + scan * 5 * SECOND);
            assert!(timeline.cohorts() <= MAX_COHORTS && timeline.samples().len() <= MAX_SAMPLES);
        }
        assert_eq!((timeline.cohort_start(0), timeline.now_ns()), (7, 7 + 25_000 * SECOND));
        assert!(timeline.is_sound());
        // Evenly over the whole trace, but for the last.
        let steps: Vec<_> = timeline.samples().windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps[..steps.len() - 1].iter().all(|step| *step == steps[0]), "{steps:?}");
        // The one next to the fresh ones is still being filled up.
        let lengths: Vec<_> = (0..MAX_COHORTS - FRESH_COHORTS - 1)
            .map(|index| timeline.cohort_end(index) - timeline.cohort_start(index))
            .collect();
        let (min, max) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
        assert!(*max <= 4 * min, "{lengths:?}");
        for time in [8, 5 * SECOND, 999 * SECOND, 24_999 * SECOND] {
            let cohort = timeline.cohort_of(time);
            assert!(timeline.cohort_start(cohort) < time && time <= timeline.cohort_end(cohort));
        }
    }

    #[test]
    fn a_reference_lies_in_the_middle_of_any_large_part_of_the_trace() {
        let mut timeline = Timeline::new(0);
        for scan in 1..2000 {
            timeline.push(scan * SECOND);
            for first in [0, scan / 4, scan / 2] {
                let reference = timeline.references()[timeline.reference_for(first * SECOND)];
                let share = (reference as f64 / SECOND as f64 - first as f64) / (scan - first) as f64;
                assert!(scan < 20 || (0.35..=0.75).contains(&share), "{first}..{scan}: {share}");
            }
        }
    }

    #[test]
    fn time_never_runs_backwards() {
        let mut timeline = Timeline::new(100);
        timeline.push(50);
        timeline.push(50);
        assert_eq!(timeline.now_ns(), 102);
        assert_eq!(timeline.cohort_of(0), 0);
        assert_eq!(timeline.cohort_of(u64::MAX), 1);
    }
}
