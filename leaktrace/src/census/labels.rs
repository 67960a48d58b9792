//! What is in each block of the arenas: two bytes a block.

use std::cell::Cell;

use crate::cpython::PymallocState;

use super::object::PartKind;

/// What is in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(u16);

impl Label {
    const FREE: Self = Self(0);
    pub(super) const UNKNOWN: Self = Self(1);
    pub(super) const WAITING: Self = Self(2);
    const PARTS: u16 = 3;
    const OBJECTS: u16 = 16;

    pub(super) fn object(number: u16) -> Self {
        Self(Self::OBJECTS + number)
    }

    fn part(kind: PartKind) -> Self {
        Self(Self::PARTS + kind as u16)
    }

    /// The number of the type, if it is an object.
    pub(super) fn number(self) -> Option<u16> {
        self.0.checked_sub(Self::OBJECTS)
    }
}

/// One arena.
#[derive(Debug, Clone, Copy)]
pub(super) struct ArenaLabels {
    pub(super) address: u64,
    pub(super) index: u32,
    /// Address of the first pool, and how many have been carved off.
    pub(super) first: u64,
    pub(super) pools: usize,
    /// Its first entry in the pools.
    entry: usize,
}

/// One pool; of no class while it has not been read, or when it is empty.
#[derive(Debug, Clone, Copy)]
struct PoolLabels {
    start: u32,
    capacity: u16,
    class: u8,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unread,
    Read,
    Unsettled,
}

/// The labels of all blocks.
#[derive(Debug)]
pub(super) struct Labels {
    pub(super) arenas: Vec<ArenaLabels>,
    pools: Vec<PoolLabels>,
    blocks: Vec<Label>,
    pool_size: u64,
    arena_size: u64,
    header: u64,
    class_shift: u32,
    /// The arena that was asked for last.
    last: Cell<usize>,
}

/// Blocks of one size class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ClassBlocks {
    pub(super) pools: u64,
    pub(super) objects: u64,
    pub(super) parts: u64,
    pub(super) waiting: u64,
    pub(super) unknown: u64,
    pub(super) free: u64,
}

/// Sums over all pools.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct LabelTotals {
    pub(super) classes: Vec<ClassBlocks>,
    /// Blocks and bytes of parts, by kind.
    pub(super) parts: [(u64, u64); PartKind::ALL.len()],
    pub(super) empty_pools: u64,
    pub(super) unsettled_pools: u64,
    /// Room for pools that have not been carved off, and what the alignment of pools costs.
    pub(super) uncarved_bytes: u64,
    pub(super) arena_bytes: u64,
    /// Arenas in which fewer than a tenth of the carved blocks' bytes are in use.
    pub(super) sparse_arenas: u64,
}

impl Labels {
    /// `arenas`: address, number, first pool, pools carved off, by rising address.
    pub(super) fn new(state: &PymallocState, arenas: &[(u64, u32, u64, usize)]) -> Self {
        let mut entry = 0;
        let arenas: Vec<_> = arenas
            .iter()
            .map(|&(address, index, first, pools)| {
                entry += pools;
                ArenaLabels { address, index, first, pools, entry: entry - pools }
            })
            .collect();
        Self {
            arenas,
            pools: vec![PoolLabels { start: 0, capacity: 0, class: 0, state: State::Unread }; entry],
            blocks: Vec::new(),
            pool_size: state.pool_size,
            arena_size: state.arena_size,
            header: state.pool.size.into(),
            class_shift: state.class_shift,
            last: Cell::new(0),
        }
    }

    /// Makes room for the blocks of a pool, all free until they are set.
    pub(super) fn pool(&mut self, arena: usize, pool: usize, class: u8, capacity: usize) {
        let start = self.blocks.len() as u32;
        if self.blocks.capacity() < self.blocks.len() + capacity {
            // Not doubled: these are the most of what a census takes.
            self.blocks.reserve_exact(capacity + self.blocks.len() / 8);
        }
        self.blocks.resize(self.blocks.len() + capacity, Label::FREE);
        self.pools[self.arenas[arena].entry + pool] =
            PoolLabels { start, capacity: capacity as u16, class, state: State::Read };
    }

    pub(super) fn unsettled(&mut self, arena: usize, pool: usize) {
        self.pools[self.arenas[arena].entry + pool].state = State::Unsettled;
    }

    pub(super) fn set(&mut self, (arena, pool, block): (usize, usize, usize), label: Label) {
        let pool = self.pools[self.arenas[arena].entry + pool];
        self.blocks[pool.start as usize + block] = label;
    }

