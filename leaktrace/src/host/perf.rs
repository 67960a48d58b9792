//! Whether perf events may be opened on other processes.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use aya_obj::generated::{PERF_FLAG_FD_CLOEXEC, perf_event_attr, perf_sw_ids, perf_type_id};

/// Opens and closes an event that counts nothing on process `pid`.
pub fn try_open(pid: u32) -> io::Result<()> {
    // SAFETY: perf_event_attr is made of integers and unions of integers; all zero means defaults.
    let mut attr: perf_event_attr = unsafe { std::mem::zeroed() };
    attr.type_ = perf_type_id::PERF_TYPE_SOFTWARE as u32;
    attr.config = perf_sw_ids::PERF_COUNT_SW_DUMMY as u64;
    attr.size = size_of::<perf_event_attr>() as u32;
    // SAFETY: `attr` is a valid perf_event_attr with its size in it; the other arguments are plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, pid, -1, -1, PERF_FLAG_FD_CLOEXEC) };
    let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// `kernel.perf_event_paranoid`: from -1 (all may) to 2 and above (only the privileged).
pub fn paranoid() -> Option<i32> {
    fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").ok()?.trim().parse().ok()
}
