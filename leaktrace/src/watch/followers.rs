//! Blocks that outlived the window in which they were handed out, followed by reading memory until it shows them dead.
//!
//! What lies in a block is first looked at while its window is open, when nobody can have taken its address unseen; that look is
//! what it is known by from then on. An address that was freed and handed out again between two later looks would pass for a
//! survivor. Five things tell: the pool's free list at each look, the object that lies in the block (its type, and whether it
//! is referenced at all: objects on CPython's own free lists are not), the words that it holds, and a window that sees the
//! address handed out, or for the C allocator a block that lies where it does; before all, what glibc's malloc notes beside each
//! of its blocks ([`super::chunks`]): zeroed buffers look alike, whoever has them. An object that still is the same but has changed
//! its words is lost sight of: that hides a leak, and accuses
//! no one. How often such a window caught what the others had let pass is counted, and says how often that may be.

use std::collections::{BTreeMap, HashMap};

use leaktrace_common::{
    site::domain,
    wire::{Block, size_bucket},
};

use super::{
    chunks,
    mark::{HEAD, Mark},
    occupant::Occupants,
    units::LeftOut,
};
use crate::{
    cpython::{
        offsets::Offsets,
        pools::{BlockState, Pools},
    },
    target::Memory,
};

/// Blocks read at once.
const PIECE: usize = 4096;
/// Blocks before an address of which one may reach to it: some that are gone may lie between.
const NEIGHBOURS: usize = 8;

/// A block and what lay in it while its window was open.
#[derive(Debug, Clone, Copy)]
pub struct Follower {
    block: Block,
    mark: Mark,
}

impl Follower {
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// Whether an object of Python is known to be in it.
    pub fn is_object(&self) -> bool {
        self.mark.is_of_object()
    }
}

/// The blocks followed.
#[derive(Debug, Default)]
pub struct Followers {
    followed: BTreeMap<u64, Follower>,
    occupants: Occupants,
    /// Addresses that a window saw handed out while they were believed to be alive.
    caught: u64,
    /// Blocks of the C allocator are in chunks of glibc's.
    glibc: bool,
}

impl Followers {
    /// `glibc`: see [`ProbePlan::glibc`](crate::plan::ProbePlan::glibc).
    pub fn new(glibc: bool) -> Self {
        Self { glibc, ..Self::default() }
    }

    /// Looks at blocks while the window is open in which they were handed out, and keeps those in which nothing else can be by now.
    /// `passed_over`: sizes, see [`super::sizes`], that it saw nothing of: what lies in a chunk for one of these is no block that it saw.
    /// `left_out`: whom it left out of those that may serve a block's class.
    pub fn look(
        &mut self,
        memory: &dyn Memory,
        offsets: &Offsets,
        blocks: Vec<(u64, Block)>,
        passed_over: u64,
        left_out: impl Fn(&Block) -> LeftOut,
    ) -> HashMap<u64, Follower> {
        let addresses: Vec<u64> = blocks.iter().map(|(address, _)| *address).collect();
        let mut bytes = Vec::new();
        let read = memory.read_many(&addresses, HEAD, &mut bytes);
        let of_c = blocks.iter().filter(|(_, block)| self.glibc && !block.in_pool());
        let of_c: HashMap<u64, u64> = of_c.map(|(address, block)| (*address, block.size())).collect();
        let mut chunks = chunks::in_use(memory, of_c.iter().map(|(&address, &bytes)| (address, bytes)));
        chunks.retain(|address, chunk| {
            let own = size_bucket(of_c[address]);
            let other = |bucket: u32| bucket != own && passed_over >> bucket & 1 != 0;
            !chunk.asked().into_iter().map(size_bucket).any(other)
        });
        let seen = blocks.into_iter().zip(bytes.chunks_exact(HEAD)).zip(read).filter(|(_, read)| *read);
        // Some have been given back already.
        let seen =
            seen.filter(|(((address, block), _), _)| !self.glibc || block.in_pool() || chunks.contains_key(address));
        let occupants = &mut self.occupants;
        let followers = seen.filter_map(|(((address, block), head), _)| {
            let own = head.get(..block.size() as usize).unwrap_or(head);
            let type_at = if block.domain() == domain::OBJ { occupants.type_at(memory, own) } else { None };
            let is_anothers = |at| occupants.is_anothers(memory, offsets, &block, left_out(&block), (head, at));
            if type_at.is_some_and(is_anothers) {
                return None;
            }
            let mark = Mark::of(block.size(), head, type_at, chunks.get(&address).copied());
            Some((address, Follower { block, mark }))
        });
        followers.collect()
    }

