//! What leaktrace sets out to keep, and whether the medians do.

use std::fmt::{Result, Write};

use super::Interpreter;
use super::slowdown::{Exact, Slowdowns};

/// A limit and what was measured against it.
pub(super) struct Goal {
    pub(super) what: String,
    pub(super) limit: String,
    pub(super) measured: String,
    pub(super) met: bool,
}

/// As a table of a page.
pub(super) fn table(page: &mut String, goals: &[Goal]) -> Result {
    writeln!(page, "| goal | limit | measured | met |\n|---|---|---|---|")?;
    for goal in goals {
        let met = if goal.met { "yes" } else { "**no**" };
        writeln!(page, "| {} | {} | {} | {met} |", goal.what, goal.limit, goal.measured)?;
    }
    Ok(())
}

pub(super) fn goals(interpreter: &Interpreter) -> Vec<Goal> {
    let exact = |workload: &str| {
        interpreter.workloads.iter().find(|w| w.workload == workload).map(|Slowdowns { exact, .. }| exact)
    };
    let mut goals = Vec::new();
    let at_most = |what: &str, limit: f64, measured: super::spread::Spread| Goal {
        what: what.to_owned(),
        limit: format!("at most {limit}"),
        measured: format!("{measured:.2}"),
        met: measured.median <= limit,
    };
    for slowdowns in &interpreter.workloads {
        let what = format!("time lost per event, over an empty program's ({})", slowdowns.workload);
        goals.push(at_most(&what, 1.5, slowdowns.exact.over_empty));
    }
    if let Some(wsgi) = exact("wsgi") {
        goals.push(at_most("slowdown over that of tracemalloc.start(25) (wsgi)", 0.4, wsgi.over_tracemalloc));
    }
    if let Some(allocations) = exact("allocations") {
        let what = "slowdown over that of tracemalloc.start(25) (allocations)";
        goals.push(at_most(what, 1.0, allocations.over_tracemalloc));
        goals.push(throughput(allocations));
    }
    goals.push(at_most("bytes of the collector per live block", 200.0, interpreter.memory.bytes_per_block));
    goals.push(at_most("seconds to attach", 1.0, interpreter.attach.attach_seconds));
    goals.push(at_most("seconds to detach", 1.0, interpreter.attach.detach_seconds));
    goals
}

fn throughput(exact: &Exact) -> Goal {
    Goal {
        what: "events a second, without loss, the collector under one core (allocations)".to_owned(),
        limit: "at least 300 000".to_owned(),
        measured: format!("{:.0}; lost {}; {:.2} cores", exact.events_per_second, exact.losses, exact.collector_cores),
        met: exact.events_per_second.median >= 300_000.0 && exact.losses == 0 && exact.collector_cores.median < 1.0,
    }
}
