//! What tracing costs the target: the kernel's part of a hit, measured on instructions of our own, the programs' part, from the
//! kernel's statistics, which are on only for moments because they cost too, and what these leave behind.

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
    multi::Told,
    uprobes::Uprobes,
};

/// Rounds of a calibration, of which the quickest counts: others were disturbed. Some 30 ms in all, 10 more for steps.
const ROUNDS: u32 = 20;
/// Hits of a round, and of one where each takes ten times as long.
const HITS: u32 = 500;
const STEPS: u32 = 50;
/// What a program leaves the target with, in caches and predictors that it has to fill again, as a part of the time that it took:
/// by the work that a service did, a quarter where all is traced, half to two thirds in windows (`docs/watch-measured.md`).
const AFTERMATH: f64 = 0.25;
const AFTERMATH_IN_WINDOWS: f64 = 0.5;
/// Mean time of a run, seconds, from which on that becomes less: such a program finds caches that are cold for the target, too. It is
/// assumed, not measured: of windows in services that rest most of the time, too little is seen.
const COLD_RUN: f64 = 8e-7;

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

    /// As many entries and returns as there were, each like these were on the mean. `steps` are known of windows only.
    #[must_use]
    pub fn scaled(self, entries: u64, returns: u64) -> Self {
        let both = self.returns + self.lone_returns;
        let lone = if both == 0 { 0.0 } else { self.lone_returns as f64 / both as f64 };
        let lone_returns = (lone * returns as f64) as u64;
        let nanos = (self.mean() * 1e9 * (entries + returns) as f64) as u64;
        Self { entries, returns: returns - lone_returns, lone_returns, steps: 0, nanos }
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

/// What the kernel takes for a hit, without the program: seconds. And what the program leaves behind, as a part of its time.
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
    pub aftermath: f64,
}

impl HitTimes {
    /// As measured on a virtual machine (AMD EPYC, Linux 6.18), for where it cannot be. `windows`: not all is traced all the time.
    pub fn elsewhere(windows: bool) -> Self {
        let aftermath = if windows { AFTERMATH_IN_WINDOWS } else { AFTERMATH };
        Self { emulated: 0.7e-6, step: 1e-5, returned: 0.55e-6, lone_return: 1.1e-6, aftermath }
    }

