//! Values of BPF maps and records of the ring buffer. All are plain, fixed layouts without padding holes.

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Tells whether a BPF object and a collector agree on what passes between them: a hash (FNV-1a) of the sources that say it.
pub const VERSION: u64 = {
    const fn hash(mut hash: u64, bytes: &[u8]) -> u64 {
        let mut i = 0;
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(0x100_0000_01b3);
            i += 1;
        }
        hash
    }
    let sources = hash(0xcbf2_9ce4_8422_2325, include_bytes!("wire.rs"));
    hash(hash(sources, include_bytes!("site.rs")), include_bytes!("walk.rs"))
};

/// Section of the BPF object that holds the [`VERSION`] it was built with.
pub const VERSION_SECTION: &str = "leaktrace_wire";

/// Generations that CPython's collector counts collections of.
pub const GENERATIONS: usize = 3;

/// Deepest Python stack that is recorded; deeper ones are cut at the outermost frames and marked.
pub const MAX_FRAMES: usize = 128;

/// Most distinct stacks (by frames and domain) that are told apart.
pub const MAX_STACKS: u32 = 1 << 18;

/// Once this many are told apart only the innermost frame of a new stack is kept, marked as cut: so its line stays right.
pub const MAX_WHOLE_STACKS: u32 = MAX_STACKS / 4 * 3;

/// Programs that may be in the middle of a walk on one CPU: a preempted one keeps its room.
pub const ROOMS_OF_CPU: u32 = 4;

/// Indices of the array of words that both sides write.
pub mod state {
    /// Not 0 while user space removes dead blocks: then a block may only be replaced under its bucket's lock.
    pub const SWEEPING: u32 = 0;
    /// Dense stack numbers given out so far; the first is 1.
    pub const STACKS: u32 = 1;
    /// Bits of [`super::window`] in the low byte; above them the number of the window. 0: everything is armed for good.
    pub const WINDOW: u32 = 2;
    /// How often the target has started a process or a thread.
    pub const FORKS: u32 = 3;
    /// How often the collector's probes were armed beside the windows.
    pub const STANDING: u32 = 4;
    /// Size classes that the window is for, bits as in [`super::SiteStats::classes`]: of what sites ask for in others it is
    /// noted that they do, not who asks.
    pub const CLASSES: u32 = 5;
    /// Bit n: of blocks of the C allocator of the [`super::size_bucket`] n the window notes the addresses, not who asks for them, as of what
    /// witnesses hand out.
    pub const QUIET: u32 = 6;
    /// The same of sizes of which the window notes nothing at all: their requests are only counted.
    pub const PASSED_OVER: u32 = 7;
    pub const COUNT: u32 = 8;
}

/// Buckets of sizes of the C allocator's blocks: four for each doubling, from 32 bytes to 2 MiB.
pub const SIZE_BUCKETS: u32 = 64;

/// The bucket of a block of so many bytes.
#[inline(always)]
pub const fn size_bucket(size: u64) -> u32 {
    let size = if size < 32 { 32 } else { size };
    let log = size.ilog2();
    let bucket = (log - 5) * 4 + ((size >> (log - 2)) & 3) as u32;
    if bucket < SIZE_BUCKETS { bucket } else { SIZE_BUCKETS - 1 }
}

/// Indices of the array of what the C allocator was called for in windows. Only ever grow; two threads may lose each other's count.
pub mod c_call {
    /// Up to [`super::SIZE_BUCKETS`]: requests by [`super::size_bucket`].
    pub const REQUESTS: u32 = 0;
    /// Returns that a program was told of that had seen the entry, too: see `c_session` among the programs.
    pub const RETURNS: u32 = super::SIZE_BUCKETS;
    pub const COUNT: u32 = super::SIZE_BUCKETS + 1;
}

/// What a window of tracing does without.
pub mod window {
    /// Only some of the plan is armed: sites keep statistics, and what a site begins another may not end.
    pub const PARTIAL: u64 = 1;
    /// The C allocator is not armed.
    pub const NO_C: u64 = 2;
    /// Refills of pools are not armed.
    pub const NO_REFILL: u64 = 4;
    /// Only what sites ask for is noted, not who asks and for which block: a hit costs half as much.
    pub const SCOUTS: u64 = 8;
    /// Bits for these.
    pub const BITS: u32 = 8;
}

/// What a site was seen to do in windows, by [`crate::site::slot`]. Only ever grows. Two threads may lose each other's
/// count: it is for estimates.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct SiteStats {
    pub hits: u64,
    /// Bit n: it handed out a block of size class n; the highest bit: a block of the C allocator.
    pub classes: u64,
    /// Of the hits, those that asked for a class that the window is not for, or were scouts': they cost less.
    pub skipped: u64,
}

