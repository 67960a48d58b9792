//! Bad input: each has one clear line and an exit code of its own, and nothing stays attached.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use leaktrace_tests::process::{PATIENCE, Service, signal};
use leaktrace_tests::python::{supported, unsupported};
use leaktrace_tests::report::Report;
use leaktrace_tests::system::altered_text;
use leaktrace_tests::trace::{Outcome, Trace, executable, require_privileges, run};
use rustix::process::Signal;

const USAGE: i32 = 2;
const NO_SUCH_PROCESS: i32 = 3;
const NOT_PYTHON: i32 = 4;
const UNSUPPORTED_PYTHON: i32 = 5;
const UNSUPPORTED_PROCESS: i32 = 6;
const NO_PRIVILEGE: i32 = 7;
const UNSUPPORTED_KERNEL: i32 = 8;
const OUTPUT_NOT_WRITABLE: i32 = 9;
const ALREADY_TRACED: i32 = 10;
const TARGET_CHANGED: i32 = 11;

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

/// An i386 program that calls pause(2) for ever, in 9 bytes of code.
fn program_of_32_bits() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    let code = [0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7];
    let (entry, end) = (BASE + HEADERS, HEADERS + code.len() as u32);
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // Executable, i386, version; entry, program headers, no section headers, flags.
    file.extend([2u16, 3].iter().flat_map(|half| half.to_le_bytes()));
    file.extend([1, entry, 52, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
    file.extend([52u16, 32, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    // One segment, loaded whole, to be read and executed.
    file.extend([1, 0, BASE, BASE, end, end, 5, 4096].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(code);
    file
}

#[test]
fn a_program_of_32_bits() {
    require_privileges();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("pause");
    std::fs::write(&program, program_of_32_bits()).expect("our own folder");
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("our own file");
    let child = Sleeper(Command::new(&program).spawn().expect("the kernel runs programs of 32 bits"));
    assert_refused(&run_on(child.0.id()), UNSUPPORTED_PROCESS, &[&child.0.id().to_string(), "32-bit"]);
}

#[test]
fn a_kernel_without_types() {
    require_privileges();
    let service = service();
    let pid = service.pid().to_string();
    let script = "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" run --pid \"$1\" --duration 1s";
    let output = Command::new("unshare").args(["--mount", "sh", "-c", script]).arg(executable()).arg(&pid).output();
    assert_refused(
        &outcome(&output.expect("unshare of util-linux starts")),
        UNSUPPORTED_KERNEL,
        &["CONFIG_DEBUG_INFO_BTF"],
    );
    assert_eq!(altered_text(service.pid()), []);
}

/// Stops a leaktrace that starts, once it has made its plan: it loads BPF then.
fn stop_when_planned(tracer: u32) {
    let deadline = Instant::now() + PATIENCE;
    let loads = || {
        let files = std::fs::read_dir(format!("/proc/{tracer}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| file.path().read_link().ok()).any(|file| file.to_string_lossy().contains("bpf-map"))
    };
    while !loads() {
        assert!(Instant::now() < deadline, "it loads no BPF");
    }
    signal(tracer, Signal::STOP);
    let is_stopped = || std::fs::read_to_string(format!("/proc/{tracer}/stat")).is_ok_and(|stat| stat.contains(") T "));
    while !is_stopped() {
        assert!(Instant::now() < deadline, "it does not stop");
    }
}

#[test]
fn a_target_that_replaces_itself_during_the_start() {
    for mode in ["watch", "exact"] {
        // On a machine that stands still now and then, leaktrace may be through with its start before it is stopped.
        let refused = (0..5).any(|_| {
            let mut service = service();
            let trace = Trace::start(service.pid(), &["--mode", mode, "--duration", "1s"]);
            stop_when_planned(trace.pid());
            service.say("exec");
            let _: serde_json::Value = service.expect("READY");
            signal(trace.pid(), Signal::CONT);
            let outcome = trace.outcome();
            assert_eq!(altered_text(service.pid()), [], "the new program is not traced");
            if outcome.code == Some(0) {
                return false;
            }
            assert_refused(&outcome, TARGET_CHANGED, &[&service.pid().to_string()]);
            true
        });
        assert!(refused, "--mode {mode}: not once in its start");
    }
}

/// Runs leaktrace on a terminal, closes that once everything is armed, and prints the exit code.
const CLOSE_THE_TERMINAL: &str = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
said = b""
while b"leaktrace: tracing pid" not in said:
    said += os.read(terminal, 4096)
os.close(terminal)
status = os.waitpid(pid, 0)[1]
print(os.WEXITSTATUS(status) if os.WIFEXITED(status) else "killed")
"#;

#[test]
fn a_terminal_that_is_closed_ends_the_run_with_its_report() {
    require_privileges();
    let mut service = service();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("report.json");
    let mut terminal = Command::new(&supported()[0].executable);
    terminal.args(["-c", CLOSE_THE_TERMINAL]).arg(executable()).args([
        "run",
        "--mode",
        "exact",
        "--pid",
        &service.pid().to_string(),
        "--json",
    ]);
    let output = terminal.arg(&json).output().expect("the interpreter starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0", "{}", String::from_utf8_lossy(&output.stderr));
    assert!(Report::read(&json).capture.duration_seconds > 0.0);
    assert_eq!(altered_text(service.pid()), []);
    service.progress(5);
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
    signal(cat.pid(), Signal::KILL);
    let (report, outcome) = trace.report();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(report.capture.events.alloc > 0);
}

fn outcome(output: &Output) -> Outcome {
    let stderr = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
    Outcome { code: output.status.code(), stderr }
}

#[test]
fn without_privileges() {
    require_privileges();
    // An executable that any user may run.
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("our own folder");
    let copy = folder.path().join("leaktrace");
    std::fs::copy(executable(), &copy).expect("the executable can be copied");
    let as_nobody = |arguments: &[&str]| {
        let output = Command::new(&copy).uid(NOBODY).gid(NOBODY).current_dir("/").args(arguments).output();
        output.expect("leaktrace can be started")
    };
    // A target of that user's own: only the right to trace is lacking.
    let python = Command::new("/usr/bin/python3")
        .uid(NOBODY)
        .arg("-c")
        .arg("import sys; sys.stdin.read()")
        .stdin(Stdio::piped())
        .spawn();
    let python = Sleeper(python.expect("the distribution's Python can be started"));
    let pid = python.0.id().to_string();
    assert_refused(&outcome(&as_nobody(&["run", "--pid", &pid, "--duration", "1s"])), NO_PRIVILEGE, &["root"]);
    // Somebody else's.
    let service = service();
    let pid = service.pid().to_string();
    assert_refused(&outcome(&as_nobody(&["run", "--pid", &pid, "--duration", "1s"])), NO_PRIVILEGE, &[&pid]);
    // What is wrong with the arguments is told first, and doctor says what is lacking.
    assert_eq!(as_nobody(&["run", "--pid", "x"]).status.code(), Some(USAGE));
    let doctor = as_nobody(&["doctor", "--pid", &pid]);
    assert_eq!(doctor.status.code(), Some(NO_PRIVILEGE));
    let lines = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        lines.lines().any(|line| line.starts_with("  no    privileges") && line.contains("CAP_SYS_PTRACE")),
        "{lines}"
    );
    assert_eq!(altered_text(service.pid()), []);
}
