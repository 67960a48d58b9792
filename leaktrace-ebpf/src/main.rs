//! The BPF programs of leaktrace: one for every armed instruction, one for each kind of return, one for exec, one for the
//! end of a thread.
//!
//! Nothing here writes to the target. What happens to a block that dies young is settled in the maps and never crosses to
//! user space.
#![no_std]
#![no_main]
// Atomic additions are written in BPF assembly.
#![feature(asm_experimental_arch)]

mod blocks;
mod code;
mod frames;
mod gc;
mod maps;
mod native;
mod python;
mod regs;
mod stack;
mod target;
mod window;

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::pt_regs,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{raw_tracepoint, uprobe},
    programs::{ProbeContext, RawTracePointContext},
};
use aya_log_ebpf::debug;
use leaktrace_common::{
    site::{Site, op, slot},
    wire::{self, ProcessRecord, VERSION, c_call, counter, record, state},
};
use maps::{NEW_THREAD, RING, SITES, STATE, Thread, config, count};
use target::{forget_thread, thread, tid};

/// Every armed instruction that is not a return.
#[uprobe]
pub fn entry(ctx: ProbeContext) -> u32 {
    let regs: *const pt_regs = ctx.regs;
    // SAFETY: the kernel passes a valid pt_regs as the context of a uprobe program.
    let ip = unsafe { (*regs).rip };
    if config().tgid == 0 {
        // Never: but a program that might makes do with the kernel's own stack. Else, from Linux 6.13, it gets one elsewhere,
        // and the kernel's hardened user copy takes 15 ns longer for each word that is read onto it.
        // SAFETY: the map holds no program.
        unsafe { maps::NOWHERE.tail_call(&ctx, 0) };
    }
    let Some(site) = site_at(ip) else {
        count(counter::HITS);
        // After an exec libraries lie elsewhere.
        if thread(tid()).is_some_and(|thread| thread.over == 0) {
            count(counter::UNKNOWN_SITE);
            debug!(&ctx, "no site at {:x}", ip);
        }
        return 0;
    };
    let Some(Hit { thread, tid, open, a, b }) = hit(&ctx, site) else { return 0 };
    if op::is_c(site.op) {
        native::entered(site, a, b, regs, thread);
        return 0;
    }
    if open & wire::window::PARTIAL != 0 {
        let asked = python::asked_for(site, a, b);
        if let Some(size) = asked
            && (open & wire::window::SCOUTS != 0 || !window::is_for(size))
        {
            window::asked(slot(ip, config().site_factor), size);
            window::skipped(thread);
            return 0;
        }
        if open & wire::window::SCOUTS != 0 {
            return 0;
        }
    }
    if site.op < op::C_MALLOC && site.op != op::REFILLED {
        window::came_through(site, thread);
    }
    if site.op == op::PY_REUSED {
        blocks::reuse(thread, tid, a, b != 0);
    } else if site.op < op::C_MALLOC {
        if let Some(new) = python::event(site, a, b, thread) {
            blocks::enter(thread, tid, &new);
        }
    } else {
        gc::entered(site.op, a, b, thread, tid);
    }
    0
}

/// The armed instruction at an address.
#[inline(always)]
fn site_at(ip: u64) -> Option<&'static Site> {
    SITES.get(slot(ip, config().site_factor)).filter(|site| site.ip == ip)
}

/// What a hit of a site begins with.
struct Hit {
    thread: &'static mut Thread,
    tid: u32,
    /// See [`state::WINDOW`].
    open: u64,
    a: u64,
    b: u64,
}

/// Counts a hit and reads its operands; `None`: it is not to be looked at.
#[inline(always)]
fn hit(ctx: &ProbeContext, site: &Site) -> Option<Hit> {
    count(counter::HITS);
    let tid = tid();
    let Some(thread) = thread(tid) else {
        count(counter::LOST_STACK);
        return None;
    };
    if thread.over != 0 {
        return None;
    }
    let open = window::enter(thread);
    if open & wire::window::PARTIAL != 0 {
        window::hit(slot(site.ip, config().site_factor));
    }
    let (Some(a), Some(b)) = (regs::operand(ctx.regs, &site.a), regs::operand(ctx.regs, &site.b)) else {
        count(counter::LOST_ADDRESS);
        debug!(ctx, "an operand of the site at {:x} cannot be read", site.ip);
        return None;
    };
    Some(Hit { thread, tid, open, a, b })
}

/// Entries of the C allocator's functions, and the returns of those that are not passed over, in windows (`uprobe_session`, Linux
/// 6.13): what is given back for an entry says whether the kernel is to tell of the return. (Where aya's macro makes a program of a
/// function, that always gives 0.)
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub extern "C" fn c_session(ctx: *mut c_void) -> u32 {
    let ctx = ProbeContext::new(ctx);
    // SAFETY: the kernel passes a valid pt_regs as the context of a uprobe program.
    let ip = unsafe { (*ctx.regs).rip };
    // At a return it is where that leads to. (After an exec it may be an entry: then the thread is in the middle of no call.)
    let Some(site) = site_at(ip).filter(|site| op::is_c(site.op)) else {
        window::c_called(c_call::RETURNS);
        c_returned(&ctx);
        return 0;
    };
    let Some(Hit { thread, a, b, .. }) = hit(&ctx, site) else { return session::PASSED_OVER };
    if native::entered(site, a, b, ctx.regs, thread) { session::WANTED } else { session::PASSED_OVER }
}

