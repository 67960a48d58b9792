//! Which blocks of pymalloc are in use and which are free, read from the pools of a running interpreter.
//!
//! A block is free if it is on its pool's free list or was never handed out (beyond `nextoffset`). The pool counts its
//! used blocks, so each reading checks itself: used + free list + untouched = capacity, else it is taken again.

use crate::target::{Memory, MemoryError};

use super::PymallocState;
use super::pymalloc::MAX_ARENAS;
use super::used_set::UsedSet;

/// Times that a pool is read before it is given up as unsettled, and that the arenas are.
const TRIES: usize = 6;
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

/// What a snapshot says of an address where a block was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockState {
    /// A block in use begins there.
    Used,
    /// No block in use begins there, but the address lies in an arena: what was there has been freed.
    Free,
    /// Free, and the first of its pool's free list. A thread that a probe has seen ask for this block, but that was
    /// stopped before it took it, leaves the same picture: of a young block this is no proof of death.
    Next,
    /// In no arena: the arena has been given back since, or the block never was pymalloc's.
    Outside,
    /// Its pool could not be read consistently; the next snapshot may tell.
    Unsettled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PoolState {
    Empty,
    Full,
    /// Its free blocks are the bits set from this index of the words.
    /// The first block of its free list is `next`.
    Partial {
        words: u32,
        next: u16,
    },
    Unsettled,
}

#[derive(Debug, Clone, Copy)]
struct Pool {
    state: PoolState,
    class: u8,
    used: u16,
}

#[derive(Debug, Clone, Copy)]
struct Arena {
    address: u64,
    index: u32,
    /// Address of its first pool.
    first: u64,
    /// Its first entry in the pools.
    entry: usize,
    /// Pools that have been carved off so far; what lies beyond has never been used.
    carved: usize,
}

/// Sums over one size class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClassTotals {
    pub pools: u64,
    pub used_blocks: u64,
    pub free_blocks: u64,
}

/// Sums over the heap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    pub arenas: u64,
    /// Pools that hold used blocks.
    pub pools: u64,
    /// Pools that hold none, as far as they have been carved off.
    pub empty_pools: u64,
    /// Pools that could not be read consistently; their blocks are in none of the sums.
    pub unsettled_pools: u64,
    pub used_blocks: u64,
    /// Bytes of the used blocks, rounded up to their size classes.
    pub used_bytes: u64,
    /// By size class: blocks of (index + 1) << class_shift bytes.
    pub classes: Vec<ClassTotals>,
}

