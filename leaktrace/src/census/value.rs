//! The census as a value: what `leaktrace.heap/1` holds.

use serde::{Deserialize, Serialize};

use super::c_heap::CHeap;
use super::memory::ProcessMemoryUse;

/// Name and version of the schema.
pub const SCHEMA: &str = "leaktrace.heap/1";

/// What was in the heap at one time. Bytes are those of `sys.getsizeof` where they are of objects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Census {
    pub schema: String,
    pub pid: u32,
    /// Start time of the process in clock ticks since boot: with the pid it names one process.
    pub process_start: u64,
    /// "3.11.2".
    pub python: String,
    /// Seconds since 1970.
    pub taken_at: f64,
    /// How long it took, seconds.
    pub seconds: f64,
    /// How long the process was stopped for it, seconds; `None` when it was not.
    pub pause_seconds: Option<f64>,
    pub totals: Totals,
    pub consistency: Consistency,
    pub kinds: Kinds,
    /// The largest first.
    pub types: Vec<TypeCount>,
    /// The longest first; not all.
    pub containers: Vec<Container>,
    pub duplicates: Duplicates,
    pub parts: Vec<PartCount>,
    pub size_classes: Vec<SizeClass>,
    pub arenas: Arenas,
    pub memory: ProcessMemoryUse,
    /// What glibc's malloc holds, large Python objects included; `None` where it is another allocator, or where it changed at
    /// each look.
    #[serde(default)]
    pub c_allocator: Option<CHeap>,
}

/// Sums over all types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    pub objects: u64,
    pub bytes: u64,
    /// Objects that the collector tracks: what `gc.get_objects()` lists.
    pub tracked: u64,
    /// Objects that the C allocator holds, and their own bytes without their parts.
    pub large_objects: u64,
    pub large_bytes: u64,
    /// Bytes of memory that were read.
    pub read_bytes: u64,
}

/// How far the picture can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Consistency {
    /// Each object that the collector tracks leads to another that was found: none is missing and none was made up. `None` where
    /// it has no lists (builds without the GIL).
    pub lists_closed: Option<bool>,
    /// A collection was running: parts of the lists are then in the collector's hands.
    pub collecting: bool,
    /// Bytes of pools that changed at each look.
    pub unsettled_bytes: u64,
    /// Bytes that could not be read.
    pub unreadable_bytes: u64,
}

/// Things that people count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kinds {
    pub modules: u64,
    pub classes: u64,
    pub functions: u64,
    pub frames: u64,
    pub generators: u64,
    pub coroutines: u64,
    pub tasks: u64,
    pub threads: u64,
}

/// Objects of one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeCount {
    /// With its module, but for builtins.
    #[serde(rename = "type")]
    pub name: String,
    pub count: u64,
    pub bytes: u64,
    /// Those that the collector tracks.
    pub tracked: u64,
    /// Freed objects that the interpreter keeps for the next of the type; not in `count`.
    pub free_listed: u64,
}

/// A long container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    #[serde(rename = "type")]
    pub name: String,
    pub address: u64,
    pub length: u64,
}

/// Strings and bytes whose content is there more than twice.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Duplicates {
    /// Objects more than needed, and their bytes.
    pub objects: u64,
    pub bytes: u64,
    /// The worst first; not all.
    pub groups: Vec<DuplicateGroup>,
}

/// Equal contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuplicateGroup {
    #[serde(rename = "type")]
    pub name: String,
    pub count: u64,
    /// Bytes of one.
    pub bytes: u64,
    /// How the content begins.
    pub preview: String,
}

/// Blocks that belong to objects: their bytes are counted with the objects too, where `sys.getsizeof` does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartCount {
    /// "dict keys", ...
    pub kind: String,
    /// In arenas, in blocks rounded up to size classes.
    pub blocks: u64,
    pub bytes: u64,
    /// Held by the C allocator.
    pub large_blocks: u64,
    pub large_bytes: u64,
}

/// Blocks of one size in the arenas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeClass {
    /// Bytes of a block.
    pub size: u64,
    pub pools: u64,
    pub objects: u64,
    pub parts: u64,
    pub free_listed: u64,
    pub unknown: u64,
    pub free: u64,
}

/// The arenas of pymalloc, or the segments of mimalloc (their headers, the pages cut from them and what else they have not given
/// back), in bytes: the parts add up to `bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Arenas {
    pub count: u64,
    pub bytes: u64,
    /// Live objects.
    pub objects: u64,
    /// Blocks that belong to objects.
    pub parts: u64,
    /// Freed objects that the interpreter keeps.
    pub free_listed: u64,
    /// Blocks in use that were not understood: what extensions and the interpreter itself allocate.
    pub unknown: u64,
    /// Free blocks in pools that have blocks in use: only the pool's size class can use them.
    pub free_blocks: u64,
    /// Pools without any block in use.
    pub free_pools: u64,
    /// Pools that changed at each look.
    pub unsettled: u64,
    /// Headers and rounding.
    pub overhead: u64,
    /// Arenas less than a tenth full.
    pub sparse: u64,
}

impl Arenas {
    /// In use in any way.
    pub fn used(&self) -> u64 {
        self.objects + self.parts + self.free_listed + self.unknown
    }

    /// Held but not used.
    pub fn free(&self) -> u64 {
        self.free_blocks + self.free_pools
    }
}

impl Census {
    /// The count of a type by its qualified name, 0 if there is none.
    pub fn count_of(&self, name: &str) -> u64 {
        self.types.iter().filter(|t| t.name == name).map(|t| t.count).sum()
    }

    /// Bytes of Python's live objects and their parts: in arenas, and in the C allocator.
    pub fn live_bytes(&self) -> u64 {
        self.arenas.used() + self.large_live_bytes()
    }

    /// The share of [`Self::live_bytes`] that the C allocator holds.
    pub fn large_live_bytes(&self) -> u64 {
        self.totals.large_bytes + self.parts.iter().map(|part| part.large_bytes).sum::<u64>()
    }
}
