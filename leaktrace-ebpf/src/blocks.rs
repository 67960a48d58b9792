//! The table of outstanding blocks.

use aya_ebpf::{bindings::BPF_ANY, helpers::bpf_ktime_get_ns};
use leaktrace_common::{
    site::domain,
    wire::{Block, counter, state},
};

use crate::{
    code,
    maps::{BLOCKS, STATE, TOTALS, Thread, add, count},
    stack,
};

/// A block that was just handed out.
#[derive(Clone, Copy)]
pub struct New {
    pub address: u64,
    pub size: u64,
    /// Return address of the C allocator's caller, or 0.
    pub native: u64,
    pub domain: u8,
    pub in_pool: bool,
    pub is_realloc: bool,
}

/// Enters a block under the current stack.
#[inline(always)]
pub fn enter(thread: &mut Thread, tid: u32, new: &New) {
    let kind = if new.domain >= domain::COUNT as u8 { domain::OBJ } else { new.domain };
    let stack = stack::current(thread, tid, kind, new.native);
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    let block = Block::new(new.size, kind, new.in_pool, now, stack, tid);
    count(if new.is_realloc { counter::REALLOC } else { counter::ALLOC });
    if kind == domain::NATIVE {
        count(if new.is_realloc { counter::NATIVE_REALLOC } else { counter::NATIVE_ALLOC });
    }
    if let Some(totals) = TOTALS.get_ptr_mut(stack) {
        // SAFETY: a map value of this type.
        unsafe {
            add(&raw mut (*totals).blocks, 1);
            add(&raw mut (*totals).bytes, new.size);
        }
    }
    code::allocated_at(new.address);
    put(new.address, &block);
}

/// Writes a block into the table, over whatever was there.
#[inline(always)]
pub fn put(address: u64, block: &Block) {
    if let Some(old) = BLOCKS.get_ptr_mut(address) {
        count(counter::REUSED);
        if !sweeping() {
            // In place is twice as fast as replacing the element, and no one else writes this address: it was handed
            // to this thread.
            // SAFETY: a map value of this type.
            unsafe { *old = *block };
            return;
        }
    }
    if BLOCKS.insert(address, block, u64::from(BPF_ANY)).is_err() {
        count(counter::LOST_BLOCK);
    }
}

/// While user space removes blocks it must see either the old or the new one whole, so they are replaced under the lock.
#[inline(always)]
fn sweeping() -> bool {
    STATE.get(state::SWEEPING).is_none_or(|s| *s != 0)
}
