//! What leaktrace sets out to keep on services, and whether the medians do.

use super::curves::{Curve, Curves, Point};
use super::results::{Figures, Interpreter};
use super::workload::Workload;
use crate::bench::contender::Contender;
use crate::bench::goals::Goal;
use crate::bench::spread::Spread;

const MB: f64 = 1e6;
/// Cores and memory are measured coarsely: what grows by less than this above linear is linear.
const TOLERANCE: f64 = 0.05;

/// Those of `watch`, where it was measured.
pub(super) fn of_comparison(interpreter: &Interpreter) -> Vec<Goal> {
    let watch = Contender::Watch.to_string();
    let figures = interpreter.services.iter().filter_map(|service| {
        let row = service.rows.iter().find(|row| row.contender == watch)?;
        Some((service.workload, row.figures.as_ref()?))
    });
    figures.flat_map(|(workload, figures)| of_watch(workload, figures)).collect()
}

fn of_watch(workload: Workload, figures: &Figures) -> Vec<Goal> {
    let name = workload.name();
    let mut goals = Vec::new();
    if workload.is_plain_service() {
        let loss = figures.throughput.map(|kept| 100.0 * (1.0 - kept));
        goals.push(at_most(format!("throughput lost under watch, % ({name})"), 1.0, loss));
        if let Some(latency) = &figures.latency {
            let what = format!("p99 latency under watch, over untraced ({name})");
            goals.push(at_most(what, 1.05, latency.p99));
        }
    }
    if workload.is_judged() {
        let more = figures.cpu.map(|cpu| 100.0 * (cpu - 1.0));
        goals.push(at_most(format!("CPU time that watch adds, % ({name})"), 1.0, more));
    }
    if let Some(tracer) = &figures.tracer {
        let cores = tracer.cores.map(|cores| 100.0 * cores);
        goals.push(at_most(format!("collector under watch, % of a core ({name})"), 2.0, cores));
    }
    goals
}

/// A cost of the collector: its name, and its median.
type Cost = (&'static str, fn(&Point) -> f64);

/// Those of the collector's own growth.
pub(super) fn of_curves(curves: &Curves) -> Vec<Goal> {
    let survivors = &curves.survivors;
    let memory = survivors.resident_bytes / MB;
    let mut goals = vec![Goal {
        what: "collector with a million survivors under watch, MB (no census being taken)".to_owned(),
        limit: "at most 100".to_owned(),
        measured: format!("{memory:.0} with {} survivors", survivors.blocks),
        met: memory <= 100.0 && survivors.are_enough(),
    }];
    let costs: [Cost; 2] = [
        ("CPU time", |point| point.cores.median),
        ("memory", |point| point.resident_bytes.median + point.bpf_bytes.median),
    ];
    for curve in &curves.lines {
        goals.extend(costs.iter().filter_map(|(what, cost)| linear(curve, what, *cost)));
    }
    goals
}

fn linear(curve: &Curve, what: &str, cost: fn(&Point) -> f64) -> Option<Goal> {
    let exponent = curve.exponent(cost)?;
    Some(Goal {
        what: format!("{what} of the collector, {}, as a power of {}", curve.mode, curve.axis.name()),
        limit: "at most 1".to_owned(),
        measured: format!("{exponent:.2}"),
        met: exponent <= 1.0 + TOLERANCE,
    })
}

fn at_most(what: String, limit: f64, measured: Spread) -> Goal {
    Goal { what, limit: format!("at most {limit}"), measured: format!("{measured:.2}"), met: measured.median <= limit }
}
