//! What a process allows.

use std::fs;

use leaktrace::host::claim::{Claim, ClaimError};
use leaktrace::host::kernel::{KernelVersion, ReturnProbes};
use leaktrace::plan::ProbePlan;
use leaktrace::target::process::{Seccomp, Target, TargetError};

use super::check::Check;
use super::interpreter;
use crate::exit;

/// The checks, and the probe plan of its interpreter when one can be made.
pub(super) fn checks(pid: u32) -> (Vec<Check>, Option<ProbePlan>) {
    let target = match Target::open(pid) {
        Ok(target) => target,
        Err(error) => return (vec![failed("process", error)], None),
    };
    let mut checks = vec![process(&target), other_tracers(&target), return_probes(&target)];
    let (interpreter, plan) = interpreter::checks(&target);
    checks.extend(interpreter);
    (checks, plan)
}

/// The check of an error: its line and code as a run would have them.
pub(super) fn failed(subject: &'static str, error: impl Into<anyhow::Error>) -> Check {
    let error = error.into();
    let (code, hint) = exit::classify(&error);
    Check::no(subject, exit::in_one_line(&error), code, hint)
}

fn process(target: &Target) -> Check {
    let exe = target.exe().display();
    let namespaced =
        if target.ns_pid() == target.pid() { String::new() } else { format!(", {} inside", target.ns_pid()) };
    let finding = format!("{exe}{namespaced}");
    match target.state() {
        Ok('T' | 't') => Check::warn("process", format!("{finding}, stopped"), "nothing happens until it continues"),
        _ => Check::ok("process", finding),
    }
}

fn other_tracers(target: &Target) -> Check {
    let subject = "other tracers";
    let pid = target.pid();
    if let Err(error @ ClaimError::Taken { .. }) = Claim::new(pid) {
        return failed(subject, error);
    }
    let status = fs::read(target.proc_path("status")).unwrap_or_default();
    match tracer_pid(&String::from_utf8_lossy(&status)) {
        None => Check::ok(subject, "none"),
        Some(tracer) => Check::warn(
            subject,
            format!("process {tracer} debugs it"),
            "it runs, but a debugger that stops it stops what is traced",
        ),
    }
}

/// `TracerPid:` of `/proc/PID/status`, `None` for 0.
fn tracer_pid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    line.trim().parse().ok().filter(|&pid| pid != 0)
}

fn return_probes(target: &Target) -> Check {
    let subject = "return probes";
    let Some(kernel) = KernelVersion::running() else {
        return Check::warn(subject, "the kernel's version is not known", "they are not used");
    };
    match target.seccomp().map(|seccomp| (seccomp, ReturnProbes::on(kernel, seccomp))) {
        Ok((Seccomp::Disabled, _)) => Check::ok(subject, "safe: no seccomp filter"),
        Ok((_, ReturnProbes::Safe)) => {
            Check::ok(subject, format!("safe: seccomp does not see them on kernel {kernel}"))
        }
        Ok((_, ReturnProbes::Deadly)) => Check::warn(
            subject,
            format!("not used: on kernel {kernel} the seccomp filter of this process may kill it for one"),
            "kernels 6.12.14, 6.13.3, 6.14 and later are safe",
        ),
        Err(error @ TargetError::Gone { .. }) => failed(subject, error),
        Err(error) => Check::warn(subject, error.to_string(), "they are not used"),
    }
}

#[cfg(test)]
mod tests {
    use super::tracer_pid;

    #[test]
    fn debuggers() {
        assert_eq!(tracer_pid("Name:\tx\nTracerPid:\t0\n"), None);
        assert_eq!(tracer_pid("Name:\tx\nTracerPid:\t42\n"), Some(42));
        assert_eq!(tracer_pid(""), None);
    }
}
