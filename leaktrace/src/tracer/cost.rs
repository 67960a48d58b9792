//! What tracing costs the target: the kernel's part of a hit, measured on an instruction of our own, and the programs' part,
//! from the kernel's statistics, which are on only for moments because they cost too.

use std::{
    fs, io,
    os::fd::{FromRawFd, OwnedFd},
    path::Path,
    time::Instant,
};

use aya_obj::generated::{bpf_attr, bpf_cmd};

use super::{
    attach::{AttachError, Point},
    load::program,
    uprobes::Uprobes,
};

/// Rounds of a calibration, of which the quickest counts: others were disturbed. Some 10 ms in all.
const ROUNDS: u32 = 20;
/// Hits of a round, and of one where each takes ten times as long.
const HITS: u32 = 500;
const STEPS: u32 = 50;
/// What a program leaves the target with, in caches and predictors that it has to fill again, as a part of the time that it took:
/// by the work that a service did, a quarter where all is traced, half to two thirds in windows (`docs/watch.md`).
const AFTERMATH: f64 = 0.5;

/// Runs of programs and the time they took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Runs {
    /// At instructions.
    pub entries: u64,
    /// At returns of functions whose entry has run one, too, and of others.
    pub returns: u64,
    pub lone_returns: u64,
    /// Of the instructions, single-stepped ones.
    pub steps: u64,
    pub nanos: u64,
}

impl Runs {
    /// What was added since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            entries: self.entries.saturating_sub(earlier.entries),
            returns: self.returns.saturating_sub(earlier.returns),
            lone_returns: self.lone_returns.saturating_sub(earlier.lone_returns),
            steps: self.steps.saturating_sub(earlier.steps),
            nanos: self.nanos.saturating_sub(earlier.nanos),
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            entries: self.entries + other.entries,
            returns: self.returns + other.returns,
            lone_returns: self.lone_returns + other.lone_returns,
            steps: self.steps + other.steps,
            nanos: self.nanos + other.nanos,
        }
    }

    /// All of them.
    pub fn count(self) -> u64 {
        self.entries + self.returns + self.lone_returns
    }

    /// Mean time of one, seconds.
    pub fn mean(self) -> f64 {
        if self.count() == 0 { 0.0 } else { self.nanos as f64 * 1e-9 / self.count() as f64 }
    }
}

/// What the kernel takes for a hit, without the program: seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HitTimes {
    /// Of an instruction that it emulates.
    pub emulated: f64,
    /// What a single-stepped one takes more.
    pub step: f64,
    /// Of a return, beside the hit of its entry.
    pub returned: f64,
    /// Of one without such.
    pub lone_return: f64,
}

/// As measured on a virtual machine (AMD EPYC, Linux 6.18), for where it cannot be.
impl Default for HitTimes {
    fn default() -> Self {
        Self { emulated: 0.7e-6, step: 1e-5, returned: 0.5e-6, lone_return: 1.1e-6 }
    }
}

impl HitTimes {
    /// CPU seconds that so many runs cost the target.
    pub fn cost(&self, runs: Runs) -> f64 {
        runs.entries as f64 * self.emulated
            + runs.steps as f64 * self.step
            + runs.returns as f64 * self.returned
            + runs.lone_returns as f64 * self.lone_return
            + runs.nanos as f64 * 1e-9 * (1.0 + AFTERMATH)
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

// Instructions of our own to probe: one that is emulated, as nearly all sites of a plan are, and one that is single-stepped.
core::arch::global_asm!(
    ".pushsection .text.leaktrace_calibration, \"ax\", @progbits",
    ".globl leaktrace_calibration",
    "leaktrace_calibration:",
    "nop",
    "ret",
    ".globl leaktrace_calibration_stepped",
    "leaktrace_calibration_stepped:",
    "xor %eax, %eax",
    "ret",
    ".popsection",
    options(att_syntax)
);

unsafe extern "C" {
    fn leaktrace_calibration();
    fn leaktrace_calibration_stepped();
}

/// What hits take, measured on instructions of this process with the program that does nothing, while the programs are timed: that
/// takes time as well. `steps`: also of single-stepped ones.
pub(super) fn calibrate(tracefs: &Path, uprobes: &Uprobes, steps: bool) -> Result<HitTimes, AttachError> {
    let _statistics = enable_statistics();
    let arm = |function: unsafe extern "C" fn(), returns: bool| {
        let exe = Path::new("/proc/self/exe");
        let offset = file_offset(function as *const () as u64)
            .ok_or_else(|| AttachError::Define { path: exe.into(), source: io::ErrorKind::NotFound.into() })?;
        let point = [Point { file: exe, offset }];
        uprobes.arm(program::EMPTY, tracefs, "calibration", &point, returns, std::process::id())
    };
    let plain = time_calls(leaktrace_calibration, HITS);
    let entry = arm(leaktrace_calibration, false)?;
    let probed = time_calls(leaktrace_calibration, HITS);
    let back = arm(leaktrace_calibration, true)?;
    let both = time_calls(leaktrace_calibration, HITS);
    drop(entry);
    let returning = time_calls(leaktrace_calibration, HITS);
    drop(back);
    let emulated = (probed - plain).max(0.0);
    let mut times = HitTimes {
        emulated,
        returned: (both - probed).max(0.0),
        lone_return: (returning - plain).max(0.0),
        ..HitTimes::default()
    };
    if steps {
        let stepped = arm(leaktrace_calibration_stepped, false)?;
        times.step = (time_calls(leaktrace_calibration_stepped, STEPS) - plain - emulated).max(0.0);
        drop(stepped);
    }
    Ok(times)
}

/// Seconds of a call, in the quickest round.
fn time_calls(function: unsafe extern "C" fn(), calls: u32) -> f64 {
    let round = || {
        let begin = Instant::now();
        for _ in 0..calls {
            // SAFETY: the functions of the calibration are an instruction and `ret`; they touch nothing but a scratch register.
            unsafe { function() };
        }
        begin.elapsed().as_secs_f64() / f64::from(calls)
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// Where an address of this process lies in its executable.
fn file_offset(address: u64) -> Option<u64> {
    let maps = crate::target::Maps::parse(&fs::read("/proc/self/maps").ok()?);
    let mapping = maps.find(address)?;
    Some(address - mapping.range.start + mapping.offset)
}
