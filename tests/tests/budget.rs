//! `--mode watch` under circumstances in which a budget is hard to keep, or cannot be kept.

use std::time::{Duration, Instant};

use leaktrace_tests::process::{Service, signal, wait_for_end};
use leaktrace_tests::python::{Python, supported};
use leaktrace_tests::report::Report;
use leaktrace_tests::system::{Foreign, altered_text, assert_unaltered, cpu_ticks};
use leaktrace_tests::trace::{Outcome, Trace};
use rustix::process::Signal;

/// Per cent of the process's CPU time.
const LIMIT: f64 = 2.0;
const PATIENCE: Duration = Duration::from_secs(100);

fn distribution() -> Python {
    supported().into_iter().find(|python| python.executable.starts_with("/usr/bin")).expect("the distribution has one")
}

fn watched(arguments: &[&str]) -> (Service, Trace) {
    let mut service = Service::start(&distribution(), "truth/load.py", &[]);
    let trace = Trace::attach(service.pid(), &[&["--mode", "watch"], arguments].concat());
    service.go();
    (service, trace)
}

/// Whether more is armed than the collector.
fn is_in_window(pid: u32) -> bool {
    altered_text(pid).len() > 1
}

fn until(mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "it did not come to that");
    }
}

/// What a line of a look says that it has cost so far, per cent.
fn cost(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once(", cost ")?;
    rest.split_once(" %")?.0.parse().ok()
}

/// Ten times the load, each time in the middle of a window, and back: where that has cost more than the budget, a second later it has not.
#[test]
fn the_cost_is_back_under_the_budget_a_second_after_the_load_grew_tenfold() {
    let limit = format!("{LIMIT}%");
    let (mut service, mut trace) = watched(&["--overhead", &limit, "--interval", "250ms"]);
    // At the start some is lent.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(25) {
        trace.look().expect("a line for each look");
    }
    let mut seen = Vec::new();
    for rate in ["5000", "500"].repeat(4) {
        until(|| is_in_window(service.pid()));
        service.say(rate);
        let changed = Instant::now();
        let (mut over, mut is_late) = (None, true);
        while changed.elapsed() < Duration::from_secs(4) {
            let asked = Instant::now();
            let line = trace.look().expect("a line for each look");
            // Those of the time before were not read yet, and are there at once.
            is_late &= asked.elapsed() < Duration::from_millis(20);
            if is_late {
                continue;
            }
            let cost = cost(&line).unwrap_or_else(|| panic!("no cost in {line}"));
            seen.push(cost);
            over = if cost > LIMIT { over.or(Some(Instant::now())) } else { None };
            let lasts = over.map_or(Duration::ZERO, |since| since.elapsed());
            assert!(lasts <= Duration::from_secs(1), "it has been over the budget for {lasts:?}: {seen:?}");
        }
    }
    let report = trace.finish();
    let watch = report.capture.watch.as_ref().expect("it was watched");
    assert!(seen.len() >= 40 && watch.windows >= 8, "{seen:?} {watch:?}");
    assert_unaltered(service.pid());
    service.quit();
}

/// What the report of a run says that ended by itself, for this reason.
fn assert_stopped_itself(report: &Report, outcome: &Outcome, why: &str) {
    let notes = &report.capture.notes;
    let said = notes.iter().any(|note| note.starts_with("tracing stopped itself") && note.contains(why));
    assert!(said && outcome.code == Some(0), "{notes:?} {outcome:?}");
}

/// As where it is not given a processor: it is stopped in windows, also while these are opened and closed, for fifteen seconds of the process's
/// CPU time each, until it has ended. (One that no request was to notice costs little even so.)
#[test]
fn a_watch_that_cannot_close_its_windows_ends() {
    let (mut service, trace) = watched(&["--overhead", "10%"]);
    service.say("flood");
    let pid = trace.pid();
    let has_ended = || wait_for_end(pid, Duration::ZERO);
    until(|| {
        if is_in_window(service.pid()) {
            signal(pid, Signal::STOP);
            if is_in_window(service.pid()) {
                let begun = cpu_ticks(service.pid());
                until(|| cpu_ticks(service.pid()) > begun + 1500);
            }
            signal(pid, Signal::CONT);
            until(|| has_ended() || !is_in_window(service.pid()));
        }
        has_ended()
    });
    let (report, outcome) = trace.report();
    assert_stopped_itself(&report, &outcome, "more than they were granted");
    assert_unaltered(service.pid());
    service.quit();
}

/// Somebody else sets breakpoints where windows do.
#[test]
fn another_tracer_ends_the_watch() {
    let (service, trace) = watched(&["--overhead", "10%"]);
    let mut armed = Vec::new();
    until(|| {
        armed = altered_text(service.pid());
        armed.len() > 1
    });
    let others: Vec<_> =
        armed.into_iter().map(|(file, offset, _)| Foreign::set(service.pid(), &file, offset)).collect();
    let (report, outcome) = trace.report();
    assert_stopped_itself(&report, &outcome, "another tracer");
    assert!(!altered_text(service.pid()).is_empty(), "the others' stay");
    drop(others);
    assert_unaltered(service.pid());
    service.quit();
}
