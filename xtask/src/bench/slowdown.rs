//! How much slower a workload is under each contender, in CPU time for a unit of work.

use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;

use super::contender::{Armed, Contender, Tools};
use super::leaktrace::Report;
use super::series::{Series, take_turns};
use super::spread::Spread;
use super::subject::{Subject as _, Window};
use super::target::Target;

/// Seconds of an untraced window.
const BASELINE_SECONDS: f64 = 0.6;
/// Seconds of a traced window.
const TRACED_SECONDS: f64 = 1.2;

/// What one workload showed on one interpreter.
#[derive(Debug, Serialize)]
pub(crate) struct Slowdowns {
    pub(crate) workload: &'static str,
    pub(crate) rows: Vec<Row>,
    pub(crate) exact: Exact,
}

/// One contender.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) contender: String,
    /// CPU time of a unit, traced over untraced; `None` if it could not be measured.
    pub(crate) slowdown: Option<Spread>,
    /// Rounds that it is from.
    pub(crate) rounds: usize,
    /// What went wrong in another round, or why there is none.
    pub(crate) failure: Option<String>,
}

/// Numbers of leaktrace in exact mode, and of the empty program beside it.
#[derive(Debug, Serialize)]
pub(crate) struct Exact {
    /// CPU microseconds of a unit, untraced.
    pub(crate) baseline_us: Spread,
    /// Allocations and reallocations of a unit.
    pub(crate) events_per_unit: Spread,
    /// CPU nanoseconds that the target loses for each of these.
    pub(crate) event_ns: Spread,
    /// The same under the empty program.
    pub(crate) empty_event_ns: Spread,
    /// One over the other, of the same round.
    pub(crate) over_empty: Spread,
    /// Slowdown over that of tracemalloc with 25 frames, of the same round.
    pub(crate) over_tracemalloc: Spread,
    /// Allocations and reallocations traced in a second of wall time.
    pub(crate) events_per_second: Spread,
    /// Of all rounds.
    pub(crate) losses: u64,
    /// CPU seconds of the collector in a second of wall time.
    pub(crate) collector_cores: Spread,
}

/// One contender in one round.
struct Round {
    baseline: f64,
    traced: Window,
    /// Of leaktrace: its report, and the CPU seconds that the collector took in the window.
    report: Option<(Report, f64)>,
}

impl Round {
    fn slowdown(&self) -> f64 {
        self.traced.per_unit() / self.baseline
    }

    /// CPU seconds that a unit takes more.
    fn extra(&self) -> f64 {
        self.traced.per_unit() - self.baseline
    }
}

/// Measures `contenders` in turn, `repeats` times over, in one process.
fn series(
    contenders: &[Contender],
    tools: &Tools,
    python: &Path,
    workload: &str,
    repeats: u32,
) -> Result<Vec<Series<Round>>> {
    let contenders: Vec<_> = contenders.iter().map(|&contender| (contender, repeats)).collect();
    let start = || {
        let mut target = Target::start(python, workload)?;
        let before = target.run(BASELINE_SECONDS)?;
        Ok((target, before))
    };
    take_turns(&contenders, start, |contender, target, before| round(contender, tools, python, target, before))
}

fn row(series: &Series<Round>) -> Row {
    Row {
        contender: series.contender.to_string(),
        slowdown: Spread::of(series.rounds.iter().map(Round::slowdown)),
        rounds: series.rounds.len(),
        failure: series.failures.first().cloned(),
    }
}

/// One round, and the untraced window after it; `before` is the one before it.
fn round(
    contender: Contender,
    tools: &Tools,
    python: &Path,
    target: &mut Target,
    before: Window,
) -> Result<(Round, Window)> {
    let armed = contender.arm(tools, python, target)?;
    let cpu = |armed: &Armed| armed.leaktrace().map_or(Ok(0.0), super::leaktrace::Leaktrace::cpu_seconds);
    let cpu_before = cpu(&armed)?;
    let traced = target.run(TRACED_SECONDS)?;
    let collector = cpu(&armed)? - cpu_before;
    let report = armed.disarm(target)?.map(|report| (report, collector));
    let after = target.run(BASELINE_SECONDS)?;
    let baseline = f64::midpoint(before.per_unit(), after.per_unit());
    Ok((Round { baseline, traced, report }, after))
}

