//! The objects of the heap as numbers: what a graph of many millions of them can afford.
//!
//! An object of pymalloc is found by its pool and block: a bit for each block, counted. So an address costs nothing to look up
//! but the way back (8 bytes); large and static objects, which are few, go through a map.

use std::collections::hash_map::Entry;

use crate::census::AddressMap;
use crate::census::listing::{Content, Listing};

/// Number of an object.
pub type Node = u32;

/// No object.
pub const NONE: Node = Node::MAX;

/// The objects of a heap at one time.
#[derive(Debug)]
pub struct Nodes {
    addresses: Vec<u64>,
    types: Vec<u16>,
    index: Index,
}

/// From addresses to numbers.
#[derive(Debug)]
pub struct Index {
    pools: Vec<Pool>,
    /// By the address of each slot that a pool covers.
    by_slot: AddressMap<u32>,
    /// A bit for each block of the pools: whether it is an object.
    bits: Vec<u64>,
    /// Large and static objects.
    others: AddressMap<Node>,
    slot: u64,
}

#[derive(Debug, Clone, Copy)]
struct Pool {
    first: Node,
    words: u32,
    /// Address of the first block.
    start: u64,
    block: u64,
    capacity: u32,
}

impl Nodes {
    /// `None`: there are more than can be numbered.
    pub fn new(listing: &Listing<'_>) -> Option<Self> {
        let debug = listing.debug_header();
        let expected = listing.small_count() + listing.large().len() + listing.types().len();
        let mut addresses = Vec::with_capacity(expected);
        let mut types = Vec::with_capacity(expected);
        let mut index = Index {
            pools: Vec::new(),
            by_slot: AddressMap::default(),
            bits: Vec::new(),
            others: AddressMap::default(),
            slot: listing.slot(),
        };
        for pool in listing.pools() {
            let words = index.bits.len();
            index.bits.resize(words + pool.capacity().div_ceil(64), 0);
            let entry = Pool {
                first: Node::try_from(addresses.len()).ok()?,
                words: u32::try_from(words).ok()?,
                start: pool.block_address(0),
                block: pool.block,
                capacity: pool.capacity() as u32,
            };
            // In a single block, however long, an object begins in the first slot.
            let slots = if pool.capacity() == 1 { 1 } else { pool.slots as u64 };
            for slot in 0..slots {
                index.by_slot.insert(pool.address + slot * index.slot, index.pools.len() as u32);
            }
            index.pools.push(entry);
            for (block, content) in pool.blocks() {
                let Content::Object(number) = content else { continue };
                let Some(of) = listing.types().get(usize::from(number)) else { continue };
                index.bits[words + block / 64] |= 1 << (block % 64);
                addresses.push(pool.block_address(block) + debug + of.preheader);
                types.push(number);
            }
        }
        // What static types are instances of matters to nobody: all count as `type`.
        let metatype = listing.metatype();
        let statics = listing.static_types().filter_map(|of| Some((of.address, metatype?)));
        for (address, number) in listing.large().iter().copied().chain(statics) {
            let node = Node::try_from(addresses.len()).ok()?;
            if let Entry::Vacant(entry) = index.others.entry(address) {
                entry.insert(node);
                addresses.push(address);
                types.push(number);
            }
        }
        (addresses.len() < NONE as usize).then_some(Self { addresses, types, index })
    }

    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    pub fn address(&self, node: Node) -> u64 {
        self.addresses[node as usize]
    }

    /// The number of its type in the listing.
    pub fn type_of(&self, node: Node) -> u16 {
        self.types[node as usize]
    }

    /// The object that begins at an address.
    pub fn find(&self, address: u64) -> Option<Node> {
        self.index.at(address).filter(|&node| self.addresses[node as usize] == address)
    }

    /// Address of the object in the block of pymalloc that holds an address, also inside it.
    pub fn nearby(&self, address: u64) -> Option<u64> {
        self.index.block(address).map(|node| self.address(node))
    }

    /// Only which addresses are objects: to tell later which are new.
    pub fn into_index(self) -> Index {
        self.index
    }
}

impl Index {
    /// The object that begins at an address or whose block of pymalloc holds it.
    pub fn at(&self, address: u64) -> Option<Node> {
        self.block(address).or_else(|| self.others.get(&address).copied())
    }

    fn block(&self, address: u64) -> Option<Node> {
        let pool = self.pools[*self.by_slot.get(&(address & !(self.slot - 1)))? as usize];
        let block = address.checked_sub(pool.start)? / pool.block;
        if block >= pool.capacity.into() {
            return None;
        }
        let words = &self.bits[pool.words as usize..];
        let (word, bit) = ((block / 64) as usize, block % 64);
        if words[word] & (1 << bit) == 0 {
            return None;
        }
        let before: u32 = words[..word].iter().map(|word| word.count_ones()).sum();
        Some(pool.first + before + (words[word] & ((1 << bit) - 1)).count_ones())
    }
}
