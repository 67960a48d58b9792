//! How long it takes to attach to a target in the middle of a storm, and to let it go.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::contender::Tools;
use super::leaktrace::{self, Leaktrace};
use super::spread::Spread;
use super::subject::Subject as _;
use super::target::Target;

/// Seconds of a window before and after.
const WINDOW_SECONDS: f64 = 0.5;

#[derive(Debug, Serialize)]
pub(crate) struct AttachTimes {
    /// Seconds from the command until every probe is armed.
    pub(crate) attach_seconds: Spread,
    /// CPU seconds of leaktrace in that time.
    pub(crate) attach_cpu_seconds: Spread,
    /// Seconds from Ctrl-C until the prompt is back.
    pub(crate) detach_seconds: Spread,
    /// CPU time of a unit right after that, over that before.
    pub(crate) slowdown_after: Spread,
}

pub(crate) fn measure(tools: &Tools, python: &Path, workload: &str, repeats: u32) -> Result<AttachTimes> {
    let mut target = Target::start(python, workload)?;
    let (mut attach, mut cpu, mut detach, mut after) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..repeats {
        let baseline = target.run(WINDOW_SECONDS)?;
        let ((attached, attached_cpu, detached), _) = target.storm(|pid| {
            let leaktrace = Leaktrace::attach(&tools.leaktrace, pid, leaktrace::EXACT, &tools.scratch)?;
            let attached = leaktrace.attach;
            let cpu = leaktrace.cpu_seconds()?;
            Ok((attached, cpu, leaktrace.detach()?.1))
        })?;
        attach.push(attached.as_secs_f64());
        cpu.push(attached_cpu);
        detach.push(detached.as_secs_f64());
        after.push(target.run(WINDOW_SECONDS)?.per_unit() / baseline.per_unit());
    }
    let spread = |values| Spread::of(values).context("nothing was measured");
    Ok(AttachTimes {
        attach_seconds: spread(attach)?,
        attach_cpu_seconds: spread(cpu)?,
        detach_seconds: spread(detach)?,
        slowdown_after: spread(after)?,
    })
}
