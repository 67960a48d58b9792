//! A CPython interpreter inside a target.

pub mod code;
pub mod discover;
pub mod dwarf;
pub mod gc;
pub mod gc_lists;
pub mod interpreters;
pub mod linetable;
pub mod lnotab;
pub(crate) mod methods;
pub mod mimalloc;
pub mod offsets;
pub mod pools;
pub mod pymalloc;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
pub mod threads;
mod tls;
pub mod used_set;
pub mod version;

pub use code::CodeInfo;
pub use discover::{DiscoverError, Interpreter};
pub use gc::GcState;
pub use interpreters::PerInterpreter;
pub use offsets::Offsets;
pub use pools::{BlockState, Pools};
pub use snapshot::SnapshotError;
pub use used_set::UsedSet;
pub use version::Version;

use leaktrace_common::walk::PythonLayout;

/// One allocator as the interpreter's table holds it (`PyMemAllocatorEx`), in the target's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AllocatorSlot {
    /// Address of the struct: ctx, malloc, calloc, realloc, free, 8 bytes each.
    pub address: u64,
    pub ctx: u64,
    /// malloc, calloc, realloc, free.
    pub functions: [u64; 4],
}

/// Where pymalloc keeps its state, in the target's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PymallocState {
    /// `usedpools`: pairs of pool pointers by size class.
    pub usedpools: u64,
    /// `arenas`: the pointer to the array of `arena_object`.
    pub arenas: u64,
    /// `maxarenas`, the length of that array (u32); 0 when it was not found.
    pub maxarenas: u64,
    /// `raw_allocated_blocks`: how many live blocks went from here to the C allocator (u64); 0 when it was not found.
    pub raw_allocated_blocks: u64,
    pub pool_size: u64,
    pub arena_size: u64,
    /// log2 of the spacing of size classes.
    pub class_shift: u32,
    /// Largest small request, bytes.
    pub small_max: u64,
    /// Offsets in a pool's header and in an entry of `arenas`.
    pub pool: offsets::Pool,
    pub arena: offsets::Arena,
    /// How to find those of other interpreters; `None` where all share this one.
    pub others: Option<PerInterpreter>,
}

/// Facts of a found interpreter.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// `(3, 11, 2)`.
    pub version: (u8, u8, u8),
    /// As `sys.version` begins: "3.11.2".
    pub version_text: String,
    /// raw, mem, obj, by [`leaktrace_common::site::domain`]; found by the plan, empty before.
    pub slots: [AllocatorSlot; 3],
    /// The functions that these slots hold by default in this build; equal to the slots' when nothing was replaced.
    pub pymalloc: Option<PymallocState>,
    pub layout: PythonLayout,
    /// "stripped", "shared-libpython", ...
    pub features: Vec<String>,
}
