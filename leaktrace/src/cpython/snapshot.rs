//! Reads the pools of pymalloc in a running interpreter.
//!
//! A block is free if it is on its pool's free list or was never handed out (beyond `nextoffset`). The pool counts its
//! used blocks, so each reading checks itself: used + free list + untouched = capacity, else it is taken again.

use std::time::Duration;

use crate::target::words::{u32_at, u64_at};
use crate::target::{Memory, MemoryError};

use super::PymallocState;
use super::pools::{Arena, Pool, PoolState, Pools};
use super::pymalloc::MAX_ARENAS;

/// Times that a pool is read before it is given up as unsettled, and that the arenas are.
const TRIES: usize = PAUSES.len();
/// Pauses before each reading of pools that are open. The first readings find the target at work on another processor; a
/// thread that lost its processor while it changed a pool needs some milliseconds to get it back.
const PAUSES: [Duration; 6] = [
    Duration::ZERO,
    Duration::ZERO,
    Duration::from_micros(100),
    Duration::from_millis(1),
    Duration::from_millis(4),
    Duration::from_millis(8),
];
/// Headers read at once.
const HEADER_BATCH: usize = 4096;
/// Pools read at once: 1 MiB of them.
const BATCH: usize = 64;

/// Why no snapshot could be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("the arenas of pymalloc were not found in this interpreter")]
    NoArenas,
    #[error("the arenas of pymalloc changed at each of {TRIES} looks")]
    Unsettled,
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// The blocks of a pool, whose first is behind its header. An empty pool is of no class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PoolBlocks {
    pub(crate) class: u8,
    pub(crate) used: u16,
    pub(crate) capacity: usize,
}

/// A pool header and what it says of its blocks.
#[derive(Clone, Copy)]
struct Header {
    used: u32,
    freeblock: u64,
    szidx: u32,
    capacity: u32,
    untouched: u32,
}

impl PymallocState {
    /// Number of size classes.
    pub fn classes(&self) -> usize {
        usize::try_from(self.small_max >> self.class_shift).unwrap_or(0)
    }

    /// Bytes of a block of a size class.
    pub fn block_size(&self, class: usize) -> u64 {
        (class as u64 + 1) << self.class_shift
    }

    /// Reads all pools of a running interpreter. Headers first, by the thousand; only pools with a free list are read
    /// whole, so a heap of full pools costs little.
    pub fn snapshot(&self, memory: &dyn Memory) -> Result<Pools, SnapshotError> {
        let arenas = self.read_arenas(memory)?;
        let mut pools = Pools { state: *self, arenas, entries: Vec::new(), words: Vec::new() };
        let mut addresses = Vec::new();
        let mut owners = Vec::new();
        for arena in &mut pools.arenas {
            arena.entry = addresses.len();
            addresses.extend((0..arena.carved as u64).map(|i| arena.first + i * self.pool_size));
            owners.extend(std::iter::repeat_n(arena.index, arena.carved));
        }
        let mut buffer = Vec::new();
        let mut open = Vec::new();
        let size = self.pool.size as usize;
        for (batch, owners) in addresses.chunks(HEADER_BATCH).zip(owners.chunks(HEADER_BATCH)) {
            memory.read_many(batch, size, &mut buffer);
            for (bytes, &owner) in buffer.chunks_exact(size.max(1)).zip(owners) {
                let pool = self.judge_header(bytes, owner);
                if pool.is_none() {
                    open.push(pools.entries.len());
                }
                pools.entries.push(pool.unwrap_or(Pool { state: PoolState::Unsettled, class: 0, used: 0 }));
            }
        }
        for pause in PAUSES {
            if open.is_empty() {
                break;
            }
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            let mut still_open = Vec::new();
            for batch in open.chunks(BATCH) {
                let batch_addresses: Vec<u64> = batch.iter().map(|&entry| addresses[entry]).collect();
                let pool_size = self.pool_size as usize;
                memory.read_many(&batch_addresses, pool_size, &mut buffer);
                for ((&entry, &address), bytes) in
                    batch.iter().zip(&batch_addresses).zip(buffer.chunks_exact(pool_size))
                {
                    match self.judge_pool(bytes, address, owners[entry], &mut pools.words) {
                        Some(pool) => pools.entries[entry] = pool,
                        None => still_open.push(entry),
                    }
                }
            }
            open = still_open;
        }
        Ok(pools)
    }

    /// The state of one pool from its bytes; `None` where they contradict each other. The bits of its free blocks are put in
    /// `free`, whatever that held before.
    pub(crate) fn blocks(&self, bytes: &[u8], address: u64, arena: u32, free: &mut Vec<u64>) -> Option<PoolBlocks> {
        free.clear();
        let pool = self.judge_pool(bytes, address, arena, free)?;
        let size = self.block_size(pool.class.into());
        let capacity = ((self.pool_size - u64::from(self.pool.size)) / size) as usize;
        match pool.state {
            PoolState::Empty => return Some(PoolBlocks { class: 0, used: 0, capacity: 0 }),
            PoolState::Full => free.resize(capacity.div_ceil(64), 0),
            PoolState::Partial { .. } | PoolState::Unsettled => {}
        }
        Some(PoolBlocks { class: pool.class, used: pool.used, capacity })
    }

