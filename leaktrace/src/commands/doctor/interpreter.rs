//! What the interpreter in a process allows: which Python it is, and what the plan can see of it.

use leaktrace::cpython::Interpreter;
use leaktrace::plan::{self, Execution, Inputs, ProbePlan};
use leaktrace::target::Target;
use leaktrace::watch::units;
use leaktrace_common::site::op;

use super::check::Check;
use super::target::failed;

/// The checks, and the plan when there is one.
pub(super) fn checks(target: &Target) -> (Vec<Check>, Option<ProbePlan>) {
    let interpreter = match Interpreter::find(target) {
        Ok(interpreter) => interpreter,
        Err(error) => return (vec![failed("interpreter", error)], None),
    };
    let mut checks = vec![found(&interpreter), pymalloc(&interpreter)];
    checks.extend(subinterpreters(&interpreter, target));
    match make_plan(target, &interpreter, false) {
        Ok(plan) => {
            checks.extend(of_plan(&plan));
            checks.push(watch(&plan, || make_plan(target, &interpreter, true)));
            checks.extend(plan.gaps.iter().map(|gap| Check::warn("note", gap.as_str(), "")));
            (checks, Some(plan))
        }
        Err(error) => {
            checks.push(failed("probe plan", error));
            (checks, None)
        }
    }
}

fn found(interpreter: &Interpreter) -> Check {
    let features = interpreter.facts.features.join(", ");
    let path = interpreter.elf.display().display();
    Check::ok("interpreter", format!("CPython {} in {path} ({features})", interpreter.version))
}

fn subinterpreters(interpreter: &Interpreter, target: &Target) -> Option<Check> {
    Some(Check::warn("interpreters", interpreter.unfollowed(&target.memory())?, ""))
}

fn pymalloc(interpreter: &Interpreter) -> Check {
    let subject = "pymalloc";
    if interpreter.offsets.free_threaded {
        return Check::ok("mimalloc", "free-threaded: the entries and returns of its functions tell all blocks");
    }
    match &interpreter.facts.pymalloc {
        Some(state) => Check::ok(subject, format!("its pools were found ({} KiB each)", state.pool_size / 1024)),
        None => Check::warn(
            subject,
            "its pools were not found in the interpreter's memory",
            "small blocks are told apart less well; nothing can be done about it with this build",
        ),
    }
}

fn make_plan(target: &Target, interpreter: &Interpreter, in_parts: bool) -> anyhow::Result<ProbePlan> {
    let maps = target.maps()?;
    let memory = target.memory();
    let plan = plan::plan(&Inputs { in_parts, ..Inputs::of(target, interpreter, &maps, &memory) })?;
    plan::verify(&plan, &memory)?;
    Ok(plan)
}

fn of_plan(plan: &ProbePlan) -> [Check; 2] {
    let stepped = plan.probes.iter().filter(|probe| probe.execution == Execution::SingleStepped).count();
    let files: Vec<&str> = plan.files.iter().map(|file| file.display.as_str()).collect();
    let found = Check::ok(
        "probe plan",
        format!(
            "{} instructions ({stepped} single-stepped) and {} returns in {}; all as mapped ({})",
            plan.probes.len(),
            plan.returns.len(),
            files.join(", "),
            plan.features.join(", "),
        ),
    );
    let collector = match plan.probes.iter().find(|probe| op::is_collector(probe.op)) {
        Some(probe) => Check::ok("collector", format!("found ({})", probe.why)),
        None => Check::warn(
            "collector",
            "its function was not found",
            "collections are counted from memory; their pauses stay unknown",
        ),
    };
    [found, collector]
}

/// Whether a part of the plan can be armed by itself: of that for everything, or else of the one that watch makes.
fn watch(plan: &ProbePlan, in_parts: impl FnOnce() -> anyhow::Result<ProbePlan>) -> Check {
    match units::parts(plan).or_else(|error| units::parts(&in_parts().map_err(|_| error)?)) {
        Ok(sites) => Check::ok("watch", format!("at a bounded cost: any of {sites} places can be armed alone")),
        Err(error) => Check::warn("watch", error.to_string(), ""),
    }
}
