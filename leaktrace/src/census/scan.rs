//! One pass over the arenas of pymalloc: every block gets a label. (`segments` does it for mimalloc.)
//!
//! The arenas are read one at a time, in one piece, and are forgotten when they are done: what stays is two bytes a
//! block. A block is an object if the word at the place of `ob_type` is a type and everything else fits: the reference
//! count is one, the size that the object claims is that of the block, the collector's links are links. Dicts, lists and
//! so on name the blocks that belong to them; these names are applied at the end, when all blocks have labels, and win
//! over what merely looks like an object.

use std::ops::Range;

use crate::cpython::PymallocState;
use crate::cpython::mimalloc::Segment;
use crate::cpython::offsets::{Mimalloc, Offsets};
use crate::target::Memory;

use super::duplicates::Duplicates;
use super::labels::{ArenaLabels, Label, Labels, PoolShape};
use super::links::Links;
use super::look::{DEBUG_HEADER, Found, Look, debug_size};
use super::object::{self, Object, Part, PartKind};
use super::regions::{Region, Regions};
use super::sizeof::Units;
use super::tally::Tally;
use super::types::{Shape, Type, Types};
use super::{CensusError, Subject, native::Native};

/// Times that a pool is read before it is given up.
const TRIES: usize = 4;
/// Parts that wait for their blocks to be labelled.
const MAX_CLAIMS: usize = 1 << 20;
/// Where in a block of pymalloc an object may begin: behind a GC head, two more words, or at once.
const PLACES: [u32; 3] = [16, 32, 0];
/// Keys of dicts read at once.
const KEYS_BATCH: usize = 1024;

/// All that is known while the heap is read.
pub(super) struct Scan<'a> {
    pub(super) memory: &'a dyn Memory,
    pub(super) offsets: &'a Offsets,
    pub(super) allocator: Allocator,
    pub(super) regions: Regions,
    pub(super) types: Types<'a>,
    pub(super) labels: Labels,
    pub(super) tally: Tally,
    pub(super) links: Links,
    pub(super) native: Native,
    pub(super) duplicates: Duplicates,
    /// Address and type of each large object.
    pub(super) large: Vec<(u64, u16)>,
    /// Address of an object's part that is in an arena, and its kind.
    claims: Vec<Claim>,
    keys: Vec<Keys>,
    pub(super) missing: Vec<u64>,
    units: Units,
}

/// What serves objects.
#[derive(Debug, Clone)]
pub(super) enum Allocator {
    /// What is larger than it serves comes from the C allocator.
    Pymalloc(PymallocState),
    /// Its layout, and the segments by the numbers of their labels.
    Mimalloc(Mimalloc, Vec<Segment>),
}

/// Address of a block, its kind in the highest byte: there are as many of these as dicts, lists and instances.
#[derive(Clone, Copy)]
struct Claim(u64);

impl Claim {
    fn new(address: u64, kind: PartKind) -> Self {
        Self(address | (kind as u64) << 56)
    }

    fn address(self) -> u64 {
        self.0 & ((1 << 56) - 1)
    }

    fn kind(self) -> PartKind {
        PartKind::ALL[(self.0 >> 56) as usize]
    }
}

/// Keys of a dict that have not been measured.
struct Keys {
    address: u64,
    owner: u16,
    always: bool,
}

/// An arena that is being read, as far as it is there at once.
#[derive(Default)]
pub(super) struct Window<'b> {
    start: u64,
    bytes: &'b [u8],
}

