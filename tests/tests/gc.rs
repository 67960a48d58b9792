//! Collections against `gc.get_stats()` inside the target.

use leaktrace_tests::process::Service;
use leaktrace_tests::python::{each_minor, supported};
use leaktrace_tests::report::Site;
use leaktrace_tests::trace::Trace;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Stats {
    collections: u64,
    collected: u64,
    uncollectable: u64,
}

/// What the counters of each interpreter rose by.
#[derive(Debug, Deserialize)]
struct Truth {
    main: Vec<Stats>,
    others: Vec<Vec<Stats>>,
}

fn compare(arguments: &[&str]) {
    for python in supported() {
        let mut service = Service::start(&python, "truth/collector.py", arguments);
        let trace = Trace::attach(service.pid(), &[]);
        service.go();
        let truth: Vec<Stats> = service.expect("DONE");
        let report = trace.finish();
        assert!(truth.iter().all(|stats| stats.collections > 0), "{truth:?}");
        assert_eq!(report.gc.generations.len(), truth.len());
        for (number, (truth, seen)) in truth.iter().zip(&report.gc.generations).enumerate() {
            assert_eq!(seen.generation as usize, number);
            assert_eq!(
                (seen.collections, seen.collected, seen.uncollectable),
                (truth.collections, truth.collected, truth.uncollectable),
                "{python:?}, generation {number}"
            );
            let pause = seen.pause_seconds.as_ref().expect("the collector is found on these builds");
            assert!(pause.max > 0.0 && pause.max <= pause.total, "{pause:?}");
            assert!(pause.total < report.capture.duration_seconds, "{pause:?}");
        }
        assert_eq!(report.capture.events.gc, truth.iter().map(|stats| stats.collections).sum::<u64>());
    }
}

/// Each interpreter has a collector of its own, from 3.9 on: the report's counts are those of the main one's `gc.get_stats()`, and
/// the collections of others are told apart. 3.8 has one for all.
#[test]
fn collections_of_other_interpreters_are_told_apart() {
    for python in each_minor() {
        let mut service = Service::start(&python, "truth/interpreters_gc.py", &[]);
        let trace = Trace::attach(service.pid(), &[]);
        service.go();
        let truth: Truth = service.expect("DONE");
        let report = trace.finish();
        let sum = |stats: &[Stats]| stats.iter().map(|stats| stats.collections).sum::<u64>();
        let shared = python.minor() == 8;
        assert!(sum(&truth.main) > 0 && truth.others.iter().all(|stats| sum(stats) > 0), "{python:?}: {truth:?}");
        for (truth, seen) in truth.main.iter().zip(&report.gc.generations) {
            assert_eq!(
                (seen.collections, seen.collected, seen.uncollectable),
                (truth.collections, truth.collected, truth.uncollectable),
                "{python:?}, generation {}",
                seen.generation
            );
        }
        assert_eq!(report.capture.events.gc, sum(&truth.main), "{python:?}");
        // Each interpreter ends with collections that nothing inside can count.
        let counted = if shared { 0 } else { truth.others.iter().map(|stats| sum(stats)).sum::<u64>() };
        let others = &report.gc.other_interpreters;
        assert_eq!(others.collections, counted, "{python:?}");
        let pause = &others.pause_seconds;
        assert!(shared || pause.max > 0.0 && pause.max <= pause.total, "{python:?}: {pause:?}");
        assert!(report.gc.pauses_known, "{python:?}");
        service.quit();
    }
}

#[test]
fn collections_are_counted_as_the_interpreter_counts_them() {
    compare(&[]);
}

#[test]
fn collections_of_several_threads_are_counted() {
    compare(&["--threads"]);
}

/// What one who waits for a collection was told at the end.
#[derive(Debug, Deserialize)]
struct Waited {
    steps: u64,
    found: u64,
}

/// Where no collection comes for long, what is no part of a garbage cycle need not wait for one; what may be one does, whatever it looks
/// like. Free-threaded builds have no list of young objects (`Python/gc_free_threading.c`): there all waits but the dict's own table.
#[test]
fn only_what_may_be_in_a_cycle_waits_for_a_collection() {
    let mut runs = Vec::new();
    for python in supported() {
        for arguments in [&[][..], &["--cycles"]] {
            let mut service = Service::start(&python, "truth/waiting.py", arguments);
            let trace = Trace::attach(service.pid(), &["--mode", "exact", "--interval", "1s", "--duration", "26s"]);
            service.go();
            runs.push((python.clone(), arguments.is_empty(), service, trace));
        }
    }
    for (python, is_leak, mut service, trace) in runs {
        let (report, _) = trace.report();
        service.say("stop");
        let truth: Waited = service.expect("ANSWER");
        // Each cycle is one object; the text is no container.
        let found = if is_leak { 0 } else { truth.steps };
        assert!(truth.steps > 400 && truth.found == found, "{python:?}: {truth:?}");
        assert!(report.gc.generations.iter().all(|generation| generation.collections == 0), "{python:?}");
        let function = if is_leak { "keep" } else { "drop" };
        let (is_told, waits) = (is_leak && !python.free_threaded, Some("awaits_collector"));
        let is_of = |site: &&Site| site.stack.first().is_some_and(|frame| frame.function == function);
        let most = report.sites.iter().filter(is_of).max_by_key(|site| site.live_blocks);
        let most = most.unwrap_or_else(|| panic!("{python:?}: nothing of {function}"));
        assert!(most.live_blocks > 400, "{python:?}: {most:?}");
        assert_eq!(most.verdict == "growing", is_told, "{python:?}: {most:?}");
        assert!(is_told || most.evidence.more["reason"].as_str() == waits, "{python:?}: {most:?}");
        // The dict's own table, which becomes larger, waits for nothing.
        assert_eq!(report.growing().is_empty(), !is_leak, "{python:?}: {:#?}", report.growing());
    }
}
