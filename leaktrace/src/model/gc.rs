//! What the cyclic collector did while we watched.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Most starts of full collections that are remembered, and of those of any generation; the oldest are forgotten.
const MAX_FULL: usize = 256;
const MAX_STARTS: usize = 128;
/// Of collections that begin so soon after one whose start is remembered it is not: then these reach back for 6 s at least, longer than a
/// look takes.
const STARTS_APART_NS: u64 = 50_000_000;
/// Most collections that are kept one by one.
const MAX_RECENT: usize = 4096;
/// Upper bounds of the pauses that [`GenerationLog::pauses`] counts, nanoseconds; the last count has none.
pub const PAUSE_BOUNDS_NS: [u64; 11] = [
    100_000,
    250_000,
    1_000_000,
    2_500_000,
    10_000_000,
    25_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];
/// CPython's default for the first threshold (`gc.get_threshold()`): 700 up to 3.11, 2000 from 3.13. Object pairs of
/// garbage cycles wait for a young collection only until so many containers were allocated.
const DEFAULT_THRESHOLD: u64 = 700;

/// One collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collection {
    pub generation: u8,
    /// Whether it examined every generation.
    pub full: bool,
    /// Where only counters are read, the time of the scan before, so that too little rather than too much is taken as
    /// examined.
    pub start_ns: u64,
    /// `None` where the pause is unknown.
    pub pause_ns: Option<u64>,
}

/// Sums of one generation since the attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GenerationLog {
    pub collections: u64,
    pub collected: u64,
    pub uncollectable: u64,
    pub pause_total_ns: u64,
    pub pause_max_ns: u64,
    /// How many pauses were within each of [`PAUSE_BOUNDS_NS`] and not within the one before; last: longer than all.
    pub pauses: [u64; PAUSE_BOUNDS_NS.len() + 1],
}

/// Collections of other interpreters than the main one, each of which has a collector of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OtherLog {
    pub collections: u64,
    pub pause_total_ns: u64,
    pub pause_max_ns: u64,
}

/// The history of the main interpreter's collector since the attach, and what the others did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GcLog {
    generations: Vec<GenerationLog>,
    full_starts: Vec<u64>,
    /// Of any generation, by time.
    #[serde(default)]
    starts: VecDeque<u64>,
    last_start: Option<u64>,
    pauses_unknown: bool,
    enabled: Option<bool>,
    #[serde(alias = "threshold")]
    patience: Option<u64>,
    #[serde(default)]
    others: OtherLog,
    /// The last ones, oldest first.
    #[serde(skip)]
    recent: VecDeque<Collection>,
    /// Collections that were added one by one.
    #[serde(skip)]
    recorded: u64,
}

impl GcLog {
    /// Adds a collection.
    pub fn record(&mut self, collection: Collection) {
        let generation = self.generation(collection.generation);
        generation.collections += 1;
        if let Some(pause) = collection.pause_ns {
            generation.pause_total_ns += pause;
            generation.pause_max_ns = generation.pause_max_ns.max(pause);
            generation.pauses[PAUSE_BOUNDS_NS.partition_point(|bound| *bound < pause)] += 1;
        } else {
            self.pauses_unknown = true;
        }
        if collection.full {
            if self.full_starts.len() >= MAX_FULL {
                self.full_starts.remove(0);
            }
            self.full_starts.push(collection.start_ns);
        }
        self.last_start = self.last_start.max(Some(collection.start_ns));
        if self.starts.back().is_none_or(|last| last.saturating_add(STARTS_APART_NS) <= collection.start_ns) {
            if self.starts.len() >= MAX_STARTS {
                self.starts.pop_front();
            }
            self.starts.push_back(collection.start_ns);
        }
        if self.recent.len() >= MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(collection);
        self.recorded += 1;
    }

    /// Adds a collection of another interpreter.
    pub fn record_other(&mut self, pause_ns: u64) {
        let others = &mut self.others;
        others.collections += 1;
        others.pause_total_ns = others.pause_total_ns.saturating_add(pause_ns);
        others.pause_max_ns = others.pause_max_ns.max(pause_ns);
    }

    pub fn others(&self) -> &OtherLog {
        &self.others
    }

