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

/// Traces the work under `PYTHONMALLOC=malloc`, or under options of Python.
fn traced(python: &Python, options: &[&str], malloc: &str) -> (Report, Truth) {
    require_privileges();
    let mut command = Command::new(&python.executable);
    let mut target = Service::spawn(command.args(options).args(["-c", CODE]).env("PYTHONMALLOC", malloc));
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
        let (report, truth) = traced(&python, &[], "default");
        assert_live(&report, &truth, [0, 0], |site| site.domain == "obj");
    }
}

#[test]
fn without_pymalloc() {
    for python in supported() {
        let (report, truth) = traced(&python, &[], "malloc");
        assert_live(&report, &truth, [0, 0], |_| true);
        assert_told(&report, "PYTHONMALLOC=malloc");
    }
}

/// The hooks add 8 bytes of size, 8 of domain and forbidden bytes, 8 of forbidden bytes (CPython `Objects/obmalloc.c`), and
/// that once more where pymalloc hands a large request on to the raw domain.
#[test]
fn debug_hooks() {
    for python in supported() {
        let (report, truth) = traced(&python, &[], "debug");
        assert_live(&report, &truth, [24, 48], |site| site.domain == "obj");
        assert_told(&report, "debug hooks");
        let (report, truth) = traced(&python, &["-X", "dev"], "");
        assert_live(&report, &truth, [24, 48], |site| site.domain == "obj");
        let (report, truth) = traced(&python, &[], "malloc_debug");
        assert_live(&report, &truth, [24, 24], |_| true);
    }
}

#[test]
fn tracemalloc() {
    for python in supported() {
        let (report, truth) = traced(&python, &["-X", "tracemalloc"], "default");
        assert_live(&report, &truth, [0, 0], |site| site.domain == "obj");
        assert_told(&report, "tracemalloc runs in this process");
        let (report, truth) = traced(&python, &["-X", "tracemalloc", "-X", "dev"], "");
        assert_live(&report, &truth, [24, 48], |site| site.domain == "obj");
    }
}
