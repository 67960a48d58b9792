//! Reads the heap of mimalloc in a running interpreter: that of builds without the GIL.
//!
//! mimalloc cuts segments, which are aligned to their size (a huge block has a segment of its own), into pages of one block size
//! each, and describes the pages at the start of the segment (`Include/internal/mimalloc/mimalloc/types.h` of 3.13 to 3.15).
//! Segments of threads that ended are abandoned, those of living ones belong to them, and both move at any time. So no list is
//! followed: each segment has its own address in its cookie, combined with a secret of the process, and every place where one
//! can begin is asked for it. The segment of an object that is known tells the secret.
//!
//! A block is free if it is in one of the three free lists of its page or in the list of its heap that other threads put blocks
//! into. A page counts its blocks, so each reading checks itself: used + free lists = capacity, else it is taken again.

use std::collections::HashSet;

use leaktrace_common::walk::ABSENT;

use crate::target::words::{u32_at, u64_at};
use crate::target::{Maps, Memory, MemoryError};

use super::offsets::Mimalloc;

/// Most places where a segment can begin that are looked at: 32 TiB of writable memory.
const MAX_PLACES: usize = 1 << 20;
/// Places looked at together.
const BATCH: usize = 1024;
/// Most blocks in the lists of heaps that are followed.
const MAX_DELAYED: usize = 1 << 20;
/// Most slices of a segment: 128 TiB, all that a process can address.
const MAX_SLICES: u64 = 1 << 31;
/// The kind of segments with one huge block.
const HUGE: u32 = 1;
/// Bytes of a word of a bit mask of slices.
const WORD: usize = 8;

/// Why the heap cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MimallocError {
    #[error(
        "the heap is not laid out as mimalloc's of this version is: built with debug or secure options, or with another allocator"
    )]
    NotFound,
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// One segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) address: u64,
    /// Slices in it, its header included.
    pub(crate) slices: u64,
    /// Slices of its header.
    info_slices: u64,
    /// Slices that have an entry in the table of pages.
    entries: usize,
    huge: bool,
    /// It has pages: else it waits for being used again.
    used: bool,
    /// Free slices whose memory has not been given back yet.
    pub(crate) kept_slices: u64,
}

/// One page: blocks of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    /// Address of its description.
    pub(crate) head: u64,
    /// Its first slice in the segment, and how many it has.
    pub(crate) slice: usize,
    pub(crate) slices: u64,
    /// Address of the first block.
    pub(crate) start: u64,
    /// Bytes of a block.
    pub(crate) block: u64,
    /// Blocks that have been carved off so far.
    pub(crate) capacity: usize,
    used: usize,
    /// First blocks of the lists of free ones: for the owner, of the owner, and of other threads.
    lists: [u64; 3],
    /// Address of its heap, 0 if it is abandoned.
    heap: u64,
    /// Number of its heap.
    pub(crate) tag: u8,
}

impl Mimalloc {
    /// The one of some versions that a process has, and all its segments by rising address, without overlap. `known` is the
    /// address of any object of its heap.
    pub(crate) fn find(
        versions: Vec<Self>,
        memory: &dyn Memory,
        maps: &Maps,
        known: u64,
    ) -> Result<(Self, Vec<Segment>), MimallocError> {
        for of in versions {
            let address = known & !(u64::from(of.segment_size) - 1);
            let header = memory.bytes(address, of.segment.slices as usize)?;
            let has = |segment: Segment| {
                let pages = of.pages(memory, &segment).unwrap_or_default();
                pages.iter().any(|page| (page.start..page.start + page.len()).contains(&known))
            };
            if of.segment(address, &header).is_some_and(has) {
                return Ok((of, of.segments(memory, maps, of.cookie(&header) ^ address)));
            }
        }
        Err(MimallocError::NotFound)
    }

    fn segments(&self, memory: &dyn Memory, maps: &Maps, secret: u64) -> Vec<Segment> {
        let (size, header) = (u64::from(self.segment_size), self.segment.slices as usize);
        let writable = maps.iter().filter(|m| m.readable && m.writable && m.file.is_none());
        let places = writable.flat_map(|m| {
            let start = m.range.start.next_multiple_of(size);
            (start..m.range.end.max(start)).step_by(size as usize)
        });
        let places: Vec<u64> = places.take(MAX_PLACES).collect();
        let mut found: Vec<Segment> = Vec::new();
        let mut buffer = Vec::new();
        for batch in places.chunks(BATCH) {
            memory.read_many(batch, header, &mut buffer);
            for (&address, header) in batch.iter().zip(buffer.chunks_exact(header)) {
                // What is inside a huge block may look like anything.
                let inside = found.last().is_some_and(|last| address < last.address + last.slices * self.slice());
                if !inside && self.cookie(header) ^ address == secret {
                    found.extend(self.segment(address, header));
                }
            }
        }
        found
    }

