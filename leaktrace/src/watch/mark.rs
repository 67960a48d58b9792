//! What a block is known by from its first look on.

use leaktrace_common::walk::{HASH_SEED, mix};

use super::chunks::Chunk;

/// Bytes at the start of a block that are looked at: heads, and the first words of an object.
pub(super) const HEAD: usize = 96;
/// Where a block notes its object's type if pointers to attributes and weak references come before the object, which stay the same
/// (16 bytes before the collector's, 3.11 to 3.15: `Include/internal/pycore_object.h`).
pub(super) const TYPE_BEHIND_POINTERS: usize = 40;
/// A hash that was not computed yet, of a str, bytes or frozenset; or none.
const NO_HASH: u64 = u64::MAX;
/// The bit for what glibc notes before a block.
const CHUNK: u16 = 1 << 15;

/// Words of a block that stay the same while it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Bit n: the word at 8n is one of them; [`CHUNK`]: that before the block as well.
    which: u16,
    /// Where the object's type is noted, 0: no object is known to be in it. The count of references is before the type.
    type_at: u8,
    hash: u32,
}

impl Mark {
    /// Of a block of so many `bytes` while what lies in it is known: its [`HEAD`], where an object in it notes its type, and the chunk
    /// that it is in where it is glibc's.
    pub(super) fn of(bytes: u64, head: &[u8], type_at: Option<usize>, chunk: Option<Chunk>) -> Self {
        // What lies behind the block is another's.
        let words = (bytes as usize).min(HEAD) / 8;
        let type_at = type_at.unwrap_or(0);
        // Neither the collector's head, which it uses, nor the count of references; but what lies before these. (Of memory of the C
        // allocator all: it overwrites the first two words of what is freed, glibc `malloc/malloc.c`.)
        let own = |n: usize| n >= type_at / 8 || type_at == TYPE_BEHIND_POINTERS && n < 2;
        let which = (0..words).filter(|&n| own(n) && word(head, 8 * n) != NO_HASH).fold(0, |bits, n| bits | 1 << n);
        let which = which | if chunk.is_some() { CHUNK } else { 0 };
        Self { which, type_at: type_at as u8, hash: hash(head, chunk, which) }
    }

    pub(super) fn is_of_object(self) -> bool {
        self.type_at != 0
    }

    pub(super) fn is_of_chunk(self) -> bool {
        self.which & CHUNK != 0
    }

    /// Whether what lies in the block is the same.
    pub(super) fn still(self, head: &[u8], chunk: Option<Chunk>) -> bool {
        // The count of 0: on a free list of its type. From 3.12 on the low half is the count.
        let referenced = self.type_at == 0 || word(head, usize::from(self.type_at) - 8) as u32 != 0;
        let in_chunk = !self.is_of_chunk() || chunk.is_some();
        referenced && in_chunk && hash(head, chunk, self.which) == self.hash
    }
}

fn hash(head: &[u8], chunk: Option<Chunk>, which: u16) -> u32 {
    let words = (0..HEAD / 8).filter(|n| which & 1 << n != 0).map(|n| word(head, 8 * n));
    words.chain(chunk.map(Chunk::own)).fold(HASH_SEED, mix) as u32
}

/// The word at an offset, 0 where there is none.
pub(super) fn word(head: &[u8], at: usize) -> u64 {
    head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}
