//! What glibc's malloc notes beside a block: before it how long its chunk is, and behind that whether it is in use. Freed chunks in the
//! caches of threads and in fast bins look used.

use std::collections::HashMap;

use crate::target::Memory;
use crate::target::chunk::{ALIGNED, FLAGS, MMAPPED, PREV_IN_USE};

/// Bytes of the size before a block.
const HEADER: u64 = 8;

/// The size that lies before a block, with its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk(u64);

impl Chunk {
    fn size(self) -> u64 {
        self.0 & !FLAGS
    }

    /// Whether so many bytes may have been asked for. How much longer a chunk may be differs by version and by how it came about.
    fn holds(self, bytes: u64) -> bool {
        self.size().is_multiple_of(ALIGNED) && self.size() >= bytes.saturating_add(HEADER)
    }

    /// The least and the most that can have been asked for, where nothing is left over: what is left over is less than a chunk of its own.
    pub(super) fn asked(self) -> [u64; 2] {
        let most = self.size().saturating_sub(HEADER);
        [most.saturating_sub(2 * ALIGNED), most]
    }

    /// What of it stays the same while the block is in use.
    pub(super) fn own(self) -> u64 {
        self.0 & !PREV_IN_USE
    }

    /// Where the next chunk notes whether this one is in use; `None` where none follows it.
    fn next(self, block: u64) -> Option<u64> {
        (self.0 & MMAPPED == 0).then(|| block.wrapping_sub(HEADER).wrapping_add(self.size()))
    }

    /// Of the next one: whether this one is in use.
    fn says_in_use(self) -> bool {
        self.0 & PREV_IN_USE != 0
    }
}

/// The chunks of those of these blocks that are in use; each with the bytes that were asked for. What is free at the end of a heap has
/// none behind it.
pub(super) fn in_use(memory: &dyn Memory, blocks: impl Iterator<Item = (u64, u64)>) -> HashMap<u64, Chunk> {
    let blocks: Vec<(u64, u64)> = blocks.collect();
    let own = words(memory, blocks.iter().map(|(block, _)| block.wrapping_sub(HEADER)));
    let own = blocks.into_iter().zip(own).filter_map(|((block, bytes), word)| {
        let chunk = Chunk(word?);
        chunk.holds(bytes).then_some((block, chunk))
    });
    let (between, mapped): (Vec<_>, Vec<_>) = own.partition(|(block, chunk)| chunk.next(*block).is_some());
    let next = words(memory, between.iter().filter_map(|(block, chunk)| chunk.next(*block)));
    let between = between.into_iter().zip(next).filter(|(_, word)| word.is_some_and(|word| Chunk(word).says_in_use()));
    mapped.into_iter().chain(between.map(|(one, _)| one)).collect()
}

fn words(memory: &dyn Memory, addresses: impl Iterator<Item = u64>) -> Vec<Option<u64>> {
    let mut bytes = Vec::new();
    let read = memory.read_many(&addresses.collect::<Vec<_>>(), HEADER as usize, &mut bytes);
    let words = bytes.as_chunks::<{ HEADER as usize }>().0.iter().map(|word| u64::from_le_bytes(*word));
    words.zip(read).map(|(word, read)| read.then_some(word)).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::c_void;

    use super::*;
    use crate::target::ProcessMemory;

    #[test]
    fn sizes_that_fit() {
        assert!(Chunk(0x21).holds(1) && Chunk(0x21).holds(24) && !Chunk(0x21).holds(25));
        assert!(Chunk(0x3f1).holds(1000) && !Chunk(1000).holds(100) && Chunk(0x62002).holds(400_000));
        assert!(!Chunk(0).holds(0) && !Chunk(u64::MAX).holds(u64::MAX));
        assert_eq!((Chunk(0x3f1).asked(), Chunk(0).asked()), ([968, 1000], [0, 0]));
    }

    #[test]
    fn what_lies_behind() {
        assert_eq!(Chunk(0x31).next(0x1010), Some(0x1038));
        assert_eq!(Chunk(0x62002).next(0x7010), None);
        assert!(Chunk(0x31).says_in_use() && !Chunk(0x30).says_in_use());
        assert_eq!(Chunk(0x31).own(), Chunk(0x30).own());
    }

    /// Blocks of this process in all the ways that malloc has.
    fn blocks() -> Vec<(*mut c_void, u64)> {
        let mut blocks = Vec::new();
        for bytes in [1, 24, 25, 600, 1032, 1201, 4000, 40_000, 130_000, 200_000, 3 << 20] {
            // SAFETY: these calls have no preconditions but that what is reallocated is a block, which it is.
            unsafe {
                blocks.push((libc::malloc(bytes), bytes as u64));
                blocks.push((libc::calloc(bytes, 1), bytes as u64));
                blocks.push((libc::realloc(libc::malloc(3 * bytes), bytes), bytes as u64));
                blocks.push((libc::realloc(libc::malloc(bytes), 2 * bytes), 2 * bytes as u64));
                for alignment in [64, 4096, 65536] {
                    let mut block = std::ptr::null_mut();
                    assert_eq!(libc::posix_memalign(&raw mut block, alignment, bytes), 0);
                    blocks.push((block, bytes as u64));
                }
            }
        }
        blocks
    }

    /// Those that seem to be in use.
    fn seen(blocks: &[(u64, u64)]) -> HashMap<u64, Chunk> {
        in_use(&ProcessMemory::new(std::process::id()), blocks.iter().copied())
    }

    /// Against the C library of this test, in a process of its own: other tests would be given what this one frees. Threads have heaps of
    /// their own.
    #[test]
    fn blocks_of_a_process() {
        const ALONE: &str = "LEAKTRACE_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let test = concat!(module_path!(), "::blocks_of_a_process").split_once("::").unwrap().1;
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            let output = alone.args(["--exact", test, "--nocapture"]).env(ALONE, "1").output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{said}{output:?}");
            return;
        }
        for own_arena in [false, true] {
            let work = move || {
                let blocks = blocks();
                let named: Vec<(u64, u64)> = blocks.iter().map(|&(block, bytes)| (block as u64, bytes)).collect();
                let before = seen(&named);
                assert_eq!(before.len(), named.len(), "all of them are in use");
                // SAFETY: each is a block that was not freed before.
                blocks.iter().for_each(|&(block, _)| unsafe { libc::free(block) });
                // What is small stays in the thread's cache, and looks used.
                let large: Vec<_> = named.iter().copied().filter(|(_, bytes)| *bytes > 1032).collect();
                let after = seen(&large);
                let same = |block: &u64| after.get(block).is_some_and(|chunk| chunk.own() == before[block].own());
                let wrong: Vec<_> = large.iter().filter(|(block, _)| same(block)).collect();
                assert!(wrong.len() * 5 <= large.len(), "{} of {}: {wrong:?}", wrong.len(), large.len());
            };
            if own_arena { std::thread::spawn(work).join().unwrap() } else { work() }
        }
    }
}
