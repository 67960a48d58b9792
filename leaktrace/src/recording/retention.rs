//! Which of a growing number of scans are kept, so that a recording stays small however long it goes on.

use std::collections::BTreeSet;
use std::ops::Bound;

/// So many of the newest are all kept.
const RECENT: u64 = 300;
/// Before them, every 1st, 2nd, 4th, 8th ... is, so that there are no more than about this many.
const COARSE: u64 = 512;
/// Most that go at a time, so that no scan takes much longer than the others.
const MOST: usize = 4;

/// A scan that goes. What changed at it counts for the next one that stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) scan: u64,
    pub(super) next: u64,
}

/// The scans that are kept, by their number from 1 on.
///
/// Numbers that are divided by the stride stay. [`Timeline`](crate::model::Timeline) keeps fewer samples in the same way,
/// so each of its samples is among them.
#[derive(Debug, Default)]
pub(super) struct Retention {
    kept: BTreeSet<u64>,
    stride: u64,
    /// All before it were looked at since the stride grew.
    next: u64,
}

impl Retention {
    /// Adds the newest scan, and says which go: the newest of them first, so that the newer change wins.
    pub(super) fn add(&mut self, scan: u64) -> Vec<Dropped> {
        self.kept.insert(scan);
        let stride = scan.div_ceil(COARSE).max(1).next_power_of_two();
        if stride != self.stride {
            (self.stride, self.next) = (stride, 0);
        }
        let old = scan.saturating_sub(RECENT);
        let mut gone = Vec::new();
        while let Some(&candidate) = self.kept.range(self.next..old).next() {
            self.next = candidate + 1;
            if !candidate.is_multiple_of(stride) {
                gone.push(candidate);
                if gone.len() == MOST {
                    break;
                }
            }
        }
        gone.reverse();
        gone.into_iter().filter_map(|scan| self.drop_one(scan)).collect()
    }

    fn drop_one(&mut self, scan: u64) -> Option<Dropped> {
        self.kept.remove(&scan);
        let next = *self.kept.range((Bound::Excluded(scan), Bound::Unbounded)).next()?;
        Some(Dropped { scan, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timeline;

    #[test]
    fn a_day_of_seconds_stays_small_and_holds_every_sample_of_the_timeline() {
        let (mut retention, mut timeline) = (Retention::default(), Timeline::new(0));
        let mut kept = BTreeSet::from([0]);
        for scan in 1..=86_400 {
            timeline.push(scan);
            kept.insert(scan);
            for dropped in retention.add(scan) {
                assert!(kept.remove(&dropped.scan) && dropped.next > dropped.scan);
            }
            assert!(kept.len() <= (RECENT + 2 * COARSE) as usize, "{scan}: {}", kept.len());
            assert!(timeline.samples().iter().all(|sample| kept.contains(sample)), "{scan}");
        }
        assert!((86_400 - RECENT..=86_400).all(|scan| kept.contains(&scan)));
    }

    #[test]
    fn what_goes_moves_to_one_that_stays() {
        let mut retention = Retention::default();
        for scan in 1..=5_000 {
            let gone = retention.add(scan);
            assert!(gone.iter().all(|dropped| gone.iter().all(|other| other.scan != dropped.next)));
        }
    }
}
