//! CPython's collector: how long each collection took, and whether it was the main interpreter's. What it freed, user space reads
//! from the interpreter's counters.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::bpf_ktime_get_ns,
};
use leaktrace_common::{
    site::op,
    walk::ReadTarget,
    wire::{GENERATIONS, GcCounts, GcRecord, counter, record, state},
};

use crate::{
    maps::{COLLECTIONS, COLLECTIONS_BYTES, STATE, Thread, config, count},
    stack::attached_thread_state,
    target::{Target, read},
};

/// What the function that calls `gc.callbacks` is told when a collection has ended.
const STOP: u32 = u32::from_ne_bytes(*b"stop");

/// An armed instruction of the collector: one of its own function, or of the one that calls `gc.callbacks` at both ends of a
/// collection.
#[inline(always)]
pub fn entered(event: u8, generation: u64, phase: u64, thread: &mut Thread, tid: u32) {
    if event == op::GC_CALLBACKS && read(phase) == Some(STOP) {
        ended(thread, tid);
    } else {
        started(generation, thread);
    }
}

/// Armed anew since: what the thread was in the middle of has ended unseen.
#[inline(always)]
fn forget_if_anew(thread: &mut Thread) {
    let now = STATE.get(state::STANDING).map_or(0, |times| *times as u32);
    if thread.gc_standing != now {
        thread.gc_standing = now;
        thread.gc_start_ns = 0;
    }
}

#[inline(always)]
fn started(generation: u64, thread: &mut Thread) {
    forget_if_anew(thread);
    let gc = &config().gc;
    thread.gc_start_ns = 0;
    // One of an interpreter that cannot be told is left to the counters in memory.
    let Some(interpreter) = interpreter() else { return };
    thread.gc_other = u32::from(interpreter != gc.main);
    thread.gc_generation = generation as u32;
    if gc.size != 0 {
        let at = interpreter + u64::from(gc.stats);
        thread.gc_stats = if gc.is_pointer != 0 { Target.word(at).unwrap_or(0) } else { at };
        for generation in 0..GENERATIONS {
            thread.gc_counts[generation] = collections(thread.gc_stats, generation);
        }
    }
    // SAFETY: the helper has no precondition.
    thread.gc_start_ns = unsafe { bpf_ktime_get_ns() };
}

/// The interpreter that the current thread runs, the one whose collector was called; the main one where all share a collector.
#[inline(always)]
fn interpreter() -> Option<u64> {
    let config = config();
    let main = config.gc.main;
    // The newest is the first in the list: there is no other.
    if main == 0 || Target.word(config.python.interpreters_head)? == main {
        return Some(main);
    }
    let tstate = match (config.python.tstate_tls, config.python.tstate_current) {
        (0, 0) => 0,
        (0, current) => Target.word(current)?,
        _ => attached_thread_state(),
    };
    if tstate == 0 { None } else { Target.word(tstate + u64::from(config.tstate_interpreter)) }
}

/// The end of a collection.
#[inline(always)]
pub fn ended(thread: &mut Thread, tid: u32) {
    forget_if_anew(thread);
    if thread.gc_start_ns == 0 {
        return;
    }
    // SAFETY: the helper has no precondition.
    let end_ns = unsafe { bpf_ktime_get_ns() };
    let start_ns = thread.gc_start_ns;
    thread.gc_start_ns = 0;
    let Some(generation) = collected(thread) else { return };
    let message = GcRecord { kind: record::GC, generation, tid, other: thread.gc_other, start_ns, end_ns };
    let is_half_full = COLLECTIONS.query(BPF_RB_AVAIL_DATA.into()) >= u64::from(COLLECTIONS_BYTES / 2);
    let wake = if is_half_full { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    if COLLECTIONS.output::<GcRecord>(message, wake.into()).is_err() {
        count(counter::LOST_RING);
    }
}

/// The generation that was collected. `None`: the collector only looked whether there was need.
#[inline(always)]
fn collected(thread: &Thread) -> Option<u32> {
    if config().gc.size == 0 {
        return Some(thread.gc_generation);
    }
    (0..GENERATIONS)
        .find(|&generation| collections(thread.gc_stats, generation) > thread.gc_counts[generation])
        .map(|found| found as u32)
}

/// The count of a generation in an interpreter's statistics.
#[inline(always)]
fn collections(stats: u64, generation: usize) -> u64 {
    let counts = &config().gc;
    let index = match counts.index[generation] {
        GcCounts::ONE => 0,
        index => read::<u8>(stats + index).unwrap_or(0),
    };
    Target.word(stats + counts.items[generation] + u64::from(index) * counts.size).unwrap_or(0)
}