    fn cookie(&self, header: &[u8]) -> u64 {
        u64_at(header, self.segment.cookie).unwrap_or(0)
    }

    /// Bytes of a slice.
    pub(crate) fn slice(&self) -> u64 {
        self.slice_size.into()
    }

    /// The segment with a header; `None` where its fields contradict each other.
    fn segment(&self, address: u64, header: &[u8]) -> Option<Segment> {
        let of = &self.segment;
        let most = u64::from(self.segment_size) / self.slice();
        let (slices, info_slices) = (u64_at(header, of.segment_slices)?, u64_at(header, of.info_slices)?);
        let (entries, used) = (u64_at(header, of.slice_entries)?, u64_at(header, of.used)?);
        let kind = u32_at(header, of.kind)?;
        let sane = kind <= HUGE
            && slices < MAX_SLICES
            && (kind == HUGE || slices == most)
            && entries <= most.min(slices)
            && (1..entries).contains(&info_slices)
            && used <= entries;
        let masks = header.get(of.purge_mask as usize..)?.chunks_exact(WORD).take(most as usize / 64);
        let kept_slices = masks.map(|word| word.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>()).sum();
        // One that waits may have been a huge one, of whose tail others have been made.
        let slices = if used == 0 { slices.min(most) } else { slices };
        let entries = entries as usize;
        sane.then_some(Segment {
            address,
            slices,
            info_slices,
            entries,
            huge: kind == HUGE,
            used: used > 0,
            kept_slices,
        })
    }

    /// Bytes of a segment's header.
    pub(crate) fn header_bytes(&self, segment: &Segment) -> u64 {
        segment.info_slices * self.slice()
    }

    /// The pages of a segment, by rising address, without overlap. `None`: its table cannot be read.
    pub(crate) fn pages(&self, memory: &dyn Memory, segment: &Segment) -> Option<Vec<Page>> {
        let size = self.page.size as usize;
        let mut pages = Vec::new();
        if !segment.used {
            return Some(pages);
        }
        let table = memory.bytes(segment.address + u64::from(self.segment.slices), segment.entries * size).ok()?;
        let mut slice = segment.info_slices as usize;
        while slice < segment.entries {
            let page = table.get(slice * size..).and_then(|bytes| self.page(segment, slice, bytes));
            pages.extend(page);
            if segment.huge {
                break;
            }
            slice += page.map_or(1, |page| page.slices as usize);
        }
        Some(pages)
    }

    /// A page as it is now.
    pub(crate) fn again(&self, memory: &dyn Memory, segment: &Segment, page: &Page) -> Option<Page> {
        let bytes = memory.bytes(page.head, self.page.size as usize).ok()?;
        self.page(segment, page.slice, &bytes).filter(|now| now.slices == page.slices)
    }

    /// The page at a slice from its description; `None`: there begins none, or what is there contradicts itself.
    fn page(&self, segment: &Segment, slice: usize, bytes: &[u8]) -> Option<Page> {
        let of = &self.page;
        let (slices, block) = (u64::from(u32_at(bytes, of.slice_count)?), u64::from(u32_at(bytes, of.block_size)?));
        let first = segment.address + slice as u64 * self.slice();
        // Free slices have blocks of 0 bytes, those inside a page of 1.
        let begins = slices > 0 && u32_at(bytes, of.slice_offset)? == 0 && block >= 8;
        if !begins || slice as u64 + slices > segment.slices {
            return None;
        }
        let start = match u64_at(bytes, of.start) {
            Some(start) if of.start != ABSENT => start,
            _ => first + first_block(block),
        };
        let header = start.checked_sub(first).filter(|&header| header < self.slice())?;
        let bytes_in_page = slices * self.slice() - header;
        // The size of a huge block may not fit into the field.
        let block = if segment.huge { bytes_in_page } else { block };
        let (capacity, used) = (usize::from(u16_at(bytes, of.capacity)?), usize::from(u16_at(bytes, of.used)?));
        if capacity as u64 * block > bytes_in_page || used > capacity || segment.huge && capacity > 1 {
            return None;
        }
        let tag = bytes.get(of.tag_bit as usize / 8)? >> (of.tag_bit % 8) & 0xf;
        Some(Page {
            head: segment.address + u64::from(self.segment.slices) + slice as u64 * u64::from(of.size),
            slice,
            slices,
            start,
            block,
            capacity,
            used,
            // The lowest bits of the last are flags.
            lists: [u64_at(bytes, of.free)?, u64_at(bytes, of.local_free)?, u64_at(bytes, of.thread_free)? & !3],
            heap: u64_at(bytes, of.heap)?,
            tag,
        })
    }

