//! The target's memory and the current thread, as the kernel shows them.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, bpf_probe_read_kernel, generated::bpf_probe_read_user},
};
use leaktrace_common::walk::ReadTarget;

use crate::maps::{MORE_THREADS, NEW_THREAD, THREAD_SLOTS, THREADS, Thread, claim, config};

/// The current process's user memory.
pub struct Target;

impl ReadTarget for Target {
    #[inline(always)]
    fn word(&self, address: u64) -> Option<u64> {
        read(address)
    }
}

/// Copies a value from the target.
#[inline(always)]
pub fn read<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes all bytes of `value` when it succeeds, and T is made of integers wherever this is used.
    read_into(value.as_mut_ptr().cast(), size_of::<T>() as u32, address).then(|| unsafe { value.assume_init() })
}

/// Copies `len` bytes from the target.
#[inline(always)]
pub fn read_into(to: *mut c_void, len: u32, address: u64) -> bool {
    // SAFETY: the verifier proves that `to` has room for `len` bytes.
    unsafe { bpf_probe_read_user(to.cast(), len, address as *const _) == 0 }
}

#[inline(always)]
pub fn tid() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// `pthread_self()` of the current thread: both glibc and musl point the fs base at it.
#[inline(always)]
pub fn pthread_self() -> Option<u64> {
    // SAFETY: the current task is valid; the helper checks the address.
    unsafe {
        let task = bpf_get_current_task();
        bpf_probe_read_kernel((task + u64::from(config().task_fsbase)) as *const u64).ok()
    }
}

/// The state of the current thread, made at its first event.
#[inline(always)]
pub fn thread(tid: u32) -> Option<&'static mut Thread> {
    let slot = THREADS.get_ptr_mut(tid % THREAD_SLOTS)?;
    // SAFETY: a map value of this type; only the thread that has the slot uses it, and a thread runs one program at a time.
    let slot = unsafe { &mut *slot };
    if slot.owner == u64::from(tid) || begin_thread(tid) == IN_SLOT {
        return Some(&mut slot.thread);
    }
    // SAFETY: as above.
    MORE_THREADS.get_ptr_mut(tid).map(|thread| unsafe { &mut *thread })
}

/// The thread has its slot.
const IN_SLOT: u32 = 1;

/// Makes the state of a thread that does not have its slot, unless it has one elsewhere.
///
/// A global function: it hardly ever runs.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn begin_thread(tid: u32) -> u32 {
    if MORE_THREADS.get_ptr(tid).is_some() {
        return 0;
    }
    let (Some(new), Some(slot)) = (NEW_THREAD.get(0), THREADS.get_ptr_mut(tid % THREAD_SLOTS)) else { return 0 };
    // SAFETY: map values of these types; the slot is this thread's once it is claimed.
    unsafe {
        if claim(&raw mut (*slot).owner, tid.into()) {
            (*slot).thread = *new;
            return IN_SLOT;
        }
    }
    let _ = MORE_THREADS.insert(tid, new, u64::from(BPF_NOEXIST));
    0
}

/// Forgets the current thread's state.
#[inline(always)]
pub fn forget_thread(tid: u32) {
    let Some(slot) = THREADS.get_ptr_mut(tid % THREAD_SLOTS) else { return };
    // SAFETY: a map value of this type; whose slot it is, that thread runs this.
    unsafe {
        if (*slot).owner == u64::from(tid) {
            (&raw mut (*slot).owner).write_volatile(0);
            return;
        }
    }
    let _ = MORE_THREADS.remove(tid);
}
