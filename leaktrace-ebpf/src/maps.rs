//! The maps: tables that outlive an event, and the ring to user space.

use core::arch::asm;

use crate::frames::Window;
use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    helpers::generated::bpf_get_smp_processor_id,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, ProgramArray, RingBuf},
};
use leaktrace_common::{
    site::{SITE_SLOTS, Site},
    wire::{
        Block, Config, GENERATIONS, MAX_FRAMES, MAX_STACKS, ROOMS_OF_CPU, RawFrame, SiteStats, StackRecord,
        StackTotals, c_call, counter, state,
    },
};

/// Facts about the target. User space fills it before the load and the map is frozen: the verifier knows the values.
#[unsafe(no_mangle)]
static CONFIG: Config = Config::ZERO;

/// The facts about the target. The compiler must not take the zeros above for them, hence the black box.
#[inline(always)]
pub fn config() -> &'static Config {
    core::hint::black_box(&CONFIG)
}

/// Armed instructions by [`leaktrace_common::site::slot`].
#[map]
pub static SITES: Array<Site> = Array::with_max_entries(SITE_SLOTS, 0);

/// What sites did in windows, by slot.
#[map]
pub static SITE_STATS: Array<SiteStats> = Array::with_max_entries(SITE_SLOTS, BPF_F_MMAPABLE);

/// What the C allocator was called for in windows: [`c_call`].
#[map]
pub static C_CALLS: Array<u64> = Array::with_max_entries(c_call::COUNT, BPF_F_MMAPABLE);

/// Outstanding blocks by address. User space sets the size.
#[map]
pub static BLOCKS: HashMap<u64, Block> = HashMap::with_max_entries(1 << 20, BPF_F_NO_PREALLOC);

/// Dense number of a stack by its hash.
#[map]
pub static STACKS: HashMap<u64, u32> = HashMap::with_max_entries(MAX_STACKS, BPF_F_NO_PREALLOC);

/// What each stack allocated, by dense number. Number 0 stands for stacks that were lost.
#[map]
pub static TOTALS: Array<StackTotals> = Array::with_max_entries(MAX_STACKS, BPF_F_MMAPABLE);

/// Code objects that have been sent, by address.
#[map]
pub static CODES: HashMap<u64, u8> = HashMap::with_max_entries(1 << 17, BPF_F_NO_PREALLOC);

/// Per hash of an address: bit 0, a code object that was sent hashes here; above it, how many of them have died.
#[map]
pub static CODE_TAGS: Array<CodeTags> = Array::with_max_entries(1, 0);

/// The first pool of each size class, as it was last seen.
#[map]
pub static FIRST_POOLS: Array<u64> = Array::with_max_entries(64, 0);

/// What a thread is in the middle of, by the low bits of its id: an array costs a tenth of a look-up.
#[map]
pub static THREADS: Array<ThreadSlot> = Array::with_max_entries(THREAD_SLOTS, 0);

/// The same, of threads whose slot another one has.
#[map]
pub static MORE_THREADS: HashMap<u32, Thread> = HashMap::with_max_entries(1 << 13, BPF_F_NO_PREALLOC);

/// Slots for threads, a power of 2.
pub const THREAD_SLOTS: u32 = 1 << 10;

/// A slot of [`THREADS`].
#[repr(C)]
pub struct ThreadSlot {
    /// Id of the thread that has it, 0: none.
    pub owner: u64,
    pub thread: Thread,
}

/// What a new thread begins with, zeroed (it does not fit the BPF stack) but for [`Thread::over`].
#[map]
pub static NEW_THREAD: Array<Thread> = Array::with_max_entries(1, 0);

/// Never holds a program: see `main::entry`.
#[map]
pub static NOWHERE: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

/// Words that both sides write: [`state`].
#[map]
pub static STATE: Array<u64> = Array::with_max_entries(state::COUNT, 0);

/// Records to user space. Its size is set by user space.
#[map]
pub static RING: RingBuf = RingBuf::with_byte_size(1 << 24, 0);

/// Collections. A ring of their own, because they wake no one unless it is half full: to wake a reader takes several times as long as
/// all else of a hit, and they have time until the next look.
#[map]
pub static COLLECTIONS: RingBuf = RingBuf::with_byte_size(COLLECTIONS_BYTES, 0);

pub const COLLECTIONS_BYTES: u32 = 1 << 20;

pub const CODE_TAG_BITS: u32 = 16;
pub type CodeTags = [u16; 1 << CODE_TAG_BITS];

/// A request to the C allocator in flight on a thread.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CCall {
    /// Stack pointer at the entry, 0 for none.
    pub sp: u64,
    pub size: u64,
    /// `posix_memalign`: where the result goes.
    pub result_at: u64,
    /// `realloc`: the old address, and its block if it was known.
    pub old_address: u64,
    pub old: Block,
    pub op: u8,
    pub had_old: u8,
    /// One of [`leaktrace_common::site::domain`]: which of CPython's domains the function serves, or native.
    pub domain: u8,
    pub pad: [u8; 5],
}

/// A request to CPython's allocator whose block another event will tell.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PyCall {
    pub size: u64,
    /// One of [`py_call`].
    pub state: u8,
    pub domain: u8,
    pub is_realloc: u8,
    pub pad: [u8; 5],
}

