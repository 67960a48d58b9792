//! Which blocks of pymalloc are in use and which are free: the answers of a snapshot.

use super::PymallocState;
use super::used_set::UsedSet;

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
pub(super) enum PoolState {
    Empty,
    Full,
    /// Its free blocks are the bits set from this index of the words; `next` is the first of its free list.
    Partial {
        words: u32,
        next: u16,
    },
    Unsettled,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Pool {
    pub(super) state: PoolState,
    pub(super) class: u8,
    pub(super) used: u16,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Arena {
    pub(super) address: u64,
    pub(super) index: u32,
    /// Address of its first pool.
    pub(super) first: u64,
    /// Its first entry in the pools.
    pub(super) entry: usize,
    /// Pools that have been carved off so far; what lies beyond has never been used.
    pub(super) carved: usize,
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
    pub(super) state: PymallocState,
    pub(super) arenas: Vec<Arena>,
    /// Of all arenas, by [`Arena::entry`].
    pub(super) entries: Vec<Pool>,
    /// Bitmaps of free blocks.
    pub(super) words: Vec<u64>,
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::cpython::testing::{Script, pythons};

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
}
