//! What glibc's malloc holds and how much of it is free, by a walk over its chunks.
//!
//! glibc does not export its state (`main_arena`), but each chunk says how long it is, and whether the one before it is in
//! use (`malloc/malloc.c`, "Chunk specifics"; the same from 2.26 to 2.43 but for chunks with a mapping of their own). A walk that does not end where the heap does was
//! no walk over chunks: then nothing is claimed. Freed chunks in the caches of threads and in fast bins look used, as they
//! do to `mallinfo2`'s `uordblks`.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::target::chunk::{FLAGS, MMAPPED, PREV_IN_USE};
use crate::target::{Mapping, Maps, Memory};

use crate::target::words::u64_at;

const PAGE: u64 = 4096;
/// Pages whose first words are read at once.
const PAGES: usize = 1024;
/// Bytes that are read at once.
const PIECE: usize = 1 << 18;
/// Bytes of a chunk's header, and the alignment of chunks on x86-64.
const HEADER: u64 = 16;
/// Least size of a chunk: a fence post at the end of a heap that another one continues.
const LEAST: u64 = 16;
/// The heap may have grown by so much since the map was read.
const GROWN: u64 = 16 << 20;
/// Heaps of other arenas than the main one begin at multiples of this (`HEAP_MAX_SIZE`, malloc/arena.c).
const HEAP: u64 = 64 << 20;
/// Least bytes that malloc maps by themselves.
const LEAST_MAPPED: u64 = 64 << 10;

/// What the C allocator holds, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CHeap {
    /// In heaps, the main one and those of other arenas.
    pub heap_bytes: u64,
    pub used_bytes: u64,
    /// Free inside heaps: fragmentation, and what was not given back.
    pub free_bytes: u64,
    /// Of these at the end of the main heap, where `malloc_trim` could give them back.
    pub top_bytes: u64,
    pub used_chunks: u64,
    pub free_chunks: u64,
    /// Chunks that have a mapping of their own.
    pub mapped_bytes: u64,
    pub mapped_chunks: u64,
    /// Where the last of these ends.
    #[serde(skip)]
    mapped_to: u64,
}

/// What was found of one heap.
#[derive(Debug, Default)]
struct Walk {
    used: (u64, u64),
    free: (u64, u64),
    top: u64,
}

impl CHeap {
    /// Looks at the heaps of a process; `None`: it has none that are glibc's (another allocator or C library), or they changed
    /// at each look. `arenas`: pymalloc's, by rising address.
    pub fn look(memory: &dyn Memory, maps: &Maps, arenas: &[Range<u64>]) -> Option<Self> {
        let mut found = Self::default();
        let writable: Vec<&Mapping> = maps.iter().filter(|m| m.readable && m.writable && m.file.is_none()).collect();
        let main = writable.iter().find(|m| m.path.as_os_str() == "[heap]")?;
        // It may have moved on under the walk.
        let walk = (0..3).find_map(|_| walk(memory, main.range.start, main.range.end))?;
        found.add(&walk, main.range.end - main.range.start);
        found.top_bytes = walk.top;
        for mapping in writable {
            let range = &mapping.range;
            if range.start.is_multiple_of(HEAP)
                && let Some((start, size)) = secondary(memory, range.start, range.end)
            {
                if let Some(walk) = (0..3).find_map(|_| self::walk(memory, start, range.start + size)) {
                    found.add(&walk, size);
                }
                continue;
            }
            found.mapped(memory, range.start, range.end, arenas);
        }
        Some(found)
    }

    fn add(&mut self, walk: &Walk, bytes: u64) {
        self.heap_bytes += bytes;
        self.used_chunks += walk.used.0;
        self.used_bytes += walk.used.1;
        self.free_chunks += walk.free.0;
        self.free_bytes += walk.free.1;
    }

    /// Chunks that are mapped by themselves. The kernel joins them with their neighbours: any page may be the first of one.
    fn mapped(&mut self, memory: &dyn Memory, start: u64, end: u64, arenas: &[Range<u64>]) {
        let mut heads = Vec::new();
        let (mut at, mut pages) = (start, Vec::with_capacity(PAGES));
        while at < end {
            pages.clear();
            while at < end && pages.len() < PAGES {
                let arena = arenas.get(arenas.partition_point(|arena| arena.end <= at)).filter(|a| a.start <= at);
                if let Some(arena) = arena {
                    at = arena.end.next_multiple_of(PAGE);
                } else {
                    pages.push(at);
                    at += PAGE;
                }
            }
            memory.read_many(&pages, HEADER as usize, &mut heads);
            for (&page, head) in pages.iter().zip(heads.as_chunks::<{ HEADER as usize }>().0) {
                let (Some(before), Some(size)) = (u64_at(head, 0), u64_at(head, 8)) else { continue };
                let Some(bytes) = mapped_bytes(size, end - page) else { continue };
                if before == 0 && page >= self.mapped_to {
                    self.mapped_chunks += 1;
                    self.mapped_bytes += bytes;
                    self.mapped_to = page + bytes;
                }
            }
            at = at.max(self.mapped_to.min(end));
        }
    }
}

