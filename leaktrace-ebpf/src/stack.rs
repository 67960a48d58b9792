//! The Python stack of the current thread: walked, hashed, numbered, and sent when it is new.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_ktime_get_ns};
use leaktrace_common::{
    site::domain,
    walk::{self, ABSENT, FrameWords, HASH_SEED, ReadTarget, Walked, mix},
    wire::{
        MAX_FRAMES, MAX_STACKS, MAX_WHOLE_STACKS, RawFrame, STACK_BROKEN, STACK_NO_PYTHON, STACK_TRUNCATED,
        StackRecord, counter, record, state,
    },
};

use crate::{
    code,
    frames::WindowReader,
    maps::{KNOWN_STACKS, KnownStack, RING, Room, STACKS, STATE, TOTALS, Thread, config, count, fetch_add, take_room},
    target::{Target, pthread_self},
};

/// Thread states that the search of a thread's own looks at. (One that runs Python is found without: see [`thread_state`].)
const MAX_THREADS: u32 = 512;
/// A thread without a thread state, of a native library, is not searched for at each of its events.
const SEARCH_AGAIN_NS: u64 = 1_000_000;

/// Dense number of the current stack for a block of `domain`; 0 when it was lost, which has been counted.
///
/// `native` is the return address of the C allocator's caller, 0 where there is none: it names the allocation only when
/// the thread runs no Python.
#[inline(always)]
pub fn current(thread: &mut Thread, tid: u32, domain: u8, native: u64) -> u32 {
    // SAFETY: `thread` is a live map value.
    unsafe { current_stack(thread, tid, u32::from(domain), native) }
}

/// A global function: the verifier proves it once, not for each path that leads to it.
///
/// # Safety
///
/// `thread` points at a map value.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn current_stack(thread: *mut Thread, tid: u32, domain: u32, native: u64) -> u32 {
    // SAFETY: by the caller.
    let Some(thread) = (unsafe { thread.as_mut() }) else { return 0 };
    let Some(room) = take_room() else {
        count(counter::LOST_STACK);
        return 0;
    };
    let number = find(thread, room, tid, domain as u8, native);
    // SAFETY: a map value; whoever sees the 0 sees all that was written before.
    unsafe { (&raw mut room.taken).write_volatile(0) };
    number
}

#[inline(always)]
fn find(thread: &mut Thread, room: &mut Room, tid: u32, domain: u8, native: u64) -> u32 {
    let layout = &config().python;
    let frame = match thread_state(thread, domain) {
        0 => 0,
        tstate => walk::innermost_frame(&Target, layout, tstate).unwrap_or(0),
    };
    let walked = if frame == 0 {
        Walked::default()
    } else {
        let Some(tags) = code::Tags::get() else { return 0 };
        let mut reader = WindowReader::new(&mut room.window, thread.lowest_frame);
        let walked = walk::walk(&mut reader, layout, frame, &mut room.frames, |code| tags.of(code));
        thread.lowest_frame = reader.reached();
        walked
    };
    let hash;
    if walked.frames == 0 && walked.flags == 0 {
        hash = mix(mix(HASH_SEED, native), u64::from(domain));
        room.stack.frames = 0;
        room.stack.flags = STACK_NO_PYTHON;
        room.stack.native = native;
    } else {
        hash = mix(walked.hash, u64::from(domain) | u64::from(walked.flags) << 8);
        room.stack.frames = walked.frames as u16;
        room.stack.flags = walked.flags;
        room.stack.native = 0;
        if walked.flags & STACK_BROKEN != 0 {
            count(counter::LOST_STACK);
        }
    }
    // Slots of a thread: the same few stacks come again and again, and an array costs a tenth of a look-up.
    let slot = (hash >> 32) as usize % KNOWN_STACKS;
    let known = thread.known[slot];
    if known.hash == hash {
        return known.number;
    }
    if let Some(number) = STACKS.get_ptr(hash) {
        // SAFETY: a map value; numbers are never changed.
        let number = unsafe { *number };
        thread.known[slot] = KnownStack { hash, number, pad: 0 };
        return number;
    }
    room.stack.domain = domain;
    room.stack.tid = tid;
    // SAFETY: `room` is a live map value.
    match unsafe { announce(room, hash) } {
        0 => {
            count(counter::LOST_STACK);
            0
        }
        number => number,
    }
}

/// Gives a new stack its number and sends it; 0 when there is no number left.
///
/// A global function: the verifier proves it once, not in each state in which the walk may end.
///
/// # Safety
///
/// `room` points at a map value.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn announce(room: *mut Room, hash: u64) -> u32 {
    // SAFETY: by the caller.
    unsafe { room.as_mut() }.and_then(|room| number_in_short(room, hash)).unwrap_or(0)
}

/// Where stacks have become many, the number of the innermost frame alone.
#[inline(always)]
fn number_in_short(room: &mut Room, hash: u64) -> Option<u32> {
    // SAFETY: a map value; another CPU may count meanwhile.
    let given = unsafe { STATE.get_ptr(state::STACKS)?.read_volatile() };
    if given < u64::from(MAX_WHOLE_STACKS) || room.stack.frames < 2 {
        return number(room, hash, given);
    }
    let frame = room.frames[0];
    room.stack.frames = 1;
    room.stack.flags |= STACK_TRUNCATED;
    let identity = FrameWords::identity(&config().python, frame.code, frame.instr);
    let line = mix(HASH_SEED, identity ^ code::Tags::get()?.of(frame.code));
    let hash = mix(line, u64::from(room.stack.domain) | u64::from(room.stack.flags) << 8);
    match STACKS.get_ptr(hash) {
        // SAFETY: a map value; numbers are never changed.
        Some(number) => Some(unsafe { *number }),
        None => number(room, hash, given),
    }
}

