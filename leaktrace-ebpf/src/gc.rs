//! CPython's collector: how long each collection took. What it freed, user space reads from the interpreter's counters.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use leaktrace_common::wire::{GcRecord, counter, record};

use crate::maps::{RING, Thread, count};

#[inline(always)]
pub fn started(generation: u64, thread: &mut Thread) {
    // SAFETY: the helper has no precondition.
    thread.gc_start_ns = unsafe { bpf_ktime_get_ns() };
    thread.gc_generation = generation as u32;
}

#[inline(always)]
pub fn ended(thread: &mut Thread, tid: u32) {
    if thread.gc_start_ns == 0 {
        return;
    }
    // SAFETY: the helper has no precondition.
    let end_ns = unsafe { bpf_ktime_get_ns() };
    let message = GcRecord {
        kind: record::GC,
        generation: thread.gc_generation,
        tid,
        pad: 0,
        start_ns: thread.gc_start_ns,
        end_ns,
    };
    thread.gc_start_ns = 0;
    if RING.output::<GcRecord>(message, 0).is_err() {
        count(counter::LOST_RING);
    }
}