impl SiteStats {
    /// Bit of [`Self::classes`] for blocks of the C allocator.
    pub const LARGE: u64 = 1 << 63;
}

/// Longest tick of a kernel: `CONFIG_HZ` is 100 at least.
pub const TICK_NS: u64 = 10_000_000;

/// A block that may be outstanding: value of the table keyed by address.
///
/// Blocks of the C allocator are removed when they are freed. Blocks of pymalloc are overwritten when their address is
/// handed out again, and removed by the collector's sweep when the pools say that they are free.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct Block {
    /// Requested bytes in the low 40 bits; slot of the site in bits 40 to 55; domain in bits 56 to 58; bit 62: from a free list
    /// of CPython's; bit 63: lies in a pymalloc pool.
    pub size_and_kind: u64,
    /// CLOCK_MONOTONIC, nanoseconds, up to [`TICK_NS`] behind: exact for the first block that a thread was handed out in a
    /// tick of the kernel, and one more for each that follows in it.
    pub time_ns: u64,
    /// Dense stack number, an index of the table of [`StackTotals`]; or [`Self::WITNESSED`].
    pub stack: u32,
    /// Kernel thread id, as the host sees it.
    pub tid: u32,
}

impl Block {
    /// [`Self::stack`] of a block that a witness handed out, or of a quiet size: see [`crate::site::Site::witness`], [`state::QUIET`].
    pub const WITNESSED: u32 = u32::MAX;

    const SIZE_MASK: u64 = (1 << 40) - 1;
    const SITE_SHIFT: u32 = 40;
    const SITE_MASK: u64 = (1 << crate::site::SITE_BITS) - 1;
    const FREE_LIST: u64 = 1 << 62;
    const POOL: u64 = 1 << 63;

    #[inline(always)]
    pub const fn new(size: u64, domain: u8, in_pool: bool, time_ns: u64, stack: u32, tid: u32) -> Self {
        Self::at_site(size, domain, in_pool, time_ns, stack, tid, 0)
    }

    /// As [`Self::new`], with the slot of the site that handed it out.
    #[inline(always)]
    pub const fn at_site(size: u64, domain: u8, in_pool: bool, time_ns: u64, stack: u32, tid: u32, site: u32) -> Self {
        let size = if size > Self::SIZE_MASK { Self::SIZE_MASK } else { size };
        let pool = if in_pool { Self::POOL } else { 0 };
        let site = (site as u64 & Self::SITE_MASK) << Self::SITE_SHIFT;
        Self { size_and_kind: size | site | (((domain & 7) as u64) << 56) | pool, time_ns, stack, tid }
    }

    /// The same of an object that waited on a free list of CPython's, whose block it has: what was asked for is what an earlier object
    /// needed, or where that is not known all that a block of the size class holds.
    #[inline(always)]
    #[must_use]
    pub const fn of_free_list(self) -> Self {
        Self { size_and_kind: self.size_and_kind | Self::FREE_LIST, ..self }
    }

    #[inline(always)]
    pub const fn is_of_free_list(&self) -> bool {
        self.size_and_kind & Self::FREE_LIST != 0
    }

    /// Slot of the site that handed the block out.
    #[inline(always)]
    pub const fn site(&self) -> u32 {
        ((self.size_and_kind >> Self::SITE_SHIFT) & Self::SITE_MASK) as u32
    }

    /// Requested size in bytes.
    #[inline(always)]
    pub const fn size(&self) -> u64 {
        self.size_and_kind & Self::SIZE_MASK
    }

    /// One of [`crate::site::domain`].
    #[inline(always)]
    pub const fn domain(&self) -> u8 {
        ((self.size_and_kind >> 56) & 7) as u8
    }

    /// Whether the block lies in a pool of pymalloc, whose free list tells when it dies.
    #[inline(always)]
    pub const fn in_pool(&self) -> bool {
        self.size_and_kind & Self::POOL != 0
    }
}

/// What one stack allocated since the attach: array indexed by dense stack number. Only ever grows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct StackTotals {
    pub blocks: u64,
    pub bytes: u64,
    /// Of the blocks, those that the table had no room for: whether they live is not known.
    pub lost: u64,
}