    /// An address that a window saw handed out: whatever was followed there is dead.
    pub fn handed_out(&mut self, address: u64) {
        self.caught += u64::from(self.followed.remove(&address).is_some());
    }

    /// Blocks of the C allocator that a window saw handed out: whatever was followed where one of them lies is dead.
    pub fn overlaid(&mut self, by: &HandedOut) {
        if by.0.is_empty() {
            return;
        }
        let before = self.followed.len();
        self.followed.retain(|&address, follower| !by.overlay(address, follower.block()));
        self.caught += (before - self.followed.len()) as u64;
    }

    /// A block that outlived its window.
    pub fn enter(&mut self, address: u64, follower: Follower) {
        self.followed.insert(address, follower);
    }

    /// Keeps the blocks of which this is so.
    pub fn retain(&mut self, keep: impl Fn(&Block) -> bool) {
        self.followed.retain(|_, follower| keep(&follower.block));
    }

    /// The blocks that are followed, by address.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Block)> {
        self.followed.iter().map(|(&address, follower)| (address, &follower.block))
    }

    /// Drops what memory shows dead: `pools` were read after every block that was entered had been handed out.
    pub fn settle(&mut self, memory: &dyn Memory, pools: Option<&Pools>) {
        self.followed.retain(|&address, follower| {
            !follower.block.in_pool()
                || match pools.map(|pools| pools.block(address)) {
                    Some(BlockState::Free | BlockState::Outside | BlockState::Next) => false,
                    Some(BlockState::Used | BlockState::Unsettled) | None => true,
                }
        });
        let mut dead = Vec::new();
        let (mut bytes, mut begin) = (Vec::new(), 0);
        loop {
            let piece: Vec<(u64, Follower)> = self.followed.range(begin..).take(PIECE).map(|(&a, &f)| (a, f)).collect();
            let Some(&(last, _)) = piece.last() else { break };
            let addresses: Vec<u64> = piece.iter().map(|(address, _)| *address).collect();
            let read = memory.read_many(&addresses, HEAD, &mut bytes);
            let in_chunks = piece.iter().filter(|(_, follower)| follower.mark.is_of_chunk());
            let chunks = chunks::in_use(memory, in_chunks.map(|(address, f)| (*address, f.block.size())));
            for (((address, follower), head), read) in piece.iter().zip(bytes.chunks_exact(HEAD)).zip(read) {
                // What the C allocator had mapped for one block is gone with it; the end of a small one may be unmapped.
                let chunk = chunks.get(address).copied();
                let alive = if read { follower.mark.still(head, chunk) } else { follower.block.in_pool() };
                dead.extend((!alive).then_some(*address));
            }
            let Some(next) = last.checked_add(1) else { break };
            begin = next;
        }
        for address in dead {
            self.followed.remove(&address);
        }
    }

    /// The blocks that are believed to live.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.followed.values().map(|follower| &follower.block)
    }

    pub fn len(&self) -> usize {
        self.followed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.followed.is_empty()
    }

    /// How many addresses a later window saw handed out again although the looks before it had let them pass.
    pub fn caught(&self) -> u64 {
        self.caught
    }
}

