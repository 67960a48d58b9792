//! Targets whose allocators are not the default ones: what lives is what the target itself says, no block is missed, and the
//! report names what is in the way.

use std::process::Command;

use leaktrace_tests::process::Service;
use leaktrace_tests::python::{Python, supported};
use leaktrace_tests::report::{Report, Site, Sum};
use leaktrace_tests::trace::{Trace, require_privileges};
use serde::Deserialize;

/// Blocks that each function of the target makes. The numbers and the room for the blocks are there before.
const BLOCKS: u64 = 1000;

const CODE: &str = r#"
import gc, json, os, sys

class Node:
    __slots__ = ("next",)

numbers = list(range(1000))
nodes, large, resized = [None] * 1000, [None] * 1000, [None] * 1000

def small_blocks():
    for n in numbers:
        nodes[n] = Node()

def large_blocks():
    for n in numbers:
        large[n] = b"%3000d" % n

def resized_blocks():
    for n in numbers:
        resized[n] = bytearray(3000)

print('READY {"pid": %d}' % os.getpid(), flush=True)
for line in sys.stdin:
    if line == "quit\n":
        break
    small_blocks(); large_blocks(); resized_blocks()
    print("DONE", json.dumps({"small_blocks": sum(map(sys.getsizeof, nodes)), "large_blocks": sum(map(sys.getsizeof, large))}),
          flush=True)
"#;

/// Bytes of what each function made, by `sys.getsizeof`, which knows nothing of the allocator.
#[derive(Debug, Deserialize)]
struct Truth {
    small_blocks: u64,
    large_blocks: u64,
}

/// What 24 bytes of debug hooks add to a large block: that once more where pymalloc hands it on to the raw domain.
fn added_to_large(python: &Python) -> u64 {
    if python.free_threaded { 24 } else { 48 }
}

/// Traces the work in an environment.
fn traced(python: &Python, environment: &[(&str, &str)]) -> (Report, Truth) {
    require_privileges();
    let mut command = Command::new(&python.executable);
    let mut target = Service::spawn(command.args(["-c", CODE]).envs(environment.iter().copied()));
    let trace = Trace::attach(target.pid(), &["--interval", "1h"]);
    target.go();
    let truth = target.expect("DONE");
    let report = trace.finish();
    assert!(target.quit().success());
    report.assert_nothing_lost();
    (report, truth)
}

/// What lives of the objects that a function made.
fn live(report: &Report, function: &str, domain: impl Fn(&Site) -> bool) -> Sum {
    let here = |site: &&Site| site.places().first().is_some_and(|p| p.function == function) && domain(site);
    report.sites.iter().filter(here).fold(Sum::default(), |sum, site| Sum {
        bytes: sum.bytes + site.live_bytes,
        blocks: sum.blocks + site.live_blocks,
    })
}

fn assert_live(report: &Report, truth: &Truth, [small, large]: [u64; 2], domain: impl Fn(&Site) -> bool + Copy) {
    let expected = |bytes: u64, added: u64| Sum { bytes: bytes + BLOCKS * added, blocks: BLOCKS };
    assert_eq!(live(report, "small_blocks", domain), expected(truth.small_blocks, small));
    assert_eq!(live(report, "large_blocks", domain), expected(truth.large_blocks, large));
    // An object and its buffer each; the buffer is of the mem domain from 3.13 on.
    let of_python = |site: &Site| domain(site) || site.domain == "mem";
    assert_eq!(live(report, "resized_blocks", of_python).blocks, 2 * BLOCKS);
    assert!(report.capture.coverage.ratio.is_none_or(|ratio| ratio > 0.99), "{:?}", report.capture.coverage);
}

fn assert_told(report: &Report, what: &str) {
    assert!(report.capture.notes.iter().any(|note| note.contains(what)), "{what}: {:?}", report.capture.notes);
}

#[test]
fn the_default_ones() {
    for python in supported() {
        let (report, truth) = traced(&python, &[]);
        assert_live(&report, &truth, [0, 0], |site| site.domain == "obj");
    }
}

/// Free-threaded builds cannot do without mimalloc.
#[test]
fn without_pymalloc() {
    for python in supported().into_iter().filter(|python| !python.free_threaded) {
        let (report, truth) = traced(&python, &[("PYTHONMALLOC", "malloc")]);
        assert_live(&report, &truth, [0, 0], |_| true);
        assert_told(&report, "PYTHONMALLOC=malloc");
    }
}

#[test]
fn mimalloc() {
    for python in supported().into_iter().filter(|python| python.minor() >= 13) {
        let (report, truth) = traced(&python, &[("PYTHONMALLOC", "mimalloc")]);
        assert_live(&report, &truth, [0, 0], |site| site.domain == "obj");
        let (report, truth) = traced(&python, &[("PYTHONMALLOC", "mimalloc_debug")]);
        assert_live(&report, &truth, [24, 24], |site| site.domain == "obj");
    }
}

/// The hooks add 8 bytes of size, 8 of domain and forbidden bytes, 8 of forbidden bytes (CPython `Objects/obmalloc.c`).
#[test]
fn debug_hooks() {
    for python in supported() {
        let large = added_to_large(&python);
        let (report, truth) = traced(&python, &[("PYTHONMALLOC", "debug")]);
        assert_live(&report, &truth, [24, large], |site| site.domain == "obj");
        assert_told(&report, "debug hooks");
        let (report, truth) = traced(&python, &[("PYTHONDEVMODE", "1")]);
        assert_live(&report, &truth, [24, large], |site| site.domain == "obj");
        if !python.free_threaded {
            let (report, truth) = traced(&python, &[("PYTHONMALLOC", "malloc_debug")]);
            assert_live(&report, &truth, [24, 24], |_| true);
        }
    }
}

#[test]
fn tracemalloc() {
    for python in supported() {
        let (report, truth) = traced(&python, &[("PYTHONTRACEMALLOC", "1")]);
        assert_live(&report, &truth, [0, 0], |site| site.domain == "obj");
        assert_told(&report, "tracemalloc runs in this process");
        let (report, truth) = traced(&python, &[("PYTHONTRACEMALLOC", "1"), ("PYTHONDEVMODE", "1")]);
        assert_live(&report, &truth, [24, added_to_large(&python)], |site| site.domain == "obj");
    }
}
