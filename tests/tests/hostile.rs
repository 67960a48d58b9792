//! Targets that end, change or overflow what leaktrace knows of them: what was seen is reported, and what was lost is counted.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use leaktrace_tests::process::{Lines, PATIENCE, Service, wait_for_end};
use leaktrace_tests::python::supported;
use leaktrace_tests::report::Report;
use leaktrace_tests::system::altered_text;
use leaktrace_tests::trace::{Trace, run};

const OUTPUT_NOT_WRITABLE: i32 = 9;
const UNDECIDED: i32 = 12;
const INTERRUPTED: i32 = 130;
/// Longer than any test: no look is taken before the last one.
const NEVER: &str = "1h";

/// A Python program that works off a line of its input at a time; `work` says which lines it knows.
fn target(work: &str) -> Service {
    let code = format!(
        r#"
import os, sys, threading, tracemalloc
keep = []
{work}
print('READY {{"pid": %d}}' % os.getpid(), flush=True)
for line in sys.stdin:
    if line == "quit\n":
        break
    globals()[line.strip()]()
    print("DONE null", flush=True)
"#
    );
    let python = &supported()[0];
    Service::spawn(Command::new(&python.executable).args(["-c", &code]))
}

fn tell(target: &mut Service, what: &str) {
    target.say(what);
    target.expect::<()>("DONE");
}

/// Live blocks of a function of the target, by the innermost frame.
fn live_of(report: &Report, function: &str) -> u64 {
    let here = |site: &&leaktrace_tests::report::Site| site.places().first().is_some_and(|p| p.function == function);
    report.sites.iter().filter(here).map(|site| site.live_blocks).sum()
}

const LEAK: &str = "
def leak():
    for i in range(1000):
        keep.append(bytearray(3000))
";

#[test]
fn a_target_that_ends_before_the_first_look_is_reported() {
    let mut target = target(LEAK);
    let trace = Trace::attach(target.pid(), &["--interval", NEVER]);
    tell(&mut target, "leak");
    // By a signal, so that the interpreter does not free what it holds.
    leaktrace_tests::process::signal(target.pid(), rustix::process::Signal::KILL);
    assert!(wait_for_end(target.pid(), PATIENCE));
    let (report, outcome) = trace.report();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    // An object and its buffer each, and at most some numbers that were freed.
    let blocks = live_of(&report, "leak");
    assert!((2000..2100).contains(&blocks), "{blocks}");
    assert!(report.capture.duration_seconds > 0.0);
    assert!(report.capture.notes.iter().any(|note| note.contains("ended")), "{:?}", report.capture.notes);
    report.assert_nothing_lost();
}

#[test]
fn nothing_of_the_program_that_an_exec_starts_is_counted() {
    // The same executable, so that the kernel arms it anew; its allocations are many, and done before anyone looks.
    let mut target = target(&format!(
        "{LEAK}
def replace():
    work = 'keep = [bytearray(3000) for n in range(50_000)]'
    say = 'import sys; print(\"DONE null\", flush=True); sys.stdin.read()'
    os.execv(sys.executable, [sys.executable, '-c', work + chr(10) + say])
"
    ));
    let trace = Trace::attach(target.pid(), &["--interval", NEVER]);
    tell(&mut target, "leak");
    tell(&mut target, "replace");
    let (report, outcome) = trace.report();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!((2000..2100).contains(&live_of(&report, "leak")), "{}", live_of(&report, "leak"));
    assert_eq!(live_of(&report, "<listcomp>"), 0);
    assert!(report.capture.events.alloc < 20_000, "{:?}", report.capture.events);
    assert!(report.capture.notes.iter().any(|note| note.contains("exec")), "{:?}", report.capture.notes);
    report.assert_nothing_lost();
}

#[test]
fn tracemalloc_started_meanwhile_ends_the_run_with_what_was_seen() {
    let mut target = target(&format!("{LEAK}\nhook = tracemalloc.start"));
    let trace = Trace::attach(target.pid(), &["--interval", "100ms"]);
    tell(&mut target, "leak");
    tell(&mut target, "hook");
    let (report, outcome) = trace.report();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        report.capture.notes.iter().any(|note| note.contains("replaced its allocator")),
        "{:?}",
        report.capture.notes
    );
    let blocks = live_of(&report, "leak");
    assert!(blocks < 2100, "{blocks}: nothing is counted twice");
    // The target goes on, and can be traced as it is now.
    let again = Trace::attach(target.pid(), &[]);
    tell(&mut target, "leak");
    assert!(again.finish().capture.events.alloc >= 2000);
}

