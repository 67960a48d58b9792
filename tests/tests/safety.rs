//! The target comes first: whatever happens to leaktrace, the target goes on, computes what it should, and keeps nothing of ours.

use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use leaktrace_tests::oracle::digest;
use leaktrace_tests::process::{Service, Stats, signal};
use leaktrace_tests::python::{Python, supported};
use leaktrace_tests::system::{Bpf, altered_text, assert_unaltered, cpu_ticks};
use leaktrace_tests::trace::{Trace, require_privileges};
use rustix::process::Signal;

/// The lists of BPF programs are the machine's: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> impl Drop {
    require_privileges();
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn storm(python: &Python, options: &[&str]) -> Service {
    let mut storm = Service::start(python, "services/storm.py", options);
    storm.go();
    storm.progress(10);
    storm
}

/// Steps that the storm does in a second of its own CPU time: the machine has other work.
fn pace(storm: &mut Service) -> f64 {
    /// Ticks of a hundredth of a second.
    const ENOUGH: u64 = 50;
    let (steps, begin) = (storm.stats().steps, cpu_ticks(storm.pid()));
    while cpu_ticks(storm.pid()) < begin + ENOUGH {
        storm.work_for(Duration::from_millis(100));
    }
    let (steps, ticks) = (storm.stats().steps - steps, cpu_ticks(storm.pid()) - begin);
    100.0 * steps as f64 / ticks as f64
}

fn assert_computes_right(python: &Python, storm: &mut Service) {
    let stats: Stats = storm.stats();
    assert_eq!(stats.wrong, 0, "{}", storm.name());
    assert_eq!(stats.digest, digest(python, stats.cycle_step), "{}", storm.name());
    for (steps, seen) in stats.threads {
        assert_eq!(seen, digest(python, steps), "a thread of {}", storm.name());
    }
}

/// What the tests below rely on: a byte of text that is not the file's is seen.
#[test]
fn an_altered_byte_is_noticed() {
    require_privileges();
    let code = r#"
import ctypes, json, os, sys
libc = ctypes.CDLL(None)
at = ctypes.cast(libc.wcsdup, ctypes.c_void_p).value
page = ctypes.c_void_p(at & -4096)
libc.mprotect(page, 8192, 7)
ctypes.memmove(at, b"\xcc", 1)
libc.mprotect(page, 8192, 5)
print("READY", json.dumps({"pid": os.getpid()}), flush=True)
sys.stdin.readline()
"#;
    let python = &supported()[0];
    let target = Service::spawn(Command::new(&python.executable).args(["-c", code]));
    let altered = altered_text(target.pid());
    assert_eq!(altered.len(), 1, "{altered:?}");
    assert!(altered[0].0.contains("libc") && altered[0].2 == 0xcc, "{altered:?}");
}

#[test]
fn sigkill_in_a_storm_leaves_nothing_armed() {
    let _turn = turn();
    for python in supported() {
        let mut storm = storm(&python, &[]);
        assert_eq!(altered_text(storm.pid()), [], "a fresh process");
        let before = pace(&mut storm);
        for _ in 0..20 {
            let trace = Trace::attach(storm.pid(), &[]);
            let ours = Bpf::of(trace.pid());
            assert!(!ours.is_empty(), "nothing is armed");
            storm.progress(10);
            trace.kill();
            ours.assert_gone();
            assert_unaltered(storm.pid());
            storm.progress(10);
        }
        // Traced, it does a tenth of this or less: a generous bound tells the two apart.
        let after = pace(&mut storm);
        assert!(after > before / 3.0, "{python:?}: {after:.0} steps a second after, {before:.0} before");
        assert_computes_right(&python, &mut storm);
    }
}

/// Killed at any moment of its start, too: while it looks, loads and arms.
#[test]
fn sigkill_while_it_starts_leaves_nothing_armed() {
    let _turn = turn();
    for python in supported() {
        let mut storm = storm(&python, &[]);
        for round in 0..20 {
            let trace = Trace::start(storm.pid(), &[]);
            storm.work_for(Duration::from_millis(40 * round));
            assert_lets_go(trace, &storm);
        }
        storm.progress(10);
        assert_computes_right(&python, &mut storm);
    }
}

