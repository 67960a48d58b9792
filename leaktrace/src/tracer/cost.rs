//! What tracing costs the target: the kernel's part of a hit, measured on an instruction of our own, and the programs' part,
//! from the kernel's statistics, which are on only for moments because they cost too.

use std::{
    fs, io,
    os::fd::{FromRawFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use aya_obj::generated::{bpf_attr, bpf_cmd};

use super::{
    attach::{AttachError, Point},
    load::program,
    uprobes::Uprobes,
};

/// Rounds of a calibration, of which the quickest counts: others were disturbed. Some 10 ms in all.
const ROUNDS: u32 = 20;
/// Hits of a round.
const HITS: u32 = 500;

/// Runs of programs and the time they took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Runs {
    pub count: u64,
    pub nanos: u64,
}

impl Runs {
    /// What was added since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { count: self.count.saturating_sub(earlier.count), nanos: self.nanos.saturating_sub(earlier.nanos) }
    }
}

/// Turns the kernel's statistics of BPF programs on for as long as the result lives. Kernel >= 5.8.
pub fn enable_statistics() -> io::Result<OwnedFd> {
    // SAFETY: bpf_attr is a union of integer structs; all zero asks for run-time statistics (BPF_STATS_RUN_TIME is 0).
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: `attr` is a whole bpf_attr.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_ENABLE_STATS as libc::c_int, &raw mut attr, size_of::<bpf_attr>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

// An instruction of our own to probe: emulated, as nearly all sites of a plan are.
core::arch::global_asm!(
    ".pushsection .text.leaktrace_calibration, \"ax\", @progbits",
    ".globl leaktrace_calibration",
    "leaktrace_calibration:",
    "nop",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    fn leaktrace_calibration();
}

/// Time of one hit of a probed `nop` with the program that does nothing, less that of the call itself.
pub(super) fn calibrate(tracefs: &Path, uprobes: &Uprobes) -> Result<Duration, AttachError> {
    let exe = Path::new("/proc/self/exe");
    let address = leaktrace_calibration as *const () as u64;
    let offset = file_offset(address)
        .ok_or_else(|| AttachError::Define { path: exe.into(), source: io::Error::from(io::ErrorKind::NotFound) })?;
    let plain = time_calls();
    let point = [Point { file: exe, offset }];
    let armed = uprobes.arm(program::EMPTY, tracefs, "calibration", &point, false, std::process::id())?;
    let probed = time_calls();
    drop(armed);
    Ok(probed.saturating_sub(plain) / HITS)
}

/// The quickest round of calls.
fn time_calls() -> Duration {
    let round = || {
        let begin = Instant::now();
        for _ in 0..HITS {
            // SAFETY: the function is `nop; ret` and touches nothing.
            unsafe { leaktrace_calibration() };
        }
        begin.elapsed()
    };
    (0..ROUNDS).map(|_| round()).min().unwrap_or_default()
}

/// Where an address of this process lies in its executable.
fn file_offset(address: u64) -> Option<u64> {
    let maps = crate::target::Maps::parse(&fs::read("/proc/self/maps").ok()?);
    let mapping = maps.find(address)?;
    Some(address - mapping.range.start + mapping.offset)
}
