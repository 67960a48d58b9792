//! `--mode watch`: windows of tracing within a budget.

use std::process::Command;
use std::time::{Duration, Instant};

use leaktrace_tests::asset;
use leaktrace_tests::process::{Service, signal, wait_for_end};
use leaktrace_tests::python::{Python, supported};
use leaktrace_tests::report::Frame;
use leaktrace_tests::system::{Bpf, altered_text, assert_unaltered, kernel};
use leaktrace_tests::trace::{Outcome, Trace, run};
use rustix::process::Signal;

/// More than the default: the tests wait for what is seen, not for the budget.
const BUDGET: [&str; 4] = ["--mode", "watch", "--overhead", "10%"];

/// What the builds that are not the distribution's are watched at: they have no guards, and the calls of the allocator are armed instead.
const FEW: [&str; 3] = ["leak_callbacks.py", "leak_global_list.py", "calm_lru.py"];
const SERVICES: [&str; 6] = [
    "leak_dict_cache.py",
    "leak_callbacks.py",
    "leak_global_list.py",
    "leak_reused.py",
    "calm_lru.py",
    "calm_queue.py",
];

/// Of which each of 200 steps a second leaves one block.
const ONE_A_STEP: &str = "leak_reused.py";
/// Which asks the C allocator for blocks of some sizes that live on and of others that do not.
const OF_C: &str = "leak_dict_cache.py";
/// Linux that need not tell of the return of each request.
const SESSIONS_SINCE: (u32, u32) = (6, 13);

#[test]
fn leaks_are_named_and_the_innocent_left_in_peace() {
    let of = |python: &Python| if is_of_distribution(python) { &SERVICES[..] } else { &FEW };
    let pythons = supported();
    let scripts = pythons.iter().flat_map(|python| of(python).iter().map(move |script| (python, script)));
    let running: Vec<_> = scripts
        .map(|(python, script)| {
            let mut service = Service::start(python, &format!("services/{script}"), &[]);
            let trace = Trace::attach(service.pid(), &[&BUDGET[..], &["--duration", "170s"]].concat());
            service.go();
            (python, script, service, trace)
        })
        .collect();
    for (python, script, service, trace) in running {
        let (report, name) = (trace.report().0, format!("{} on {}", service.name(), python.version));
        report.assert_nothing_lost();
        if *script == OF_C && kernel() >= SESSIONS_SINCE {
            let watch = report.capture.watch.as_ref().unwrap();
            assert!(watch.passed_over > 0, "{name}: {watch:?}");
        }
        let growing = report.growing();
        match service.leaks().first() {
            None => assert!(growing.is_empty(), "{name}: {growing:#?}"),
            Some(leak) => {
                let places: Vec<_> = growing.iter().filter_map(|site| site.places().first().cloned()).collect();
                assert!(places.contains(leak), "{name}: the leak is at {leak:?}, not {places:?}");
                // It lets go of all that it asks for.
                let lets_go = |frame: &Frame| ["churn", "borrow"].contains(&&*frame.function);
                let innocent = growing.iter().find(|site| site.stack.iter().any(lets_go));
                assert!(innocent.is_none(), "{name}: {innocent:#?}");
                if *script == ONE_A_STEP {
                    let own = growing.iter().filter(|site| site.places().first() == Some(leak));
                    let rate: f64 = own.map(|site| site.growth.blocks_per_second.estimate).sum();
                    assert!((160.0..=250.0).contains(&rate), "{name}: {rate} blocks a second");
                }
            }
        }
        assert_unaltered(service.pid());
    }
}

fn is_of_distribution(python: &Python) -> bool {
    python.executable.starts_with("/usr/bin")
}

#[test]
fn a_killed_watch_leaves_nothing_armed() {
    for python in supported() {
        let mut service = Service::start(&python, "services/leak_global_list.py", &[]);
        service.go();
        for _ in 0..5 {
            let trace = Trace::attach(service.pid(), &BUDGET);
            let ours = Bpf::of(trace.pid());
            until(|| is_in_window(service.pid()));
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
    for python in supported() {
        let mut service = Service::start(&python, "services/forking.py", &[]);
        let trace = Trace::attach(service.pid(), &BUDGET);
        service.go();
        let mut copied = None;
        until(|| {
            signal(service.pid(), Signal::STOP);
            // The oldest may be dying.
            let youngest = children(service.pid()).last().copied();
            copied = youngest.filter(|&child| is_in_window(child));
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

/// Whether more is armed than the collector, which may be for the whole time.
fn is_in_window(pid: u32) -> bool {
    altered_text(pid).len() > 1
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

/// Without guards, and with the C allocator in pymalloc's place: whose block it is, only the returns of that tell.
#[test]
fn what_has_no_parts_is_refused() {
    let python = supported().into_iter().find(|python| !is_of_distribution(python));
    let python = python.expect("no build without guards among the interpreters");
    let mut command = Command::new(&python.executable);
    let service = Service::spawn(command.arg(asset("services/calm_lru.py")).env("PYTHONMALLOC", "malloc"));
    let outcome = run(&["run", "--pid", &service.pid().to_string(), "--mode", "watch"]);
    assert_eq!(outcome.code, Some(5), "{outcome:?}");
    assert!(outcome.stderr.iter().any(|line| line.contains("--mode exact")), "{outcome:?}");
    assert_unaltered(service.pid());
}

#[test]
fn a_target_that_ends_while_it_is_watched_is_reported() {
    for python in supported() {
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

/// What cannot be is as it was on another machine: nobody would notice.
#[test]
fn what_hits_cost_is_measured() {
    let python = supported().into_iter().find(is_of_distribution).expect("the distribution has one");
    for mode in ["watch", "exact"] {
        let mut service = Service::start(&python, "services/calm_queue.py", &[]);
        let trace = Trace::attach(service.pid(), &["-v", "--mode", mode, "--duration", "2s"]);
        service.go();
        let (_, outcome): (_, Outcome) = trace.report();
        let said = |what: &str| outcome.stderr.iter().any(|line| line.contains(what));
        assert!(said("a hit costs, without its program") && !said("cannot be measured"), "{mode}: {outcome:?}");
        service.quit();
    }
}
