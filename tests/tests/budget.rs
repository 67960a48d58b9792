//! `--mode watch` under circumstances in which a budget is hard to keep, or cannot be kept.

use std::time::{Duration, Instant};

use leaktrace_tests::process::{Service, signal};
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

/// Ten times the load, each time in the middle of a window: whatever that has cost, a second later it is within the budget.
#[test]
fn the_cost_is_back_under_the_budget_a_second_after_the_load_grew_tenfold() {
    let limit = format!("{LIMIT}%");
    let (mut service, mut trace) = watched(&["--overhead", &limit, "--interval", "500ms"]);
    // At the start some is lent.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(25) {
        trace.look().expect("a line for each look");
    }
    let mut after = Vec::new();
    for _ in 0..4 {
        until(|| is_in_window(service.pid()));
        service.say("1000");
        let changed = Instant::now();
        while changed.elapsed() < Duration::from_secs(5) {
            let line = trace.look().expect("a line for each look");
            if changed.elapsed() > Duration::from_secs(1) {
                after.push(cost(&line).unwrap_or_else(|| panic!("no cost in {line}")));
            }
        }
        service.say("100");
        service.work_for(Duration::from_secs(3));
    }
    let report = trace.finish();
    assert!(after.len() >= 8 && after.iter().all(|cost| *cost <= LIMIT), "{after:?}");
    let watch = report.capture.watch.as_ref().expect("it was watched");
    assert!(watch.windows >= 8 && 100.0 * watch.overhead <= LIMIT, "{watch:?}");
    assert_unaltered(service.pid());
    service.quit();
}

/// What the report of a run says that ended by itself, for this reason.
fn assert_stopped_itself(report: &Report, outcome: &Outcome, why: &str) {
    let notes = &report.capture.notes;
    let said = notes.iter().any(|note| note.starts_with("tracing stopped itself") && note.contains(why));
    assert!(said && outcome.code == Some(0), "{notes:?} {outcome:?}");
}

/// As where it is not given a processor.
#[test]
fn a_watch_that_cannot_close_its_windows_ends() {
    let (mut service, trace) = watched(&["--overhead", "10%"]);
    service.say("flood");
    let pid = trace.pid();
    until(|| {
        let open = is_in_window(service.pid());
        if open {
            signal(pid, Signal::STOP);
        }
        let stays = open && is_in_window(service.pid());
        if open && !stays {
            signal(pid, Signal::CONT);
        }
        stays
    });
    let begun = cpu_ticks(service.pid());
    until(|| cpu_ticks(service.pid()) > begun + 500);
    assert!(is_in_window(service.pid()), "nobody closed it");
    signal(pid, Signal::CONT);
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
