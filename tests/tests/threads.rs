//! Several threads that allocate at once, also without the GIL: no event is lost, each is on its thread's stack, and what one
//! thread frees of another's is gone.

use std::process::Command;

use leaktrace_tests::census::leaktrace;
use leaktrace_tests::process::Service;
use leaktrace_tests::python::{each_minor, supported};
use leaktrace_tests::report::Site;
use leaktrace_tests::trace::{Trace, require_privileges};
use serde::Deserialize;

/// Each thread runs a function of its own name. Room for all that is kept is there before; what thread `t` passes on, its
/// neighbour drops.
const CODE: &str = r#"
import json, os, sys, threading

THREADS, KEPT, PASSED, CHURNED = 4, 500, 400, 3000
kept = [[None] * KEPT for _ in range(THREADS)]
passed = [[None] * PASSED for _ in range(THREADS)]
filled, numbers = threading.Barrier(THREADS), list(range(CHURNED))
source = """
def worker_{t}():
    for n in numbers:
        left + churned_{t}
    for n in numbers[:KEPT]:
        kept[{t}][n] = left + right_{t}
    for n in numbers[:PASSED]:
        passed[{t}][n] = left + right_{t}
    filled.wait()
    for n in numbers[:PASSED]:
        passed[({t} + 1) % THREADS][n] = None
    filled.wait()
"""
left = bytes(20)
for t in range(THREADS):
    globals()[f"churned_{t}"], globals()[f"right_{t}"] = bytes(20 + 16 * t), bytes(40 + 100 * t)
    exec(compile(source.format(t=t), f"worker_{t}.py", "exec"))

print('READY {"pid": %d}' % os.getpid(), flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=globals()[f"worker_{t}"]) for t in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("DONE", json.dumps([{"kept": KEPT, "churned": CHURNED, "bytes": sum(map(sys.getsizeof, rows))} for rows in kept]), flush=True)
sys.stdin.readline()
"#;
const FIRST_LINE: u32 = 3;

#[derive(Debug, Deserialize)]
struct Truth {
    kept: u64,
    churned: u64,
    bytes: u64,
}

#[test]
fn threads_at_once_lose_nothing() {
    require_privileges();
    for python in supported() {
        let mut target = Service::spawn(Command::new(&python.executable).args(["-c", CODE]));
        let trace = Trace::attach(target.pid(), &["--interval", "1h"]);
        target.go();
        let truth: Vec<Truth> = target.expect("DONE");
        let report = trace.finish();
        assert!(target.quit().success());
        report.assert_nothing_lost();
        for (number, truth) in truth.iter().enumerate() {
            // Lines below `def`: churned, kept and passed on.
            let line = |line: u32| {
                let here = |site: &&Site| {
                    let places = site.places();
                    let own = places.first().is_some_and(|place| {
                        place.function == format!("worker_{number}") && place.line == FIRST_LINE + line
                    });
                    own && site.domain == "obj" && places[1..].iter().all(|place| place.file.contains("threading"))
                };
                let sites: Vec<&Site> = report.sites.iter().filter(here).collect();
                let sum = |of: fn(&Site) -> u64| sites.iter().map(|&site| of(site)).sum::<u64>();
                (sum(|site| site.allocated_blocks), sum(|site| site.live_blocks), sum(|site| site.live_bytes))
            };
            assert_eq!(line(1), (truth.churned, 0, 0), "{python:?}: churned by {number}");
            assert_eq!(line(3), (truth.kept, truth.kept, truth.bytes), "{python:?}: kept by {number}");
            let (_, live, _) = line(5);
            assert_eq!(live, 0, "{python:?}: passed on by {number}");
        }
    }
}

/// Blocks that each of two interpreters makes.
const OF_INTERPRETER: u64 = 5000;

#[test]
fn interpreters_at_once_lose_nothing() {
    require_privileges();
    for python in each_minor() {
        let mut service = Service::start(&python, "truth/interpreters.py", &[&OF_INTERPRETER.to_string()]);
        let trace = Trace::attach(service.pid(), &[]);
        service.go();
        let _: serde_json::Value = service.expect("DONE");
        let paths = leaktrace(&["refs", "--pid", &service.pid().to_string(), "--type", "bytes", "--samples", "100000"]);
        let report = trace.finish();
        service.quit();
        report.assert_nothing_lost();
        let unfollowed = report.capture.notes.iter().find(|note| note.contains("not followed"));
        assert_eq!(unfollowed, None, "{python:?}");
        for who in ["work_of_main", "work_of_other"] {
            let here = report.sites.iter().filter(|site| {
                site.domain == "obj" && site.places().first().is_some_and(|place| place.function == who)
            });
            let blocks = here.map(|site| site.live_blocks).sum::<u64>();
            // Without the GIL the interpreter makes a few for itself: the thread's own copy of the instructions.
            let more = if python.free_threaded { 5 } else { 0 };
            assert!((OF_INTERPRETER..=OF_INTERPRETER + more).contains(&blocks), "{python:?} {who}: {blocks}");
        }
        let text = String::from_utf8_lossy(&paths.stdout);
        for path in ["  __main__.kept[*]: 5,000 objects", "interpreter 1: __main__.kept[*]: 5,000 objects"] {
            assert!(text.contains(path), "{python:?}: no {path} in\n{text}");
        }
    }
}