/// What [`c_session`] gives for an entry (`uprobe_multi_link_handler`, `kernel/trace/bpf_trace.c`, 6.13).
mod session {
    pub const WANTED: u32 = 0;
    pub const PASSED_OVER: u32 = 1;
}

/// The collector's sites, where they stay armed while windows of the rest open and close. So no window is looked at, and nothing is
/// touched of what the thread is in the middle of there.
#[uprobe]
pub fn collector(ctx: ProbeContext) -> u32 {
    let regs: *const pt_regs = ctx.regs;
    // SAFETY: the kernel passes a valid pt_regs as the context of a uprobe program.
    let ip = unsafe { (*regs).rip };
    count(counter::HITS);
    let (slot, tid) = (slot(ip, config().site_factor), tid());
    if let Some(thread) = thread(tid)
        && thread.over == 0
        && let Some(site) = SITES.get(slot)
        && site.ip == ip
        && let (Some(a), Some(b)) = (regs::operand(regs, &site.a), regs::operand(regs, &site.b))
    {
        window::hit(slot);
        gc::entered(site.op, a, b, thread, tid);
    }
    0
}

/// Returns of the C allocator.
#[uprobe]
pub fn c_return(ctx: ProbeContext) -> u32 {
    c_returned(&ctx);
    0
}

#[inline(always)]
fn c_returned(ctx: &ProbeContext) {
    count(counter::RETURNS);
    let tid = tid();
    if let Some(thread) = thread(tid)
        && let Some(new) = native::returned(ctx.regs, thread)
    {
        blocks::enter(thread, tid, &new);
    }
}

/// Returns of pymalloc's refill, for builds in which no branch shows its result.
#[uprobe]
pub fn refill_return(ctx: ProbeContext) -> u32 {
    count(counter::RETURNS);
    let tid = tid();
    // SAFETY: the kernel passes a valid pt_regs as the context of a uprobe program.
    let block = unsafe { (*ctx.regs).rax };
    if let Some(thread) = thread(tid)
        && let Some(new) = python::refilled(block, thread)
    {
        blocks::enter(thread, tid, &new);
    }
    0
}

/// Returns of the collector.
#[uprobe]
pub fn gc_return(_ctx: ProbeContext) -> u32 {
    count(counter::RETURNS);
    let tid = tid();
    if let Some(thread) = thread(tid) {
        gc::ended(thread, tid);
    }
    0
}

/// Does nothing: what its probe costs is the kernel's part.
#[uprobe]
pub fn empty(_ctx: ProbeContext) -> u32 {
    0
}

/// The target replaced its program: what was armed is gone with the old memory. The kernel arms it anew where the new
/// program maps the same file, so from this moment on, before the new program's first instruction, nothing counts.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if pid != config().tgid {
        return 0;
    }
    // The other threads ended before; those to come begin with a copy of this.
    if let Some(new) = NEW_THREAD.get_ptr_mut(0) {
        // SAFETY: a map value of this type.
        unsafe { (*new).over = 1 };
    }
    // Also with the calls that this thread was in the middle of.
    forget_thread(tid());
    // SAFETY: the helper has no precondition.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    let message = ProcessRecord { kind: record::EXEC, pid, child: 0, pad: 0, time_ns };
    if RING.output::<ProcessRecord>(message, 0).is_err() {
        count(counter::LOST_RING);
    }
    let _ = ctx.as_ptr();
    0
}

/// A thread ended: its state goes, so that a target which starts threads all the time does not fill the table, and a later
/// thread of the same id does not find what this one was in the middle of. Children of vfork have states too.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn thread_exit(_ctx: RawTracePointContext) -> i32 {
    forget_thread(tid());
    0
}

/// The target starts a process or a thread. A process begins with a copy of the breakpoints, which a link leaves there until it is
/// closed: whoever has a window open wants to know.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_fork(_ctx: RawTracePointContext) -> i32 {
    if (bpf_get_current_pid_tgid() >> 32) as u32 == config().tgid
        && let Some(forks) = STATE.get_ptr_mut(state::FORKS)
    {
        // SAFETY: a map value of this type. Of two threads at once one count may be lost: that they are more is what counts.
        unsafe { *forks += 1 };
    }
    0
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

// The kernel grants helpers such as bpf_probe_read_user to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// For user space to read from the file ([`leaktrace_common::wire::VERSION_SECTION`]); it is not loaded.
#[unsafe(link_section = "leaktrace_wire")]
#[unsafe(no_mangle)]
static WIRE_VERSION: u64 = VERSION;