impl<'a> Scan<'a> {
    pub(super) fn new(subject: &Subject<'a>) -> Result<Self, CensusError> {
        let Subject { pid, memory, offsets, maps, .. } = *subject;
        let (allocator, labels) = match subject.pymalloc {
            _ if offsets.free_threaded => Self::of_mimalloc(subject)?,
            Some(pymalloc) => Self::of_pymalloc(memory, pymalloc)?,
            None => return Err(CensusError::NoPymalloc { pid }),
        };
        let ranges: Vec<Range<u64>> = labels.arenas.iter().map(Labels::range).collect();
        let bytes = ranges.iter().map(|range| range.end - range.start).sum();
        Ok(Self {
            memory,
            offsets,
            allocator,
            regions: Regions::new(maps, ranges),
            types: Types::new(memory, offsets),
            labels,
            tally: Tally::new(),
            links: Links::default(),
            native: Native::default(),
            duplicates: Duplicates::new(bytes),
            large: Vec::new(),
            claims: Vec::new(),
            keys: Vec::new(),
            missing: Vec::new(),
            units: Units::default(),
        })
    }

    fn of_pymalloc(memory: &dyn Memory, pymalloc: PymallocState) -> Result<(Allocator, Labels), CensusError> {
        let (size, pool) = (pymalloc.arena_size, pymalloc.pool_size);
        let arenas = pymalloc.arenas(memory)?.into_iter().map(|(address, index, first, slots)| {
            let uncarved = size - slots as u64 * pool;
            let overhead = uncarved % pool;
            let unused = uncarved - overhead;
            ArenaLabels { address, size, index, first, slots, overhead, unused, ..ArenaLabels::default() }
        });
        let sizes = (0..pymalloc.classes()).map(|class| pymalloc.block_size(class)).collect();
        let labels = Labels::new(pool, sizes, arenas.collect());
        Ok((Allocator::Pymalloc(pymalloc), labels))
    }

    /// Reads all blocks.
    pub(super) fn read(&mut self) {
        match self.allocator.clone() {
            Allocator::Pymalloc(pymalloc) => self.arenas(&pymalloc),
            Allocator::Mimalloc(layout, segments) => self.segments(&layout, &segments),
        }
    }

    /// Reads all arenas.
    fn arenas(&mut self, pymalloc: &PymallocState) {
        let mut buffer = Vec::new();
        for arena in 0..self.labels.arenas.len() {
            let (first, slots) = (self.labels.arenas[arena].first, self.labels.arenas[arena].slots);
            let size = slots * pymalloc.pool_size as usize;
            buffer.resize(size, 0);
            let holes = self.memory.read_sparse(first, &mut buffer);
            self.tally.read_bytes += size as u64;
            self.tally.unreadable_bytes += holes.iter().map(|hole| hole.end - hole.start).sum::<u64>();
            self.arena(pymalloc, arena, &mut buffer);
        }
        self.measure_keys(&Window::default());
    }

    fn arena(&mut self, pymalloc: &PymallocState, arena: usize, buffer: &mut [u8]) {
        let (first, index) = (self.labels.arenas[arena].first, self.labels.arenas[arena].index);
        let pool_size = pymalloc.pool_size as usize;
        let mut undecided = Vec::new();
        let mut free = Vec::new();
        let mut found = Found::default();
        for (number, pool) in buffer.chunks_exact_mut(pool_size).enumerate() {
            let address = first + (number * pool_size) as u64;
            let mut blocks = pymalloc.blocks(pool, address, index, &mut free);
            for _ in 1..TRIES {
                if blocks.is_some() || self.memory.read(address, pool).is_err() {
                    break;
                }
                blocks = pymalloc.blocks(pool, address, index, &mut free);
            }
            let Some(blocks) = blocks else {
                self.labels.unsettled(arena, number, 1, pymalloc.pool_size);
                continue;
            };
            let shape = PoolShape {
                header: pymalloc.pool.size,
                block: pymalloc.block_size(blocks.class.into()),
                capacity: blocks.capacity,
                slots: 1,
                bytes: pymalloc.pool_size,
            };
            let place = self.labels.pool(arena, number, &shape);
            let Some(place) = place.filter(|_| blocks.used > 0) else { continue };
            let (size, overhead) = (shape.block as usize, shape.header as usize);
            for block in 0..blocks.capacity {
                if free[block / 64] & (1 << (block % 64)) != 0 {
                    continue;
                }
                let at = overhead + block * size;
                let (at, size) = match debug_size(&pool[at..at + size], size as u64) {
                    Some(requested) => (at + DEBUG_HEADER, requested as usize),
                    None => (at, size),
                };
                let bytes = &pool[at..at + size];
                let look = self.look(bytes, size as u64, &PLACES, &mut found);
                if look == Look::Undecided {
                    undecided.push((place + block, number, at, size));
                } else {
                    self.settle(place + block, address + at as u64, bytes, look, &found);
                }
            }
        }
        let mut missing = std::mem::take(&mut self.missing);
        self.types.resolve(&mut missing);
        self.missing = missing;
        for (place, number, at, size) in undecided {
            let pool = number * pool_size;
            let bytes = &buffer[pool + at..pool + at + size];
            let look = match self.look(bytes, size as u64, &PLACES, &mut found) {
                // Not known to be a type after it was asked: the table of types or of refusals is full.
                Look::Undecided => Look::Other,
                look => look,
            };
            self.settle(place, first + (pool + at) as u64, bytes, look, &found);
        }
        self.missing.clear();
        self.finish(&Window { start: first, bytes: buffer });
    }

