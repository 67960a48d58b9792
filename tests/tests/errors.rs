//! Bad input: each has one clear line and an exit code of its own, and nothing stays attached.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use leaktrace_tests::process::Service;
use leaktrace_tests::python::{supported, unsupported};
use leaktrace_tests::system::altered_text;
use leaktrace_tests::trace::{Outcome, Trace, executable, require_privileges, run};

const USAGE: i32 = 2;
const NO_SUCH_PROCESS: i32 = 3;
const NOT_PYTHON: i32 = 4;
const UNSUPPORTED_PYTHON: i32 = 5;
const NO_PRIVILEGE: i32 = 7;
const OUTPUT_NOT_WRITABLE: i32 = 9;
const ALREADY_TRACED: i32 = 10;

/// A user without any rights, in every distribution: nobody.
const NOBODY: u32 = 65534;

fn service() -> Service {
    let mut service = Service::start(&supported()[0], "services/calm_churn.py", &[]);
    service.go();
    service
}

/// The code, one line that names what it is about, and nothing traced.
fn assert_refused(outcome: &Outcome, code: i32, names: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    let clear = outcome.stderr.iter().filter(|line| names.iter().all(|name| line.contains(name)));
    assert_eq!(clear.count(), 1, "one line that names {names:?}: {outcome:?}");
    assert!(!outcome.stderr.iter().any(|line| line.starts_with("leaktrace: tracing ")), "{outcome:?}");
}

/// Runs `leaktrace run` on a pid for a moment.
fn run_on(pid: u32) -> Outcome {
    run(&["run", "--pid", &pid.to_string(), "--duration", "1s"])
}

/// A child that ends when it is dropped.
struct Sleeper(Child);

impl Sleeper {
    fn cat() -> Self {
        let cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        Self(cat.expect("cat can be started"))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn usage() {
    for arguments in [&["run", "--pid", "x"][..], &["run", "--pid", "1", "--duration", "soon"], &["nonsense"]] {
        assert_eq!(run(arguments).code, Some(USAGE), "{arguments:?}");
    }
}

#[test]
fn no_such_process() {
    require_privileges();
    let mut ended = Command::new("true").spawn().expect("true can be started");
    let pid = ended.id();
    ended.wait().expect("a child can be waited for");
    assert_refused(&run_on(pid), NO_SUCH_PROCESS, &[&pid.to_string()]);
}

#[test]
fn not_a_python() {
    require_privileges();
    let cat = Sleeper::cat();
    assert_refused(&run_on(cat.0.id()), NOT_PYTHON, &[&cat.0.id().to_string()]);
}

#[test]
fn a_python_of_an_unsupported_version() {
    require_privileges();
    let python = unsupported();
    let mut command = Command::new(&python.executable);
    let code = "import os, sys; print('READY {\"pid\": %d}' % os.getpid()); sys.stdout.flush(); sys.stdin.readline()";
    let old = Service::spawn(command.args(["-c", code]));
    let version: Vec<_> = python.version.split('.').take(2).collect();
    assert_refused(&run_on(old.pid()), UNSUPPORTED_PYTHON, &[&version.join(".")]);
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_tracing() {
    require_privileges();
    let service = service();
    let output = "/nonexistent-folder/report.json";
    let outcome = run(&["run", "--pid", &service.pid().to_string(), "--duration", "1s", "--json", output]);
    assert_refused(&outcome, OUTPUT_NOT_WRITABLE, &[output]);
    assert_eq!(altered_text(service.pid()), []);
}

#[test]
fn a_second_leaktrace_is_refused_and_the_first_goes_on() {
    let mut service = service();
    let first = Trace::attach(service.pid(), &[]);
    assert_refused(&run_on(service.pid()), ALREADY_TRACED, &[&service.pid().to_string()]);
    service.progress(5);
    let report = first.finish();
    report.assert_nothing_lost();
    assert!(report.capture.events.alloc > 0);
    // And it can be traced again.
    let again = Trace::attach(service.pid(), &[]);
    service.progress(5);
    assert!(again.finish().capture.events.alloc > 0);
}

#[test]
fn two_leaktraces_may_trace_two_targets() {
    let mut services = [service(), service()];
    let traces: Vec<_> = services.iter().map(|service| Trace::attach(service.pid(), &[])).collect();
    for service in &mut services {
        service.progress(20);
    }
    for (trace, service) in traces.into_iter().zip(&services) {
        let report = trace.finish();
        assert_eq!(report.target.pid, service.pid());
        assert!(report.capture.events.alloc > 0);
    }
}

#[test]
fn a_target_that_exits_ends_the_run_with_what_was_seen() {
    let mut service = service();
    let trace = Trace::attach(service.pid(), &[]);
    service.progress(5);
    assert!(service.quit().success());
    let (report, outcome) = trace.report();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(report.capture.events.alloc > 0);
}

#[test]
fn a_target_that_executes_another_program_ends_the_run_with_what_was_seen() {
    let mut service = service();
    let trace = Trace::attach(service.pid(), &[]);
    service.progress(5);
    service.say("exec");
    let _: serde_json::Value = service.expect("READY");
    let (report, outcome) = trace.report();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(report.capture.events.alloc > 0);
    assert_eq!(altered_text(service.pid()), [], "the new program is not traced");
    service.go();
    service.progress(5);
}

#[test]
fn a_target_killed_ends_the_run_with_what_was_seen() {
    let mut cat = service();
    let trace = Trace::attach(cat.pid(), &[]);
    cat.progress(5);
    leaktrace_tests::process::signal(cat.pid(), rustix::process::Signal::KILL);
    let (report, outcome) = trace.report();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(report.capture.events.alloc > 0);
}

#[test]
fn without_privileges() {
    require_privileges();
    // An executable that any user may run, and a target of that user's own: only the right to trace is lacking.
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("our own folder");
    let copy = folder.path().join("leaktrace");
    std::fs::copy(executable(), &copy).expect("the executable can be copied");
    let python = Command::new("/usr/bin/python3")
        .uid(NOBODY)
        .arg("-c")
        .arg("import sys; sys.stdin.read()")
        .stdin(Stdio::piped())
        .spawn();
    let python = Sleeper(python.expect("the distribution's Python can be started"));
    let pid = python.0.id().to_string();
    let output = Command::new(&copy).uid(NOBODY).args(["run", "--pid", &pid, "--duration", "1s"]).output();
    let output = output.expect("leaktrace can be started");
    let stderr = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
    assert_refused(&Outcome { code: output.status.code(), stderr }, NO_PRIVILEGE, &["root"]);
}
