//! Blocks that outlived the window in which they were handed out, followed by reading memory until it shows them dead.
//!
//! An address that was freed and handed out again between two looks would pass for a survivor. Three things tell: the pool's
//! free list at each look, the object that lies in the block (its type, for immutable ones also what it holds, and whether it is
//! referenced at all: objects on CPython's own free lists are not), and a later window that sees the address handed out. What
//! none of them tells is a mutable object of the same type at the same address; how often the third caught what the others had
//! let pass is counted, and says how often that may be.

use std::collections::HashMap;

use leaktrace_common::{site::domain, wire::Block};

use crate::{
    cpython::pools::{BlockState, Pools},
    target::Memory,
};

/// Bytes at the start of a block that are looked at: a head of the collector, and the head of an object.
const HEAD: usize = 64;
/// Offsets of `ob_type`: in an object without and with a head of the collector before it (16 bytes, 3.8 to 3.15).
const TYPES_AT: [usize; 2] = [8, 24];
/// Types whose objects do not change what they hold: words after `ob_type` that stay the same.
const IMMUTABLE: [(&[u8], usize); 6] =
    [(b"str\0", 2), (b"bytes\0", 2), (b"int\0", 2), (b"float\0", 1), (b"tuple\0", 2), (b"code\0", 1)];
/// A hash that was not computed yet, of a str or bytes.
const NO_HASH: u64 = u64::MAX;
/// Types whose nature is remembered.
const MOST_TYPES: usize = 1 << 16;

/// What a block is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Not looked at yet.
    New,
    /// The object in it: where its type is noted, the type, and how many of the words after that stay the same.
    Object { at: u8, of: u64, fixed: u8, words: [u64; 2] },
    /// Memory that the C allocator did not give out again: it writes into the first 16 bytes of what is freed (glibc
    /// `malloc/malloc.c`: `fd`, `bk`, and the key of the thread's cache).
    Start([u64; 2]),
    /// Nothing: items of a list or the keys of a dict in a pool.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
struct Follower {
    block: Block,
    mark: Mark,
}

/// The blocks followed.
#[derive(Debug, Default)]
pub struct Followers {
    followed: HashMap<u64, Follower>,
    /// By address of a type: how many words of its objects stay the same; `None` where it is no type.
    types: HashMap<u64, Option<u8>>,
    /// Addresses that a window saw handed out while they were believed to be alive.
    caught: u64,
}

