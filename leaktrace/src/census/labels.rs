//! What is in each block of the arenas: two bytes a block.

use std::cell::Cell;
use std::ops::Range;

use super::object::PartKind;
use super::regions::AddressMap;

/// What is in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(u16);

impl Label {
    pub(super) const FREE: Self = Self(0);
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

/// An arena of pymalloc or a segment of mimalloc.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ArenaLabels {
    pub(super) address: u64,
    /// Bytes of address space.
    pub(super) size: u64,
    pub(super) index: u32,
    /// Address of the first slot for a pool, and how many slots there are.
    pub(super) first: u64,
    pub(super) slots: usize,
    /// The last slot goes on up to the end of the arena.
    pub(super) stretched: bool,
    /// Bytes that it takes besides its pools: those that are of no use to any, and those that pools may be made of.
    pub(super) overhead: u64,
    pub(super) unused: u64,
    /// Its first entry in the pools, which [`Labels::new`] knows.
    pub(super) entry: usize,
}

/// A pool of pymalloc or a page of mimalloc: blocks of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PoolShape {
    /// Bytes before its first block, and bytes of a block.
    pub(super) header: u32,
    pub(super) block: u64,
    pub(super) capacity: usize,
    /// Slots that it covers.
    pub(super) slots: usize,
    /// All bytes that count as its.
    pub(super) bytes: u64,
}

/// What is at one slot.
#[derive(Debug, Clone, Copy)]
struct PoolLabels {
    /// Its first label; of a slot that a pool before it covers, how many slots before.
    start: u32,
    header: u32,
    capacity: u16,
    class: u16,
    state: State,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unread,
    Read,
    Unsettled,
    /// A pool before it covers it.
    Covered,
    /// There is no pool.
    Nothing,
}

/// The labels of all blocks.
#[derive(Debug)]
pub(super) struct Labels {
    pub(super) arenas: Vec<ArenaLabels>,
    pools: Vec<PoolLabels>,
    blocks: Vec<Label>,
    /// Bytes of a slot.
    slot: u64,
    /// Bytes of a block by class, and the classes by their bytes.
    sizes: Vec<u64>,
    classes: AddressMap<u16>,
    /// The arena that was asked for last.
    last: Cell<usize>,
}

/// Blocks of one size class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ClassBlocks {
    /// Bytes of a block.
    pub(super) size: u64,
    pub(super) pools: u64,
    /// Bytes of the pools.
    pub(super) bytes: u64,
    pub(super) objects: u64,
    pub(super) parts: u64,
    pub(super) waiting: u64,
    pub(super) unknown: u64,
    pub(super) free: u64,
}

/// Sums over all pools.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct LabelTotals {
    /// By rising size.
    pub(super) classes: Vec<ClassBlocks>,
    /// Blocks and bytes of parts, by kind.
    pub(super) parts: [(u64, u64); PartKind::ALL.len()],
    /// Pools without any block in use.
    pub(super) empty_bytes: u64,
    pub(super) unsettled_bytes: u64,
    /// What arenas take besides pools.
    pub(super) unused_bytes: u64,
    pub(super) overhead_bytes: u64,
    /// All of the above together.
    pub(super) arena_bytes: u64,
    /// Arenas in which fewer than a tenth of the bytes are in use.
    pub(super) sparse_arenas: u64,
}

impl Labels {
    /// `slot`: bytes, a power of two; `sizes` of blocks that are known before; `arenas` by rising address.
    pub(super) fn new(slot: u64, sizes: Vec<u64>, mut arenas: Vec<ArenaLabels>) -> Self {
        let mut entry = 0;
        for arena in &mut arenas {
            arena.entry = entry;
            entry += arena.slots;
        }
        let unread = PoolLabels { start: 0, header: 0, capacity: 0, class: 0, state: State::Unread, bytes: slot };
        let classes = sizes.iter().enumerate().map(|(class, &size)| (size, class as u16)).collect();
        Self { arenas, pools: vec![unread; entry], blocks: Vec::new(), slot, sizes, classes, last: Cell::new(0) }
    }

    /// Bytes of a slot, at whose multiples pools begin.
    pub(super) fn slot(&self) -> u64 {
        self.slot
    }

    /// The range of addresses of an arena's pools.
    pub(super) fn range(arena: &ArenaLabels) -> Range<u64> {
        arena.address..arena.address + arena.size
    }

    /// Makes room for the blocks of a pool, all free until they are set; the place of the first. `None`: there are more sizes
    /// than can be told apart.
    pub(super) fn pool(&mut self, arena: usize, slot: usize, shape: &PoolShape) -> Option<usize> {
        let class = self.class(shape.block)?;
        let start = self.blocks.len() as u32;
        let capacity = shape.capacity;
        if self.blocks.capacity() < self.blocks.len() + capacity {
            // Not doubled: these are the most of what a census takes.
            self.blocks.reserve_exact(capacity + self.blocks.len() / 8);
        }
        self.blocks.resize(self.blocks.len() + capacity, Label::FREE);
        let (header, capacity, bytes) = (shape.header, capacity as u16, shape.bytes);
        self.put(arena, slot, shape.slots, PoolLabels { start, header, capacity, class, state: State::Read, bytes });
        Some(start as usize)
    }

    /// A pool of so many slots and bytes could not be read.
    pub(super) fn unsettled(&mut self, arena: usize, slot: usize, slots: usize, bytes: u64) {
        let pool = PoolLabels { start: 0, header: 0, capacity: 0, class: 0, state: State::Unsettled, bytes };
        self.put(arena, slot, slots, pool);
    }

