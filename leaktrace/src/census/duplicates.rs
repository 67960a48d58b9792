//! Equal strings and bytes, by the hash of their content.
//!
//! Most strings are there once. A bit for each hash remembers that it was seen; only the second of its kind gets an entry, so
//! the memory this takes goes with the duplicates. Two that differ share a bit now and then: that makes an entry of one. When
//! there are too many entries those with the fewest go, as in lossy counting: the counts that stay are lower bounds.

use super::regions::AddressMap;

/// Shortest content that is looked at: single characters and the like are shared by the interpreter itself.
const SHORTEST: usize = 2;
/// Bytes of heap for one bit.
const HEAP_PER_BIT: u64 = 32;
/// Bytes of heap for one entry.
const HEAP_PER_ENTRY: u64 = 4096;

/// Equal contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) number: u16,
    pub(super) count: u64,
    /// `sys.getsizeof` of one.
    pub(super) bytes: u64,
    /// Address of one of them.
    pub(super) address: u64,
}

#[derive(Debug)]
pub(super) struct Duplicates {
    seen: Vec<u64>,
    groups: AddressMap<Group>,
    /// Taken together, so that the processor waits for many words of `seen` at a time.
    waiting: Vec<(u64, Group)>,
    /// Most entries, and the count up to which they went when there were as many.
    room: usize,
    floor: u64,
}

/// Contents that wait.
const BATCH: usize = 256;

impl Duplicates {
    /// For a heap of so many bytes.
    pub(super) fn new(heap: u64) -> Self {
        let room = (heap / HEAP_PER_ENTRY).clamp(1 << 12, 1 << 20) as usize;
        let bits = (heap / HEAP_PER_BIT).clamp(1 << 16, 1 << 31).next_power_of_two();
        Self {
            seen: vec![0; (bits / 64) as usize],
            groups: AddressMap::default(),
            waiting: Vec::with_capacity(BATCH),
            room,
            floor: 1,
        }
    }

    pub(super) fn add(&mut self, number: u16, address: u64, content: &[u8], bytes: u64) {
        if content.len() < SHORTEST {
            return;
        }
        let hash = hash(content, u64::from(number));
        self.waiting.push((hash, Group { number, count: 2, bytes, address }));
        if self.waiting.len() == BATCH {
            self.settle();
        }
    }

    fn settle(&mut self) {
        let bits = self.seen.len() as u64 * 64 - 1;
        let place = |hash: u64| (((hash & bits) / 64) as usize, 1 << (hash % 64));
        let mut words = [0; BATCH];
        for (word, (hash, _)) in words.iter_mut().zip(&self.waiting) {
            *word = self.seen[place(*hash).0];
        }
        for (word, (hash, group)) in words.iter().zip(self.waiting.drain(..)) {
            let (index, bit) = place(hash);
            // Unless it was set before the batch, it may have been set in the batch.
            let seen = word & bit != 0 || self.seen[index] & bit != 0;
            self.seen[index] |= bit;
            if !seen {
                continue;
            }
            if let Some(known) = self.groups.get_mut(&hash) {
                known.count += 1;
            } else {
                // The first of them had no entry: this is the second.
                self.groups.insert(hash, group);
            }
        }
        while self.groups.len() > self.room {
            self.floor += 1;
            let floor = self.floor;
            self.groups.retain(|_, group| group.count > floor);
        }
    }

    /// The groups that waste most, the worst first, and (objects, bytes) wasted in all.
    pub(super) fn worst(&mut self, count: usize) -> (Vec<Group>, (u64, u64)) {
        self.settle();
        let wasted = |group: &Group| (group.count - 1) * group.bytes;
        let mut all: Vec<Group> = self.groups.values().copied().collect();
        // A group of two may be a coincidence of bits.
        all.retain(|group| group.count > 2);
        let total = all.iter().fold((0, 0), |(n, bytes), group| (n + group.count - 1, bytes + wasted(group)));
        all.sort_unstable_by_key(|group| (std::cmp::Reverse(wasted(group)), group.address));
        all.truncate(count);
        (all, total)
    }
}

/// Good enough to tell contents apart, and quick: one multiplication for 8 bytes.
fn hash(content: &[u8], seed: u64) -> u64 {
    let step = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * 0x9e37_79b9_7f4a_7c15;
        (product >> 64) as u64 ^ product as u64
    };
    let (words, rest) = content.as_chunks::<8>();
    let mut hash = step(0x51_7c_c1_b7 ^ seed, content.len() as u64);
    for word in words {
        hash = step(hash, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    step(hash, u64::from_le_bytes(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_contents_are_counted() {
        let mut duplicates = Duplicates::new(1 << 20);
        for i in 0..1000u64 {
            duplicates.add(1, i, b"the same content", 65);
            duplicates.add(1, i, &i.to_le_bytes(), 41);
            duplicates.add(2, i, b"the same content", 49);
            duplicates.add(2, i, b"x", 50);
        }
        let (worst, total) = duplicates.worst(10);
        assert_eq!(
            worst.iter().map(|g| (g.number, g.count, g.bytes)).collect::<Vec<_>>(),
            [(1, 1000, 65), (2, 1000, 49)]
        );
        assert_eq!(total, (2 * 999, 999 * (65 + 49)));
    }

    #[test]
    fn pairs_make_room_for_what_is_there_often() {
        let mut duplicates = Duplicates::new(1 << 20);
        for i in 0..100_000u64 {
            duplicates.add(1, i, &(i / 2).to_le_bytes(), 41);
            duplicates.add(1, i, &[b'a' + (i % 8) as u8; 40], 73);
        }
        let (worst, _) = duplicates.worst(8);
        assert!(worst.iter().all(|group| group.bytes == 73 && group.count == 12_500), "{worst:?}");
        assert!(duplicates.groups.len() <= duplicates.room);
    }
}