impl Followers {
    /// A block that a window saw handed out.
    pub fn enter(&mut self, address: u64, block: Block) {
        if self.followed.insert(address, Follower { block, mark: Mark::New }).is_some() {
            self.caught += 1;
        }
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
        let addresses: Vec<u64> = self.followed.keys().copied().collect();
        let mut bytes = Vec::new();
        let read = memory.read_many(&addresses, HEAD, &mut bytes);
        for ((address, head), read) in addresses.iter().zip(bytes.chunks_exact(HEAD)).zip(read) {
            let Some(follower) = self.followed.get_mut(address) else { continue };
            let alive = if !read {
                // What the C allocator had mapped for one block is gone with it; the end of a small one may be unmapped.
                follower.block.in_pool()
            } else if follower.mark == Mark::New {
                follower.mark = mark(&follower.block, head, memory, &mut self.types);
                true
            } else {
                follower.mark.still(head)
            };
            if !alive {
                self.followed.remove(address);
            }
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

impl Mark {
    fn still(self, head: &[u8]) -> bool {
        match self {
            Self::New | Self::Nothing => true,
            Self::Object { at, of, fixed, words } => {
                let at = usize::from(at);
                // The count of 0: on a free list of its type. From 3.12 on the low half is the count.
                let referenced = word(head, at - 8) as u32 != 0;
                let same = |n: usize| words[n] == word(head, at + 8 * (n + 1)) || words[n] == NO_HASH;
                referenced && word(head, at) == of && (0..usize::from(fixed)).all(same)
            }
            Self::Start(words) => words == [word(head, 0), word(head, 8)],
        }
    }
}

fn mark(block: &Block, head: &[u8], memory: &dyn Memory, types: &mut HashMap<u64, Option<u8>>) -> Mark {
    if block.domain() == domain::OBJ {
        for at in TYPES_AT {
            let candidate = word(head, at);
            if let Some(fixed) = nature(candidate, memory, types) {
                let words = [word(head, at + 8), word(head, at + 16)];
                return Mark::Object { at: at as u8, of: candidate, fixed, words };
            }
        }
    }
    if block.in_pool() || block.size() < 16 { Mark::Nothing } else { Mark::Start([word(head, 0), word(head, 8)]) }
}

/// How many words of an object of the type at `address` stay the same; `None` where there is no type: the types of types end,
/// after few steps, at `type`, which is its own.
fn nature(address: u64, memory: &dyn Memory, types: &mut HashMap<u64, Option<u8>>) -> Option<u8> {
    if address == 0 || !address.is_multiple_of(8) {
        return None;
    }
    if let Some(known) = types.get(&address) {
        return *known;
    }
    let read = |address: Option<u64>| {
        let mut bytes = [0; 8];
        memory.read(address?, &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    };
    let mut at = address;
    let mut is_type = false;
    for _ in 0..3 {
        match read(at.checked_add(8)).filter(|of| *of != 0 && of.is_multiple_of(8)) {
            Some(of) if of == at => {
                is_type = true;
                break;
            }
            Some(of) => at = of,
            None => break,
        }
    }
    // `tp_name` follows the head of an object of variable size (`Include/cpython/object.h`, 3.8 to 3.15).
    let name = || {
        let mut bytes = [0; 8];
        memory.read(read(address.checked_add(24))?, &mut bytes).ok()?;
        Some(bytes)
    };
    let nature = is_type.then(|| {
        let name = name().unwrap_or_default();
        IMMUTABLE.iter().find(|(of, _)| name.starts_with(of)).map_or(0, |(_, words)| *words as u8)
    });
    if types.len() < MOST_TYPES {
        types.insert(address, nature);
    }
    nature
}

fn word(head: &[u8], at: usize) -> u64 {
    head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::memory::ImageMemory as Image;

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
        image.insert(address, words.map(u64::to_le_bytes).concat());
        image
    }

    fn block(size: u64, domain: u8) -> Block {
        Block::new(size, domain, false, 0, 1, 1)
    }

    /// Whether a block at 0x9000 is believed to live when its words change.
    fn survives(size: u64, domain: u8, before: [u64; 8], after: [u64; 8]) -> bool {
        let mut followers = Followers::default();
        followers.enter(0x9000, block(size, domain));
        followers.settle(&with(0x9000, before), None);
        assert_eq!(followers.len(), 1, "a new one is believed to live");
        followers.settle(&with(0x9000, after), None);
        followers.len() == 1
    }

    #[test]
    fn an_object_lives_while_its_type_is_there_and_it_is_referenced() {
        let list = [0xaaa0, 0xbbb0, 1, LIST, 3, 0xccc0, 4, 0];
        assert!(survives(64, domain::OBJ, list, [0xddd0, 0xeee0, 2, LIST, 5, 0xfff0, 8, 0]), "it may change");
        assert!(!survives(64, domain::OBJ, list, [0xaaa0, 0xbbb0, 0, LIST, 3, 0xccc0, 4, 0]), "on a free list");
        assert!(!survives(64, domain::OBJ, list, [1, STR, 3, 77, 0, 0, 0, 0]), "another object");
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
        assert!(survives(4096, domain::NATIVE, raw, [11, 12, 99, 0, 0, 0, 0, 0]));
        assert!(!survives(4096, domain::NATIVE, raw, [0x7f00, 12, 13, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn memory_that_is_gone_was_freed_and_an_address_handed_out_again_is_counted() {
        let mut followers = Followers::default();
        followers.enter(0x9000, block(1 << 20, domain::RAW));
        followers.enter(0x9000, block(1 << 20, domain::RAW));
        assert_eq!((followers.len(), followers.caught()), (1, 1));
        followers.settle(&types(), None);
        assert!(followers.is_empty());
    }
}