/// States of a [`PyCall`].
pub mod py_call {
    pub const NONE: u8 = 0;
    /// Its size class is empty: a refill follows.
    pub const REFILL: u8 = 1;
    /// Goes on to the C allocator.
    pub const TO_C: u8 = 2;
    /// A wrapper or a moving realloc: the allocator's own function follows, for the domain noted.
    pub const NESTED: u8 = 3;
}

/// See [`Thread::site`].
pub const WITNESS_SHIFT: u32 = 32;

/// Stacks whose numbers a thread remembers.
pub const KNOWN_STACKS: usize = 16;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct KnownStack {
    pub hash: u64,
    pub number: u32,
    pub pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Thread {
    pub known: [KnownStack; KNOWN_STACKS],
    pub c: CCall,
    /// Of the mem and obj domains.
    pub py: PyCall,
    /// Of the raw domain.
    pub raw: PyCall,
    /// Slot of the site that the request under way came through, and from [`WITNESS_SHIFT`] on whether that is a witness.
    pub site: u64,
    /// The window that the rest belongs to, as [`state::WINDOW`] has it.
    pub window: u64,
    /// Address of the block that the thread entered last.
    pub entered: u64,
    /// When, as blocks carry it, and in which tick of the kernel.
    pub stamp: u64,
    pub tick: u64,
    /// Its Python thread state as it was last found, 0 for none; and when none was found.
    pub tstate: u64,
    pub searched_ns: u64,
    pub gc_start_ns: u64,
    /// Of the collection under way: where its interpreter's statistics are, and the collections so far of each generation when
    /// it started.
    pub gc_stats: u64,
    pub gc_counts: [u64; GENERATIONS],
    /// Not 0: of another interpreter than the main one.
    pub gc_other: u32,
    /// The arming of the collector's probes that these belong to, as [`state::STANDING`] has it.
    pub gc_standing: u32,
    pub gc_generation: u32,
    /// Not 0: the target replaced its program, and what this thread does now is another program's.
    pub over: u32,
    /// The lowest frame that the last walk found on the interpreter's stack of frames: what lies between it and a frame
    /// above is that stack.
    pub lowest_frame: u64,
}

/// Where a walk happens. One is taken for as long as a program looks at a stack: the programs may be preempted, so one for
/// each CPU is not enough.
#[repr(C)]
pub struct Room {
    /// Not 0: in use.
    pub taken: u64,
    /// Header and frames of the walk, contiguous: they are sent as they lie.
    pub stack: StackRecord,
    pub frames: [RawFrame; MAX_FRAMES],
    /// The piece of the frame stack that is being walked.
    pub window: Window,
}

/// [`ROOMS_OF_CPU`] for each CPU; user space sets the size. An array of so much lies where the kernel's hardened user copy
/// has the least to check.
#[map]
pub static ROOMS: Array<Room> = Array::with_max_entries(ROOMS_OF_CPU, 0);

/// Takes a room of this CPU.
#[inline(always)]
pub fn take_room() -> Option<&'static mut Room> {
    // SAFETY: the helper has no precondition.
    let first = unsafe { bpf_get_smp_processor_id() } * ROOMS_OF_CPU;
    let mut index = 0;
    while index < ROOMS_OF_CPU {
        let room = ROOMS.get_ptr_mut(first + index)?;
        // SAFETY: a map value of this type.
        if unsafe { exchange(&raw mut (*room).taken, 1) } == 0 {
            // SAFETY: as above; whoever takes it is alone with it.
            return Some(unsafe { &mut *room });
        }
        index += 1;
    }
    None
}

#[inline(always)]
pub fn count(index: u32) {
    if let Some(c) = COUNTERS.get_ptr_mut(index) {
        add(c, 1);
    }
}

/// Adds without losing updates of other CPUs and of programs that preempt this one. (The BPF target of rustc has no
/// `AtomicU64::fetch_add`: it declares no compare-and-swap.)
#[inline(always)]
pub fn add(word: *mut u64, value: u64) {
    // SAFETY: `word` points into a map value, is aligned to 8 and lives as long as the program runs.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) word, in(reg) value) }
}

/// Puts a value in place of another at once, and gives that.
#[inline(always)]
pub fn exchange(word: *mut u64, value: u64) -> u64 {
    let mut old = value;
    // SAFETY: as in `add`.
    unsafe { asm!("{1} = xchg_64({0} + 0, {1})", in(reg) word, inout(reg) old) }
    old
}

/// Puts a value where 0 was; false: it was something else.
#[inline(always)]
pub fn claim(word: *mut u64, value: u64) -> bool {
    let mut old = 0u64;
    // SAFETY: as in `add`; the instruction compares with r0 and leaves there what it found.
    unsafe { asm!("r0 = cmpxchg_64({0} + 0, r0, {1})", in(reg) word, in(reg) value, inout("r0") old) }
    old == 0
}

/// As [`add`], and gives the value before.
#[inline(always)]
pub fn fetch_add(word: *mut u64, value: u64) -> u64 {
    let mut old = value;
    // SAFETY: as in `add`.
    unsafe { asm!("{1} = atomic_fetch_add((u64 *)({0} + 0), {1})", in(reg) word, inout(reg) old) }
    old
}
