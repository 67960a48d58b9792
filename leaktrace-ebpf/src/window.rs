//! Windows of tracing: for a moment a part of the plan is armed, then nothing, then another part.

use leaktrace_common::{
    site::{Site, slot},
    wire::{SiteStats, c_call, counter, size_bucket, state, window},
};

use crate::maps::{C_CALLS, PyCall, SITE_STATS, STATE, Thread, WITNESS_SHIFT, config, count, py_call};

/// The window that is open, as [`state::WINDOW`] has it. What the thread was in the middle of in an earlier one is forgotten:
/// its end was not seen.
#[inline(always)]
pub fn enter(thread: &mut Thread) -> u64 {
    let now = STATE.get(state::WINDOW).copied().unwrap_or(0);
    if thread.window != now {
        const NOTHING: PyCall = PyCall { size: 0, state: py_call::NONE, domain: 0, is_realloc: 0, pad: [0; 5] };
        thread.window = now;
        thread.py = NOTHING;
        thread.raw = NOTHING;
        thread.c.sp = 0;
        thread.entered = 0;
    }
    now
}

/// Counts a request whose block was not learned. At the edges of a window that is so by nature, and what is so young does not
/// count there.
#[inline(always)]
pub fn unlearned(thread: &Thread) {
    if thread.window & window::PARTIAL == 0 {
        count(counter::LOST_ADDRESS);
    }
}

/// Counts a hit of a site.
#[inline(always)]
pub fn hit(slot: u32) {
    if let Some(stats) = SITE_STATS.get_ptr_mut(slot) {
        // SAFETY: a map value of this type.
        unsafe { (*stats).hits += 1 };
    }
}

/// Notes which site the request under way came through.
#[inline(always)]
pub fn came_through(site: &Site, thread: &mut Thread) {
    thread.site = u64::from(slot(site.ip, config().site_factor)) | u64::from(site.witness) << WITNESS_SHIFT;
}

/// Notes that the site of the request under way handed out a block.
#[inline(always)]
pub fn gave(thread: &Thread, size: u64, in_pool: bool) {
    if thread.window & window::PARTIAL == 0 {
        return;
    }
    serves(thread.site as u32, if in_pool { bit(size) } else { SiteStats::LARGE });
}

/// A request of this thread is not followed any further. So the block that it entered last need not be the one that an object is made in
/// next: that may come from a free list.
#[inline(always)]
pub fn skipped(thread: &mut Thread) {
    thread.entered = 0;
}

/// Whether the window that is open is for blocks of so many bytes.
#[inline(always)]
pub fn is_for(size: u64) -> bool {
    STATE.get(state::CLASSES).is_none_or(|classes| classes & bit(size) != 0)
}

/// Whether of a block of the C allocator only the address is to be noted.
#[inline(always)]
pub fn is_quiet(thread: &Thread, size: u64) -> bool {
    thread.window & window::PARTIAL != 0 && is_among(state::QUIET, size_bucket(size))
}

/// Counts a request to the C allocator, and says whether nothing else is to be noted of it.
#[inline(always)]
pub fn passes_over(thread: &Thread, size: u64) -> bool {
    if thread.window & window::PARTIAL == 0 {
        return false;
    }
    let bucket = size_bucket(size);
    c_called(c_call::REQUESTS + bucket);
    thread.window & window::SCOUTS != 0 || is_among(state::PASSED_OVER, bucket)
}

/// Counts in what the C allocator was called for.
#[inline(always)]
pub fn c_called(index: u32) {
    if let Some(calls) = C_CALLS.get_ptr_mut(index) {
        // SAFETY: a map value of this type.
        unsafe { *calls += 1 };
    }
}

/// Whether a bucket of sizes is among those of one of the words of [`state`].
#[inline(always)]
fn is_among(word: u32, bucket: u32) -> bool {
    STATE.get(word).is_some_and(|buckets| buckets >> bucket & 1 != 0)
}

/// Notes that a site asks pymalloc for so many bytes, and that this is all that is noted.
#[inline(always)]
pub fn asked(slot: u32, size: u64) {
    if let Some(stats) = SITE_STATS.get_ptr_mut(slot) {
        // SAFETY: a map value of this type.
        unsafe {
            (*stats).classes |= bit(size);
            (*stats).skipped += 1;
        }
    }
}

/// Bit of a size class.
#[inline(always)]
fn bit(size: u64) -> u64 {
    1 << ((size.wrapping_sub(1) >> config().class_shift) & 63)
}

#[inline(always)]
fn serves(slot: u32, class: u64) {
    if let Some(stats) = SITE_STATS.get_ptr_mut(slot) {
        // SAFETY: a map value of this type.
        unsafe { (*stats).classes |= class };
    }
}