#[inline(always)]
fn number(room: &mut Room, hash: u64, given: u64) -> Option<u32> {
    // The count must not go on for ever, and wrap around.
    if given >= u64::from(MAX_STACKS) {
        return None;
    }
    // First all that may fail without a number, so that a full ring does not use the numbers up.
    let frames = (room.stack.frames as usize).min(MAX_FRAMES);
    let mut index = 0;
    while index < MAX_FRAMES {
        if index >= frames {
            break;
        }
        let frame = room.frames[index];
        if code::send_if_new(frame.code) == 0 {
            return None;
        }
        if config().python.code_copies != ABSENT {
            room.frames[index].instr = code::in_own_instructions(frame);
        }
        index += 1;
    }
    let len = size_of::<StackRecord>() + frames * size_of::<RawFrame>();
    let next = STATE.get_ptr_mut(state::STACKS)?;
    let number = fetch_add(next, 1) as u32 + 1;
    TOTALS.get_ptr(number)?;
    if STACKS.insert(hash, number, u64::from(BPF_NOEXIST)).is_err() {
        // Another thread was quicker, or the table is full.
        // SAFETY: a map value; numbers are never changed.
        return STACKS.get_ptr(hash).map(|number| unsafe { *number });
    }
    room.stack.kind = record::STACK;
    room.stack.stack = number;
    // SAFETY: header and frames lie one after the other in `Room` (repr(C)); the verifier checks the length.
    let bytes = unsafe { core::slice::from_raw_parts((&raw const room.stack).cast::<u8>(), len) };
    if RING.output::<[u8]>(bytes, 0).is_err() {
        // The next block of this stack tries again, under another number.
        let _ = STACKS.remove(hash);
        count(counter::LOST_RING);
    }
    Some(number)
}

/// The thread state that is attached to the current thread, where each thread keeps it; 0: there is none.
#[inline(always)]
pub fn attached_thread_state() -> u64 {
    let tls = config().python.tstate_tls;
    pthread_self().and_then(|own| Target.word(own.wrapping_add(tls as u64))).unwrap_or(0)
}

/// The thread state of the current thread, 0 when it has none.
#[inline(always)]
fn thread_state(thread: &mut Thread, domain: u8) -> u64 {
    let layout = &config().python;
    let current = if layout.tstate_tls != 0 {
        match attached_thread_state() {
            // Detached, as in C code that lets others run meanwhile: it still has a thread state.
            0 => 0,
            own => {
                thread.tstate = own;
                return own;
            }
        }
    } else if layout.tstate_current != 0 {
        Target.word(layout.tstate_current).unwrap_or(0)
    } else {
        return own_thread_state(thread, 0);
    };
    if domain == domain::MEM || domain == domain::OBJ {
        // These may only be called by the thread that holds the GIL.
        thread.tstate = current;
        return current;
    }
    own_thread_state(thread, current)
}

/// Without the GIL, the thread state is the one whose `thread_id` is ours. Where it was last time is looked first: a service
/// has hundreds of them.
#[inline(never)]
fn own_thread_state(thread: &mut Thread, current: u64) -> u64 {
    let layout = &config().python;
    let Some(own) = pthread_self() else { return 0 };
    let is_own = |tstate: u64| Target.word(tstate + u64::from(layout.tstate_thread_id)) == Some(own);
    if current != 0 && is_own(current) {
        thread.tstate = current;
        return current;
    }
    let Some(interpreter) = Target.word(layout.interpreters_head) else { return 0 };
    let head = interpreter + u64::from(layout.interp_threads_head);
    if thread.tstate != 0 && is_own(thread.tstate) && is_linked(thread.tstate, head) {
        return thread.tstate;
    }
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    if now - thread.searched_ns < SEARCH_AGAIN_NS {
        return 0;
    }
    let mut tstate = Target.word(head).unwrap_or(0);
    let mut searched = 0;
    while searched < MAX_THREADS && tstate != 0 {
        if is_own(tstate) {
            thread.tstate = tstate;
            return tstate;
        }
        tstate = Target.word(tstate + u64::from(layout.tstate_next)).unwrap_or(0);
        searched += 1;
    }
    thread.tstate = 0;
    thread.searched_ns = now;
    0
}

/// Whether a thread state is still in its interpreter's list: freed memory may keep what it held for long, but nothing there
/// points at it any more. `prev` lies before `next` in it (`struct _ts`, CPython `Include/cpython/pystate.h`, 3.8 to 3.15).
#[inline(always)]
fn is_linked(tstate: u64, head: u64) -> bool {
    let next = u64::from(config().python.tstate_next);
    let to_it = match Target.word(tstate + next - 8) {
        None => return false,
        Some(0) => head,
        Some(previous) => previous + next,
    };
    Target.word(to_it) == Some(tstate)
}