    /// Blocks that were freed by threads that do not own them and wait in the lists of the heaps of some pages.
    pub(crate) fn delayed<'p>(&self, memory: &dyn Memory, pages: impl Iterator<Item = &'p Page>) -> HashSet<u64> {
        let heaps: HashSet<u64> = pages.map(|page| page.heap).filter(|&heap| heap != 0).collect();
        let mut blocks = HashSet::new();
        for heap in heaps {
            let mut next = memory.u64(heap.wrapping_add(self.heap.delayed_free.into())).unwrap_or(0);
            while next != 0 && blocks.len() < MAX_DELAYED && blocks.insert(next) {
                next = memory.u64(next).unwrap_or(0);
            }
        }
        blocks
    }
}

impl Page {
    /// Bytes that its blocks take, so far.
    pub(crate) fn len(&self) -> u64 {
        self.capacity as u64 * self.block
    }

    /// Whether all its blocks are in use.
    pub(crate) fn is_full(&self) -> bool {
        self.used == self.capacity && self.lists == [0; 3]
    }

    /// Puts the bits of the free blocks into `free`, whatever that held before; `None` where page and blocks contradict each other.
    /// `bytes`: those of all blocks.
    pub(crate) fn free_blocks(&self, bytes: &[u8], free: &mut Vec<u64>) -> Option<()> {
        free.clear();
        free.resize(self.capacity.div_ceil(64), 0);
        let mut count = [0; 3];
        for (list, count) in self.lists.into_iter().zip(&mut count) {
            let mut at = list;
            while at != 0 {
                let into = at.checked_sub(self.start)?;
                let index = (into / self.block) as usize;
                if into % self.block != 0 || index >= self.capacity || free[index / 64] >> (index % 64) & 1 != 0 {
                    return None;
                }
                free[index / 64] |= 1 << (index % 64);
                *count += 1;
                at = u64_at(bytes, u32::try_from(into).ok()?)?;
            }
        }
        // Blocks that other threads freed still count as used.
        (self.used + count[0] + count[1] == self.capacity && count[2] <= self.used).then_some(())
    }
}

/// Where the first block of a page is, from its start, where the page does not say: away from the beginning of a page of
/// the processor's, by some blocks (`_mi_segment_page_start_from_slice`, Objects/mimalloc/segment.c of 3.13).
fn first_block(block: u64) -> u64 {
    match block {
        ..=64 => 3 * block,
        65..=512 => block,
        _ => 0,
    }
}