    /// No slot of an arena has a pool, until it gets one.
    pub(super) fn clear(&mut self, arena: usize) {
        let ArenaLabels { entry, slots, .. } = self.arenas[arena];
        self.pools[entry..entry + slots].iter_mut().for_each(|pool| pool.state = State::Nothing);
    }

    fn put(&mut self, arena: usize, slot: usize, slots: usize, pool: PoolLabels) {
        let ArenaLabels { entry, slots: all, .. } = self.arenas[arena];
        self.pools[entry + slot] = pool;
        for (back, covered) in self.pools[entry + slot..entry + all].iter_mut().enumerate().take(slots).skip(1) {
            (covered.state, covered.start) = (State::Covered, back as u32);
        }
    }

    fn class(&mut self, size: u64) -> Option<u16> {
        if let Some(&class) = self.classes.get(&size) {
            return Some(class);
        }
        let class = u16::try_from(self.sizes.len()).ok()?;
        self.sizes.push(size);
        self.classes.insert(size, class);
        Some(class)
    }

    /// Labels the block at a place, counted from where [`Self::pool`] said that its pool's blocks begin.
    pub(super) fn set(&mut self, place: usize, label: Label) {
        self.blocks[place] = label;
    }

    /// Labels the block that holds an address as a part; tells what it was before and its size. `None`: there is no used
    /// block, or it is a part already.
    pub(super) fn claim(&mut self, address: u64, kind: PartKind) -> Option<(Label, u64)> {
        let (pool, into) = self.find(address)?;
        let size = self.sizes[usize::from(pool.class)];
        let block = into.checked_sub(pool.header.into())? / size;
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
        let is_in = |arena: &&ArenaLabels| address.wrapping_sub(arena.first) < arena.size;
        // What belongs together is mostly in one arena.
        let last = self.arenas.get(self.last.get()).filter(is_in);
        let arena = last.or_else(|| {
            let after = self.arenas.partition_point(|arena| arena.address <= address);
            self.last.set(after.saturating_sub(1));
            self.arenas[..after].last().filter(is_in)
        })?;
        let into = address - arena.first;
        let mut slot = (into / self.slot) as usize;
        if arena.stretched {
            slot = slot.min(arena.slots.saturating_sub(1));
        }
        let pools = &self.pools[arena.entry..arena.entry + arena.slots];
        let pool = pools.get(slot)?;
        if pool.state == State::Covered {
            slot = slot.checked_sub(pool.start as usize)?;
        }
        Some((*pools.get(slot)?, into - slot as u64 * self.slot))
    }

    /// The pools of an arena that have been read and are not empty: address, and what shape they have, labels of the blocks.
    pub(super) fn pools_of<'l>(
        &'l self,
        arena: &ArenaLabels,
    ) -> impl Iterator<Item = (u64, PoolShape, &'l [Label])> + 'l {
        let first = arena.first;
        let pools = self.pools[arena.entry..arena.entry + arena.slots].iter().enumerate();
        pools.filter(|(_, pool)| pool.state == State::Read && pool.capacity > 0).map(move |(number, pool)| {
            let capacity = usize::from(pool.capacity);
            let labels = &self.blocks[pool.start as usize..pool.start as usize + capacity];
            let block = self.sizes[usize::from(pool.class)];
            let slots = (u64::from(pool.header) + capacity as u64 * block).div_ceil(self.slot) as usize;
            let shape = PoolShape { header: pool.header, block, capacity, slots, bytes: pool.bytes };
            (first + number as u64 * self.slot, shape, labels)
        })
    }

    pub(super) fn totals(&self) -> LabelTotals {
        let classes = self.sizes.iter().map(|&size| ClassBlocks { size, ..ClassBlocks::default() });
        let mut totals = LabelTotals { classes: classes.collect(), ..LabelTotals::default() };
        for arena in &self.arenas {
            totals.unused_bytes += arena.unused;
            totals.overhead_bytes += arena.overhead;
            let (mut used, mut bytes) = (0, arena.unused + arena.overhead);
            for pool in &self.pools[arena.entry..arena.entry + arena.slots] {
                match pool.state {
                    State::Read if pool.capacity > 0 => used += self.add(*pool, &mut totals),
                    State::Read => totals.empty_bytes += pool.bytes,
                    State::Unread | State::Unsettled => {
                        totals.unsettled_bytes += pool.bytes;
                        used += pool.bytes;
                    }
                    State::Covered | State::Nothing => continue,
                }
                bytes += pool.bytes;
            }
            totals.arena_bytes += bytes;
            totals.sparse_arenas += u64::from(used < bytes / 10);
        }
        totals.classes.sort_by_key(|class| class.size);
        totals
    }

    /// Adds a pool to the sums; tells the bytes of its blocks in use.
    fn add(&self, pool: PoolLabels, totals: &mut LabelTotals) -> u64 {
        let labels = &self.blocks[pool.start as usize..pool.start as usize + usize::from(pool.capacity)];
        let free = labels.iter().filter(|label| **label == Label::FREE).count() as u64;
        if free == labels.len() as u64 {
            totals.empty_bytes += pool.bytes;
            return 0;
        }
        let class = &mut totals.classes[usize::from(pool.class)];
        let size = class.size;
        class.pools += 1;
        class.bytes += pool.bytes;
        class.free += free;
        for label in labels.iter().filter(|label| **label != Label::FREE) {
            match *label {
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
        (labels.len() as u64 - free) * size
    }
}
