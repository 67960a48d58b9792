//! CPython's collector: how long each collection took. What it freed, user space reads from the interpreter's counters.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use leaktrace_common::{
    walk::ReadTarget,
    wire::{GENERATIONS, GcRecord, counter, record},
};

use crate::{
    maps::{RING, Thread, config, count},
    target::{Target, read},
};

#[inline(always)]
pub fn started(generation: u64, thread: &mut Thread) {
    // SAFETY: the helper has no precondition.
    thread.gc_start_ns = unsafe { bpf_ktime_get_ns() };
    thread.gc_generation = generation as u32;
    if config().gc.items[0] != 0 {
        for generation in 0..GENERATIONS {
            thread.gc_counts[generation] = collections(generation);
        }
    }
}

/// The function that runs at both ends of a collection.
#[inline(always)]
pub fn callbacks(generation: u64, thread: &mut Thread, tid: u32) {
    if thread.gc_start_ns == 0 { started(generation, thread) } else { ended(thread, tid) }
}

#[inline(always)]
pub fn ended(thread: &mut Thread, tid: u32) {
    if thread.gc_start_ns == 0 {
        return;
    }
    // SAFETY: the helper has no precondition.
    let end_ns = unsafe { bpf_ktime_get_ns() };
    let start_ns = thread.gc_start_ns;
    thread.gc_start_ns = 0;
    let Some(generation) = collected(thread) else { return };
    let message = GcRecord { kind: record::GC, generation, tid, pad: 0, start_ns, end_ns };
    if RING.output::<GcRecord>(message, 0).is_err() {
        count(counter::LOST_RING);
    }
}

/// The generation that was collected. `None`: the collector only looked whether there was need.
#[inline(always)]
fn collected(thread: &Thread) -> Option<u32> {
    if config().gc.items[0] == 0 {
        return Some(thread.gc_generation);
    }
    (0..GENERATIONS)
        .find(|&generation| collections(generation) > thread.gc_counts[generation])
        .map(|found| found as u32)
}

#[inline(always)]
fn collections(generation: usize) -> u64 {
    let counts = &config().gc;
    let index = if counts.index[generation] == 0 { 0 } else { read::<u8>(counts.index[generation]).unwrap_or(0) };
    Target.word(counts.items[generation] + u64::from(index) * counts.size).unwrap_or(0)
}
