//! A compact set of block addresses.

use std::collections::HashMap;

/// log2 of the bytes that one bit stands for; no two blocks begin in the same 16.
const GRAIN_SHIFT: u32 = 4;
/// log2 of the bytes that one page of the set covers.
const PAGE_SHIFT: u32 = 20;

/// A set of block addresses in bitmaps: 8 KiB for each MiB of heap.
#[derive(Debug, Clone, Default)]
pub struct UsedSet {
    pages: HashMap<u64, Box<[u64; PAGE_WORDS]>>,
    len: usize,
}

const PAGE_WORDS: usize = 1 << (PAGE_SHIFT - GRAIN_SHIFT - 6);

impl UsedSet {
    /// Adds an address; `false` if it was there.
    pub fn insert(&mut self, address: u64) -> bool {
        let page = self.pages.entry(address >> PAGE_SHIFT).or_insert_with(|| Box::new([0; PAGE_WORDS]));
        let (word, bit) = position(address);
        let new = page[word] & bit == 0;
        page[word] |= bit;
        self.len += usize::from(new);
        new
    }

    pub fn contains(&self, address: u64) -> bool {
        let (word, bit) = position(address);
        self.pages.get(&(address >> PAGE_SHIFT)).is_some_and(|page| page[word] & bit != 0)
    }

    /// Takes an address out; `false` if it was not there.
    pub fn remove(&mut self, address: u64) -> bool {
        let (word, bit) = position(address);
        let Some(page) = self.pages.get_mut(&(address >> PAGE_SHIFT)) else { return false };
        let there = page[word] & bit != 0;
        page[word] &= !bit;
        self.len -= usize::from(there);
        there
    }

    /// Takes out every address that `keep` refuses.
    pub fn retain(&mut self, mut keep: impl FnMut(u64) -> bool) {
        for (&number, page) in &mut self.pages {
            for (index, word) in page.iter_mut().enumerate() {
                let mut rest = *word;
                while rest != 0 {
                    let bit = rest.trailing_zeros();
                    rest &= rest - 1;
                    let grain = index as u64 * 64 + u64::from(bit);
                    if !keep(number << PAGE_SHIFT | grain << GRAIN_SHIFT) {
                        *word &= !(1 << bit);
                        self.len -= 1;
                    }
                }
            }
        }
        self.pages.retain(|_, page| page.iter().any(|word| *word != 0));
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Word and bit of an address in its page.
fn position(address: u64) -> (usize, u64) {
    let grain = (address >> GRAIN_SHIFT) as usize % (PAGE_WORDS * 64);
    (grain / 64, 1 << (grain % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_set_is_a_set() {
        let mut set = UsedSet::default();
        assert!(set.insert(0x7f00_0000_0010) && !set.insert(0x7f00_0000_0010) && set.insert(u64::MAX - 15));
        assert!(set.contains(0x7f00_0000_0010) && !set.contains(0x7f00_0000_0020) && set.len() == 2);
        assert!(set.remove(0x7f00_0000_0010) && !set.remove(0x7f00_0000_0010) && !set.remove(0));
        for i in 0..1000 {
            set.insert(0x7f00_0000_0000 + i * 48);
        }
        let mut asked = Vec::new();
        set.retain(|address| {
            asked.push(address);
            address % 96 == 32 || address > 0x7fff_0000_0000
        });
        asked.sort_unstable();
        let all: Vec<u64> = (0..1000).map(|i| 0x7f00_0000_0000 + i * 48).chain([u64::MAX - 15]).collect();
        assert_eq!(asked, all);
        assert_eq!(set.len(), 1 + all.iter().filter(|&&a| a % 96 == 32).count());
        set.retain(|address| address == u64::MAX - 15);
        assert!(!set.is_empty() && set.remove(u64::MAX - 15) && set.is_empty());
    }
}