/// Indices of the array of counters. Only ever grow. `NAMES` is what diagnostics print.
pub mod counter {
    /// Allocations by malloc/calloc of any domain, each block once.
    pub const ALLOC: u32 = 0;
    /// Reallocations that succeeded, each once.
    pub const REALLOC: u32 = 1;
    /// Frees seen by a probe.
    pub const FREE: u32 = 2;
    /// Frees of blocks that the table does not hold: they are older than the attach.
    pub const FREE_UNKNOWN: u32 = 3;
    /// Frees of a block that was already freed: an allocation was missed.
    pub const FREE_UNMATCHED: u32 = 4;
    /// Blocks found dead because their address was handed out again.
    pub const REUSED: u32 = 5;
    /// Records that the ring had no room for.
    pub const LOST_RING: u32 = 6;
    /// Stacks that could not be walked or numbered.
    pub const LOST_STACK: u32 = 7;
    /// Blocks that the table had no room for.
    pub const LOST_BLOCK: u32 = 8;
    /// Requests that the allocator refused.
    pub const FAILED: u32 = 9;
    /// Hits of an address that the table of sites does not know.
    pub const UNKNOWN_SITE: u32 = 10;
    /// Requests whose block was not learned: the event that should have told it never came.
    pub const LOST_ADDRESS: u32 = 11;
    /// Probe hits of all kinds.
    pub const HITS: u32 = 12;
    /// Hits of return probes.
    pub const RETURNS: u32 = 13;
    /// Of the allocations, those made by calling the C allocator directly.
    pub const NATIVE_ALLOC: u32 = 14;
    /// Code objects whose address was handed out again.
    pub const CODE_DEAD: u32 = 15;
    /// Of the reallocations, those made by calling the C allocator directly.
    pub const NATIVE_REALLOC: u32 = 16;
    /// Blocks that went over to another stack: their object was taken from a free list.
    pub const RETAGGED: u32 = 17;
    pub const COUNT: u32 = 18;
    pub const NAMES: [&str; COUNT as usize] = [
        "alloc",
        "realloc",
        "free",
        "free_unknown",
        "free_unmatched",
        "reused",
        "lost_ring",
        "lost_stack",
        "lost_block",
        "failed",
        "unknown_site",
        "lost_address",
        "hits",
        "returns",
        "native_alloc",
        "code_dead",
        "native_realloc",
        "retagged",
    ];
}

/// First word of each ring record.
pub mod record {
    /// [`super::StackRecord`] and its frames.
    pub const STACK: u32 = 1;
    /// [`super::CodeRecord`] and its bytes.
    pub const CODE: u32 = 2;
    /// [`super::GcRecord`].
    pub const GC: u32 = 3;
    /// [`super::ProcessRecord`]: the target called exec.
    pub const EXEC: u32 = 4;
    /// [`super::ProcessRecord`]: the last thread of the target exited.
    pub const EXIT: u32 = 5;
    /// [`super::ProcessRecord`]: the target forked.
    pub const FORK: u32 = 6;
}

/// A frame as it was walked, innermost first in [`StackRecord`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct RawFrame {
    /// Address of the code object.
    pub code: u64,
    /// The frame's position as the interpreter keeps it: see [`line_encoding`].
    pub instr: u64,
}

/// A stack seen for the first time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct StackRecord {
    /// [`record::STACK`].
    pub kind: u32,
    /// Dense stack number.
    pub stack: u32,
    pub tid: u32,
    /// Frames that follow.
    pub frames: u16,
    /// One of [`crate::site::domain`].
    pub domain: u8,
    /// Bit 0: cut at [`MAX_FRAMES`]. Bit 1: the thread has no Python frame. Bit 2: a frame could not be read.
    pub flags: u8,
    /// For stacks without Python frames: return address of the C allocator's caller, else 0.
    pub native: u64,
}

pub const STACK_TRUNCATED: u8 = 1;
pub const STACK_NO_PYTHON: u8 = 2;
pub const STACK_BROKEN: u8 = 4;

/// Room for the text and tables of a code object in a [`CodeRecord`].
pub const CODE_BYTES: usize = 4096;
/// Longest file name and qualified name carried, in bytes.
pub const CODE_NAME_BYTES: usize = 512;

/// A code object seen for the first time, copied while a frame was running it, so it cannot have died.
/// `filename`, `qualname` and `linetable` follow in this order, each at the start of a room of [`CODE_NAME_BYTES`] or
/// [`CODE_BYTES`] that is filled to the length given.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct CodeRecord {
    /// [`record::CODE`].
    pub kind: u32,
    /// `co_firstlineno`.
    pub first_line: i32,
    /// Address of the code object.
    pub code: u64,
    /// Address of the first instruction (`co_code_adaptive`, 3.11 and later).
    pub instructions: u64,
    /// Address and whole length of the line table's bytes, for what did not fit.
    pub linetable: u64,
    pub linetable_len: u32,
    /// `_co_firsttraceable`, in code units (3.11+).
    pub first_traceable: i32,
    /// Bytes filled in the rooms that follow.
    pub filename_bytes: u16,
    pub qualname_bytes: u16,
    pub linetable_bytes: u16,
    /// `PyUnicode` kind of the names: 1, 2 or 4 bytes a character; low nibble filename, high nibble qualname.
    pub text_kinds: u8,
    /// One of [`line_encoding`].
    pub line_encoding: u8,
}

