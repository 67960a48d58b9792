//! What glibc's malloc notes beside a block: how long its chunk is, and behind it whether that is in use (`malloc/malloc.c`, "Chunk
//! specifics"; the same from 2.26 to 2.43). Freed chunks in the caches of threads and in fast bins look used.

use std::collections::HashMap;

use crate::target::Memory;

/// Flags in the size of a chunk: the one before it is in use; it has a mapping of its own; all that there are.
const PREV_IN_USE: u64 = 1;
const MMAPPED: u64 = 2;
const FLAGS: u64 = 7;
/// Bytes of the size before a block, least size of a chunk, and what sizes are multiples of.
const HEADER: u64 = 8;
const LEAST: u64 = 32;
const ALIGNED: u64 = 16;
/// A mapping is longer than what was asked for by at most so much (pages, huge ones where malloc is told to use them).
const MOST_MAPPED: u64 = 4 << 20;

/// The size that lies before a block, with its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk(u64);

impl Chunk {
    fn size(self) -> u64 {
        self.0 & !FLAGS
    }

    /// Whether it is that of a chunk that was made for so many bytes: what is left of a free one may be too small to be another.
    pub(super) fn is_for(self, bytes: u64) -> bool {
        let size = self.size();
        if self.0 & MMAPPED != 0 {
            return size > bytes && size - bytes < MOST_MAPPED;
        }
        let Some(least) = bytes.checked_add(HEADER).and_then(|bytes| bytes.checked_next_multiple_of(ALIGNED)) else {
            return false;
        };
        let least = least.max(LEAST);
        size == least || size == least + ALIGNED
    }

    /// What of it stays the same while the block is in use.
    pub(super) fn own(self) -> u64 {
        self.0 & !PREV_IN_USE
    }

    /// Where the next chunk notes whether this one is in use; `None` where there is none.
    fn next(self, block: u64) -> Option<u64> {
        (self.0 & MMAPPED == 0).then(|| block.wrapping_sub(HEADER).wrapping_add(self.size()))
    }

    /// Of the next one: whether this one is in use.
    fn says_in_use(self) -> bool {
        self.0 & PREV_IN_USE != 0
    }
}

/// The chunks of blocks at these addresses, if their allocator is glibc's; those that cannot be read are left out.
pub(super) fn before(memory: &dyn Memory, blocks: impl Iterator<Item = u64>) -> HashMap<u64, Chunk> {
    let blocks: Vec<u64> = blocks.collect();
    let sizes = words(memory, &blocks.iter().map(|block| block.wrapping_sub(HEADER)).collect::<Vec<_>>());
    blocks.into_iter().zip(sizes).filter_map(|(block, size)| Some((block, Chunk(size?)))).collect()
}

/// Leaves out the chunks that are not in use.
pub(super) fn drop_free(memory: &dyn Memory, chunks: &mut HashMap<u64, Chunk>) {
    let behind: Vec<(u64, u64)> =
        chunks.iter().filter_map(|(&block, chunk)| Some((block, chunk.next(block)?))).collect();
    let next = words(memory, &behind.iter().map(|(_, next)| *next).collect::<Vec<_>>());
    for ((block, _), next) in behind.into_iter().zip(next) {
        if next.is_some_and(|next| !Chunk(next).says_in_use()) {
            chunks.remove(&block);
        }
    }
}

fn words(memory: &dyn Memory, addresses: &[u64]) -> Vec<Option<u64>> {
    let mut bytes = Vec::new();
    let read = memory.read_many(addresses, HEADER as usize, &mut bytes);
    let words = bytes.as_chunks::<{ HEADER as usize }>().0.iter().map(|word| u64::from_le_bytes(*word));
    words.zip(read).map(|(word, read)| read.then_some(word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_fit() {
        assert!(Chunk(0x21).is_for(1) && Chunk(0x21).is_for(24) && !Chunk(0x21).is_for(25));
        assert!(Chunk(1008 | 1).is_for(1000) && Chunk(1024).is_for(1000) && !Chunk(1040).is_for(1000));
        assert!(Chunk(4112 | 1).is_for(4096) && !Chunk(0x20d51).is_for(4096), "the rest of the heap");
        assert!(Chunk(0x62002).is_for(400_000) && !Chunk(0x62002).is_for(402_000), "a mapping of its own");
        assert!(!Chunk(0).is_for(0) && !Chunk(u64::MAX).is_for(u64::MAX));
    }

    #[test]
    fn what_lies_behind() {
        assert_eq!(Chunk(0x31).next(0x1010), Some(0x1038));
        assert_eq!(Chunk(0x62002).next(0x7010), None);
        assert!(Chunk(0x31).says_in_use() && !Chunk(0x30).says_in_use());
        assert_eq!(Chunk(0x31).own(), Chunk(0x30).own());
    }
}