#[test]
fn threads_that_come_and_go_lose_no_event() {
    // More than the table of threads has room for at a time.
    let mut target = target(
        "
def start():
    for batch in range(500):
        threads = [threading.Thread(target=work) for _ in range(20)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
def work():
    keep.append(bytearray(3000))
",
    );
    let trace = Trace::attach(target.pid(), &["--interval", NEVER]);
    tell(&mut target, "start");
    let report = trace.finish();
    report.assert_nothing_lost();
    let blocks = live_of(&report, "work");
    assert!(
        (20_000..=20_002).contains(&blocks),
        "{blocks}: an object and its buffer for each thread, and the list's own"
    );
}

#[test]
fn stacks_past_the_room_for_them_keep_their_line() {
    // Each object is made at the end of its own path of 18 calls.
    let mut target = target(
        "
import itertools
def left(path):
    for call in path: return call(path)
    return object()
def right(path):
    for call in path: return call(path)
    return object()
def grow():
    for calls in itertools.islice(itertools.product((left, right), repeat=18), 210_000):
        path = iter(calls)
        keep.append(next(path)(path))
def leak():
    for n in range(1000):
        keep.append(bytearray(3000))
",
    );
    let trace = Trace::attach(target.pid(), &["--interval", NEVER]);
    tell(&mut target, "grow");
    tell(&mut target, "leak");
    let report = trace.finish();
    assert_eq!(report.capture.lost["stack"], 0);
    assert_eq!(live_of(&report, "left") + live_of(&report, "right"), 210_000);
    let leaked = live_of(&report, "leak");
    assert!((2000..=2001).contains(&leaked), "{leaked}");
}

#[test]
fn a_leak_that_found_the_table_full_is_not_called_innocent() {
    let mut target = target(
        "
def fill():
    keep.extend(bytearray(3000) for n in range(1000))
chain = None
def leak():
    global chain
    for n in range(2000):
        chain = (chain, bytearray(3000))
",
    );
    let mut trace = Trace::attach(
        target.pid(),
        &["--max-blocks", "1000", "--duration", "30s", "--interval", "2s", "--fail-on-growth"],
    );
    tell(&mut target, "fill");
    // Between two looks so many.
    while trace.look().is_some() {
        tell(&mut target, "leak");
    }
    let (report, outcome) = trace.report();
    assert_eq!((outcome.code, report.headline.outlook.as_str()), (Some(UNDECIDED), "incomplete"), "{outcome:?}");
    let of_leak = |site: &&leaktrace_tests::report::Site| site.places().iter().any(|p| p.function == "leak");
    let leaking: Vec<_> = report.sites.iter().filter(of_leak).collect();
    assert!(leaking.iter().map(|site| site.lost_blocks).sum::<u64>() > 1000);
    assert!(leaking.iter().filter(|s| s.lost_blocks > 20).all(|site| site.verdict == "unknown"), "{leaking:#?}");
}

#[test]
fn too_short_a_look_does_not_pass_for_innocence() {
    let target = target(LEAK);
    let trace = Trace::attach(target.pid(), &["--duration", "100ms", "--fail-on-growth"]);
    let (report, outcome) = trace.report();
    assert_eq!((outcome.code, report.headline.outlook.as_str()), (Some(UNDECIDED), "too_early"));
}

#[test]
fn a_second_interrupt_ends_a_run_that_is_stuck_in_its_end() {
    // Enough sites for a report that no pipe takes at once.
    let mut target = target(
        "
def many():
    for n in range(500):
        exec(f'def leak{n}(): keep.append(bytearray(3000))', globals())
        globals()[f'leak{n}']()
",
    );
    let pid = target.pid().to_string();
    let mut leaktrace = Command::new(leaktrace_tests::trace::executable())
        .args(["run", "--mode", "exact", "--pid", &pid, "--json", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("leaktrace can be started");
    let said = Lines::of(leaktrace.stderr.take().expect("stderr is a pipe"));
    assert!(said.next(PATIENCE).is_some_and(|line| line.starts_with("leaktrace: tracing pid ")));
    tell(&mut target, "many");
    leaktrace_tests::process::signal(leaktrace.id(), rustix::process::Signal::INT);
    // Nobody reads its report, so it never gets rid of it: write(2) is system call 1.
    let in_write = || {
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", leaktrace.id()));
        call.is_ok_and(|call| call.starts_with("1 0x1 "))
    };
    let deadline = Instant::now() + PATIENCE;
    while !in_write() {
        assert!(Instant::now() < deadline, "the report fits the pipe");
        std::thread::yield_now();
    }
    assert_eq!(altered_text(target.pid()), [], "the target runs freely, whatever becomes of the report");
    while !wait_for_end(leaktrace.id(), Duration::from_millis(100)) {
        assert!(Instant::now() < deadline, "it does not end");
        leaktrace_tests::process::signal(leaktrace.id(), rustix::process::Signal::INT);
    }
    assert_eq!(leaktrace.wait().expect("a child can be waited for").code(), Some(INTERRUPTED));
    assert!(said.rest(PATIENCE).iter().any(|line| line.contains("without a report")));
}

#[test]
fn an_output_that_fails_in_the_end_is_told() {
    let mut target = target(LEAK);
    tell(&mut target, "leak");
    let pid = target.pid().to_string();
    let outcome = run(&["run", "--pid", &pid, "--duration", "100ms", "--json", "/dev/full"]);
    assert_eq!(outcome.code, Some(OUTPUT_NOT_WRITABLE), "{outcome:?}");
    assert!(outcome.stderr.iter().any(|line| line.contains("/dev/full")), "{outcome:?}");
    target.work_for(Duration::from_millis(1));
    assert!(target.quit().success());
}