/// The moments at which the kernel by itself lets go of some breakpoints only: while they are set, and while they are
/// removed.
#[test]
fn sigkill_between_two_breakpoints_leaves_nothing_armed() {
    let _turn = turn();
    for python in supported() {
        let mut storm = storm(&python, &[]);
        for _ in 0..10 {
            let trace = Trace::start(storm.pid(), &[]);
            while altered_text(storm.pid()).is_empty() {}
            assert_lets_go(trace, &storm);

            let trace = Trace::attach(storm.pid(), &[]);
            let armed = altered_text(storm.pid()).len();
            signal(trace.pid(), Signal::INT);
            while altered_text(storm.pid()).len() >= armed {}
            assert_lets_go(trace, &storm);
        }
        storm.progress(10);
        assert_computes_right(&python, &mut storm);
    }
}

fn assert_lets_go(trace: Trace, storm: &Service) {
    let ours = Bpf::of(trace.pid());
    trace.kill();
    ours.assert_gone();
    assert_unaltered(storm.pid());
}

#[test]
fn fifty_attachments_change_no_result() {
    let _turn = turn();
    for python in supported() {
        let mut storm = storm(&python, &["--threads", "2"]);
        for _ in 0..50 {
            let trace = Trace::attach(storm.pid(), &[]);
            let ours = Bpf::of(trace.pid());
            storm.progress(1);
            let report = trace.finish();
            assert!(report.capture.events.alloc > 0);
            assert_eq!(altered_text(storm.pid()), []);
            ours.assert_gone();
        }
        assert_computes_right(&python, &mut storm);
        assert!(storm.quit().success());
    }
}

fn survives(options: &[&str]) {
    let _turn = turn();
    for python in supported() {
        let mut storm = storm(&python, options);
        let trace = Trace::attach(storm.pid(), &[]);
        storm.progress(200);
        let report = trace.finish();
        assert!(report.capture.events.alloc > 0);
        assert_eq!(altered_text(storm.pid()), []);
        storm.progress(200);
        assert_computes_right(&python, &mut storm);
        assert!(storm.quit().success());
    }
}

#[test]
fn a_storm_of_forks_survives() {
    survives(&["--forks"]);
}

#[test]
fn a_storm_of_signals_survives() {
    survives(&["--signals"]);
}

#[test]
fn a_confined_target_survives() {
    survives(&["--seccomp"]);
}

#[test]
fn a_target_may_be_stopped_and_continued() {
    let _turn = turn();
    for python in supported() {
        let mut storm = storm(&python, &["--threads", "1"]);
        let trace = Trace::attach(storm.pid(), &[]);
        for _ in 0..10 {
            signal(storm.pid(), Signal::STOP);
            signal(storm.pid(), Signal::CONT);
            storm.progress(1);
        }
        // leaktrace must also be able to leave a target that stands still.
        signal(storm.pid(), Signal::STOP);
        let report = trace.finish();
        signal(storm.pid(), Signal::CONT);
        assert!(report.capture.events.alloc > 0);
        assert_eq!(altered_text(storm.pid()), []);
        storm.progress(10);
        assert_computes_right(&python, &mut storm);
    }
}

#[test]
fn greenlets_survive() {
    let _turn = turn();
    for python in supported() {
        let python = python.with_packages(&["gevent"]);
        let mut service = Service::start(&python, "services/leak_gevent.py", &[]);
        let trace = Trace::attach(service.pid(), &[]);
        service.go();
        service.progress(200);
        let report = trace.finish();
        report.assert_nothing_lost();
        let leak = service.leaks()[0].clone();
        assert!(report.sites.iter().any(|site| site.places().first() == Some(&leak) && site.live_blocks >= 200));
        service.progress(50);
        assert!(service.quit().success());
    }
}
