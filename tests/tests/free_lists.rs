//! What CPython takes from its free lists, without asking an allocator, counts on the line that takes it, as much as the
//! target takes. Where a build does not show all places that do so, the report must say it.

use std::process::Command;

use leaktrace_tests::process::Service;
use leaktrace_tests::python::{Python, supported};
use leaktrace_tests::report::Report;
use leaktrace_tests::trace::{Trace, require_privileges};

const MADE: u64 = 1000;

/// Each function makes one object a round and drops it, so that from the second on they come from the free list. A full
/// collection empties the free lists of what is older than the attach (CPython `Modules/gcmodule.c`, `clear_freelists`).
const CODE: &str = r#"
import gc, os, sys
numbers = list(range(1000))
def floats():
    for n in numbers: n * 1.5
def tuples():
    for n in numbers: (n,)
def lists():
    for n in numbers: []
def slices():
    for n in numbers: slice(n)
def dicts():
    for n in numbers: {}
kept = [None] * 1000
def leak(n):
    kept[n] = {"key": n}
def churn(n):
    {"key": n, "other": n}
def mixed():
    for n in numbers: churn(n); leak(n)
def work():
    kept[:] = [None] * 1000
    gc.collect(); floats(); tuples(); lists(); slices(); dicts(); mixed()
work()
print('READY {"pid": %d}' % os.getpid(), flush=True)
sys.stdin.readline()
work()
print("DONE null", flush=True)
sys.stdin.readline()
"#;

fn allocated(report: &Report, function: &str) -> u64 {
    report.sites_in(function).map(|site| site.allocated_blocks).sum()
}

fn live(report: &Report, function: &str) -> u64 {
    report.sites_in(function).map(|site| site.live_blocks).sum()
}

/// A report on each interpreter, less those that tell that they miss something of it; of 3.11 nothing may be missed.
fn reports(gap: &str) -> Vec<(Python, Report)> {
    require_privileges();
    let traced = |python: &Python| {
        let mut target = Service::spawn(Command::new(&python.executable).args(["-c", CODE]));
        let trace = Trace::attach(target.pid(), &["--interval", "1h"]);
        target.go();
        target.expect::<()>("DONE");
        let report = trace.finish();
        target.go();
        report.assert_nothing_lost();
        report
    };
    let traced = supported().into_iter().map(|python| (python.clone(), traced(&python)));
    let tells = |report: &Report| report.capture.notes.iter().any(|note| note.contains(gap));
    traced.filter(|(python, report)| python.minor() == 11 || !tells(report)).collect()
}

/// Objects that a round of a function makes, as the interpreter's own tracer of references counts them (`PyRefTracer_SetTracer`,
/// 3.13): the call of a type makes a tuple, too. Up to 3.13 the state has a place for one slice, which is no list.
fn made(function: &str, python: &Python) -> u64 {
    if function == "slices" && python.minor() >= 14 { 2 * MADE } else { MADE }
}

#[test]
fn each_object_is_counted_where_it_is_made() {
    for (python, report) in reports("where objects are taken from free lists was not found") {
        for function in ["floats", "tuples", "lists", "slices", "dicts"] {
            let (allocated, made) = (allocated(&report, function), made(function, &python));
            assert!((made..made + 3).contains(&allocated), "{function} of {}: {allocated}", python.version);
        }
        let reused = report.capture.events.reused;
        assert!(reused >= 5 * (MADE - 3), "{reused}");
    }
}

#[test]
fn a_dict_that_leaks_takes_its_keys_along() {
    for (python, report) in reports("free list") {
        let (leaked, churned) = (live(&report, "leak"), live(&report, "churn"));
        // Up to 3.10 a function gets a cache, of two blocks, when it has run 1,024 times (`co_opcache`, CPython `Python/ceval.c`).
        let cache = if python.minor() < 11 { 2 } else { 0 };
        assert!((2 * MADE - 3..=2 * MADE + cache).contains(&leaked), "leak of {}: {leaked}", python.version);
        assert!(churned <= 3, "churn of {}: {churned}", python.version);
    }
}