/// Formats of a code object's line table, and with each what [`RawFrame::instr`] is.
pub mod line_encoding {
    /// `co_lnotab` of 3.8 and 3.9; `f_lasti`, an offset in bytes.
    pub const LNOTAB: u8 = 0;
    /// `co_linetable` of 3.10; `f_lasti`, an index of code units.
    pub const RANGES: u8 = 1;
    /// `co_linetable` of 3.11 and later; the address of an instruction.
    pub const LOCATIONS: u8 = 2;
}

/// One collection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct GcRecord {
    /// [`record::GC`].
    pub kind: u32,
    pub generation: u32,
    pub tid: u32,
    /// Not 0: of another interpreter than the main one.
    pub other: u32,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub start_ns: u64,
    pub end_ns: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct ProcessRecord {
    /// [`record::EXEC`], [`record::EXIT`] or [`record::FORK`].
    pub kind: u32,
    pub pid: u32,
    /// The child of a fork, else 0.
    pub child: u32,
    pub pad: u32,
    pub time_ns: u64,
}

/// Where each generation's count of collections is, youngest first: what tells the generation that was collected where the
/// collector decides that itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct GcCounts {
    /// Address of the main interpreter's state; 0: all interpreters share one collector.
    pub main: u64,
    /// Offset in an interpreter's state of the statistics, or of the pointer to them (`is_pointer` is 1).
    pub stats: u32,
    pub is_pointer: u32,
    /// Offset in these of the count in the first of a generation's.
    pub items: [u64; GENERATIONS],
    /// Offset in these of the byte that says which of a generation's is up to date; [`GcCounts::ONE`]: there is but one.
    pub index: [u64; GENERATIONS],
    /// Distance of one of a generation's from the next, bytes; 0: the collector's function is told the generation.
    pub size: u64,
}

impl GcCounts {
    pub const ONE: u64 = u64::MAX;
    /// All zero.
    pub const ZERO: Self =
        Self { main: 0, stats: 0, is_pointer: 0, items: [0; GENERATIONS], index: [0; GENERATIONS], size: 0 };
}

/// Facts about the target that the BPF programs need: single entry of an array map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct Config {
    /// Factor of [`crate::site::slot`].
    pub site_factor: u64,
    /// Address of pymalloc's `usedpools`, 0 when there is no pymalloc.
    pub usedpools: u64,
    /// The main interpreter's state; 0 where all interpreters share its pools. From 3.12 on (PEP 684) each may have its own.
    pub main_interpreter: u64,
    /// PyThreadState: its interpreter. In that: the state of pymalloc, or the pointer to it (`obmalloc_is_pointer` is 1). In that:
    /// `usedpools`.
    pub tstate_interpreter: u32,
    pub interpreter_obmalloc: u32,
    pub obmalloc_is_pointer: u32,
    pub obmalloc_used: u32,
    /// Largest request that pymalloc serves, bytes (512).
    pub small_max: u64,
    /// Bytes of a pool, a power of two (16 KiB from 3.10, 4 KiB before).
    pub pool_size: u64,
    /// log2 of the spacing of size classes (4: 16 bytes).
    pub class_shift: u32,
    /// Process id of the target as the host sees it.
    pub tgid: u32,
    /// Offset of `thread.fsbase` in the kernel's `task_struct`: tells `pthread_self()` of the thread.
    pub task_fsbase: u32,
    /// Bytes that debug hooks put before each object, within its block.
    pub block_head: u32,
    pub gc: GcCounts,
    /// The interpreter's code, if its own calls of the C allocator are requests of the raw domain: start and end.
    pub raw_callers: u64,
    pub raw_callers_end: u64,
    pub python: crate::walk::PythonLayout,
}

impl Config {
    /// All zero: what the BPF object holds until user space fills it.
    pub const ZERO: Self = Self {
        site_factor: 0,
        usedpools: 0,
        main_interpreter: 0,
        tstate_interpreter: 0,
        interpreter_obmalloc: 0,
        obmalloc_is_pointer: 0,
        obmalloc_used: 0,
        small_max: 0,
        pool_size: 0,
        class_shift: 0,
        tgid: 0,
        task_fsbase: 0,
        block_head: 0,
        gc: GcCounts::ZERO,
        raw_callers: 0,
        raw_callers_end: 0,
        python: crate::walk::PythonLayout::ZERO,
    };
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: each type is repr(C), Copy, made of integers only, and has no padding (zerocopy's IntoBytes, derived on
    // the same type, proves that at compile time; Site and Operand are laid out without holes by their pad fields).
    unsafe impl aya::Pod for super::Block {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::StackTotals {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SiteStats {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Config {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::site::Site {}
}