/// Measures one workload on one interpreter; `with_memray` is the same interpreter in an environment that has memray, or why
/// there is none. Gives a report of leaktrace too, for what it says of the interpreter.
pub(crate) fn measure(
    tools: &Tools,
    python: &Path,
    with_memray: Result<&Path, &str>,
    workload: &'static str,
    repeats: u32,
) -> Result<(Slowdowns, Report)> {
    let contenders =
        [Contender::Exact, Contender::Empty, Contender::Tracemalloc(1), Contender::Tracemalloc(25), Contender::Memleak];
    let contenders = &contenders[..if tools.memleak.is_some() { 5 } else { 4 }];
    let all = series(contenders, tools, python, workload, repeats)?;
    let mut rows: Vec<Row> = all.iter().map(row).collect();
    if tools.memleak.is_none() {
        rows.push(missing(Contender::Memleak, "it is not installed"));
    }
    let memray = [false, true].map(|python_allocators| Contender::Memray { python_allocators });
    match with_memray {
        Ok(python) => rows.extend(series(&memray, tools, python, workload, repeats)?.iter().map(row)),
        Err(why) => rows.extend(memray.map(|contender| missing(contender, why))),
    }
    let rounds = |contender: Contender| -> Result<&[Round]> {
        match all.iter().find(|one| one.contender == contender) {
            // They must work in every round.
            Some(Series { failures, .. }) if !failures.is_empty() => bail!("{contender}: {}", failures[0]),
            Some(one) => Ok(&one.rounds),
            None => Ok(&[]),
        }
    };
    let exact = rounds(Contender::Exact)?;
    let (empty, tracemalloc) = (rounds(Contender::Empty)?, rounds(Contender::Tracemalloc(25))?);
    let Some((numbers, report)) = compare(exact, empty, tracemalloc) else { bail!("{workload}: nothing was measured") };
    Ok((Slowdowns { workload, rows, exact: numbers }, report))
}

fn missing(contender: Contender, why: &str) -> Row {
    Row { contender: contender.to_string(), slowdown: None, rounds: 0, failure: Some(why.to_owned()) }
}

fn compare(exact: &[Round], empty: &[Round], tracemalloc: &[Round]) -> Option<(Exact, Report)> {
    let reports: Vec<&(Report, f64)> = exact.iter().filter_map(|round| round.report.as_ref()).collect();
    let windows = || exact.iter().zip(&reports).map(|(round, (report, cpu))| (round.traced, &report.capture, *cpu));
    let events_per_unit = Spread::of(windows().map(|(w, capture, _)| capture.allocations() as f64 / w.units as f64))?;
    let event_ns = |rounds: &[Round]| Spread::of(rounds.iter().map(|r| r.extra() * 1e9 / events_per_unit.median));
    let pairs = |others: &[Round], ratio: fn(&Round, &Round) -> f64| {
        Spread::of(exact.iter().zip(others).map(|(one, other)| ratio(one, other)))
    };
    let numbers = Exact {
        baseline_us: Spread::of(exact.iter().map(|round| round.baseline * 1e6))?,
        events_per_unit,
        event_ns: event_ns(exact)?,
        empty_event_ns: event_ns(empty)?,
        over_empty: pairs(empty, |exact, empty| exact.extra() / empty.extra())?,
        over_tracemalloc: pairs(tracemalloc, |exact, theirs| exact.slowdown() / theirs.slowdown())?,
        events_per_second: Spread::of(windows().map(|(w, capture, _)| capture.allocations() as f64 / w.wall))?,
        losses: reports.iter().map(|(report, _)| report.capture.losses()).sum(),
        collector_cores: Spread::of(windows().map(|(w, _, cpu)| cpu / w.wall))?,
    };
    Some((numbers, reports.first()?.0.clone()))
}
