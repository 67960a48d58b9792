//! What the collector did while it was watched, and what of it deserves a warning.

use serde::Serialize;

/// A pause worth a warning, seconds.
pub const LONG_PAUSE: f64 = 0.1;
/// Longest pauses that are kept.
const LONGEST: usize = 10;
/// Full collections between which the oldest generation has to grow, each time, before this is said.
const GROWING: usize = 3;
/// Buckets of the histogram: from 1 us to 500 s.
const BUCKETS: usize = 27;

/// Longest pause of a bucket, microseconds: 1, 2, 5, 10, 20 ...
fn bound(bucket: usize) -> f64 {
    [1.0, 2.0, 5.0][bucket % 3] * f64::powi(10.0, (bucket / 3) as i32)
}

/// The collector's counters at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    pub enabled: bool,
    /// Of each generation, the youngest first.
    pub collections: [u64; 3],
    pub uncollectable: u64,
    /// Objects that survived the last full collection; where there is no such number, all tracked ones.
    pub old_objects: u64,
}

/// One collection.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pause {
    pub generation: u32,
    pub seconds: f64,
    /// When it began, seconds since the watch began.
    pub at: f64,
    /// Of another interpreter than the main one, whose collections are the ones that are counted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub other_interpreter: bool,
}

/// Pauses up to a length.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bucket {
    /// Seconds. The last one, of 500 s, has all longer ones too.
    pub up_to: f64,
    pub count: u64,
}

/// The pauses of all collections that were seen.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Pauses {
    pub count: u64,
    /// Of these, those of other interpreters than the main one.
    pub other_interpreters: u64,
    pub total_seconds: f64,
    pub max_seconds: f64,
    /// Longer than 100 ms.
    pub long: u64,
    /// From the first to the last that is not empty.
    pub histogram: Vec<Bucket>,
    /// The longest first.
    pub longest: Vec<Pause>,
}

/// The collector over some time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Watched {
    pub seconds: f64,
    /// Collections of each generation of the main interpreter, the youngest first.
    pub collections: [u64; 3],
    /// Objects that could not be freed.
    pub uncollectable: u64,
    /// `null`: no probes could be set.
    pub pauses: Option<Pauses>,
    /// Why there are no pauses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without_pauses: Option<String>,
    pub warnings: Vec<Warning>,
}

/// What deserves a look.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Warning {
    /// It was off at each look.
    Disabled { seconds: f64 },
    /// The oldest generation grew from each full collection to the next.
    OldGenerationGrows { first: u64, last: u64, full_collections: u64 },
    /// Objects became uncollectable.
    Uncollectable { objects: u64 },
    /// Pauses over 100 ms.
    LongPauses { count: u64, max_seconds: f64 },
}

/// Watches a collector.
#[derive(Debug)]
pub struct Watch {
    first: Counters,
    last: Counters,
    seconds: f64,
    was_enabled: bool,
    /// Objects of the oldest generation after each full collection that was noticed, the first look included.
    old: Vec<u64>,
    buckets: [u64; BUCKETS],
    pauses: Pauses,
}

impl Watch {
    pub fn new(first: Counters) -> Self {
        Self {
            first,
            last: first,
            seconds: 0.0,
            was_enabled: first.enabled,
            old: vec![first.old_objects],
            buckets: [0; BUCKETS],
            pauses: Pauses::default(),
        }
    }

    /// A look, `seconds` after the first.
    pub fn add(&mut self, counters: Counters, seconds: f64) {
        if counters.collections[2] != self.last.collections[2] {
            // The first, the one before and this one tell all that is asked.
            if self.old.len() > GROWING && self.old.last() > self.old.get(self.old.len() - 2) {
                self.old.remove(GROWING - 1);
            }
            self.old.push(counters.old_objects);
        }
        self.was_enabled |= counters.enabled;
        (self.last, self.seconds) = (counters, seconds);
    }

    /// A collection that ended.
    pub fn pause(&mut self, pause: Pause) {
        let pauses = &mut self.pauses;
        pauses.count += 1;
        pauses.other_interpreters += u64::from(pause.other_interpreter);
        pauses.total_seconds += pause.seconds;
        pauses.max_seconds = pauses.max_seconds.max(pause.seconds);
        pauses.long += u64::from(pause.seconds > LONG_PAUSE);
        let bucket = (0..BUCKETS - 1).find(|&bucket| pause.seconds * 1e6 <= bound(bucket));
        self.buckets[bucket.unwrap_or(BUCKETS - 1)] += 1;
        let place = pauses.longest.partition_point(|other| other.seconds >= pause.seconds);
        pauses.longest.insert(place, pause);
        pauses.longest.truncate(LONGEST);
    }

