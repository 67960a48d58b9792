//! Equal strings and bytes, by the hash of their content.
//!
//! Most strings are there once. A bit for each hash remembers that it was seen; only the second of its kind gets an entry, so
//! the memory this takes goes with the duplicates. Two that differ share a bit now and then: that makes an entry of one.

use super::regions::AddressMap;

/// Shortest content that is looked at: single characters and the like are shared by the interpreter itself.
const SHORTEST: usize = 2;
/// Bytes of heap for one bit.
const HEAP_PER_BIT: u64 = 16;
/// Most entries.
const MAX_ENTRIES: usize = 1 << 20;

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
}

impl Duplicates {
    /// For a heap of so many bytes.
    pub(super) fn new(heap: u64) -> Self {
        let bits = (heap / HEAP_PER_BIT).clamp(1 << 16, 1 << 31).next_power_of_two();
        Self { seen: vec![0; (bits / 64) as usize], groups: AddressMap::default() }
    }

    pub(super) fn add(&mut self, number: u16, address: u64, content: &[u8], bytes: u64) {
        if content.len() < SHORTEST {
            return;
        }
        let hash = hash(content, u64::from(number));
        let bit = hash % (self.seen.len() as u64 * 64);
        let word = &mut self.seen[(bit / 64) as usize];
        let seen = *word & 1 << (bit % 64) != 0;
        *word |= 1 << (bit % 64);
        if let Some(group) = self.groups.get_mut(&hash) {
            group.count += 1;
        } else if seen && self.groups.len() < MAX_ENTRIES {
            // The first of them had no entry.
            self.groups.insert(hash, Group { number, count: 2, bytes, address });
        }
    }

    /// The groups that waste most, the worst first, and (objects, bytes) wasted in all.
    pub(super) fn worst(&self, count: usize) -> (Vec<Group>, (u64, u64)) {
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
        assert_eq!(worst.iter().map(|g| (g.number, g.count, g.bytes)).collect::<Vec<_>>(), [(1, 1000, 65), (2, 1000, 49)]);
        assert_eq!(total, (2 * 999, 999 * (65 + 49)));
    }
}
