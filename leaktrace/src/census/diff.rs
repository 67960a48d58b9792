//! Two censuses compared, in the spirit of tracemalloc's `compare_to`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::memory::{Cause, Shares};
use super::value::Census;

/// How the count of something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    New,
    Gone,
    Grown,
    Shrunk,
}

impl Change {
    /// From (count, bytes) to (count, bytes); `None` where they are equal.
    pub(crate) fn of(old: (u64, u64), new: (u64, u64)) -> Option<Self> {
        match (old, new) {
            _ if old == new => None,
            ((0, _), _) => Some(Self::New),
            (_, (0, _)) => Some(Self::Gone),
            _ if (new.1, new.0) > (old.1, old.0) => Some(Self::Grown),
            _ => Some(Self::Shrunk),
        }
    }

    /// As one word, the same as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Gone => "gone",
            Self::Grown => "grown",
            Self::Shrunk => "shrunk",
        }
    }
}

/// One type or size class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub name: String,
    pub change: Change,
    pub old_count: u64,
    pub new_count: u64,
    pub old_bytes: u64,
    pub new_bytes: u64,
}

impl Difference {
    pub fn count_delta(&self) -> i64 {
        self.new_count as i64 - self.old_count as i64
    }

    pub fn bytes_delta(&self) -> i64 {
        self.new_bytes as i64 - self.old_bytes as i64
    }
}

/// What changed from one census to another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// From the old to the new, seconds; negative when they were given the wrong way round.
    pub seconds: f64,
    /// Both are of one process.
    pub same_process: bool,
    /// Only what changed, that by the most bytes first.
    pub types: Vec<Difference>,
    /// Blocks in use by their size.
    pub size_classes: Vec<Difference>,
    pub old_rss: u64,
    pub new_rss: u64,
    /// What the resident memory grew by.
    pub cause: Option<Cause>,
}

impl Diff {
    pub fn of(old: &Census, new: &Census) -> Self {
        let types = |census: &Census| -> BTreeMap<String, (u64, u64)> {
            census.types.iter().map(|t| (t.name.clone(), (t.count, t.bytes))).collect()
        };
        let classes = |census: &Census| -> BTreeMap<String, (u64, u64)> {
            let used = |class: &super::SizeClass| class.objects + class.parts + class.free_listed + class.unknown;
            let entry =
                |class: &super::SizeClass| (format!("{} B", class.size), (used(class), used(class) * class.size));
            census.size_classes.iter().map(entry).collect()
        };
        let grew = new.memory.rss > old.memory.rss;
        Self {
            seconds: new.taken_at - old.taken_at,
            same_process: (old.pid, old.process_start) == (new.pid, new.process_start),
            types: compare(&types(old), &types(new)),
            size_classes: compare(&classes(old), &classes(new)),
            old_rss: old.memory.rss,
            new_rss: new.memory.rss,
            cause: if grew { Shares::of(old).cause_of_growth(&Shares::of(new)) } else { None },
        }
    }
}

/// What changed of (count, bytes) by name, that by the most bytes first.
pub(crate) fn compare(old: &BTreeMap<String, (u64, u64)>, new: &BTreeMap<String, (u64, u64)>) -> Vec<Difference> {
    let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
    let mut all: Vec<Difference> = names
        .filter_map(|name| {
            let (old, new) = (old.get(name).copied().unwrap_or_default(), new.get(name).copied().unwrap_or_default());
            let change = Change::of(old, new)?;
            let ((old_count, old_bytes), (new_count, new_bytes)) = (old, new);
            Some(Difference { name: name.clone(), change, old_count, new_count, old_bytes, new_bytes })
        })
        .collect();
    all.sort_by_key(|difference| (std::cmp::Reverse(difference.bytes_delta().unsigned_abs()), difference.name.clone()));
    all
}