    /// Finds out what belongs to the objects of an arena, of which `window` has been read.
    pub(super) fn finish(&mut self, window: &Window<'_>) {
        self.measure_keys(window);
        if self.claims.len() >= MAX_CLAIMS {
            self.apply_claims();
        }
    }

    /// Labels a block and counts what is in it.
    #[inline]
    pub(super) fn settle(&mut self, place: usize, address: u64, bytes: &[u8], look: Look, found: &Found) {
        let &Found { number, at, ref object, .. } = found;
        let label = match look {
            Look::Object => {
                self.object(address + at as u64, found);
                if self.types.all()[usize::from(number)].extent.is_some() {
                    self.extent(number, address + at as u64, &bytes[at..], object);
                }
                let of = &self.types.all()[usize::from(number)];
                if let Some((from, len)) = object::content(self.offsets, of, &bytes[at..])
                    && let Some(content) = bytes.get(at + from as usize..at + (from + len) as usize)
                {
                    self.duplicates.add(number, address + at as u64, content, object.shallow);
                }
                if !is_leaf(of) && !has_parts_only(of) {
                    self.references(bytes);
                }
                Label::object(number)
            }
            Look::Waiting => {
                self.tally.waiting(number);
                Label::WAITING
            }
            Look::Other | Look::Undecided => {
                self.references(bytes);
                Label::UNKNOWN
            }
        };
        self.labels.set(place, label);
    }

    /// Counts an object, wherever it is, and remembers what belongs to it.
    #[inline]
    pub(super) fn object(&mut self, address: u64, found: &Found) {
        let &Found { number, ref object, tracked, frozen, links, .. } = found;
        self.tally.object(number, address, object.shallow, object.length, tracked);
        self.tally.frozen += u64::from(frozen);
        if let Some((next, prev)) = links {
            let head = address - u64::from(self.offsets.gc_head.size);
            self.links.add(head, next);
            // A neighbour that pymalloc does not hold is a large object, or the head of the list.
            for link in [next, prev] {
                if self.regions.of(link) == Region::Native {
                    self.native.candidate(link + u64::from(self.offsets.gc_head.size));
                }
            }
        }
        if let Some(part) = object.part {
            self.part(part);
        }
        if object.values != 0 {
            self.part(Part { kind: PartKind::Values, address: object.values, bytes: 8 });
        }
        if object.keys != 0 {
            self.keys.push(Keys { address: object.keys, owner: number, always: object.keys_always });
        }
    }

    /// What an object's `__sizeof__` counts besides, where a layout tells.
    pub(super) fn extent(&mut self, number: u16, address: u64, bytes: &[u8], object: &Object) {
        let Some(layout) = self.types.get(number).and_then(|of| of.extent) else { return };
        let subject = (address, bytes, object.length.unwrap_or(0));
        let Some(extent) = layout.measure(self.memory, self.offsets, &mut self.units, subject) else { return };
        self.tally.add_bytes(number, extent.bytes);
        for (address, bytes) in extent.blocks.into_iter().filter(|(address, bytes)| *address != 0 && *bytes != 0) {
            self.part(Part { kind: PartKind::Content, address, bytes });
        }
    }

