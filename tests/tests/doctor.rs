//! `leaktrace doctor` on real processes: what it says agrees with what others say, and it leaves nothing behind.

use std::process::{Command, Output, Stdio};

use leaktrace_tests::process::Service;
use leaktrace_tests::python::{Python, supported, unsupported};
use leaktrace_tests::system::{Bpf, altered_text};
use leaktrace_tests::trace::{executable, require_privileges};

fn doctor(arguments: &[&str]) -> Output {
    Command::new(executable()).arg("doctor").args(arguments).stdin(Stdio::null()).output().expect("doctor starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The finding of the line about `subject`, and its mark.
fn finding(report: &str, subject: &str) -> (String, String) {
    let line = report.lines().find(|line| line.get(8..).is_some_and(|rest| rest.starts_with(subject)));
    let line = line.unwrap_or_else(|| panic!("no line about {subject}: {report}"));
    (line[2..6].trim().to_owned(), line[8 + subject.len()..].trim().to_owned())
}

fn service(python: &Python) -> Service {
    let mut service = Service::start(python, "services/calm_churn.py", &[]);
    service.go();
    service
}

#[test]
fn all_is_well_with_a_supported_python() {
    require_privileges();
    for python in supported() {
        let service = service(&python);
        let before = Bpf::now();
        let output = doctor(&["--pid", &service.pid().to_string()]);
        let report = text(&output);
        assert_eq!(output.status.code(), Some(0), "{report}");
        for subject in ["uprobe events", "BPF programs", "perf events", "interpreter", "probe plan", "collector"] {
            assert_eq!(finding(&report, subject).0, "ok", "{report}");
        }
        // The interpreter itself says which version it is.
        let version = Command::new(&python.executable).arg("--version").output().expect("python starts").stdout;
        let version = String::from_utf8(version).expect("a version is text").replace("Python", "CPython");
        let (_, interpreter) = finding(&report, "interpreter");
        assert!(interpreter.starts_with(version.trim()), "{interpreter} against {version}");
        // Others may load programs meanwhile; theirs end too.
        Bpf::since(&before).assert_gone();
        assert!(altered_text(service.pid()).is_empty(), "nothing is armed");
    }
}

#[test]
fn the_plan_is_printed_instruction_by_instruction() {
    require_privileges();
    for python in supported() {
        let service = service(&python);
        let pid = service.pid().to_string();
        let (without, with) = (text(&doctor(&["--pid", &pid])), text(&doctor(&["--pid", &pid, "--plan"])));
        let plan = with.strip_prefix(&without).unwrap_or_else(|| panic!("the plan comes after the report: {with}"));
        let count = finding(&without, "probe plan").1;
        let count: usize = count.split(' ').next().and_then(|n| n.parse().ok()).expect("the number of instructions");
        let rows = plan.lines().filter(|line| line.contains("emulated") || line.contains("single-step "));
        assert!(rows.count() >= count && count > 0, "{count} instructions: {plan}");
        assert!(altered_text(service.pid()).is_empty(), "nothing is armed");
    }
}

#[test]
fn what_is_not_a_supported_python_has_its_code() {
    require_privileges();
    let old = Service::start(&unsupported(), "services/calm_churn.py", &[]);
    let output = doctor(&["--pid", &old.pid().to_string()]);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));

    let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat starts");
    let output = doctor(&["--pid", &cat.id().to_string()]);
    drop(cat.stdin.take());
    cat.wait().expect("cat ends");
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(finding(&text(&output), "interpreter").1.contains("not a CPython"));
}

#[test]
fn a_tracefs_is_mounted_for_leaktrace_alone() {
    require_privileges();
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let before = mounts();
    // A mount namespace in which none is mounted, also where the machine has one.
    let script = r#"
        for place in $(awk '$3 == "tracefs" || $3 == "debugfs" { print $2 }' /proc/mounts | sort -r); do
            umount "$place" || exit 99
        done
        "$0" doctor || exit
        grep -c tracefs /proc/mounts >&2
    "#;
    let output = Command::new("unshare").args(["--mount", "sh", "-c", script]).arg(executable()).output();
    let output = output.expect("unshare of util-linux starts");
    let report = text(&output);
    let (mark, finding) = finding(&report, "uprobe events");
    assert_eq!(mark, "ok", "{report}");
    assert!(finding.contains("mount one for itself"), "{finding}");
    assert_eq!(String::from_utf8_lossy(&output.stderr).trim(), "0", "it is gone with leaktrace");
    assert_eq!(mounts(), before, "the machine's mounts are as they were");
}