/// Blocks of the C allocator that a window saw handed out. It splits and joins what is given back, so that the next block may begin
/// anywhere in the one that was there.
#[derive(Debug, Default)]
pub struct HandedOut(BTreeMap<u64, Block>);

impl HandedOut {
    pub fn enter(&mut self, address: u64, block: Block) {
        if !block.in_pool() {
            self.0.insert(address, block);
        }
    }

    /// Whether one that is younger lies where this block does.
    pub fn overlay(&self, address: u64, block: &Block) -> bool {
        if block.in_pool() {
            return false;
        }
        let younger = |other: &Block| other.time_ns > block.time_ns;
        let end = address.saturating_add(block.size().max(1));
        let mut before = self.0.range(..address).rev().take(NEIGHBOURS);
        before.any(|(at, other)| at.saturating_add(other.size()) > address && younger(other))
            || self.0.range(address..end).any(|(_, other)| younger(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::memory::ImageMemory as Image;

    const NO_HASH: u64 = u64::MAX;
    const TYPE: u64 = 0x1000;
    const STR: u64 = 0x2000;
    const LIST: u64 = 0x3000;

    /// Types that are of `type`, with their names.
    fn types() -> Image {
        let mut image = Image::new();
        for (address, name_at, name) in [(TYPE, 0x4000u64, "type"), (STR, 0x4100, "str"), (LIST, 0x4200, "list")] {
            let words = [1, TYPE, 0, name_at].map(u64::to_le_bytes).concat();
            image.insert(address, words);
            image.insert(name_at, format!("{name:\0<8}").into_bytes());
        }
        image
    }

    fn with(address: u64, words: [u64; 8]) -> Image {
        let mut image = types();
        image.insert(address, [words.map(u64::to_le_bytes).concat(), vec![0; HEAD - 64]].concat());
        image
    }

    /// At a block at 0x9000.
    fn look(followers: &mut Followers, image: &Image, block: Block, passed_over: u64) -> HashMap<u64, Follower> {
        look_at(followers, image, vec![(0x9000, block)], passed_over)
    }

    fn look_at(
        followers: &mut Followers,
        image: &Image,
        blocks: Vec<(u64, Block)>,
        passed_over: u64,
    ) -> HashMap<u64, Follower> {
        followers.look(image, &Offsets::of(3, 11, 0).unwrap(), blocks, passed_over, |_| LeftOut::Nobody)
    }

    fn block(size: u64, domain: u8) -> Block {
        Block::new(size, domain, false, 0, 1, 1)
    }

    /// Whether a block at 0x9000 is believed to live when its words change.
    fn survives(size: u64, domain: u8, before: [u64; 8], after: [u64; 8]) -> bool {
        let mut followers = Followers::default();
        let seen = look(&mut followers, &with(0x9000, before), block(size, domain), 0);
        followers.enter(0x9000, seen[&0x9000]);
        followers.settle(&with(0x9000, before), None);
        assert_eq!(followers.len(), 1, "it lives as long as nothing changes");
        followers.settle(&with(0x9000, after), None);
        followers.len() == 1
    }

    #[test]
    fn an_object_lives_while_it_is_the_same_and_referenced() {
        let list = [0xaaa0, 0xbbb0, 1, LIST, 3, 0xccc0, 4, 0];
        assert!(
            survives(64, domain::OBJ, list, [0xddd0, 0xeee0, 2, LIST, 3, 0xccc0, 4, 0]),
            "the collector's head may change"
        );
        assert!(!survives(64, domain::OBJ, list, [0xaaa0, 0xbbb0, 1, LIST, 5, 0xfff0, 8, 0]), "another list, or grown");
        assert!(!survives(64, domain::OBJ, list, [0xaaa0, 0xbbb0, 0, LIST, 3, 0xccc0, 4, 0]), "on a free list");
        assert!(!survives(64, domain::OBJ, list, [1, STR, 3, 77, 0, 0, 0, 0]), "another object");
    }

    #[test]
    fn who_asked_for_less_than_lies_there_has_not_got_it() {
        let offsets = Offsets::of(3, 11, 0).unwrap();
        let of = &offsets.type_object;
        let mut image = Image::new();
        // `Py_TPFLAGS_READY`, with the flags of types and of strings.
        for (address, name, flags) in [(TYPE, "type", 1_u64 << 12 | 1 << 31), (STR, "str", 1 << 12 | 1 << 28)] {
            let mut bytes = vec![0; 0x800];
            let mut put = |at: u32, word: u64| bytes[at as usize..][..8].copy_from_slice(&word.to_le_bytes());
            for (at, word) in [(0, 1), (8, TYPE), (of.name, address + 0x700), (of.flags, flags)] {
                put(at, word);
            }
            bytes[0x700..][..name.len()].copy_from_slice(name.as_bytes());
            image.insert(address, bytes);
        }
        // Twelve characters, compact and of ASCII: 48 bytes before them, a 0 behind.
        let text = [1, STR, 12, NO_HASH, 1 << 2 | 1 << 5 | 1 << 6, 0, 0, 0].map(u64::to_le_bytes).concat();
        image.insert(0x9000, [text, vec![0; HEAD - 64]].concat());
        let has = |block, left_out| {
            Followers::default().look(&image, &offsets, vec![(0x9000, block)], 0, |_| left_out).len() == 1
        };
        let asked = |bytes| block(bytes, domain::OBJ);
        assert!(has(asked(61), LeftOut::Some), "it may be what was asked for");
        assert!(!has(asked(60), LeftOut::Some), "another had the address when this was put there");
        assert!(has(asked(60), LeftOut::Nobody), "there is no other");
        assert!(has(asked(60), LeftOut::SomeWhoResize), "it may have grown since");
        assert!(has(asked(60).of_free_list(), LeftOut::Some), "nobody asked for so little");
        assert!(has(block(60, domain::MEM), LeftOut::Some), "it is no object");
    }

    #[test]
    fn an_instance_is_known_by_its_attributes_too() {
        let instance = [0xa10, 0, 0xaaa0, 0xbbb0, 1, LIST, 3, 4];
        assert!(survives(64, domain::OBJ, instance, [0xa10, 0, 0xccc0, 0xddd0, 7, LIST, 3, 4]));
        assert!(!survives(64, domain::OBJ, instance, [0xb20, 0, 0xaaa0, 0xbbb0, 1, LIST, 3, 4]));
    }

    #[test]
    fn what_lies_under_a_younger_block_of_the_c_allocator_is_dead() {
        let of = |size, time_ns| Block::new(size, domain::NATIVE, false, time_ns, 1, 1);
        let mut by = HandedOut::default();
        by.enter(0x1000, of(0x500, 20));
        by.enter(0x3000, of(0x100, 20));
        assert!(by.overlay(0x1400, &of(0x800, 10)), "it begins in it");
        assert!(by.overlay(0x2f00, &of(0x800, 10)), "the other lies within");
        assert!(!by.overlay(0x1400, &of(0x800, 30)), "it is younger itself");
        assert!(!by.overlay(0x1500, &of(0x800, 10)) && !by.overlay(0x3100, &of(8, 10)), "beside them");
        assert!(!by.overlay(0x1000, &Block::new(8, domain::OBJ, true, 10, 1, 1)));
    }

    #[test]
    fn a_string_lives_while_it_is_the_same() {
        let text = [1, STR, 5, 0x1234, 0, 0, 0, 0];
        assert!(survives(64, domain::OBJ, text, [9, STR, 5, 0x1234, 0, 0, 0, 0]));
        assert!(!survives(64, domain::OBJ, text, [1, STR, 5, 0x4321, 0, 0, 0, 0]), "another string of the length");
        let unhashed = [1, STR, 5, NO_HASH, 0, 0, 0, 0];
        assert!(survives(64, domain::OBJ, unhashed, [1, STR, 5, 0x1234, 0, 0, 0, 0]), "its hash is computed later");
    }

    #[test]
    fn memory_of_the_c_allocator_is_dead_when_its_start_is_overwritten() {
        let raw = [11, 12, 13, 0, 0, 0, 0, 0];
        assert!(survives(4096, domain::NATIVE, raw, raw));
        assert!(!survives(4096, domain::NATIVE, raw, [0x7f00, 12, 13, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn zeroed_buffers_are_told_apart_by_their_chunks() {
        let image = |own: u64, next: u64| {
            let mut image = types();
            image.insert(0x8ff8, own.to_le_bytes().to_vec());
            image.insert(0x9000, vec![0; HEAD]);
            image.insert(0x8ff8 + (own & !7), next.to_le_bytes().to_vec());
            image
        };
        let look = |followers: &mut Followers, image: &Image| {
            look(followers, image, block(4096, domain::RAW), 0).remove(&0x9000)
        };
        let survives = |after: &Image| {
            let mut followers = Followers::new(true);
            let seen = look(&mut followers, &image(0x1011, 0x41)).expect("it is there");
            followers.enter(0x9000, seen);
            followers.settle(after, None);
            assert!(look(&mut followers, &image(0x1010, 0x40)).is_none(), "it was given back before the look");
            assert!(look(&mut followers, &image(0x1790, 0)).is_none(), "a part of what is free at the end");
            followers.len() == 1
        };
        assert!(survives(&image(0x1010, 0x61)), "its neighbours change");
        assert!(!survives(&image(0x1791, 0x41)), "it is another's, or part of what is free");
        assert!(!survives(&image(0x1011, 0x40)), "it is free");
    }

    #[test]
    fn what_lies_in_a_chunk_for_a_size_that_was_passed_over_is_no_block_that_was_seen() {
        let mut image = types();
        // For 5000 bytes: split off where one of 1200 was.
        image.insert(0x8ff8, 0x1391_u64.to_le_bytes().to_vec());
        image.insert(0x9000, vec![0; HEAD]);
        image.insert(0x8ff8 + 0x1390, 0x41_u64.to_le_bytes().to_vec());
        let mut followers = Followers::new(true);
        let mut is_seen =
            |bytes, passed_over| !look(&mut followers, &image, block(bytes, domain::RAW), passed_over).is_empty();
        let others = 1 << size_bucket(5000);
        assert!(!is_seen(1200, others) && is_seen(1200, 0) && is_seen(1200, !others) && is_seen(5000, others));
    }

    #[test]
    fn another_allocator_has_no_chunks() {
        let mut image = types();
        image.insert(0x8ff8, vec![0; HEAD + 8]);
        let mut followers = Followers::default();
        let seen = look(&mut followers, &image, block(4096, domain::RAW), 0);
        followers.enter(0x9000, seen[&0x9000]);
        image.insert(0x8ff8, [vec![7; 8], vec![0; HEAD]].concat());
        followers.settle(&image, None);
        assert_eq!(followers.len(), 1, "what lies before it is another's");
    }

    #[test]
    fn memory_that_is_gone_was_freed_and_an_address_handed_out_again_is_counted() {
        let mut followers = Followers::default();
        let raw = with(0x9000, [11, 12, 13, 0, 0, 0, 0, 0]);
        let blocks = vec![(0x9000, block(1 << 20, domain::RAW)), (0x7000, block(64, domain::OBJ))];
        let seen = look_at(&mut followers, &raw, blocks, 0);
        assert_eq!(seen.len(), 1, "what is not there is not followed");
        followers.enter(0x9000, seen[&0x9000]);
        followers.handed_out(0x9000);
        followers.handed_out(0x9000);
        assert_eq!((followers.len(), followers.caught()), (0, 1));
        followers.enter(0x9000, seen[&0x9000]);
        followers.settle(&types(), None);
        assert!(followers.is_empty());
    }
}