    /// Labels the block that holds an address as a part; tells what it was before and its size. `None`: there is no used
    /// block, or it is a part already.
    pub(super) fn claim(&mut self, address: u64, kind: PartKind) -> Option<(Label, u64)> {
        let (pool, into) = self.find(address)?;
        let size = (u64::from(pool.class) + 1) << self.class_shift;
        let block = into.checked_sub(self.header)? / size;
        if pool.state != State::Read || block >= u64::from(pool.capacity) {
            return None;
        }
        let label = &mut self.blocks[pool.start as usize + block as usize];
        let is_part = (Label::PARTS..Label::OBJECTS).contains(&label.0);
        if *label == Label::FREE || is_part {
            return None;
        }
        Some((std::mem::replace(label, Label::part(kind)), size))
    }

    /// Whether an address is in a pool that has not been read yet.
    pub(super) fn is_unread(&self, address: u64) -> bool {
        self.find(address).is_some_and(|(pool, _)| pool.state == State::Unread)
    }

    /// The pool that an address is in, and how far in.
    fn find(&self, address: u64) -> Option<(PoolLabels, u64)> {
        let is_in = |arena: &&ArenaLabels| address.wrapping_sub(arena.first) < self.arena_size;
        // What belongs together is mostly in one arena.
        let last = self.arenas.get(self.last.get()).filter(is_in);
        let arena = last.or_else(|| {
            let after = self.arenas.partition_point(|arena| arena.address <= address);
            self.last.set(after.saturating_sub(1));
            self.arenas[..after].last().filter(is_in)
        })?;
        let into = address - arena.first;
        let pool = (into / self.pool_size) as usize;
        (pool < arena.pools).then(|| (self.pools[arena.entry + pool], into % self.pool_size))
    }

    /// The pools of an arena that have been read and are not empty: address, bytes of a block, labels of the blocks.
    pub(super) fn pools_of<'l>(&'l self, arena: &ArenaLabels) -> impl Iterator<Item = (u64, u64, &'l [Label])> + 'l {
        let (first, size) = (arena.first, self.pool_size);
        let pools = self.pools[arena.entry..arena.entry + arena.pools].iter().enumerate();
        pools.filter(|(_, pool)| pool.state == State::Read && pool.capacity > 0).map(move |(number, pool)| {
            let labels = &self.blocks[pool.start as usize..pool.start as usize + usize::from(pool.capacity)];
            (first + number as u64 * size, (u64::from(pool.class) + 1) << self.class_shift, labels)
        })
    }

    pub(super) fn totals(&self, classes: usize) -> LabelTotals {
        let mut totals = LabelTotals {
            classes: vec![ClassBlocks::default(); classes],
            arena_bytes: self.arenas.len() as u64 * self.arena_size,
            ..LabelTotals::default()
        };
        for arena in &self.arenas {
            totals.uncarved_bytes += self.arena_size - arena.pools as u64 * self.pool_size;
            let mut used = 0;
            for pool in &self.pools[arena.entry..arena.entry + arena.pools] {
                match pool.state {
                    State::Read if pool.capacity > 0 => used += self.add(*pool, &mut totals),
                    State::Read => totals.empty_pools += 1,
                    State::Unread | State::Unsettled => {
                        totals.unsettled_pools += 1;
                        used += self.pool_size;
                    }
                }
            }
            totals.sparse_arenas += u64::from(used < self.arena_size / 10);
        }
        totals
    }

    /// Adds a pool to the sums; tells the bytes of its blocks in use.
    fn add(&self, pool: PoolLabels, totals: &mut LabelTotals) -> u64 {
        let size = (u64::from(pool.class) + 1) << self.class_shift;
        let class = &mut totals.classes[usize::from(pool.class)];
        class.pools += 1;
        let mut free = 0;
        let labels = &self.blocks[pool.start as usize..pool.start as usize + usize::from(pool.capacity)];
        for label in labels {
            match *label {
                Label::FREE => free += 1,
                Label::UNKNOWN => class.unknown += 1,
                Label::WAITING => class.waiting += 1,
                Label(part) if part < Label::OBJECTS => {
                    class.parts += 1;
                    if let Some((blocks, bytes)) = totals.parts.get_mut(usize::from(part - Label::PARTS)) {
                        *blocks += 1;
                        *bytes += size;
                    }
                }
                Label(_) => class.objects += 1,
            }
        }
        class.free += free;
        (labels.len() as u64 - free) * size
    }
}