    /// A block that belongs to an object.
    pub(super) fn part(&mut self, part: Part) {
        match self.regions.of(part.address) {
            Region::Arena => self.claims.push(Claim::new(part.address, part.kind)),
            Region::Native => self.native.part(part),
            Region::Static | Region::Elsewhere => {}
        }
    }

    /// Words that point at memory of the C allocator: large objects may be there.
    #[inline]
    pub(super) fn references(&mut self, bytes: &[u8]) {
        if self.largest_small().is_none() {
            return;
        }
        for word in bytes.as_chunks().0 {
            let word = u64::from_le_bytes(*word);
            if word % 8 == 0 && word != 0 && self.regions.of(word) == Region::Native {
                self.native.candidate(word);
            }
        }
    }

    /// Bytes of the largest object that does not come from the C allocator; `None`: none does.
    pub(super) fn largest_small(&self) -> Option<u64> {
        match &self.allocator {
            Allocator::Pymalloc(pymalloc) => Some(pymalloc.small_max),
            Allocator::Mimalloc(..) => None,
        }
    }

    /// Measures the keys of the dicts that were found since the last time.
    fn measure_keys(&mut self, window: &Window<'_>) {
        let header = self.offsets.dict_keys.indices as usize;
        let all = std::mem::take(&mut self.keys);
        let mut elsewhere = Vec::new();
        for keys in all {
            let at = usize::try_from(keys.address.wrapping_sub(window.start)).unwrap_or(usize::MAX);
            match at.checked_add(header).and_then(|end| window.bytes.get(at..end)) {
                Some(bytes) => self.count_keys(&keys, bytes),
                None => elsewhere.push(keys),
            }
        }
        let mut buffer = Vec::new();
        for batch in elsewhere.chunks(KEYS_BATCH) {
            let addresses: Vec<u64> = batch.iter().map(|keys| keys.address).collect();
            self.memory.read_many(&addresses, header, &mut buffer);
            for (keys, bytes) in batch.iter().zip(buffer.chunks_exact(header)) {
                self.count_keys(keys, bytes);
            }
        }
    }

    fn count_keys(&mut self, keys: &Keys, header: &[u8]) {
        let Some(size) = object::dict_keys(self.offsets, header) else { return };
        if size.unshared || keys.always {
            self.tally.add_bytes(keys.owner, size.bytes);
        }
        self.part(Part { kind: PartKind::DictKeys, address: keys.address, bytes: size.bytes });
    }

    /// Labels the parts whose blocks have been read; the others wait.
    pub(super) fn apply_claims(&mut self) {
        let claims = std::mem::take(&mut self.claims);
        for claim in claims {
            let address = claim.address();
            match self.labels.claim(address, claim.kind()) {
                // Not what it looked like.
                Some((label, size)) => {
                    if let Some(number) = label.number() {
                        self.tally.take_back(number, size);
                    }
                }
                None if self.labels.is_unread(address) => self.claims.push(claim),
                None => {}
            }
        }
    }

    /// Keys and parts of large objects, which come after the arenas.
    pub(super) fn finish_parts(&mut self) {
        self.measure_keys(&Window::default());
        self.apply_claims();
    }

    /// Asks for the types that were missing.
    pub(super) fn resolve(&mut self, missing: &mut Vec<u64>) {
        self.types.resolve(missing);
    }
}

/// Whether all that instances point at are their parts: their items are there.
fn has_parts_only(of: &Type) -> bool {
    matches!(of.shape, Shape::List | Shape::Dict | Shape::Set) && !of.heap
}

/// Whether instances hold no references.
pub(super) fn is_leaf(of: &Type) -> bool {
    matches!(of.shape, Shape::Int | Shape::Str | Shape::Bytes | Shape::ByteArray) && !of.gc
}
