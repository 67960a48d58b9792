//! What is armed beside the windows, for the whole time: the collector's probes.
//!
//! By groups, not links: the child of a fork lets go of a group's breakpoints, of which it has copies, as soon as it hits them
//! ([`Way`]), and it may live for as long as these are armed. They have programs of their own, so that what windows cost can be told
//! apart.

use std::path::Path;

use aya::Ebpf;
use leaktrace_common::wire::state;

use super::{
    Tracer, TracerError,
    attach::Point,
    cost::Runs,
    load::{LoadError, program},
    multi::Told,
    uprobes::{Armed, Uprobes, Way},
};
use crate::plan::ProbePlan;

/// The collector's programs, and what is armed of them.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Entries first: they are disarmed before the returns that belong to them.
    armed: Vec<Armed>,
    /// `None`: the plan has nothing for them.
    uprobes: Option<Uprobes>,
    /// How often they were armed.
    times: u64,
}

impl Standing {
    /// Loads the programs that the plan's probes of the collector need.
    pub(super) fn load(ebpf: &mut Ebpf, plan: &ProbePlan) -> Result<Self, LoadError> {
        let (probes, returns) = plan.collector();
        if probes.is_empty() {
            return Ok(Self::default());
        }
        let names = [Some(program::COLLECTOR), (!returns.is_empty()).then_some(program::GC_RETURN)];
        let names: Vec<_> = names.into_iter().flatten().collect();
        Ok(Self { uprobes: Some(Uprobes::load(ebpf, &names, Way::Group)?), ..Self::default() })
    }

    pub(super) fn disarm(&mut self) {
        // In order.
        for armed in self.armed.drain(..) {
            drop(armed);
        }
    }
}

impl Tracer {
    /// Arms the plan's probes of the collector; they stay until [`Self::disarm_collector`] or the end, whatever windows do.
    pub fn arm_collector(&mut self, tracefs: &Path, pid: u32, plan: &ProbePlan) -> Result<(), TracerError> {
        self.guard(tracefs, pid)?;
        self.standing.times += 1;
        self.set_state(state::STANDING, self.standing.times)?;
        let Some(uprobes) = &self.standing.uprobes else { return Ok(()) };
        let point = |file: usize, offset| Point { file: plan.files[file].open_path.as_path(), offset };
        let (probes, returns) = plan.collector();
        let probes: Vec<Point<'_>> = probes.iter().map(|p| point(p.file, p.file_offset)).collect();
        let returns: Vec<Point<'_>> = returns.iter().map(|r| point(r.file, r.file_offset)).collect();
        // Returns first, so that no entry waits for a return that is not watched.
        let mut armed = Vec::new();
        if !returns.is_empty() {
            armed.push(uprobes.arm(program::GC_RETURN, tracefs, "collector_return", &returns, Told::Returns, pid)?);
        }
        armed.push(uprobes.arm(program::COLLECTOR, tracefs, "collector", &probes, Told::Entries, pid)?);
        armed.reverse();
        self.standing.armed = armed;
        Ok(())
    }

    /// Disarms the collector's probes, if they are armed. Takes some 50 ms.
    pub fn disarm_collector(&mut self) {
        self.standing.disarm();
    }

    /// Whether the collector's probes are armed.
    pub fn has_collector(&self) -> bool {
        !self.standing.armed.is_empty()
    }

    /// As [`Self::run_statistics`], of the programs of the collector's probes.
    pub fn collector_runs(&self) -> Runs {
        self.standing.uprobes.as_ref().map(|uprobes| uprobes.runs(0)).unwrap_or_default()
    }
}