/// All pools as they were between the start and the end of [`PymallocState::snapshot`], each at one moment of its own.
///
/// So it may be applied to blocks that were handed out before the start: one that is [`BlockState::Free`] or
/// [`BlockState::Outside`] has died, and one that is [`BlockState::Next`] very likely so. Of younger blocks it says nothing.
#[derive(Debug, Clone)]
pub struct Pools {
    state: PymallocState,
    arenas: Vec<Arena>,
    /// Of all arenas, by [`Arena::entry`].
    entries: Vec<Pool>,
    words: Vec<u64>,
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
        for _ in 0..TRIES {
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
            if open.is_empty() {
                break;
            }
        }
        Ok(pools)
    }

    /// The arenas in use, by rising address.
    fn read_arenas(&self, memory: &dyn Memory) -> Result<Vec<Arena>, SnapshotError> {
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
            let mut arenas: Vec<Arena> = entries.filter_map(|(i, bytes)| self.arena(i as u32, bytes)).collect();
            arenas.sort_by_key(|arena| arena.address);
            // Arenas never overlap; a torn entry must not make them.
            arenas.dedup_by(|later, earlier| later.address - earlier.address < self.arena_size);
            return Ok(arenas);
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
        (used + untouched <= capacity).then_some(Header { used, freeblock, szidx, capacity, untouched })
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

impl Pools {
    /// What was at an address at the time of the snapshot.
    pub fn block(&self, address: u64) -> BlockState {
        let after = self.arenas.partition_point(|arena| arena.address <= address);
        let Some(arena) = self.arenas[..after].last() else { return BlockState::Outside };
        if address - arena.address >= self.state.arena_size || address < arena.first {
            return BlockState::Outside;
        }
        let index = ((address - arena.first) / self.state.pool_size) as usize;
        if index >= arena.carved {
            return BlockState::Free;
        }
        let into = ((address - arena.first) % self.state.pool_size).checked_sub(u64::from(self.state.pool.size));
        let pool = self.entries[arena.entry + index];
        let size = self.state.block_size(pool.class.into());
        // A block of the pool's former size class is dead if none begins there now.
        let block = into.filter(|into| into % size == 0).map(|into| into / size);
        match (pool.state, block) {
            (PoolState::Unsettled, _) => BlockState::Unsettled,
            (PoolState::Full, Some(block)) if block < self.capacity(pool) => BlockState::Used,
            (PoolState::Partial { next, .. }, Some(block)) if block == u64::from(next) => BlockState::Next,
            (PoolState::Partial { words, .. }, Some(block))
                if block < self.capacity(pool) && !self.is_set(words, block) =>
            {
                BlockState::Used
            }
            _ => BlockState::Free,
        }
    }

    /// Whether the block that was handed out at an address is free; `None` where the snapshot does not know, because
    /// no arena is there or its pool was unsettled (see [`Self::block`]).
    pub fn is_free(&self, address: u64) -> Option<bool> {
        match self.block(address) {
            BlockState::Used => Some(false),
            BlockState::Free | BlockState::Next => Some(true),
            BlockState::Outside | BlockState::Unsettled => None,
        }
    }

    /// Address and bytes (rounded up to the size class) of each used block, unsettled pools left out.
    pub fn used_blocks(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.arenas.iter().flat_map(move |arena| (0..arena.carved).map(move |i| (arena, i))).flat_map(
            move |(arena, i)| {
                let pool = self.entries[arena.entry + i];
                let start = arena.first + i as u64 * self.state.pool_size + u64::from(self.state.pool.size);
                let size = self.state.block_size(pool.class.into());
                let used = move |block: &u64| match pool.state {
                    PoolState::Full => true,
                    PoolState::Partial { words, .. } => !self.is_set(words, *block),
                    PoolState::Empty | PoolState::Unsettled => false,
                };
                (0..self.capacity(pool)).filter(used).map(move |block| (start + block * size, size))
            },
        )
    }

    /// Sums over all settled pools.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            arenas: self.arenas.len() as u64,
            classes: vec![ClassTotals::default(); self.state.classes()],
            ..Totals::default()
        };
        for pool in &self.entries {
            match pool.state {
                PoolState::Empty => totals.empty_pools += 1,
                PoolState::Unsettled => totals.unsettled_pools += 1,
                PoolState::Full | PoolState::Partial { .. } => {
                    let used = u64::from(pool.used);
                    let class = &mut totals.classes[usize::from(pool.class)];
                    class.pools += 1;
                    class.used_blocks += used;
                    class.free_blocks += self.capacity(*pool) - used;
                    totals.pools += 1;
                    totals.used_blocks += used;
                    totals.used_bytes += used * self.state.block_size(pool.class.into());
                }
            }
        }
        totals
    }

    /// The addresses of the used blocks, to be kept: what was live at the attach.
    pub fn used_set(&self) -> UsedSet {
        let mut set = UsedSet::default();
        for (address, _) in self.used_blocks() {
            set.insert(address);
        }
        set
    }

    fn capacity(&self, pool: Pool) -> u64 {
        (self.state.pool_size - u64::from(self.state.pool.size)) / self.state.block_size(pool.class.into())
    }

    fn is_set(&self, words: u32, block: u64) -> bool {
        self.words[words as usize + (block / 64) as usize] & (1 << (block % 64)) != 0
    }
}