/// Bytes of the mapping that a chunk is alone in, by the size in its header, if they are at most `room`. To 2.42 that is the size
/// of the mapping, in 2.43 without the header.
fn mapped_bytes(size: u64, room: u64) -> Option<u64> {
    let chunk = size & !FLAGS;
    let bytes = chunk.checked_next_multiple_of(PAGE)?;
    let is_mapped = size & FLAGS == MMAPPED && bytes - chunk <= HEADER && chunk.is_multiple_of(HEADER);
    (is_mapped && (LEAST_MAPPED..=room).contains(&bytes)).then_some(bytes)
}

/// Where the chunks of the first heap of another arena begin, or of one that continues it, and its size
/// (`heap_info`, malloc/arena.c: ar_ptr, prev, size).
fn secondary(memory: &dyn Memory, start: u64, end: u64) -> Option<(u64, u64)> {
    let mut head = [0; 24];
    memory.read(start, &mut head).ok()?;
    let (arena, previous, size) = (u64_at(&head, 0)?, u64_at(&head, 8)?, u64_at(&head, 16)?);
    if !size.is_multiple_of(PAGE) || size == 0 || size > end - start || !previous.is_multiple_of(HEAP) {
        return None;
    }
    // The arena itself is in its first heap, behind the heap's head, whose size differs by version. The chunks follow.
    let head_end = if arena.wrapping_sub(start) < 4096 { arena } else { start + 32 };
    let first = (head_end..head_end.checked_add(4096)?.min(end)).step_by(HEADER as usize);
    let mut chunks = first.filter(|&at| {
        // The first chunk follows no other.
        let of = memory.u64(at + 8).unwrap_or(0);
        of & PREV_IN_USE != 0 && of & MMAPPED == 0 && walk(memory, at, start + size).is_some()
    });
    chunks.next().map(|at| (at, size))
}

/// Walks the chunks from `start`; `None` unless the last, the top, ends at `end`.
fn walk(memory: &dyn Memory, start: u64, end: u64) -> Option<Walk> {
    let mut walk = Walk::default();
    let mut buffer = vec![0; PIECE];
    let mut window = 0..0;
    let mut at = start;
    // Bytes of the chunk before, whose state this one tells.
    let mut before = 0;
    while at < end {
        if end - at < HEADER {
            return None;
        }
        if !(window.contains(&at) && window.end - at >= HEADER) {
            let len = (end - at).min(PIECE as u64);
            memory.read(at, &mut buffer[..len as usize]).ok()?;
            window = at..at + len;
        }
        let size = u64_at(&buffer[(at - window.start) as usize..], 8)?;
        let mut bytes = size & !FLAGS;
        if (end - at..end - at + GROWN).contains(&bytes) && size & PREV_IN_USE != 0 {
            // The top.
            bytes = end - at;
        }
        if bytes < LEAST || !bytes.is_multiple_of(HEADER) || bytes > end - at || size & MMAPPED != 0 {
            return None;
        }
        if before > 0 {
            let sum = if size & PREV_IN_USE == 0 { &mut walk.free } else { &mut walk.used };
            sum.0 += 1;
            sum.1 += before;
        }
        (before, at) = (bytes, at + bytes);
    }
    // The top is free.
    walk.free.0 += 1;
    walk.free.1 += before;
    walk.top = before;
    Some(walk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::ImageMemory;

    fn heap(sizes: &[u64]) -> ImageMemory {
        let mut bytes = Vec::new();
        for &size in sizes {
            let mut chunk = vec![0; (size & !FLAGS) as usize];
            chunk[8..16].copy_from_slice(&size.to_le_bytes());
            bytes.extend(chunk);
        }
        let mut memory = ImageMemory::new();
        memory.insert(0x10_0000, bytes);
        memory
    }

    #[test]
    fn chunks_with_a_mapping_of_their_own() {
        for size in [0x80_1002, 0x80_0ff2] {
            assert_eq!(mapped_bytes(size, 1 << 30), Some(0x80_1000));
        }
        for size in [0x80_1000, 0x80_0fe2, 0x1002, 0x80_1003, u64::MAX, u64::MAX - 5, 2] {
            assert_eq!(mapped_bytes(size, 1 << 30), None, "{size:#x}");
        }
        assert_eq!(mapped_bytes(0x80_1002, 0x80_0000), None);
    }

    #[test]
    fn chunks_used_and_free() {
        let memory = heap(&[0x41, 0x21, 0x30, 0x61]);
        let found = walk(&memory, 0x10_0000, 0x10_0000 + 240).unwrap();
        assert_eq!((found.used, found.free, found.top), ((2, 64 + 48), (2, 32 + 96), 96));
        assert!(walk(&memory, 0x10_0000, 0x10_0000 + 230).is_none(), "not aligned");
        assert!(walk(&heap(&[0x41, 0x7777]), 0x10_0000, 0x10_0000 + 240).is_none());
        assert!(walk(&memory, 0, 240).is_none());
    }
}
