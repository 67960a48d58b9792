//! The table of outstanding blocks.

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::{bpf_ktime_get_ns, generated::bpf_jiffies64},
};
use leaktrace_common::{
    site::domain,
    wire::{self, Block, counter, state},
};

use crate::{
    code,
    maps::{BLOCKS, STATE, TOTALS, Thread, WITNESS_SHIFT, add, config, count},
    python, stack, window,
};

/// Bytes of `PyGC_Head`, which lies before an object that the collector knows (CPython `pycore_gc.h`, 3.8 to 3.13).
pub const GC_HEAD: u64 = 16;

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

/// Whether the site of the request under way is only a witness.
#[inline(always)]
fn is_witness(thread: &Thread) -> bool {
    thread.site >> WITNESS_SHIFT != 0
}

/// Enters a block under the current stack.
#[inline(always)]
pub fn enter(thread: &mut Thread, tid: u32, new: &New) {
    let kind = if new.domain >= domain::COUNT as u8 { domain::OBJ } else { new.domain };
    let witness = is_witness(thread) || !new.in_pool && window::is_quiet(thread, new.size);
    let stack = if witness { Block::WITNESSED } else { stack::current(thread, tid, kind, new.native) };
    let block = Block::at_site(new.size, kind, new.in_pool, stamp(thread), stack, tid, thread.site as u32);
    window::gave(thread, new.size, new.in_pool);
    if !witness {
        count(if new.is_realloc { counter::REALLOC } else { counter::ALLOC });
        if kind == domain::NATIVE {
            count(if new.is_realloc { counter::NATIVE_REALLOC } else { counter::NATIVE_ALLOC });
        }
        add_to_totals(stack, new.size);
    }
    code::allocated_at(new.address + u64::from(config().block_head));
    thread.entered = new.address;
    if witness {
        write(new.address, &block);
    } else {
        put(new.address, &block);
    }
}

/// An object that became a new one: the block that it lies in goes over to the current stack, if the object came from a free
/// list. `joined`: it may be fresh from the allocator as well, and then the block is the one that this thread entered last.
#[inline(always)]
pub fn reuse(thread: &mut Thread, tid: u32, object: u64, joined: bool) {
    let object = object.wrapping_sub(u64::from(config().block_head));
    let behind_head = object.wrapping_sub(GC_HEAD);
    if joined && (thread.entered == object || thread.entered == behind_head) {
        thread.entered = 0;
        return;
    }
    let (address, old) = if let Some(block) = BLOCKS.get_ptr(behind_head) {
        // SAFETY: a map value of this type.
        (behind_head, unsafe { *block })
    } else if let Some(block) = BLOCKS.get_ptr(object) {
        // SAFETY: as above.
        (object, unsafe { *block })
    } else if thread.window & wire::window::PARTIAL != 0
        && let Some((address, size)) = python::block_of(object)
    {
        // Older than the window. What was requested is not known: it counts as its size class.
        (address, Block::new(size, domain::OBJ, true, 0, 0, tid))
    } else {
        // Older than the attach.
        return;
    };
    let witness = is_witness(thread);
    let stack = if witness { Block::WITNESSED } else { stack::current(thread, tid, old.domain(), 0) };
    let block = Block::at_site(old.size(), old.domain(), old.in_pool(), stamp(thread), stack, tid, thread.site as u32);
    let block = block.of_free_list();
    window::gave(thread, old.size(), old.in_pool());
    if !witness {
        count(counter::RETAGGED);
        add_to_totals(stack, old.size());
    }
    write(address, &block);
}

/// [`Block::time_ns`]: the clock is read once in a tick, which is a twentieth of the cost.
#[inline(always)]
fn stamp(thread: &mut Thread) -> u64 {
    // SAFETY: the helper has no precondition.
    let tick = unsafe { bpf_jiffies64() };
    thread.stamp += 1;
    if thread.tick != tick {
        thread.tick = tick;
        // SAFETY: the helper has no precondition.
        let now = unsafe { bpf_ktime_get_ns() };
        if thread.stamp < now {
            thread.stamp = now;
        }
    }
    thread.stamp
}

/// Writes a block that was handed out into the table, over whatever was there.
#[inline(always)]
pub fn put(address: u64, block: &Block) {
    if write(address, block) {
        count(counter::REUSED);
    }
}

/// True: another block was there.
#[inline(always)]
fn write(address: u64, block: &Block) -> bool {
    let old = BLOCKS.get_ptr_mut(address);
    if let Some(old) = old
        && !sweeping()
    {
        // In place is twice as fast as replacing the element, and no one else writes this address: it was handed to this
        // thread.
        // SAFETY: a map value of this type.
        unsafe { *old = *block };
        return true;
    }
    if BLOCKS.insert(address, block, u64::from(BPF_ANY)).is_err() {
        count(counter::LOST_BLOCK);
        if let Some(totals) = TOTALS.get_ptr_mut(block.stack) {
            // SAFETY: a map value of this type.
            unsafe { add(&raw mut (*totals).lost, 1) };
        }
    }
    old.is_some()
}

#[inline(always)]
fn add_to_totals(stack: u32, size: u64) {
    if let Some(totals) = TOTALS.get_ptr_mut(stack) {
        // SAFETY: a map value of this type.
        unsafe {
            add(&raw mut (*totals).blocks, 1);
            add(&raw mut (*totals).bytes, size);
        }
    }
}

/// While user space removes blocks it must see either the old or the new one whole, so they are replaced under the lock.
#[inline(always)]
fn sweeping() -> bool {
    STATE.get(state::SWEEPING).is_none_or(|s| *s != 0)
}