    /// Collections that were added so far, and the last of those after the first `known`, oldest first.
    pub fn since(&self, known: u64) -> (u64, impl Iterator<Item = &Collection>) {
        let new = usize::try_from(self.recorded.saturating_sub(known)).unwrap_or(usize::MAX).min(self.recent.len());
        (self.recorded, self.recent.iter().skip(self.recent.len() - new))
    }

    /// Adds `count` collections of which only the counter tells. See [`Collection::start_ns`].
    pub fn record_untimed(&mut self, generation: u8, full: bool, start_ns: u64, count: u64) {
        if count > 0 {
            self.record(Collection { generation, full, start_ns, pause_ns: None });
            let log = self.generation(generation);
            log.collections = log.collections.saturating_add(count - 1);
        }
    }

    /// Sets what the interpreter's own statistics (`gc.get_stats()`) gained since the attach.
    pub fn set_collected(&mut self, generation: u8, collected: u64, uncollectable: u64) {
        let generation = self.generation(generation);
        generation.collected = collected;
        generation.uncollectable = uncollectable;
    }

    /// Sets whether automatic collection is on (`None`: cannot be told), and how many blocks may wait for the next collection in garbage
    /// cycles: for most versions the first threshold, or less where few young containers are known to have been made.
    pub fn set_state(&mut self, enabled: Option<bool>, patience: Option<u64>) {
        self.enabled = enabled;
        self.patience = patience;
    }

    /// Whether automatic collection is on, if known.
    pub fn enabled(&self) -> Option<bool> {
        self.enabled
    }

    /// So many blocks at most wait for a collection.
    pub fn patience(&self) -> u64 {
        self.patience.unwrap_or(DEFAULT_THRESHOLD)
    }

    /// Start of the last full collection that began before `time_ns`.
    pub fn last_full_before(&self, time_ns: u64) -> Option<u64> {
        self.full_starts.iter().copied().filter(|&start| start <= time_ns).max()
    }

    /// Start of the last collection of any generation that began before `time_ns`; of several close together, of the first.
    pub fn last_before(&self, time_ns: u64) -> Option<u64> {
        let of = |start: &u64| *start <= time_ns;
        // Recordings of before 0.1.0 have the last one only.
        self.starts.iter().rev().copied().find(of).or(self.last_start.filter(|last| self.starts.is_empty() && of(last)))
    }

    pub fn generations(&self) -> &[GenerationLog] {
        &self.generations
    }

    /// Whether each collection's pause was measured.
    pub fn pauses_known(&self) -> bool {
        !self.pauses_unknown
    }

    fn generation(&mut self, generation: u8) -> &mut GenerationLog {
        // Hostile input: CPython has at most three generations, whatever was read from the target.
        let index = usize::from(generation.min(2));
        if self.generations.len() <= index {
            self.generations.resize(index + 1, GenerationLog::default());
        }
        &mut self.generations[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(starts: impl Iterator<Item = u64>) -> GcLog {
        let mut log = GcLog::default();
        for start_ns in starts {
            log.record(Collection { generation: 0, full: false, start_ns, pause_ns: None });
        }
        log
    }

    #[test]
    fn collections_that_began_after_a_look_say_nothing_of_it() {
        let log = with([10, 500_000_000].into_iter());
        let before = [9, 10, 499_999_999, 500_000_000].map(|time| log.last_before(time));
        assert_eq!(before, [None, Some(10), Some(10), Some(500_000_000)]);
        assert_eq!(GcLog::default().last_before(u64::MAX), None);
        // Of a recording from before starts were kept.
        let old = GcLog { starts: VecDeque::new(), ..log };
        assert_eq!((old.last_before(499_999_999), old.last_before(500_000_000)), (None, Some(500_000_000)));
    }

    #[test]
    fn of_many_collections_the_starts_of_seconds_are_remembered() {
        const MILLISECOND: u64 = 1_000_000;
        let log = with((0..20_000).map(|n| n * MILLISECOND));
        assert_eq!(log.starts.len(), MAX_STARTS);
        let last = 19_999 * MILLISECOND;
        for back in [0, 1000, 6000] {
            let time = last - back * MILLISECOND;
            let start = log.last_before(time).unwrap();
            assert!(time - start <= STARTS_APART_NS, "{back} ms before the last: {start}");
        }
    }
}