    /// CPU seconds that so many runs cost the target.
    pub fn cost(&self, runs: Runs) -> f64 {
        let programs = runs.nanos as f64 * 1e-9;
        runs.entries as f64 * self.emulated
            + runs.steps as f64 * self.step
            + runs.returns as f64 * self.returned
            + runs.lone_returns as f64 * self.lone_return
            + programs
            + self.aftermath * programs * (COLD_RUN / runs.mean().max(COLD_RUN)).powi(2)
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

/// What else than hits of emulated instructions is to be measured.
#[derive(Debug, Clone, Copy)]
pub struct Kinds {
    pub returns: bool,
    pub steps: bool,
}

/// Measures `times` anew on instructions of this process, with the program that does nothing; in windows while the programs are timed:
/// there they always are, and that takes time as well. What cannot be measured stays as it is.
pub(super) fn calibrate(
    tracefs: &Path,
    uprobes: &Uprobes,
    kinds: Kinds,
    windows: bool,
    times: &mut HitTimes,
) -> Result<(), AttachError> {
    let _statistics = windows.then(enable_statistics);
    // Entries and returns cannot share an event.
    let arm = |function: unsafe extern "C" fn(), event: &str, told: Told| {
        let exe = Path::new("/proc/self/exe");
        let offset = file_offset(function as *const () as u64)
            .ok_or_else(|| AttachError::Define { path: exe.into(), source: io::ErrorKind::NotFound.into() })?;
        let point = [Point { file: exe, offset }];
        uprobes.arm(program::EMPTY, tracefs, event, &point, told, std::process::id())
    };
    let plain = time_calls(leaktrace_calibration, HITS);
    let entry = arm(leaktrace_calibration, "calibration", Told::Entries)?;
    let probed = time_calls(leaktrace_calibration, HITS);
    times.emulated = (probed - plain).max(0.0);
    if kinds.returns {
        let back = arm(leaktrace_calibration, "calibration_return", Told::Returns)?;
        times.returned = (time_calls(leaktrace_calibration, HITS) - probed).max(0.0);
        drop(entry);
        times.lone_return = (time_calls(leaktrace_calibration, HITS) - plain).max(0.0);
        drop(back);
    }
    if kinds.steps {
        let stepped = arm(leaktrace_calibration_stepped, "calibration_step", Told::Entries)?;
        times.step = (time_calls(leaktrace_calibration_stepped, STEPS) - plain - times.emulated).max(0.0);
        drop(stepped);
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use leaktrace_common::{
        site::{Operand, domain, op, reg},
        walk::PythonLayout,
        wire::{GcCounts, window},
    };

    use super::super::{Spec, Tracer, Window, load::Sizes, object::OBJECT};
    use super::*;
    use crate::plan::{Execution, Probe, ProbePlan, ReturnProbe};

    #[test]
    fn the_kernel_does_not_tell_of_returns_that_are_passed_over() {
        if OBJECT.is_empty() {
            eprintln!("no BPF object in this build: nothing could be armed");
            return;
        }
        let address = leaktrace_calibration as *const () as u64;
        let probe = Probe {
            file: 0,
            file_offset: file_offset(address).unwrap(),
            address,
            op: op::C_MALLOC,
            domain: domain::NATIVE,
            a: Operand::register(reg::RDI),
            b: Operand::default(),
            execution: Execution::Emulated,
            why: String::new(),
            instruction: String::new(),
            bytes: Vec::new(),
        };
        let back = ReturnProbe {
            file: 0,
            file_offset: probe.file_offset,
            address,
            op: probe.op,
            execution: probe.execution,
            why: String::new(),
            instruction: String::new(),
            bytes: Vec::new(),
        };
        let plan = ProbePlan { probes: vec![probe], returns: vec![back], ..ProbePlan::default() };
        let (pid, tracefs) = (std::process::id(), Path::new("/nowhere"));
        let spec = Spec {
            pid,
            plan: &plan,
            layout: &PythonLayout::ZERO,
            pymalloc: None,
            tstate_interpreter: 0,
            gc: GcCounts::ZERO,
            tracefs,
            sizes: Sizes { blocks: 1024, ring_bytes: 1 << 16 },
            verbose: false,
            windows: true,
        };
        let mut tracer = Tracer::load(&spec).unwrap();
        if !tracer.uprobes.has_sessions() {
            assert!(aya::util::KernelVersion::current().unwrap() < aya::util::KernelVersion::new(6, 13, 0));
            return;
        }
        let point = [Point { file: Path::new("/proc/self/exe"), offset: plan.probes[0].file_offset }];
        let _statistics = enable_statistics().unwrap();
        let mut told = |number: u64, passed_over: u64| {
            let word = number << window::BITS | window::PARTIAL;
            tracer.set_window(&Window { word, passed_over, ..Window::default() }).unwrap();
            let before = tracer.run_statistics();
            let armed =
                tracer.uprobes.arm(program::C_SESSION, tracefs, "session", &point, Told::Sessions, pid).unwrap();
            for _ in 0..100 {
                // SAFETY: an instruction and `ret`, as in `time_calls`.
                unsafe { leaktrace_calibration() };
            }
            drop(armed);
            let runs = tracer.run_statistics().since(before);
            (runs.entries, runs.returns)
        };
        assert_eq!((told(1, 0), told(2, u64::MAX)), ((100, 100), (100, 0)));
    }

    #[test]
    fn a_hit_costs_by_its_kind() {
        let times = HitTimes { emulated: 1e-6, step: 1e-5, returned: 5e-7, lone_return: 2e-6, aftermath: 0.5 };
        let runs = Runs { entries: 10, returns: 4, lone_returns: 2, steps: 3, nanos: 8_000 };
        let kernel = 10e-6 + 30e-6 + 2e-6 + 4e-6;
        assert!((times.cost(runs) - (kernel + 12e-6)).abs() < 1e-12);
        let cold = Runs { nanos: 25_600, ..runs };
        assert!((times.cost(cold) - (kernel + 25.6e-6 + 3.2e-6)).abs() < 1e-12);
        assert!(times.cost(Runs::default()) == 0.0 && Runs::default().mean() == 0.0);
        assert_eq!((runs.count(), runs.and(runs).since(runs)), (16, runs));
        assert!((runs.mean() - 5e-7).abs() < 1e-12);
        let more = Runs { entries: 100, returns: 20, lone_returns: 10, steps: 0, nanos: 65_000 };
        assert_eq!(runs.scaled(100, 30), more);
        assert_eq!(Runs::default().scaled(100, 30), Runs { entries: 100, returns: 30, ..Runs::default() });
    }
}
