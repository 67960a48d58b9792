//! What grows from census to census.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::memory::{Cause, Shares};
use super::value::Census;
use crate::model::growth::{Point, Rate};

/// Most censuses that are kept: older ones thin out, so that a long watch stays small.
const MAX_POINTS: usize = 256;

/// Fewest censuses that tell a warm-up from growth that goes on.
const FEWEST: usize = 4;
/// Growth of the second half of the time, over that of the first, that counts as none.
const STANDING: f64 = 0.05;

/// How one type, or one container, changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grown {
    /// The type's name; for a container with its address.
    pub name: String,
    /// Objects, or items, in the first and in the last census.
    pub first: u64,
    pub last: u64,
    /// Bytes likewise; 0 for containers.
    pub first_bytes: u64,
    pub last_bytes: u64,
    /// Objects, or items, a second.
    pub rate: Rate,
}

impl Grown {
    /// Objects, or items, more than at first.
    pub fn delta(&self) -> i64 {
        self.last as i64 - self.first as i64
    }
}

/// What changed over a series of censuses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// From the first to the last, seconds.
    pub seconds: f64,
    pub censuses: u64,
    /// Types that changed, those that grew most first.
    pub types: Vec<Grown>,
    /// Containers that grew and are still there, likewise.
    pub containers: Vec<Grown>,
    /// Resident memory, bytes a second.
    pub rss_rate: Rate,
    /// Live bytes of Python's objects, bytes a second.
    pub live_rate: Rate,
    /// What the resident memory grew by, if it grew by more than a hundredth.
    pub cause: Option<Cause>,
    /// It grew in the first half of the time only: a warm-up. Not known of fewer than four censuses.
    #[serde(default)]
    pub warm_up: bool,
}

/// Counts over time, thinned.
#[derive(Debug, Clone, Default)]
struct Series {
    points: Vec<Point>,
    first_bytes: u64,
    last_bytes: u64,
}

impl Series {
    fn add(&mut self, seconds: f64, value: u64, bytes: u64) {
        if self.points.is_empty() {
            self.first_bytes = bytes;
        }
        self.last_bytes = bytes;
        if self.points.len() >= MAX_POINTS {
            // Every second one goes, the first stays.
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.points.push(Point { seconds, value: value as f64 });
    }

    /// Whether nearly all of its growth came in the first half of the time.
    fn stands_still(&self) -> bool {
        let (Some(first), Some(last)) = (self.points.first(), self.points.last()) else { return false };
        let half = f64::midpoint(first.seconds, last.seconds);
        let middle = self.points.iter().find(|point| point.seconds >= half).map_or(last.value, |point| point.value);
        let (early, late) = (middle - first.value, last.value - middle);
        self.points.len() >= FEWEST && early > 0.0 && late <= early * STANDING
    }

    fn grown(&self, name: &str) -> Grown {
        let value = |point: Option<&Point>| point.map_or(0, |point| point.value as u64);
        Grown {
            name: name.to_owned(),
            first: value(self.points.first()),
            last: value(self.points.last()),
            first_bytes: self.first_bytes,
            last_bytes: self.last_bytes,
            rate: Rate::of_series(&self.points),
        }
    }
}

/// A series of censuses of one process.
#[derive(Debug, Default)]
pub struct Watch {
    start: Option<f64>,
    last: f64,
    count: u64,
    types: BTreeMap<String, Series>,
    /// By address and type; those that are gone are dropped.
    containers: BTreeMap<(u64, String), Series>,
    rss: Series,
    live: Series,
    first_shares: Shares,
    last_shares: Shares,
}

impl Watch {
    /// Adds the next census.
    pub fn add(&mut self, census: &Census) {
        let start = *self.start.get_or_insert(census.taken_at);
        let seconds = (census.taken_at - start).max(0.0);
        if self.count == 0 {
            self.first_shares = Shares::of(census);
        }
        self.last_shares = Shares::of(census);
        self.last = seconds;
        for count in &census.types {
            let series = self.types.entry(count.name.clone()).or_default();
            if series.points.is_empty() && self.count > 0 {
                // It was not there before.
                series.add(0.0, 0, 0);
            }
            series.add(seconds, count.count, count.bytes);
        }
        for series in self.types.values_mut().filter(|s| s.points.last().is_some_and(|p| p.seconds < seconds)) {
            series.add(seconds, 0, 0);
        }
        let mut containers = std::mem::take(&mut self.containers);
        // A string does not grow: another one is at its address.
        for container in census.containers.iter().filter(|c| !matches!(c.name.as_str(), "str" | "bytes" | "tuple")) {
            let key = (container.address, container.name.clone());
            let mut series = containers.remove(&key).unwrap_or_default();
            series.add(seconds, container.length, 0);
            self.containers.insert(key, series);
        }
        self.rss.add(seconds, census.memory.rss, census.memory.rss);
        self.live.add(seconds, census.live_bytes(), census.live_bytes());
        self.count += 1;
    }

    /// What changed so far.
    pub fn growth(&self) -> Growth {
        let mut types: Vec<Grown> = self.types.iter().map(|(name, series)| series.grown(name)).collect();
        types.retain(|grown| grown.delta() != 0);
        types.sort_by_key(|grown| std::cmp::Reverse(grown.delta()));
        let containers = self.containers.iter().filter(|(_, series)| series.points.len() > 1);
        let mut containers: Vec<Grown> =
            containers.map(|((address, name), series)| series.grown(&format!("{name} at {address:#x}"))).collect();
        containers.retain(|grown| grown.delta() > 0);
        containers.sort_by_key(|grown| std::cmp::Reverse(grown.delta()));
        let (first, last) = (self.rss.first_bytes, self.rss.last_bytes);
        let grew = last.saturating_sub(first) > first / 100;
        let cause = if grew { self.first_shares.cause_of_growth(&self.last_shares) } else { None };
        let grown = if cause == Some(Cause::Objects) { &self.live } else { &self.rss };
        Growth {
            seconds: self.last,
            censuses: self.count,
            types,
            containers,
            rss_rate: Rate::of_series(&self.rss.points),
            live_rate: Rate::of_series(&self.live.points),
            cause,
            warm_up: cause.is_some() && grown.stands_still(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_stands_still_in_the_end() {
        let stands = |values: &[u64]| {
            let mut series = Series::default();
            for (second, &value) in values.iter().enumerate() {
                series.add(second as f64, value, value);
            }
            series.stands_still()
        };
        assert!(stands(&[100, 150, 190, 200, 200, 201, 200]));
        for values in [&[100, 150, 200, 250, 300][..], &[100, 100, 100, 100, 200], &[100; 6], &[100, 200, 200], &[]] {
            assert!(!stands(values), "{values:?}");
        }
    }
}
