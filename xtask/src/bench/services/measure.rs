//! One workload on one interpreter: pairs of traced and untraced windows in one process, contenders taking turns; where hundredths
//! count, over those of a twin.

use std::path::Path;

use anyhow::{Context, Result};

use super::load::Load;
use super::results::{Figures, Measured, Row, Tracer, Untraced, Watched};
use super::twins::{Ran, Twins};
use super::workload::Workload;
use crate::bench::contender::{Armed, Contender, Tools};
use crate::bench::leaktrace::{Report, ReportPython};
use crate::bench::memory::Sample;
use crate::bench::process;
use crate::bench::series::{Series, take_turns};
use crate::bench::spread::Spread;
use crate::bench::subject::{Latency, Requests, Window};

/// Seconds of load before anything is measured: caches fill, and the interpreter specialises its code.
const WARM_UP_SECONDS: f64 = 1.0;
/// Seconds for which a service that leaks is watched before anything is measured: at the start it is learned what sites cost, with
/// windows that are granted in advance.
const SETTLE_SECONDS: f64 = 60.0;

/// What is measured, and for how long.
pub(super) struct Plan {
    pub(super) contenders: Vec<Contender>,
    /// Contenders that cannot run here, and why.
    pub(super) missing: Vec<(Contender, String)>,
    pub(super) rounds: u32,
    /// Of a window under watch.
    pub(super) seconds: f64,
    /// The services leak, and each has a twin.
    pub(super) leaking: bool,
    pub(super) load: Load,
}

impl Plan {
    /// Seconds of a contender's traced windows, and of the untraced ones around them. Windows of watch are rare, and what it
    /// costs is little: that takes time to see. What others cost is seen at once.
    fn seconds(&self, contender: Contender) -> (f64, f64) {
        if self.leaking {
            // Windows come by now: what they cost is less than what windows of a few seconds differ by.
            (self.seconds, self.seconds / 2.0)
        } else if contender == Contender::Watch {
            (self.seconds, self.seconds / 4.0)
        } else {
            let seconds = (self.seconds / 10.0).max(1.0);
            (seconds, seconds)
        }
    }

    /// All rounds are for watch where a limit is set for it; half of them tell what differs by factors.
    fn rounds(&self, contender: Contender, workload: Workload) -> u32 {
        if contender == Contender::Watch && workload.is_judged() { self.rounds } else { self.rounds.div_ceil(2) }
    }
}

/// One contender in one round.
struct Pair {
    before: Ran,
    traced: Ran,
    after: Ran,
    /// Seconds between the window before and the traced one.
    settled: f64,
    /// CPU seconds of the tracer in the traced window, and its memory at the end of it.
    tracer: Option<(f64, Sample)>,
    report: Option<Report>,
}

impl Pair {
    /// A figure of the traced window over that of the untraced ones, as it would be in its middle if it changed steadily.
    fn over(&self, figure: impl Fn(&Window) -> f64) -> f64 {
        let [before, traced, after] = [self.before, self.traced, self.after].map(|ran| ran.own.wall);
        let to_before = f64::midpoint(before, traced) + self.settled;
        let to_after = f64::midpoint(traced, after);
        let share = to_before / (to_before + to_after);
        let [before, traced, after] = [self.before, self.traced, self.after].map(|ran| ran.figure(&figure));
        traced / (before * (1.0 - share) + after * share)
    }
}

