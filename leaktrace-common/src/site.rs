//! A probe site: what an armed instruction means, and where the registers hold the arguments there.
//!
//! The plan (user space) fills the table; the BPF programs find their entry by the instruction pointer.

/// Allocator domain of a block. The values are part of the wire format and of recordings.
pub mod domain {
    /// `PyMem_Raw*`: the C allocator, callable without the GIL.
    pub const RAW: u8 = 0;
    /// `PyMem_*`.
    pub const MEM: u8 = 1;
    /// `PyObject_*`.
    pub const OBJ: u8 = 2;
    /// The C allocator called directly, not through CPython: memory of C extensions and libraries.
    pub const NATIVE: u8 = 3;
    /// Of a site, never of a block: a function that serves mem and obj. What called it decides, else it is obj.
    pub const SHARED: u8 = 6;
    pub const COUNT: usize = 4;
    /// Names as reports print them, indexed by value.
    pub const NAMES: [&str; COUNT] = ["raw", "mem", "obj", "native"];
}

/// What happens at a site. `a` and `b` are the operands of [`Site`].
pub mod op {
    /// CPython allocator, `malloc(a)`.
    pub const PY_MALLOC: u8 = 0;
    /// CPython allocator, `calloc(a, b)`.
    pub const PY_CALLOC: u8 = 1;
    /// CPython allocator, `realloc(a, b)`, in code that calls the allocator's malloc function (itself a site) when the block
    /// has to move.
    pub const PY_REALLOC: u8 = 2;
    /// CPython allocator, `free(a)`. Only in plans that trace small frees.
    pub const PY_FREE: u8 = 3;
    /// A pool has been refilled; `a` is the block (0: none).
    pub const REFILLED: u8 = 4;
    /// An exported wrapper (`PyMem_Malloc`) that calls the allocator's function through the slot: the entry that comes next
    /// belongs to this site's domain.
    pub const PY_WRAPPER: u8 = 5;
    /// CPython allocator, `realloc(a, b)`, in code that has malloc inlined: a block that moves passes no other site.
    pub const PY_REALLOC_INLINED: u8 = 6;
    /// The object `a` becomes a new one and was taken from a free list, not from an allocator; if `b` is not 0, it may be
    /// one fresh from the allocator too.
    pub const PY_REUSED: u8 = 7;
    // Of the following a site's domain is native, or the domain of CPython that the function serves by itself: mimalloc, or
    // an allocator that an extension put there.
    /// C allocator, entry of `malloc(a)`.
    pub const C_MALLOC: u8 = 8;
    /// C allocator, entry of `calloc(a, b)`.
    pub const C_CALLOC: u8 = 9;
    /// C allocator, entry of `realloc(a, b)`.
    pub const C_REALLOC: u8 = 10;
    /// C allocator, entry of `free(a)`.
    pub const C_FREE: u8 = 11;
    /// C allocator, entry of `memalign` and `aligned_alloc`: `a` is the size.
    pub const C_MEMALIGN: u8 = 12;
    /// C allocator, entry of `posix_memalign`: `a` is the address of the result, `b` the size.
    pub const C_POSIX_MEMALIGN: u8 = 13;
    /// Entry of CPython's collector: `a` is the generation.
    pub const GC_START: u8 = 16;
    /// Entry of the function that calls `gc.callbacks`, which runs when a collection starts and when it ends: `a` is the
    /// generation, `b` the text that says which. Where the collector's own function does not show it.
    pub const GC_CALLBACKS: u8 = 17;

    /// Whether it is one of the C allocator's.
    #[inline(always)]
    pub const fn is_c(op: u8) -> bool {
        C_MALLOC <= op && op <= C_POSIX_MEMALIGN
    }

    /// Whether it is one of the collector's.
    #[inline(always)]
    pub const fn is_collector(op: u8) -> bool {
        op == GC_START || op == GC_CALLBACKS
    }
}

/// Register numbers of [`Operand::reg`]: the hardware encoding, so `rax` is 0 and `r15` is 15.
pub mod reg {
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RBX: u8 = 3;
    pub const RSP: u8 = 4;
    pub const RBP: u8 = 5;
    pub const RSI: u8 = 6;
    pub const RDI: u8 = 7;
    pub const R8: u8 = 8;
    pub const R15: u8 = 15;
    /// No register: the operand is the displacement alone.
    pub const NONE: u8 = 255;
}

/// Where an argument is when a site is hit: `scale * register + disp`, and the 8 bytes there if `deref` is not 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Operand {
    /// One of [`reg`].
    pub reg: u8,
    /// Factor of the register: 1, 2, 4, 8.
    pub scale: u8,
    /// Not 0: the value is the u64 in the target's memory at the address computed.
    pub deref: u8,
    pub pad: u8,
    pub disp: i32,
}

impl Operand {
    /// The value of a register.
    pub const fn register(reg: u8) -> Self {
        Self { reg, scale: 1, deref: 0, pad: 0, disp: 0 }
    }

    /// A constant.
    pub const fn immediate(value: i32) -> Self {
        Self { reg: reg::NONE, scale: 0, deref: 0, pad: 0, disp: value }
    }

    /// A stack slot: the u64 at `reg + disp`.
    pub const fn memory(reg: u8, disp: i32) -> Self {
        Self { reg, scale: 1, deref: 1, pad: 0, disp }
    }
}

/// One armed instruction. The table in BPF is an array indexed by [`slot`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Address of the instruction in the target, 0 for an empty slot.
    pub ip: u64,
    pub a: Operand,
    pub b: Operand,
    /// One of [`op`].
    pub op: u8,
    /// One of [`domain`].
    pub domain: u8,
    /// Not 0: in this window only the addresses that it hands out are noted, not who asks for them.
    pub witness: u8,
    pub pad: [u8; 5],
}

/// log2 of the number of slots in the table of sites.
pub const SITE_BITS: u32 = 16;
/// Slots in the table of sites.
pub const SITE_SLOTS: u32 = 1 << SITE_BITS;

/// Slot of an instruction pointer: multiplicative hashing with a factor that user space chose so that no two sites of
/// the plan share a slot. One array look-up, no chain.
#[inline(always)]
pub const fn slot(ip: u64, factor: u64) -> u32 {
    (ip.wrapping_mul(factor) >> (64 - SITE_BITS)) as u32
}
