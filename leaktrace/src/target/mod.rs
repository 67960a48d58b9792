//! One process: who it is, what it has mapped, its ELF files as it sees them, its memory. Nothing here knows Python.

pub mod cache;
pub mod chunk;
pub mod elf;
pub mod maps;
pub mod memory;
mod piece;
pub mod process;
mod stat;
mod unhurried;
pub(crate) mod words;

pub use cache::CachedMemory;
pub use elf::{ElfError, ElfFile};
pub use maps::{FileId, Mapping, Maps};
pub use memory::{ImageMemory, Memory, MemoryError, ProcessMemory};
pub use piece::Piece;
pub use process::{Seccomp, Target, TargetError};
pub use unhurried::Unhurried;
