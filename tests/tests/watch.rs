//! `--mode watch`: windows of tracing within a budget.

use std::time::{Duration, Instant};

use leaktrace_tests::process::{Service, signal, wait_for_end};
use leaktrace_tests::python::{Python, supported};
use leaktrace_tests::system::{Bpf, altered_text, assert_unaltered};
use leaktrace_tests::trace::{Outcome, Trace, run};
use rustix::process::Signal;

/// More than the default: the tests wait for what is seen, not for the budget.
const BUDGET: [&str; 4] = ["--mode", "watch", "--overhead", "10%"];

/// Builds whose allocator is inlined at many places: only there a part can be armed.
fn divisible() -> Vec<Python> {
    let guarded: Vec<_> = supported().into_iter().filter(|python| python.executable.starts_with("/usr/bin")).collect();
    assert!(!guarded.is_empty(), "no distribution build among the interpreters");
    guarded
}

#[test]
fn leaks_are_named_and_the_innocent_left_in_peace() {
    for python in divisible() {
        let scripts =
            ["leak_dict_cache.py", "leak_callbacks.py", "leak_global_list.py", "calm_lru.py", "calm_queue.py"];
        let running: Vec<_> = scripts
            .iter()
            .map(|script| {
                let mut service = Service::start(&python, &format!("services/{script}"), &[]);
                let trace = Trace::attach(service.pid(), &[&BUDGET[..], &["--duration", "170s"]].concat());
                service.go();
                (service, trace)
            })
            .collect();
        for (service, trace) in running {
            let report = trace.report().0;
            report.assert_nothing_lost();
            let growing = report.growing();
            match service.leaks().first() {
                None => assert!(growing.is_empty(), "{}: {growing:#?}", service.name()),
                Some(leak) => {
                    let places: Vec<_> = growing.iter().filter_map(|site| site.places().first().cloned()).collect();
                    assert!(places.contains(leak), "{}: the leak is at {leak:?}, not {places:?}", service.name());
                    // It lets go of all that it asks for.
                    let innocent = growing.iter().find(|site| site.stack.iter().any(|frame| frame.function == "churn"));
                    assert!(innocent.is_none(), "{}: {innocent:#?}", service.name());
                }
            }
            assert_unaltered(service.pid());
        }
    }
}

#[test]
fn a_killed_watch_leaves_nothing_armed() {
    for python in divisible() {
        let mut service = Service::start(&python, "services/leak_global_list.py", &[]);
        service.go();
        for _ in 0..5 {
            let trace = Trace::attach(service.pid(), &BUDGET);
            let ours = Bpf::of(trace.pid());
            // Nothing is armed but in its windows.
            until(|| !altered_text(service.pid()).is_empty());
            trace.kill();
            assert_unaltered(service.pid());
            ours.assert_gone();
            service.progress(20);
        }
        service.quit();
    }
}

/// A child that is forked in a window has copies of its breakpoints.
#[test]
fn a_child_of_a_window_is_let_go_with_it() {
    for python in divisible() {
        let mut service = Service::start(&python, "services/forking.py", &[]);
        let trace = Trace::attach(service.pid(), &BUDGET);
        service.go();
        let mut copied = None;
        until(|| {
            signal(service.pid(), Signal::STOP);
            // The oldest may be dying.
            let youngest = children(service.pid()).last().copied();
            copied = youngest.filter(|&child| !altered_text(child).is_empty());
            if copied.is_none() {
                signal(service.pid(), Signal::CONT);
                service.work_for(Duration::from_millis(20));
            }
            copied.is_some()
        });
        trace.finish();
        assert_unaltered(copied.expect("a child was found"));
        assert_unaltered(service.pid());
        signal(service.pid(), Signal::CONT);
        service.progress(20);
        service.quit();
    }
}

/// Asks until it is so.
fn until(mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(100);
    while !so() {
        assert!(Instant::now() < deadline, "no window was seen open");
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("the service is there");
    text.split_whitespace().map(|child| child.parse().expect("a pid")).collect()
}

#[test]
fn a_build_that_has_no_parts_is_refused() {
    let python = supported().into_iter().find(|python| !python.executable.starts_with("/usr/bin"));
    let python = python.expect("no build without guards among the interpreters");
    let service = Service::start(&python, "services/calm_lru.py", &[]);
    let outcome = run(&["run", "--pid", &service.pid().to_string(), "--mode", "watch"]);
    assert_eq!(outcome.code, Some(5), "{outcome:?}");
    assert!(outcome.stderr.iter().any(|line| line.contains("--mode exact")), "{outcome:?}");
    assert_unaltered(service.pid());
}

#[test]
fn a_target_that_ends_while_it_is_watched_is_reported() {
    for python in divisible() {
        let mut service = Service::start(&python, "services/leak_global_list.py", &[]);
        let trace = Trace::attach(service.pid(), &[&BUDGET[..], &["-v"]].concat());
        service.go();
        service.work_for(Duration::from_secs(15));
        let pid = service.pid();
        signal(pid, Signal::TERM);
        let (_, outcome): (_, Outcome) = trace.report();
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stderr.iter().any(|line| line.contains("window 1: ")), "-v says what windows did: {outcome:?}");
        assert!(wait_for_end(pid, Duration::from_secs(10)));
    }
}
