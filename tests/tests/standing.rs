//! `--mode watch`: the collector's probes, which stay armed beside the windows.

use leaktrace_tests::process::{Service, wait_for_end};
use leaktrace_tests::python::{Python, each_minor, supported};
use leaktrace_tests::report::Report;
use leaktrace_tests::system::{Bpf, altered_text, assert_unaltered};
use leaktrace_tests::trace::Trace;
use serde::Deserialize;
use std::time::{Duration, Instant};

const WATCH: [&str; 5] = ["-v", "--mode", "watch", "--overhead", "20%"];

/// What the service itself saw of the work that it did.
#[derive(Debug, Deserialize)]
struct Truth {
    stats: Vec<Stats>,
    /// By generation, how long each collection took at least and at most: nanoseconds.
    least: Vec<Vec<u64>>,
    most: Vec<Vec<u64>>,
}

#[derive(Debug, Deserialize)]
struct Stats {
    collections: u64,
}

#[derive(Debug, Deserialize)]
struct Child {
    pid: u32,
}

/// A service that waits, and its collector's probes are armed.
fn watched(python: &Python) -> (Service, Trace) {
    let service = Service::start(python, "truth/pauses.py", &[]);
    assert_eq!(altered_text(service.pid()), [], "a fresh process");
    let trace = Trace::attach(service.pid(), &WATCH);
    // It stands still, so no window is open: the collector's start and its return are at one instruction.
    assert_eq!(altered_text(service.pid()).len(), 1, "{python:?}");
    (service, trace)
}

/// All at once, as most of the time is spent waiting, and each has been told to do so.
fn all_watched(pythons: Vec<Python>, word: &str) -> Vec<(Python, Service, Trace)> {
    let begin = |python: Python| {
        let (mut service, trace) = watched(&python);
        service.say(word);
        (python, service, trace)
    };
    pythons.into_iter().map(begin).collect()
}

/// What the service and leaktrace say at the end of the work, which cost no more than it might.
fn stop(mut service: Service, trace: Trace) -> (Truth, Report) {
    service.say("stop");
    let truth = service.expect("ANSWER");
    let report = trace.finish();
    let watch = report.capture.watch.as_ref().expect("it was watched");
    assert!(watch.overhead <= watch.overhead_limit, "{watch:?}");
    assert_unaltered(service.pid());
    service.quit();
    (truth, report)
}

#[test]
fn each_collection_is_timed_whatever_windows_do() {
    for (python, service, mut trace) in all_watched(each_minor(), "work") {
        wait_for(&mut trace, "window 3: ");
        let (truth, report) = stop(service, trace);
        report.assert_nothing_lost();
        assert!(report.gc.pauses_known, "{python:?}");
        for (number, seen) in report.gc.generations.iter().enumerate() {
            let (stats, least, most) = (&truth.stats[number], &truth.least[number], &truth.most[number]);
            assert!(stats.collections > 0, "{truth:?}");
            assert_eq!(seen.collections, stats.collections, "{python:?}, generation {number}");
            assert_eq!(seen.pause_counts.iter().sum::<u64>(), stats.collections, "{python:?}");
            let pause = seen.pause_seconds.as_ref().expect("the collector is found on these builds");
            let seconds = |ns: u64| ns as f64 * 1e-9;
            let (sum, max) =
                (|of: &[u64]| seconds(of.iter().sum()), |of: &[u64]| of.iter().copied().max().map(seconds));
            assert!((sum(least)..=sum(most)).contains(&pause.total), "{python:?}: {pause:?}, {least:?} to {most:?}");
            assert!(
                (max(least)..=max(most)).contains(&Some(pause.max)),
                "{python:?}: {pause:?}, {least:?} to {most:?}"
            );
        }
    }
}

#[test]
fn a_storm_of_collections_is_not_traced() {
    let mut running = all_watched(supported(), "storm");
    for (_, service, trace) in &mut running {
        wait_for(trace, "the collector's probes are disarmed");
        service.say("calm");
    }
    for (python, mut service, mut trace) in running {
        wait_for(&mut trace, "the collector's probes are armed");
        service.say("work");
        let (truth, report) = stop(service, trace);
        let timed: Vec<u64> = report.gc.generations.iter().map(|of| of.pause_counts.iter().sum()).collect();
        // All of the youngest generation before they were disarmed, and all of the others.
        assert!(timed[0] < report.gc.generations[0].collections, "{python:?}: {timed:?}");
        assert_eq!([timed[1], timed[2]], [truth.stats[1].collections, truth.stats[2].collections], "{python:?}");
        assert!(!report.gc.pauses_known, "{python:?}");
    }
}

/// Waits until leaktrace says so.
fn wait_for(trace: &mut Trace, text: &str) {
    let deadline = Instant::now() + Duration::from_secs(150);
    while let Some(line) = trace.look() {
        if line.contains(text) {
            return;
        }
        assert!(Instant::now() < deadline, "it does not say {text:?}");
    }
    panic!("it ended before it said {text:?}");
}

#[test]
fn a_killed_watch_leaves_the_collector_alone() {
    for python in supported() {
        let mut service = Service::start(&python, "truth/pauses.py", &[]);
        for _ in 0..5 {
            let trace = Trace::attach(service.pid(), &WATCH);
            let ours = Bpf::of(trace.pid());
            assert_eq!(altered_text(service.pid()).len(), 1, "{python:?}");
            service.say("fork");
            let child: Child = service.expect("ANSWER");
            trace.kill();
            assert_unaltered(service.pid());
            assert_unaltered(child.pid);
            ours.assert_gone();
        }
        service.quit();
    }
}

/// A child begins with a copy of the breakpoint: it loses it when it collects, or at the end.
#[test]
fn a_child_is_let_go_of() {
    for python in supported() {
        let (mut service, trace) = watched(&python);
        service.say("fork");
        let first: Child = service.expect("ANSWER");
        assert_eq!(altered_text(first.pid).len(), 1, "{python:?}");
        service.say("collect");
        let _: Child = service.expect("ANSWER");
        assert_eq!(altered_text(first.pid), [], "{python:?}");
        assert_eq!(altered_text(service.pid()).len(), 1, "{python:?}");
        service.say("fork");
        let second: Child = service.expect("ANSWER");
        let report = trace.finish();
        assert_eq!(
            report.gc.generations.iter().map(|of| of.collections).sum::<u64>(),
            0,
            "those of children do not count"
        );
        for pid in [service.pid(), first.pid, second.pid] {
            assert_unaltered(pid);
        }
        service.quit();
    }
}

#[test]
fn a_program_that_takes_its_place_is_left_alone() {
    for python in supported() {
        let (mut service, trace) = watched(&python);
        let pid = service.pid();
        service.say("exec");
        let (_, outcome) = trace.report();
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(!wait_for_end(pid, Duration::ZERO), "it goes on: {python:?}");
        let _: Child = service.expect("READY");
        assert_unaltered(pid);
        service.quit();
    }
}
