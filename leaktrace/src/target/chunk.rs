//! How glibc's malloc notes the size of a chunk: in the word before a block, with flags in its low bits (`malloc/malloc.c`, "Chunk
//! specifics"; the same from 2.26 to 2.43).

/// The chunk before it is in use.
pub const PREV_IN_USE: u64 = 1;
/// It has a mapping of its own.
pub const MMAPPED: u64 = 2;
/// All the flags that there are.
pub const FLAGS: u64 = 7;
/// Bytes that sizes and chunks are multiples of, on x86-64.
pub const ALIGNED: u64 = 16;
