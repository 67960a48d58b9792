//! Arming a plan, or a part of it for a window, and disarming it.

use std::{
    collections::BTreeSet,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use leaktrace_common::site::op;

use super::{
    Spec, Tracer, TracerError,
    attach::{Definition, Point},
    guardian::Guardian,
    load::program,
    multi::Told,
    uprobes::{Armed, Way},
};
use crate::plan::ProbePlan;

/// Between two looks at whether breakpoints are gone.
const LOOK: Duration = Duration::from_millis(1);

/// A file of a plan, and an offset in it.
type Place = (usize, u64);

/// Probes on returns that share a program.
pub(super) struct Returns {
    event: &'static str,
    pub(super) program: &'static str,
    /// Whether the returns of an op belong here.
    pub(super) serves: fn(u8) -> bool,
}

pub(super) const RETURNS: [Returns; 3] = [
    Returns { event: "c_return", program: program::C_RETURN, serves: op::is_c },
    Returns { event: "refill_return", program: program::REFILL_RETURN, serves: |o| o == op::REFILLED },
    Returns { event: "gc_return", program: program::GC_RETURN, serves: |o| o == op::GC_START },
];

impl Tracer {
    /// Arms the plan: returns first, so that no entry waits for a return that is not watched.
    pub fn arm(&mut self, spec: &Spec<'_>) -> Result<(), TracerError> {
        let (probes, returns): (Vec<_>, Vec<_>) =
            ((0..spec.plan.probes.len()).collect(), (0..spec.plan.returns.len()).collect());
        self.arm_some(spec.tracefs, spec.pid, spec.plan, &probes, &returns)
    }

    /// As [`Self::arm`], for some of the plan's probes and returns, by their indices.
    pub fn arm_some(
        &mut self,
        tracefs: &Path,
        pid: u32,
        plan: &ProbePlan,
        probes: &[usize],
        returns: &[usize],
    ) -> Result<(), TracerError> {
        self.guard(tracefs, pid)?;
        let file = |index: usize| plan.files[index].open_path.as_path();
        if self.uprobes.way() == Way::Link && self.definition.is_none() {
            let probes = plan.probes.iter().map(|p| (p.file, p.file_offset));
            let returns = plan.returns.iter().map(|r| (r.file, r.file_offset));
            // A function's entry and its return may be at one instruction.
            let places: BTreeSet<(usize, u64)> = probes.chain(returns).collect();
            let points: Vec<_> = places.into_iter().map(|(of, offset)| Point { file: file(of), offset }).collect();
            self.definition = Some(Definition::new(tracefs, "windows", &points, false, pid)?);
        }
        let returns = returns.iter().map(|&index| &plan.returns[index]);
        let mut returns: Vec<(u8, Place)> = returns.map(|r| (r.op, (r.file, r.file_offset))).collect();
        let probes = probes.iter().map(|&index| &plan.probes[index]);
        let mut probes: Vec<(u8, Place)> = probes.map(|p| (p.op, (p.file, p.file_offset))).collect();
        let mut sessions = Vec::new();
        if self.uprobes.has_sessions() {
            let is_told = |of: &mut (u8, Place)| op::is_c(of.0) && returns.contains(of);
            sessions.extend(probes.extract_if(.., is_told));
            returns.retain(|of| !sessions.contains(of));
        }
        let points = |of: &[(u8, Place)]| -> Vec<Point<'_>> {
            of.iter().map(|&(_, (of, offset))| Point { file: file(of), offset }).collect()
        };
        for Returns { event, program, serves } in RETURNS {
            let served: Vec<_> = returns.iter().copied().filter(|(op, _)| serves(*op)).collect();
            self.arm_group(tracefs, pid, event, program, &points(&served), Told::Returns)?;
        }
        self.arm_group(tracefs, pid, "session", program::C_SESSION, &points(&sessions), Told::Sessions)?;
        self.arm_group(tracefs, pid, "entry", program::ENTRY, &points(&probes), Told::Entries)?;
        self.armed.reverse();
        Ok(())
    }

    /// Nothing is armed without a guardian.
    pub(super) fn guard(&mut self, tracefs: &Path, pid: u32) -> Result<(), TracerError> {
        if self.guardian.is_none() {
            self.guardian = Some(Guardian::start(tracefs, pid).map_err(TracerError::Guardian)?);
        }
        Ok(())
    }

    fn arm_group(
        &mut self,
        tracefs: &Path,
        pid: u32,
        event: &str,
        program: &'static str,
        points: &[Point<'_>],
        told: Told,
    ) -> Result<(), TracerError> {
        if points.is_empty() {
            return Ok(());
        }
        self.armed.push(self.uprobes.arm(program, tracefs, event, points, told, pid)?);
        Ok(())
    }

    /// Disarms everything; what was found can still be read.
    pub fn disarm(&mut self) {
        // In order, so entries go before returns.
        for armed in self.armed.drain(..) {
            drop(armed);
        }
        self.standing.disarm();
        self.definition = None;
        self.guardian = None;
    }

    /// Disarms what is armed; another part can be armed later. Gives the time after which the breakpoints were gone, which `gone`
    /// tells: the kernel then waits for who is still at one of them, and nobody pays for that.
    pub fn disarm_window(&mut self, mut gone: impl FnMut() -> bool) -> Duration {
        let begin = Instant::now();
        // Each waits for itself: so they wait at the same time.
        thread::scope(|scope| {
            let parts = self.armed.drain(..).flat_map(Armed::into_parts);
            let closing: Vec<_> = parts.map(|armed| scope.spawn(move || drop(armed))).collect();
            while !gone() && !closing.iter().all(thread::ScopedJoinHandle::is_finished) {
                thread::sleep(LOOK);
            }
            begin.elapsed()
        })
    }
}
