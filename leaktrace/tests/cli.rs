//! The executable's contract with shells and scripts: exit codes, one line on stderr, data on stdout.

use std::fs;
use std::process::{Child, Command, Output, Stdio};

fn leaktrace(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leaktrace"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    leaktrace(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The run failed with `code` and said so in one line on stderr, which has all of `words`.
fn assert_fails(output: &Output, code: i32, words: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "stdout: {}", text(&output.stdout));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("leaktrace: "), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "no {word:?} in {stderr}");
    }
}

/// A process that does nothing until it is dropped.
struct Idle(Child);

impl Idle {
    fn start() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn help_goes_to_stdout_and_documents_the_codes() {
    for arguments in [&["--help"][..], &["run", "--help"], &["doctor", "--help"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty());
        let stdout = text(&output.stdout);
        for words in ["Examples:", "Exit codes:", " 3  no process has that pid", "10  another leaktrace", "70  a fault"]
        {
            assert!(stdout.contains(words), "{arguments:?} says nothing of {words:?}");
        }
    }
}

#[test]
fn version() {
    let output = run(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout).trim(), concat!("leaktrace ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn bad_arguments_end_with_2() {
    for arguments in [
        &[][..],
        &["run"],
        &["run", "--pid", "x"],
        &["run", "--pid", "-1"],
        &["run", "--pid", "1", "--duration", "30"],
        &["run", "--pid", "1", "--interval", "0s"],
        &["run", "--pid", "1", "--mode", "guess"],
        &["run", "--pid", "1", "--top", "many"],
        &["doctor", "--plan"],
        &["trace"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn no_such_process_ends_with_3() {
    // The kernel's largest pid is 2^22.
    for pid in ["0", "4194305", "4294967295"] {
        assert_fails(&run(&["run", "--pid", pid]), 3, &[pid, "hint: "]);
    }
}

#[test]
fn a_process_that_ended_is_no_process() {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id().to_string();
    // A zombie first: it has ended, and nobody has waited for it.
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z");
    while !state() {
        std::thread::yield_now();
    }
    assert_fails(&run(&["run", "--pid", &pid]), 3, &[&pid]);
    child.wait().unwrap();
    assert_fails(&run(&["run", "--pid", &pid]), 3, &[&pid]);
}

#[test]
fn output_is_tried_before_anything_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("none/report.json");
    let file = file.to_str().unwrap();
    // The pid is wrong too: the file is looked at first.
    assert_fails(&run(&["run", "--pid", "4194305", "--json", file]), 9, &[file, "hint: "]);
}

#[test]
fn a_failed_run_keeps_the_older_report() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.json");
    fs::write(&file, "older").unwrap();
    assert_fails(&run(&["run", "--pid", "4194305", "--json", file.to_str().unwrap()]), 3, &[]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "older");
}

#[test]
fn a_claimed_target_ends_with_10() {
    let idle = Idle::start();
    let pid = idle.0.id();
    let claim = leaktrace::host::claim::Claim::new(pid).unwrap();
    assert_fails(&run(&["run", "--pid", &pid.to_string()]), 10, &["another leaktrace", &pid.to_string()]);
    drop(claim);
}

#[test]
fn doctor_says_something_of_each_thing_and_agrees_with_its_code() {
    let output = run(&["doctor"]);
    let stdout = text(&output.stdout);
    for subject in ["kernel", "privileges", "BTF", "uprobe events", "uprobe programs", "ring buffers", "perf events"] {
        assert!(stdout.contains(subject), "{stdout}");
    }
    let failed = stdout.lines().any(|line| line.starts_with("  no "));
    assert_eq!(output.status.code() != Some(0), failed, "{stdout}");
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn doctor_of_a_missing_process() {
    let output = run(&["doctor", "--pid", "4194305"]);
    assert!(text(&output.stdout).contains("no process has pid 4194305"));
    assert_ne!(output.status.code(), Some(0));
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let expected = run(&["doctor"]).status.code();
    let output = leaktrace(&["doctor"]).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    assert_eq!(output.status.code(), expected);
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn a_closed_stderr_does_not_change_the_code() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = leaktrace(&["run", "--pid", "4194305"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(3));
}

#[test]
fn only_things_of_a_kind_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (recording, census) = (path("recording"), path("census"));
    // As an SQLite file begins, and no more.
    fs::write(&recording, b"SQLite format 3\0").unwrap();
    fs::write(&census, "{}").unwrap();
    assert_fails(&run(&["diff", &recording, &census]), 2, &[&recording, "is a recording", "hint: "]);
    assert_fails(&run(&["diff", &census, &census]), 2, &[&census, "no census"]);
    assert_fails(&run(&["diff", &census, &census, "--by", "lineno"]), 2, &["--by", "for recordings"]);
    assert_fails(&run(&["diff", &recording, &recording]), 13, &[&recording]);
    assert_fails(&run(&["diff", &path("none"), &census]), 2, &["none"]);
}

#[test]
fn completions_are_a_script_that_its_shell_takes() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(text(&output.stdout).contains("fail-on-growth"), "{shell}");
    }
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut bash.stdin.take().unwrap(), &run(&["completions", "bash"]).stdout).unwrap();
    let output = bash.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn every_subcommand_has_a_manual_page() {
    let help = text(&run(&["--help"]).stdout);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What goes on in a second line is indented further.
    let mut names: Vec<_> = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    names.retain(|name| !name.is_empty());
    names.retain(|name| *name != "help");
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["man", "--all", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), names.len() + 1);
    for name in names {
        let page = text(&run(&["man", name]).stdout);
        assert!(page.contains(".SH SYNOPSIS") && page.contains(".SH OPTIONS"), "{name}: {page}");
        assert_eq!(fs::read_to_string(dir.path().join(format!("leaktrace-{name}.1"))).unwrap(), page);
    }
    assert!(text(&run(&["man"]).stdout).contains("no process has that pid"));
    assert_fails(&run(&["man", "guard"]), 2, &["guard"]);
    assert_fails(&run(&["man", "--all", dir.path().join("none").to_str().unwrap()]), 9, &["none"]);
}