fn u16_at(bytes: &[u8], offset: u32) -> Option<u16> {
    bytes.get(offset as usize..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpython::Offsets;
    use crate::target::ImageMemory;

    const SEGMENT: u64 = 0x200_0000_0000;
    const SECRET: u64 = 0x1234_5678_9abc_def0;
    /// Of the page in the test: its second slice.
    const SLICE: u64 = 2;
    const BLOCK: u64 = 48;

    fn versions() -> Vec<Mimalloc> {
        let text = include_str!("../../offsets/3.14t.toml");
        Offsets::parse(text, 0).unwrap().mimalloc()
    }

    fn put(bytes: &mut [u8], at: u32, value: &[u8]) {
        bytes[at as usize..at as usize + value.len()].copy_from_slice(value);
    }

    /// Where the blocks of the page begin: three of them are left out, as 2.1.2 does it.
    fn start() -> u64 {
        SEGMENT + SLICE * 0x1_0000 + 3 * BLOCK
    }

    /// A segment with a page of ten blocks, of which `used` count as used, and three lists of free ones.
    fn image(of: &Mimalloc, used: u16, lists: [&[u64]; 3]) -> (ImageMemory, Maps) {
        let mut bytes = vec![0; 4 * of.slice_size as usize];
        let (s, p) = (&of.segment, &of.page);
        let words: [(u32, u64); 6] = [
            (s.used, 1),
            (s.cookie, SEGMENT ^ SECRET),
            (s.segment_slices, 512),
            (s.info_slices, 1),
            (s.slice_entries, 512),
            (s.purge_mask + 8, 7),
        ];
        for (at, word) in words {
            put(&mut bytes, at, &word.to_le_bytes());
        }
        let page = s.slices + SLICE as u32 * p.size;
        put(&mut bytes, page + p.slice_count, &1u32.to_le_bytes());
        put(&mut bytes, page + p.tag_bit / 8, &[2 << (p.tag_bit % 8)]);
        put(&mut bytes, page + p.capacity, &10u16.to_le_bytes());
        put(&mut bytes, page + p.used, &used.to_le_bytes());
        put(&mut bytes, page + p.block_size, &(BLOCK as u32).to_le_bytes());
        if p.start != ABSENT {
            put(&mut bytes, page + p.start, &start().to_le_bytes());
        }
        let address = |block: &u64| start() + block * BLOCK;
        for (list, at) in lists.iter().zip([p.free, p.local_free, p.thread_free]) {
            let flags = u64::from(at == p.thread_free);
            put(&mut bytes, page + at, &(list.first().map_or(0, address) | flags).to_le_bytes());
            for pair in list.windows(2) {
                put(&mut bytes, (address(&pair[0]) - SEGMENT) as u32, &address(&pair[1]).to_le_bytes());
            }
        }
        let mut memory = ImageMemory::new();
        memory.insert(SEGMENT, bytes);
        (memory, Maps::parse(b"1ffff000000-20002000000 rw-p 00000000 00:00 0 \n"))
    }

    /// Bits of the free blocks.
    fn free(of: &Mimalloc, used: u16, lists: [&[u64]; 3]) -> Option<u64> {
        let (memory, maps) = image(of, used, lists);
        let (found, segments) = Mimalloc::find(versions(), &memory, &maps, start() + BLOCK).unwrap();
        assert_eq!((&found, segments.len(), segments[0].kept_slices), (of, 1, 3));
        let pages = found.pages(&memory, &segments[0]).unwrap();
        assert_eq!((pages.len(), pages[0].start, pages[0].tag), (1, start(), of.gc_heap));
        let bytes = memory.bytes(pages[0].start, pages[0].len() as usize).unwrap();
        let mut free = Vec::new();
        pages[0].free_blocks(&bytes, &mut free).map(|()| free[0])
    }

    #[test]
    fn blocks_in_any_list_are_free_and_must_add_up() {
        for of in versions() {
            assert_eq!(free(&of, 10, [&[], &[], &[]]), Some(0));
            assert_eq!(free(&of, 6, [&[1, 0], &[3, 9], &[5]]), Some(0b10_0010_1011));
            for (used, lists) in [(7, [&[1, 0][..], &[3, 9], &[5]]), (8, [&[1, 1], &[], &[]]), (9, [&[10], &[], &[]])] {
                assert_eq!(free(&of, used, lists), None, "{used} {lists:?}");
            }
        }
    }

    #[test]
    fn where_no_object_is_there_is_no_heap() {
        for of in versions() {
            let (memory, maps) = image(&of, 10, [&[]; 3]);
            for known in [0, SEGMENT, start() - 1, start() + 10 * BLOCK] {
                let found = Mimalloc::find(versions(), &memory, &maps, known);
                assert!(found.is_err(), "{known:#x} {found:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(
            damage in prop::collection::vec((0u64..8192, crate::census::tests::hostile_word()), 0..40),
            version in 0usize..2,
        ) {
            let of = versions()[version];
            let (clean, maps) = image(&of, 6, [&[1, 0], &[3, 9], &[5]]);
            let mut bytes = clean.bytes(SEGMENT, 4 * of.slice_size as usize).unwrap();
            for (at, word) in damage {
                // The header and the first pages.
                put(&mut bytes, 8 * (at % 128) as u32, &word.to_le_bytes());
            }
            let mut memory = ImageMemory::new();
            memory.insert(SEGMENT, bytes);
            let segments = of.segments(&memory, &maps, SECRET);
            for segment in segments {
                for page in of.pages(&memory, &segment).unwrap_or_default() {
                    prop_assert!(page.slice as u64 + page.slices <= segment.slices);
                    let mut free = Vec::new();
                    let bytes = memory.bytes(page.start, page.len().min(1 << 20) as usize).unwrap_or_default();
                    let _ = page.free_blocks(&bytes, &mut free);
                    of.delayed(&memory, std::iter::once(&page));
                }
            }
        }
    }
}
