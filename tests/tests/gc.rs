//! Collections against `gc.get_stats()` inside the target.

use leaktrace_tests::process::Service;
use leaktrace_tests::python::supported;
use leaktrace_tests::trace::Trace;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Stats {
    collections: u64,
    collected: u64,
    uncollectable: u64,
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

#[test]
fn collections_are_counted_as_the_interpreter_counts_them() {
    compare(&[]);
}

#[test]
fn collections_of_several_threads_are_counted() {
    compare(&["--threads"]);
}