    /// The arenas in use, by rising address: address, number, address of the first pool, pools carved off.
    pub(crate) fn arenas(&self, memory: &dyn Memory) -> Result<Vec<(u64, u32, u64, usize)>, SnapshotError> {
        let arenas = self.read_arenas(memory)?;
        Ok(arenas.into_iter().map(|arena| (arena.address, arena.index, arena.first, arena.carved)).collect())
    }

    /// The arenas in use of all interpreters, by rising address.
    fn read_arenas(&self, memory: &dyn Memory) -> Result<Vec<Arena>, SnapshotError> {
        let mut arenas = self.read_table(memory)?;
        for other in self.others.map(|others| others.others(memory, self)).unwrap_or_default() {
            // One that ends meanwhile takes its arenas with it.
            arenas.extend(other.read_table(memory).unwrap_or_default());
        }
        arenas.sort_by_key(|arena| arena.address);
        // Arenas never overlap; a torn entry must not make them.
        arenas.dedup_by(|later, earlier| later.address - earlier.address < self.arena_size);
        Ok(arenas)
    }

    /// The arenas in use of one interpreter.
    fn read_table(&self, memory: &dyn Memory) -> Result<Vec<Arena>, SnapshotError> {
        if self.arenas == 0 || self.maxarenas == 0 {
            return Err(SnapshotError::NoArenas);
        }
        for _ in 0..TRIES {
            let (array, len) = (memory.u64(self.arenas)?, memory.u32(self.maxarenas)?.min(MAX_ARENAS));
            let size = self.arena.size as usize;
            let bytes = memory.bytes(array, len as usize * size);
            // The array moves when it grows; what was read is it only if it is where it was.
            if memory.u64(self.arenas)? != array || memory.u32(self.maxarenas)?.min(MAX_ARENAS) != len {
                continue;
            }
            let bytes = bytes?;
            let entries = bytes.chunks_exact(size.max(1)).enumerate();
            return Ok(entries.filter_map(|(i, bytes)| self.arena(i as u32, bytes)).collect());
        }
        Err(SnapshotError::Unsettled)
    }

    fn arena(&self, index: u32, bytes: &[u8]) -> Option<Arena> {
        let address = u64_at(bytes, self.arena.address)?;
        let end = address.checked_add(self.arena_size)?;
        let first = address.checked_next_multiple_of(self.pool_size)?;
        let next = u64_at(bytes, self.arena.pool_address)?;
        if address == 0 || !(first..=end).contains(&next) {
            return None;
        }
        Some(Arena { address, index, first, entry: 0, carved: ((next - first) / self.pool_size) as usize })
    }

    /// The header's claims; `None` where they contradict each other.
    fn header(&self, bytes: &[u8], arena: u32) -> Option<Header> {
        let field = |offset| u32_at(bytes, offset);
        let (used, szidx) = (field(self.pool.used)?, field(self.pool.szidx)?);
        let freeblock = u64_at(bytes, self.pool.freeblock)?;
        if used == 0 {
            // Emptied; the rest is left over from its last use.
            return Some(Header { used, freeblock, szidx: 0, capacity: 0, untouched: 0 });
        }
        let (next, last) = (u64::from(field(self.pool.nextoffset)?), u64::from(field(self.pool.maxnextoffset)?));
        let (size, overhead) = (self.block_size(szidx as usize), u64::from(self.pool.size));
        let sane = (szidx as usize) < self.classes()
            && field(self.pool.arenaindex)? == arena
            && last == self.pool_size - size
            && next >= overhead
            && (next - overhead) % size == 0
            && next <= last + size;
        if !sane {
            return None;
        }
        let capacity = ((self.pool_size - overhead) / size) as u32;
        let untouched = if next > last { 0 } else { ((last - next) / size + 1) as u32 };
        let held = used.checked_add(untouched)?;
        (held <= capacity).then_some(Header { used, freeblock, szidx, capacity, untouched })
    }

    /// Decides by the header alone, where it can.
    fn judge_header(&self, bytes: &[u8], arena: u32) -> Option<Pool> {
        let header = self.header(bytes, arena)?;
        let state = match (header.used, header.freeblock) {
            (0, _) => PoolState::Empty,
            (used, 0) if used == header.capacity => PoolState::Full,
            _ => return None,
        };
        Some(Pool { state, class: header.szidx as u8, used: header.used as u16 })
    }