fn u64_at(bytes: &[u8], offset: u32) -> Option<u64> {
    let bytes = bytes.get(offset as usize..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], offset: u32) -> Option<u32> {
    let bytes = bytes.get(offset as usize..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::cpython::testing::{Script, pythons};
    use crate::target::ImageMemory;

    fn snapshot(script: &Script) -> Pools {
        let (target, found) = script.interpreter();
        found.facts.pymalloc.unwrap().snapshot(&target.memory()).unwrap()
    }

    #[test]
    fn live_and_deleted_objects_are_told_apart() {
        // bytes of 33 + n: of every size class. What is written and read at the end is prepared before.
        let code = "import os\n\
            live = [bytes(i % 480) for i in range(20000)]\n\
            dead = live[::3]; del live[::3]\n\
            text = ('%s\\n%s\\n' % (' '.join(str(id(b)) for b in live if len(b) > 1), \
                ' '.join(str(id(b)) for b in dead if len(b) > 1))).encode()\n\
            b = None\n\
            os.write(1, text[:text.index(b'\\n') + 1]); rest = text[text.index(b'\\n') + 1:]\n\
            del dead\n\
            os.write(1, rest); os.read(0, 1)";
        for python in pythons() {
            let mut script = Script::start(&python, code);
            let ids = |line: String| line.split(' ').map(|id| id.parse::<u64>().unwrap()).collect::<Vec<_>>();
            let (live, dead) = (ids(script.line()), ids(script.line()));
            assert!(live.len() > 10000 && dead.len() > 5000);
            let pools = snapshot(&script);
            let used = pools.used_set();
            let wrong = live.iter().filter(|&&id| pools.is_free(id) != Some(false) || !used.contains(id)).count();
            assert_eq!(wrong, 0, "live blocks called dead by {}", python.display());
            // A handful of the deleted addresses is in use again, by the two calls that tell us.
            let reused = dead.iter().filter(|&&id| pools.is_free(id) == Some(false)).count();
            assert!(reused <= 8, "{reused} deleted blocks called live in {}", python.display());
            assert_eq!(used.len() as u64, pools.totals().used_blocks);
            assert_eq!(pools.block(0), BlockState::Outside);
            assert_eq!(pools.block(u64::MAX), BlockState::Outside);
        }
    }

    /// Pools and blocks in use by class, as `sys._debugmallocstats()` prints them.
    fn said_by_the_interpreter(text: &str) -> Vec<(u64, i64, i64)> {
        let rows = text.lines().filter_map(|line| {
            let numbers: Vec<i64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
            (numbers.len() == 5).then(|| (numbers[1] as u64, numbers[2], numbers[3]))
        });
        rows.collect()
    }

    #[test]
    fn totals_equal_those_of_debugmallocstats() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("stats");
        let code = "import os, sys\n\
            keep = [bytes(i % 480) for i in range(30000)]; del keep[::3]\n\
            sys._debugmallocstats(); os.write(1, b'x\\n'); os.read(0, 1)";
        let run = |python: &Path| {
            let out = std::fs::File::create(&file).unwrap();
            let mut command = Command::new(python);
            Script::start_with(command.args(["-c", code]), out.into())
        };
        for python in pythons() {
            let mut script = run(&python);
            script.line();
            let totals = snapshot(&script).totals();
            let said = said_by_the_interpreter(&std::fs::read_to_string(&file).unwrap());
            assert!(said.len() >= 31, "{said:?}");
            let mut off = 0;
            for (size, pools, used) in said {
                let class = totals.classes[(size / 16 - 1) as usize];
                off += (class.used_blocks as i64 - used).abs() + (class.pools as i64 - pools).abs();
            }
            assert!(off <= 4, "{off} of {totals:?} differ in {}", python.display());
            assert_eq!(totals.unsettled_pools, 0);
        }
    }

    #[test]
    fn a_running_interpreter_settles() {
        let code = "print('ready')\n\
            keep = [bytes(i % 480) for i in range(100000)]; del keep[::2]\n\
            while True: junk = [str(i) * 3 for i in range(1000)]";
        for python in pythons() {
            let mut script = Script::start(&python, code);
            script.line();
            let (target, found) = script.interpreter();
            let state = found.facts.pymalloc.unwrap();
            for _ in 0..20 {
                let totals = state.snapshot(&target.memory()).unwrap().totals();
                let share = totals.unsettled_pools as f64 / (totals.pools + totals.empty_pools).max(1) as f64;
                assert!(share < 0.05, "{} of {} unsettled", totals.unsettled_pools, totals.pools);
            }
        }
    }

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
        for bad in [image(7, &[3, 7], 0), image(8, &[3, 3], 0), image(8, &[3, 10], 0), image(9, &[3, 7], 0)] {
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
