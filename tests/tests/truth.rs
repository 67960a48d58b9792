//! Live memory by line and the number of events, against tracemalloc and against a counter inside the process.

use leaktrace_tests::oracle::{Done, SCRIPT, close, count, differences, tracemalloc};
use leaktrace_tests::process::Service;
use leaktrace_tests::python::{Python, supported};
use leaktrace_tests::report::{Report, Site};
use leaktrace_tests::trace::Trace;

/// Traces the truth script from before its start to after its end.
fn traced(python: &Python) -> (Report, Done) {
    let mut service = Service::start(python, SCRIPT, &[]);
    let trace = Trace::attach(service.pid(), &[]);
    service.go();
    let done = service.expect("DONE");
    (trace.finish(), done)
}

#[test]
fn live_memory_by_line_is_tracemallocs() {
    for python in supported() {
        let truth = tracemalloc(&python, 1);
        let (report, done) = traced(&python);
        report.assert_nothing_lost();
        assert_eq!(differences(&truth.lines, &report.by_line(Site::is_python), 0.01), [], "{python:?}");
        let native = report.by_line(|site| site.domain == "native");
        for (line, truth) in done.native {
            let seen = native.get(&line).copied().unwrap_or_default();
            assert!(
                close(truth.bytes, seen.bytes, 0.01) && close(truth.blocks, seen.blocks, 0.01),
                "{python:?}: native memory of {line}: {seen:?}, in truth {truth:?}"
            );
        }
    }
}

/// numpy's data comes straight from the C allocator (to 2.4, then from the raw domain), and numpy tells tracemalloc about it.
#[test]
fn numpys_buffers_are_native_memory() {
    for python in supported() {
        let python = python.with_packages(&["numpy<2.5"]);
        let truth = tracemalloc(&python, 1);
        let (report, _) = traced(&python);
        report.assert_nothing_lost();
        assert!(!truth.foreign.is_empty(), "numpy reported nothing to tracemalloc");
        let native = report.by_line(|site| site.domain == "native");
        for (line, truth) in truth.foreign {
            let seen = native.get(&line).copied().unwrap_or_default();
            assert!(
                close(truth.bytes, seen.bytes, 0.01) && close(truth.blocks, seen.blocks, 0.01),
                "{python:?}: {line}: {seen:?}, in truth {truth:?}"
            );
        }
    }
}

/// The same by whole stacks of lines, of which each caller has its own.
#[test]
fn live_memory_by_stack_is_tracemallocs() {
    for python in supported() {
        let truth = tracemalloc(&python, 25);
        let (report, _) = traced(&python);
        let mut stacks = std::collections::BTreeMap::new();
        for site in report.sites.iter().filter(|site| site.is_python()) {
            let lines: Vec<_> = site.places().iter().take(25).map(|p| format!("{}:{}", p.file, p.line)).collect();
            let sum: &mut leaktrace_tests::report::Sum = stacks.entry(lines.join("\n")).or_default();
            sum.bytes += site.live_bytes;
            sum.blocks += site.live_blocks;
        }
        stacks.remove("");
        assert_eq!(differences(&truth.stacks, &stacks, 0.01), [], "{python:?}");
    }
}

#[test]
fn every_event_is_seen_once() {
    for python in supported() {
        let truth = count(&python, "debug");
        let (report, _) = traced(&python);
        report.assert_nothing_lost();
        let events = &report.capture.events;
        let allocations = events.alloc - events.native_alloc;
        assert!(
            close(truth.allocations(), allocations, 0.001),
            "{python:?}: {allocations} allocations; in truth {}",
            truth.allocations()
        );
        let reallocations = events.realloc - events.native_realloc;
        assert!(
            close(truth.reallocations(), reallocations, 0.001),
            "{python:?}: {reallocations} reallocations; in truth {}",
            truth.reallocations()
        );
    }
}

#[test]
fn the_parts_of_a_report_add_up() {
    for python in supported() {
        let (report, _) = traced(&python);
        let live: u64 = report.sites.iter().map(|site| site.live_blocks).sum();
        assert_eq!(report.totals.live_blocks, live);
        assert_eq!(report.totals.live_bytes, report.sites.iter().map(|site| site.live_bytes).sum::<u64>());
        for site in &report.sites {
            assert_eq!(site.allocated_blocks, site.live_blocks + site.freed_blocks, "{site:?}");
            assert!(site.allocated_bytes >= site.live_bytes, "{site:?}");
        }
        assert_eq!(report.target.python.version, python.version);
        assert_eq!(report.capture.mode, "exact");
        let coverage = &report.capture.coverage;
        // mimalloc has no pools that could be counted.
        let known = coverage.ratio.is_some_and(|ratio| ratio > 0.999 && ratio <= 1.0);
        assert!(known || python.free_threaded && coverage.ratio.is_none(), "{coverage:?}");
    }
}