    /// Decides by the whole pool; a consistent one's free blocks are added to `words`.
    fn judge_pool(&self, bytes: &[u8], address: u64, arena: u32, words: &mut Vec<u64>) -> Option<Pool> {
        let header = self.header(bytes, arena)?;
        if let Some(pool) = self.judge_header(bytes, arena) {
            return Some(pool);
        }
        let (size, overhead) = (self.block_size(header.szidx as usize), u64::from(self.pool.size));
        let touched = u64::from(header.capacity - header.untouched);
        let start = words.len();
        words.resize(start + (header.capacity as usize).div_ceil(64), 0);
        let mut free = 0;
        let mut block = header.freeblock;
        let consistent = loop {
            if block == 0 {
                break header.used + free + header.untouched == header.capacity;
            }
            let into = block.wrapping_sub(address).wrapping_sub(overhead);
            let (index, bit) = (into / size, into / size % 64);
            let Some(word) = (into % size == 0 && index < touched).then(|| start + (index / 64) as usize) else {
                break false;
            };
            if words[word] & (1 << bit) != 0 {
                break false;
            }
            words[word] |= 1 << bit;
            free += 1;
            let Some(next) = u64_at(bytes, (block - address) as u32) else { break false };
            block = next;
        };
        if !consistent {
            words.truncate(start);
            return None;
        }
        for index in touched..u64::from(header.capacity) {
            words[start + (index / 64) as usize] |= 1 << (index % 64);
        }
        // Without a free list there is no such block: any number beyond the capacity.
        let next = header.freeblock.checked_sub(address + overhead).map_or(u16::MAX, |into| (into / size) as u16);
        let state = PoolState::Partial { words: u32::try_from(start).ok()?, next };
        Some(Pool { state, class: header.szidx as u8, used: header.used as u16 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpython::BlockState;
    use crate::target::ImageMemory;

    /// One arena with one pool at 16 KiB, in an image: its free list is what the test says.
    fn image(used: u32, free: &[u16], szidx: u32) -> Pools {
        let offsets = crate::cpython::Offsets::of(3, 11, 0).unwrap();
        let state = PymallocState {
            usedpools: 0,
            arenas: 8,
            maxarenas: 16,
            raw_allocated_blocks: 0,
            pool_size: 1 << 14,
            arena_size: 1 << 20,
            class_shift: 4,
            small_max: 512,
            pool: offsets.pool,
            arena: offsets.arena,
            others: None,
        };
        let (base, size) = (1u64 << 14, u64::from(szidx + 1) * 16);
        let mut pool = vec![0; 1 << 14];
        let address = |block: u16| base + 48 + u64::from(block) * size;
        let mut put = |at: u64, bytes: &[u8]| {
            let at = at as usize % pool.len();
            let len = bytes.len().min(pool.len() - at);
            pool[at..at + len].copy_from_slice(&bytes[..len]);
        };
        let last = (1u32 << 14).wrapping_sub(size as u32);
        put(u64::from(offsets.pool.used), &used.to_le_bytes());
        put(u64::from(offsets.pool.szidx), &szidx.to_le_bytes());
        put(u64::from(offsets.pool.nextoffset), &(48 + 10 * size as u32).to_le_bytes());
        put(u64::from(offsets.pool.maxnextoffset), &last.to_le_bytes());
        put(u64::from(offsets.pool.freeblock), &free.first().map_or(0, |&b| address(b)).to_le_bytes());
        for pair in free.windows(2) {
            put(address(pair[0]), &address(pair[1]).to_le_bytes());
        }
        let mut table = vec![0; 48];
        table[..8].copy_from_slice(&base.to_le_bytes());
        table[offsets.arena.pool_address as usize..][..8].copy_from_slice(&(2 * base).to_le_bytes());
        let mut memory = ImageMemory::new();
        memory.insert(0, [0u64, 1000, 1].iter().flat_map(|w| w.to_le_bytes()).collect());
        memory.insert(1000, table);
        memory.insert(base, pool);
        state.snapshot(&memory).unwrap()
    }

    #[test]
    fn a_pool_must_add_up() {
        let pools = image(8, &[3, 7], 0);
        let block = |i: u64| pools.block((1 << 14) + 48 + 16 * i);
        assert_eq!(
            (block(3), block(7), block(8), block(10)),
            (BlockState::Next, BlockState::Free, BlockState::Used, BlockState::Free)
        );
        assert_eq!(pools.block(3 << 14), BlockState::Free, "not carved off yet");
        assert_eq!(pools.used_blocks().count(), 8);
        let bad = [(7, [3, 7]), (8, [3, 3]), (8, [3, 10]), (9, [3, 7]), (u32::MAX, [3, 7])];
        for bad in bad.map(|(used, free)| image(used, &free, 0)) {
            assert_eq!(bad.totals().unsettled_pools, 1);
            assert_eq!(bad.block((1 << 14) + 48), BlockState::Unsettled);
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(
            used in proptest::prelude::any::<u32>(),
            free in proptest::collection::vec(proptest::prelude::any::<u16>(), 0..50),
            szidx in proptest::prelude::any::<u32>(),
        ) {
            let pools = image(used, &free, szidx % 200);
            proptest::prop_assert!(pools.used_blocks().count() <= 1021);
        }
    }
}
