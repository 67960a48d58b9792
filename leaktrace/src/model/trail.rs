//! What is remembered of a site, and of several sites read as one.

use serde::{Deserialize, Serialize};

use super::growth::{Increment, Point, Rate};
use super::timeline::{REFERENCES, Timeline};

/// Blocks and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    pub blocks: u64,
    pub bytes: u64,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.bytes += other.bytes;
    }

    /// What `self` has more than `other`, never below zero.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self { blocks: self.blocks.saturating_sub(other.blocks), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

/// What lives of one cohort at one site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cell {
    pub live_bytes: u64,
    pub live: u32,
    /// Blocks that lived at the timeline's reference scans, newest first.
    pub references: [u32; REFERENCES],
}

impl Cell {
    pub(crate) fn add(&mut self, other: &Self) {
        self.live_bytes += other.live_bytes;
        self.live = self.live.saturating_add(other.live);
        for (count, more) in self.references.iter_mut().zip(other.references) {
            *count = count.saturating_add(more);
        }
    }
}

/// History of a site, or of several sites added up: allocated, live, by cohort and over time.
#[derive(Debug, Clone, Default)]
pub struct Trail {
    /// Everything allocated since the attach.
    pub allocated: Tally,
    /// What of it lived at the last scan.
    pub live: Tally,
    /// Blocks of it that the table had no room for: whether they live is not known.
    pub lost_blocks: u64,
    /// As many as there were of them at the timeline's reference scans, newest first.
    pub(crate) lost_references: [u64; REFERENCES],
    /// Start of the interval in which the first block was allocated; 0 before that.
    pub first_ns: u64,
    /// Birth of the oldest block that lives.
    pub oldest_ns: Option<u64>,
    /// One per cohort of the timeline; empty when no block ever lived at a scan.
    pub(crate) cells: Vec<Cell>,
    /// One per sample of the timeline; empty when no block ever lived at a scan.
    pub(crate) series: Vec<Tally>,
}

impl Trail {
    /// What was freed: allocated less live and lost, never below zero.
    pub fn freed(&self) -> Tally {
        let lost = Tally { blocks: self.lost_blocks, bytes: (self.mean_bytes() * self.lost_blocks as f64) as u64 };
        self.allocated.less(self.live).less(lost)
    }

    /// Bytes of a block on average.
    pub fn mean_bytes(&self) -> f64 {
        self.allocated.bytes as f64 / self.allocated.blocks.max(1) as f64
    }

    /// Blocks lost since the reference scan with this index.
    pub fn lost_since(&self, reference: usize) -> u64 {
        self.lost_blocks.saturating_sub(self.lost_references[reference])
    }

    /// Share of the blocks allocated that were freed, 0 to 1.
    pub fn freed_share(&self) -> f64 {
        if self.allocated.blocks == 0 { 0.0 } else { self.freed().blocks as f64 / self.allocated.blocks as f64 }
    }

    /// Live blocks and bytes at the times of [`Timeline::samples`], oldest first; empty when nothing ever lived.
    pub fn series(&self) -> &[Tally] {
        &self.series
    }

    /// What lives of each cohort, oldest first; empty when nothing ever lived.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Cohorts of which a block lives.
    pub fn surviving_cohorts(&self) -> usize {
        self.cells.iter().filter(|cell| cell.live > 0).count()
    }

    /// Adds another site's history on the same timeline.
    pub fn merge(&mut self, other: &Self) {
        self.allocated.add(other.allocated);
        self.live.add(other.live);
        self.lost_blocks += other.lost_blocks;
        for (count, more) in self.lost_references.iter_mut().zip(other.lost_references) {
            *count += more;
        }
        self.first_ns = match (self.first_ns, other.first_ns) {
            (0, first) | (first, 0) => first,
            (a, b) => a.min(b),
        };
        self.oldest_ns = [self.oldest_ns, other.oldest_ns].into_iter().flatten().min();
        if self.cells.len() < other.cells.len() {
            self.cells.resize(other.cells.len(), Cell::default());
        }
        for (cell, more) in self.cells.iter_mut().zip(&other.cells) {
            cell.add(more);
        }
        if self.series.len() < other.series.len() {
            self.series.resize(other.series.len(), Tally::default());
        }
        for (sample, more) in self.series.iter_mut().zip(&other.series) {
            sample.add(*more);
        }
    }

    /// Slope of the live level since the site's first block, picked by `value`.
    pub fn slope(&self, timeline: &Timeline, value: impl Fn(&Tally) -> u64) -> Rate {
        let points: Vec<_> = timeline
            .samples()
            .iter()
            .zip(&self.series)
            .filter(|(time, _)| **time >= self.first_ns)
            .map(|(time, tally)| Point { seconds: seconds(time - timeline.start_ns()), value: value(tally) as f64 })
            .collect();
        Rate::of_series(&points)
    }

    /// What each cohort has left, picked by `value`, over `cohorts` (indices). With `exposure` (seconds by cohort) each is
    /// as long as was looked, and left out where nobody did.
    pub fn survivors(
        &self,
        timeline: &Timeline,
        exposure: Option<&[f64]>,
        cohorts: std::ops::Range<usize>,
        value: impl Fn(&Cell) -> u64,
    ) -> Vec<Increment> {
        cohorts
            .map(|index| Increment {
                seconds: match exposure {
                    Some(exposure) => exposure.get(index).copied().unwrap_or(0.0),
                    None => seconds(timeline.cohort_end(index) - timeline.cohort_start(index)),
                },
                amount: self.cells.get(index).map_or(0, &value) as f64,
            })
            .filter(|increment| increment.seconds > 0.0)
            .collect()
    }
}

/// Nanoseconds as seconds.
pub(crate) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}
