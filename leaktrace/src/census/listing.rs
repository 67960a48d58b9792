//! The objects of a heap one by one, for those who look at each again.

use super::labels::{Label, PoolShape};
use super::look::{DEBUG_HEADER, is_debug_block};
use super::regions::Regions;
use super::scan::Scan;
use super::types::{Shape, Type};
use super::{CensusError, Subject, take};
use crate::cpython::threads::InterpreterThreads;

/// Everything that a scan found, without its sums.
pub struct Listing<'a> {
    scan: Scan<'a>,
    pub interpreters: Vec<InterpreterThreads>,
    /// A collection ran while the heap was read.
    pub collecting: bool,
}

/// A pool that holds something.
pub struct ListedPool<'l> {
    pub address: u64,
    /// Bytes before its first block.
    pub header: u64,
    /// Bytes of a block.
    pub block: u64,
    /// How many slots it covers.
    pub slots: usize,
    labels: &'l [Label],
}

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// An object of the type with this number.
    Object(u16),
    /// What is no object and belongs to none: memory of extensions and of the interpreter.
    Unknown,
}

impl ListedPool<'_> {
    /// Blocks that hold objects or the unknown: their index, and what they hold.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, Content)> + '_ {
        self.labels.iter().enumerate().filter_map(|(index, label)| match label.number() {
            Some(number) => Some((index, Content::Object(number))),
            None => (*label == Label::UNKNOWN).then_some((index, Content::Unknown)),
        })
    }

    pub fn capacity(&self) -> usize {
        self.labels.len()
    }

    pub fn block_address(&self, index: usize) -> u64 {
        self.address + self.header + index as u64 * self.block
    }
}

impl<'a> Listing<'a> {
    /// Reads the whole heap; the target runs on.
    pub fn take(subject: &Subject<'a>) -> Result<Self, CensusError> {
        let (mut scan, interpreters, collecting) = take::scan(subject)?;
        scan.apply_claims();
        Ok(Self { scan, interpreters, collecting })
    }

    pub fn types(&self) -> &[Type] {
        self.scan.types.all()
    }

    pub fn regions(&self) -> &Regions {
        &self.scan.regions
    }

    /// Bytes of a slot, a power of two; pools begin at its multiples and cover one or several.
    pub fn slot(&self) -> u64 {
        self.scan.labels.slot()
    }

    /// The pools by rising address.
    pub fn pools(&self) -> impl Iterator<Item = ListedPool<'_>> + '_ {
        self.scan.labels.arenas.iter().flat_map(|arena| {
            let pools = self.scan.labels.pools_of(arena);
            pools.map(|(address, shape, labels)| {
                let PoolShape { header, block, slots, .. } = shape;
                ListedPool { address, header: header.into(), block, slots, labels }
            })
        })
    }

    /// Objects that the collector tracks, and those of them that are frozen, where objects say so themselves.
    pub fn tracked_and_frozen(&self) -> (u64, u64) {
        (self.scan.tally.types.iter().map(|of| of.tracked).sum(), self.scan.tally.frozen)
    }

    /// Objects that the C allocator holds: address and number of the type.
    pub fn large(&self) -> &[(u64, u16)] {
        &self.scan.large
    }

    /// Objects found in arenas.
    pub fn small_count(&self) -> usize {
        usize::try_from(self.scan.tally.objects - self.scan.tally.large_objects).unwrap_or(0)
    }

    /// Whether blocks are wrapped by the debug hooks; then an object begins so many bytes later.
    pub fn debug_header(&self) -> u64 {
        let first = self.pools().find_map(|pool| {
            let (index, _) = pool.blocks().next()?;
            self.scan.memory.bytes(pool.block_address(index), DEBUG_HEADER).ok()
        });
        if first.is_some_and(|bytes| is_debug_block(&bytes)) { DEBUG_HEADER as u64 } else { 0 }
    }

    /// Number of an address's type, if it is one.
    pub fn type_at(&self, address: u64) -> Option<u16> {
        self.scan.types.find(address)
    }

    /// The number of `type`.
    pub fn metatype(&self) -> Option<u16> {
        let is_type = |of: &Type| of.shape == Shape::Type && !of.heap && of.name == "type";
        self.types().iter().position(is_type).map(|number| number as u16)
    }

    /// Types that are static data of the interpreter and of extensions.
    pub fn static_types(&self) -> impl Iterator<Item = &Type> + '_ {
        self.types().iter().filter(|of| !of.heap)
    }
}