/// Measures; what leaktrace says of the interpreter comes with it, where it attached.
pub(super) fn measure(
    tools: &Tools,
    python: &Path,
    workload: Workload,
    plan: &Plan,
) -> Result<(Measured, Option<ReportPython>)> {
    let able = |contender: &Contender| plan.missing.iter().all(|(missing, _)| missing != contender);
    let contenders: Vec<_> =
        plan.contenders.iter().copied().filter(able).map(|one| (one, plan.rounds(one, workload))).collect();
    let mut untraced = Vec::new();
    let start = || {
        let service = || workload.start(python, plan.leaking, &plan.load);
        let mut twins = Twins::new(service()?, plan.leaking.then(service).transpose()?);
        let warm = twins.run(WARM_UP_SECONDS)?;
        Ok((twins, warm))
    };
    let all = take_turns(&contenders, start, |contender, twins, before| {
        let seconds = plan.seconds(contender);
        // What is left of another contender's turn may be too short to compare with.
        let before = if before.own.wall < 0.9 * seconds.1 { twins.run(seconds.1)? } else { before };
        let armed = contender.arm(tools, python, twins.own.as_mut())?;
        let settled = if plan.leaking { twins.run(SETTLE_SECONDS)?.own.wall } else { 0.0 };
        let pair = Pair { settled, ..pair(armed, twins, before, seconds)? };
        untraced.extend([pair.before.own, pair.after.own]);
        twins.swap();
        let after = pair.after.swapped();
        Ok((pair, after))
    })?;
    let about = all.iter().flat_map(|series| &series.rounds).find_map(|pair| pair.report.as_ref());
    let about = about.map(|report| report.target.python.clone());
    let rows = plan.contenders.iter().filter_map(|contender| {
        let missing = plan.missing.iter().find(|(missing, _)| missing == contender);
        missing
            .map(|(contender, why)| Row {
                contender: contender.to_string(),
                rounds: 0,
                failure: Some(why.clone()),
                figures: None,
            })
            .or_else(|| all.iter().find(|series| series.contender == *contender).map(row))
    });
    let rows = rows.collect();
    let throughput = Spread::of(untraced.iter().map(Window::throughput));
    let throughput = throughput.with_context(|| format!("{}: no contender could be measured", workload.name()))?;
    let latency_us = percentiles(&untraced, of_requests);
    Ok((Measured { workload, untraced: Untraced { throughput, latency_us }, rows }, about))
}

fn pair(armed: Armed, twins: &mut Twins, before: Ran, (seconds, untraced): (f64, f64)) -> Result<Pair> {
    let tracer = armed.tracer();
    let begun = tracer.map(process::cpu_seconds).transpose()?;
    let traced = twins.run(seconds)?;
    let tracer = match (tracer, begun) {
        (Some(pid), Some(begun)) => Some((process::cpu_seconds(pid)? - begun, Sample::take(pid)?)),
        _ => None,
    };
    let report = armed.disarm(twins.own.as_mut())?;
    let after = twins.run(untraced)?;
    Ok(Pair { before, traced, after, settled: 0.0, tracer, report })
}

fn row(series: &Series<Pair>) -> Row {
    Row {
        contender: series.contender.to_string(),
        rounds: series.rounds.len(),
        failure: series.failures.first().cloned(),
        figures: figures(&series.rounds),
    }
}

fn figures(pairs: &[Pair]) -> Option<Figures> {
    let latency = percentiles(pairs, |pair, of| pair.over(|window| of_requests(window, of)));
    let failed = pairs.iter().filter_map(|pair| pair.traced.own.requests).map(|requests| requests.failed).sum();
    Some(Figures {
        throughput: Spread::of(pairs.iter().map(|pair| pair.over(Window::throughput)))?,
        cpu: Spread::of(pairs.iter().map(|pair| pair.over(Window::per_unit)))?,
        latency,
        failed,
        tracer: tracer(pairs),
        watch: watched(pairs),
    })
}

/// Spreads of each percentile of `value` of the items; `None` if there is no value.
fn percentiles<T>(items: &[T], value: impl Fn(&T, &dyn Fn(&Requests) -> f64) -> f64) -> Option<Latency<Spread>> {
    let spread = |of: &dyn Fn(&Requests) -> f64| Spread::of(items.iter().map(|item| value(item, of)));
    Some(Latency {
        p50: spread(&|requests| requests.latency.p50)?,
        p90: spread(&|requests| requests.latency.p90)?,
        p99: spread(&|requests| requests.latency.p99)?,
        p999: spread(&|requests| requests.latency.p999)?,
    })
}

/// A figure of the requests of a window, not a number if it had none.
fn of_requests(window: &Window, of: &dyn Fn(&Requests) -> f64) -> f64 {
    window.requests.as_ref().map_or(f64::NAN, of)
}

fn tracer(pairs: &[Pair]) -> Option<Tracer> {
    let taken = || pairs.iter().filter_map(|pair| Some((pair.traced.own.wall, pair.tracer.as_ref()?)));
    Some(Tracer {
        cores: Spread::of(taken().map(|(wall, (cpu, _))| cpu / wall))?,
        resident_bytes: Spread::of(taken().map(|(_, (_, sample))| sample.peak))?,
        bpf_bytes: Spread::of(taken().map(|(_, (_, sample))| sample.bpf))?,
    })
}

fn watched(pairs: &[Pair]) -> Option<Watched> {
    let watch = || pairs.iter().filter_map(|pair| pair.report.as_ref()?.capture.watch.as_ref());
    Some(Watched {
        windows: Spread::of(watch().map(|watch| watch.windows as f64))?,
        overhead: Spread::of(watch().map(|watch| watch.overhead))?,
        overhead_limit: watch().next()?.overhead_limit,
    })
}