    /// What was seen so far; `without_pauses` says why pauses are not known.
    pub fn watched(&self, without_pauses: Option<&str>) -> Watched {
        let mut pauses = self.pauses.clone();
        let used = |bucket: &&(usize, &u64)| *bucket.1 > 0;
        let buckets: Vec<_> = self.buckets.iter().enumerate().collect();
        let (first, last) = (buckets.iter().find(used), buckets.iter().rfind(used));
        if let (Some(&(first, _)), Some(&(last, _))) = (first, last) {
            let bucket = |&(n, &count): &(usize, &u64)| Bucket { up_to: bound(n) * 1e-6, count };
            pauses.histogram = buckets[first..=last].iter().map(bucket).collect();
        }
        Watched {
            seconds: self.seconds,
            collections: std::array::from_fn(|n| self.last.collections[n].saturating_sub(self.first.collections[n])),
            uncollectable: self.last.uncollectable.saturating_sub(self.first.uncollectable),
            warnings: self.warnings(),
            pauses: without_pauses.is_none().then_some(pauses),
            without_pauses: without_pauses.map(str::to_owned),
        }
    }

    fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        if !self.was_enabled {
            warnings.push(Warning::Disabled { seconds: self.seconds });
        }
        if self.old.len() > GROWING && self.old.is_sorted_by(|a, b| a < b) {
            warnings.push(Warning::OldGenerationGrows {
                first: self.old[0],
                last: self.last.old_objects,
                full_collections: self.last.collections[2].saturating_sub(self.first.collections[2]),
            });
        }
        let objects = self.last.uncollectable.saturating_sub(self.first.uncollectable);
        if objects > 0 {
            warnings.push(Warning::Uncollectable { objects });
        }
        if self.pauses.long > 0 {
            warnings.push(Warning::LongPauses { count: self.pauses.long, max_seconds: self.pauses.max_seconds });
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(full: u64, old_objects: u64) -> Counters {
        Counters { enabled: true, collections: [0, 0, full], uncollectable: 0, old_objects }
    }

    #[test]
    fn growth_between_full_collections() {
        let grows = |old: &[u64]| {
            let mut watch = Watch::new(counters(0, 10));
            for (n, &old) in old.iter().enumerate() {
                watch.add(counters(n as u64 + 1, old), n as f64);
            }
            watch.watched(None).warnings
        };
        assert_eq!(grows(&[20, 30]), [], "too few to say");
        let grown = Warning::OldGenerationGrows { first: 10, last: 50, full_collections: 4 };
        assert_eq!(grows(&[20, 30, 40, 50]), [grown]);
        assert_eq!(grows(&[20, 30, 25, 50]), []);
        let long: Vec<u64> = (0..1000).map(|n| 20 + n).collect();
        assert_eq!(grows(&long).len(), 1);
        assert_eq!(grows(&[&long[..], &[15]].concat()), []);
    }

    #[test]
    fn pauses_by_their_length() {
        let mut watch = Watch::new(Counters::default());
        for (n, seconds) in [3e-6, 4e-6, 6e-6, 0.2, 1e9].into_iter().enumerate() {
            watch.pause(Pause { generation: 0, seconds, at: n as f64, other_interpreter: n == 3 });
        }
        watch.add(Counters::default(), 60.0);
        let watched = watch.watched(None);
        let pauses = watched.pauses.unwrap();
        let full: Vec<_> = pauses.histogram.iter().filter(|b| b.count > 0).map(|b| (b.up_to, b.count)).collect();
        assert_eq!((full[0].1, full[1].1, full.len()), (2, 1, 4));
        assert!((full[0].0 - 5e-6).abs() < 1e-12 && (full[1].0 - 1e-5).abs() < 1e-12, "{full:?}");
        assert_eq!((pauses.count, pauses.long, pauses.longest[1].seconds), (5, 2, 0.2));
        assert_eq!((pauses.other_interpreters, pauses.longest[1].other_interpreter), (1, true));
        assert!(matches!(
            watched.warnings[..],
            [Warning::Disabled { seconds: 60.0 }, Warning::LongPauses { count: 2, .. }]
        ));
        assert_eq!(watch.watched(Some("no root")).pauses, None);
    }
}
