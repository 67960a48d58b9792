//! The C allocator, and what serves a domain of CPython in its place (mimalloc, a hook of an extension): entries and returns.
//!
//! Its functions call each other (`realloc(NULL, n)` calls `malloc`): only the outermost call of a thread counts. Nesting is
//! told by the stack pointer, so a call that never returned (a thread that jumped out) cannot hide later ones.

use aya_ebpf::bindings::pt_regs;
use leaktrace_common::{
    site::{Site, domain, op},
    walk::ReadTarget,
    wire::{Block, counter},
};

use crate::{
    blocks::{self, New},
    maps::{BLOCKS, CCall, Thread, config, count},
    python,
    target::Target,
    window,
};

/// An entry of the C allocator. Whether its return is of interest.
#[inline(always)]
pub fn entered(site: &Site, a: u64, b: u64, regs: *const pt_regs, thread: &mut Thread) -> bool {
    // SAFETY: the kernel passes a valid pt_regs as the context of a uprobe program.
    let sp = unsafe { (*regs).rsp };
    // A call from within the outermost one: its frame lies below.
    if thread.c.sp != 0 && sp < thread.c.sp {
        return false;
    }
    let (size, result_at, old_address) = match site.op {
        op::C_FREE => (0, 0, 0),
        op::C_CALLOC => (a.wrapping_mul(b), 0, 0),
        op::C_REALLOC => (b, 0, a),
        op::C_POSIX_MEMALIGN => (b, a, 0),
        _ => (a, 0, 0),
    };
    if thread.c.sp != 0 {
        // realloc(NULL, n) ends with a jump to malloc(n) (glibc `malloc/malloc.c`), a domain's function with one to another's:
        // one call, which returns once.
        let same = site.op == thread.c.op && old_address == thread.c.old_address;
        let to_malloc = site.op == op::C_MALLOC && thread.c.old_address == 0;
        let jumped_to = sp == thread.c.sp && size == thread.c.size && (same || to_malloc);
        if jumped_to {
            return false;
        }
        window::unlearned(thread);
        thread.c.sp = 0;
    }
    if site.op == op::C_FREE {
        freed(a);
        return false;
    }
    if window::passes_over(thread, size) {
        // What it was called for is told, and what it takes is not there any more.
        let _ = python::claim(thread, size);
        if old_address != 0 {
            let _ = BLOCKS.remove(old_address);
        }
        return false;
    }
    if !python::is_pending(thread) {
        window::came_through(site, thread);
    }
    let mut old = Block::default();
    let mut had_old = 0;
    if old_address != 0 {
        // Taken out before the allocator can hand the address to another thread; put back if it refuses.
        if let Some(block) = BLOCKS.get_ptr(old_address) {
            // SAFETY: a map value of this type; only the thread that owns the block touches it.
            old = unsafe { *block };
            had_old = u8::from(BLOCKS.remove(old_address).is_ok());
        }
    }
    thread.c = CCall { sp, size, result_at, old_address, old, op: site.op, had_old, domain: site.domain, pad: [0; 5] };
    true
}

#[inline(always)]
fn freed(address: u64) {
    if address == 0 {
        return;
    }
    match BLOCKS.get_ptr(address) {
        None => count(counter::FREE_UNKNOWN),
        Some(block) => {
            // SAFETY: a map value of this type.
            if unsafe { (*block).in_pool() } {
                // The C allocator hands out what pymalloc gave back: an allocation was missed in between.
                count(counter::FREE_UNMATCHED);
            }
            let _ = BLOCKS.remove(address);
            count(counter::FREE);
        }
    }
}

/// A return of the C allocator: what to enter, if the call was the outermost and gave a block.
#[inline(always)]
pub fn returned(regs: *const pt_regs, thread: &mut Thread) -> Option<New> {
    // SAFETY: the kernel passes a valid pt_regs as the context of a uprobe program.
    let (sp, result, caller) = unsafe { ((*regs).rsp, (*regs).rax, (*regs).rip) };
    let call = &mut thread.c;
    if call.sp == 0 || sp <= call.sp {
        return None;
    }
    call.sp = 0;
    let (size, old, old_address, had_old, own) =
        (call.size, call.old, call.old_address, call.had_old != 0, call.domain);
    let address = if call.op == op::C_POSIX_MEMALIGN {
        if result == 0 { Target.word(call.result_at).unwrap_or(0) } else { 0 }
    } else {
        result
    };
    let is_realloc = call.op == op::C_REALLOC;
    let python = if own == domain::NATIVE { python::claim(thread, size) } else { None };
    if address == 0 {
        if is_realloc && size == 0 {
            // glibc frees the block.
            count(if had_old { counter::FREE } else { counter::FREE_UNKNOWN });
        } else {
            count(counter::FAILED);
            if had_old {
                blocks::put(old_address, &old);
            }
        }
        return None;
    }
    let (size, domain, is_realloc) = match python {
        Some(call) => (call.size, call.domain, call.is_realloc != 0),
        None if own != domain::NATIVE => (size, own, is_realloc && old_address != 0),
        None if had_old => (size, old.domain(), true),
        None => (size, domain_of(thread, caller), is_realloc && old_address != 0),
    };
    Some(New { address, size, native: caller, domain, in_pool: false, is_realloc })
}

/// Domain of a request that nothing announced: where the interpreter's own calls are all of raw, the caller tells; but what is
/// asked for while a pool is refilled is pymalloc's own table of arenas.
#[inline(always)]
fn domain_of(thread: &Thread, caller: u64) -> u8 {
    let config = config();
    let raw = (config.raw_callers..config.raw_callers_end).contains(&caller) && !python::is_refilling(thread);
    if raw { domain::RAW } else { domain::NATIVE }
}
