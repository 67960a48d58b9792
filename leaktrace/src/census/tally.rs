//! Counts while the heap is read.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Containers that are kept: the longest.
const CONTAINERS: usize = 1000;
/// Shortest that is worth keeping.
const SHORTEST: u64 = 32;

/// Objects of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TypeTally {
    pub(super) count: u64,
    pub(super) tracked: u64,
    pub(super) bytes: u64,
    pub(super) waiting: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tally {
    /// By number of the type.
    pub(super) types: Vec<TypeTally>,
    /// (length, address, type).
    containers: BinaryHeap<Reverse<(u64, u64, u16)>>,
    pub(super) objects: u64,
    pub(super) large_objects: u64,
    pub(super) large_bytes: u64,
    /// Objects that say of themselves that they are frozen.
    pub(super) frozen: u64,
    pub(super) read_bytes: u64,
    pub(super) unreadable_bytes: u64,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            types: Vec::new(),
            containers: BinaryHeap::new(),
            objects: 0,
            large_objects: 0,
            large_bytes: 0,
            frozen: 0,
            read_bytes: 0,
            unreadable_bytes: 0,
        }
    }

    fn of(&mut self, number: u16) -> &mut TypeTally {
        let number = usize::from(number);
        if number >= self.types.len() {
            self.types.resize(number + 1, TypeTally::default());
        }
        &mut self.types[number]
    }

    #[inline]
    pub(super) fn object(&mut self, number: u16, address: u64, bytes: u64, length: Option<u64>, tracked: bool) {
        let tally = self.of(number);
        tally.count += 1;
        tally.tracked += u64::from(tracked);
        tally.bytes += bytes;
        self.objects += 1;
        if let Some(length) = length.filter(|&length| length >= SHORTEST) {
            let shortest = self.containers.peek().map_or(0, |Reverse((length, ..))| *length);
            if self.containers.len() < CONTAINERS || length > shortest {
                self.containers.push(Reverse((length, address, number)));
                if self.containers.len() > CONTAINERS {
                    self.containers.pop();
                }
            }
        }
    }

    pub(super) fn waiting(&mut self, number: u16) {
        self.of(number).waiting += 1;
    }

    pub(super) fn add_bytes(&mut self, number: u16, bytes: u64) {
        self.of(number).bytes += bytes;
    }

    /// Takes an object back that was none, of a block of `bytes`.
    pub(super) fn take_back(&mut self, number: u16, bytes: u64) {
        let tally = self.of(number);
        tally.count = tally.count.saturating_sub(1);
        tally.bytes = tally.bytes.saturating_sub(bytes);
        self.objects = self.objects.saturating_sub(1);
    }

    /// (length, address, type), the longest first.
    pub(super) fn longest(&self) -> Vec<(u64, u64, u16)> {
        let mut all: Vec<_> = self.containers.iter().map(|Reverse(entry)| *entry).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all
    }
}
