//! `leaktrace top` in a real terminal: what it shows, what keys do, and that the terminal is always given back.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use leaktrace_tests::process::{Place, Service, signal, wait_for_end};
use leaktrace_tests::python::supported;
use leaktrace_tests::tmux::Tmux;
use leaktrace_tests::trace::{executable, require_privileges, run};
use rustix::process::Signal;
use serde_json::Value;

const SERVICE: &str = "services/leak_dict_cache.py";

/// A leaking service at work.
fn service() -> Service {
    require_privileges();
    let mut service = Service::start(&supported()[0], SERVICE, &[]);
    service.go();
    service
}

fn top(arguments: &str) -> String {
    format!("{} top {arguments}", executable().display())
}

/// As a row of the table ends.
fn place(leak: &Place) -> String {
    let file = Path::new(&leak.file).file_name().unwrap().to_str().unwrap();
    format!("/{file}:{} {}", leak.line, leak.function)
}

/// The terminal is as `before`, which `stty -g` told, and the screen is the shell's.
fn assert_given_back(tmux: &Tmux, before: &str) {
    tmux.wait_for_prompt();
    assert!(!tmux.is_alternate());
    assert_eq!(tmux.ask("stty -g"), before);
}

/// A number with thousands separators.
fn number(text: &str) -> u64 {
    text.replace(',', "").parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

/// The numbers of the row that tells the totals.
fn totals(screen: &str) -> Vec<u64> {
    let row = screen.lines().find(|row| row.starts_with("all: ")).unwrap_or_else(|| panic!("no totals:\n{screen}"));
    let words = row.split_whitespace().map(|word| word.trim_end_matches(';'));
    words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit())).map(number).collect()
}

#[test]
fn a_live_trace_can_be_looked_around_in() {
    let mut service = service();
    let leak = service.leaks()[0].clone();
    let tmux = Tmux::start(80, 24, &[]);
    let before = tmux.ask("stty -g");
    tmux.command(&top(&format!("--mode exact --pid {}", service.pid())));
    let row = place(&leak);
    let screen = tmux.wait("the leaking line", |screen| screen.contains(&row) && screen.starts_with("LEAKING"));
    assert!(tmux.is_alternate());
    assert!(screen.contains("[1 Sites]") && screen.lines().nth(2).unwrap().contains("coverage"), "{screen}");
    assert!(screen.lines().any(|line| line.starts_with('>') && line.contains("growing")), "{screen}");

    for (keys, shows) in [("2", "[2 Types]"), ("Tab", "[3 GC]"), ("Tab", "[4 Threads]"), ("BTab", "[3 GC]")] {
        tmux.keys(&[keys]);
        tmux.wait(shows, |screen| screen.contains(shows));
    }
    tmux.keys(&["4"]);
    tmux.wait("a thread", |screen| screen.contains(&service.pid().to_string()) && screen.contains("only here"));
    tmux.keys(&["1", "?"]);
    tmux.wait("the help", |screen| screen.contains("any key leads back"));
    tmux.keys(&["Escape"]);
    tmux.wait("the sites", |screen| screen.contains(&row) && !screen.contains("any key"));

    // Unfold the line, then its stack.
    tmux.keys(&["g", "/"]);
    tmux.text(&leak.function);
    tmux.keys(&["Enter"]);
    tmux.keys(&["Enter"]);
    tmux.wait("who calls", |screen| screen.contains(" from ") && screen.contains(" step"));
    tmux.keys(&["Down", "Enter"]);
    tmux.wait("the frames", |screen| {
        screen.lines().any(|line| line.starts_with("      ") && line.contains("service.py:") && line.contains("serve"))
    });
    tmux.keys(&["z", "/"]);
    tmux.text("no such thing");
    tmux.keys(&["Enter"]);
    tmux.wait("that it is not there", |screen| screen.contains("not found: no such thing"));
    tmux.keys(&["Escape"]);

    // The mark: growth since is seen at the next looks.
    tmux.keys(&["b"]);
    tmux.wait("growth", |screen| {
        screen.lines().any(|line| line.contains(&row) && line.contains(" +")) && screen.contains("since mark")
    });
    tmux.keys(&["B"]);

    // Paused, the picture stays while the service goes on; then it catches up.
    tmux.keys(&["p"]);
    let frozen = totals(&tmux.wait("the pause", |screen| screen.contains("PAUSED")));
    service.progress(400);
    let still = tmux.wait("its age", |screen| screen.contains("PAUSED 2 s") || screen.contains("PAUSED 3 s"));
    assert_eq!(totals(&still), frozen);
    tmux.keys(&["p"]);
    tmux.wait("later totals", |screen| !screen.contains("PAUSED") && totals(screen)[0] > frozen[0]);

    // Other sizes.
    tmux.resize(60, 15);
    tmux.wait("a small picture", |screen| {
        let file = row.rsplit(' ').next().unwrap();
        screen.lines().count() == 15
            && screen.lines().all(|line| line.chars().count() <= 60)
            && screen.contains(file)
            && screen.lines().last().unwrap().contains("q quit")
    });
    tmux.resize(30, 8);
    tmux.wait("what it needs", |screen| screen.starts_with("needs 40x10, has 30x8"));
    tmux.resize(80, 24);
    tmux.wait("the whole picture", |screen| screen.contains(&row) && screen.lines().last().unwrap().contains("b mark"));

    // To the shell and back.
    tmux.keys(&["C-z"]);
    tmux.wait("the shell", |screen| screen.contains("Stopped") && screen.trim_end().ends_with("prompt>"));
    assert!(!tmux.is_alternate());
    let settings = tmux.ask("stty -a");
    assert!(settings.contains(" icanon ") && settings.contains(" echo "), "{settings}");
    tmux.command("fg");
    tmux.wait("the picture again", |screen| screen.contains("[1 Sites]") && screen.contains(&row));
    assert!(tmux.is_alternate());
    // A stop that says nothing, too.
    let pid = tmux.child();
    signal(pid, Signal::STOP);
    tmux.wait("the shell", |screen| screen.contains("Stopped"));
    tmux.command("fg");
    tmux.wait("the picture again", |screen| {
        tmux.is_alternate() && screen.starts_with("LEAKING") && screen.contains(&row) && !screen.contains("Stopped")
    });

    tmux.keys(&["q"]);
    tmux.wait_for_prompt();
    let said = tmux.history();
    for part in ["LEAKING", "Where it grows, worst first", &row, "Tracing"] {
        assert!(said.contains(part), "{part}:\n{said}");
    }
    assert!(wait_for_end(pid, Duration::from_secs(10)));
    assert_given_back(&tmux, &before);
    service.progress(100);
}

#[test]
fn the_terminal_comes_back_when_the_target_ends() {
    for end in [Signal::TERM, Signal::KILL] {
        let service = service();
        let tmux = Tmux::start(80, 24, &[("NO_COLOR", "1")]);
        let before = tmux.ask("stty -g");
        tmux.command(&top(&format!("--mode exact --pid {}", service.pid())));
        tmux.wait("a look", |screen| screen.contains("[1 Sites]") && screen.contains("all: "));
        signal(service.pid(), end);
        tmux.wait_for_prompt();
        assert!(tmux.history().contains("the process ended while it was traced"), "{}", tmux.history());
        assert_given_back(&tmux, &before);
    }
}

#[test]
fn the_terminal_comes_back_when_a_signal_ends_the_view() {
    let service = service();
    for end in [Signal::TERM, Signal::INT] {
        let tmux = Tmux::start(80, 24, &[("TERM", "dumb")]);
        let before = tmux.ask("stty -g");
        tmux.command(&top(&format!("--mode exact --pid {}", service.pid())));
        tmux.wait("a look", |screen| screen.contains("[1 Sites]") && screen.contains("all: "));
        signal(tmux.child(), end);
        tmux.wait_for_prompt();
        assert!(tmux.history().contains("Tracing"), "{}", tmux.history());
        assert_given_back(&tmux, &before);
    }
}

#[test]
fn a_terminal_that_goes_away_ends_it() {
    let service = service();
    let tmux = Tmux::start(80, 24, &[]);
    tmux.command(&top(&format!("--mode exact --pid {}", service.pid())));
    tmux.wait("a look", |screen| screen.contains("[1 Sites]") && screen.contains("all: "));
    let pid = tmux.child();
    drop(tmux);
    assert!(wait_for_end(pid, Duration::from_secs(30)), "it goes on without a terminal");
}

#[test]
fn a_recording_shows_the_totals_of_its_report() {
    let service = service();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.leaktrace");
    let file = file.to_str().unwrap();
    let ran = run(&["run", "--pid", &service.pid().to_string(), "--duration", "6s", "--record", file]);
    assert_eq!(ran.code, Some(0), "{:?}", ran.stderr);
    let leak = &service.leaks()[0];
    for arguments in [&[][..], &["--include", "*page*"], &["--since", "3s"], &["--domain", "mem"]] {
        let json = Command::new(executable()).args(["report", file, "--json", "-"]).args(arguments).output().unwrap();
        let report: Value = serde_json::from_slice(&json.stdout).unwrap();
        let of_report = ["live_bytes", "live_blocks", "allocated_bytes", "allocated_blocks"];
        let of_report = of_report.map(|name| report["totals"][name].as_u64().unwrap());
        let tmux = Tmux::start(120, 40, &[]);
        let before = tmux.ask("stty -g");
        let quoted: Vec<String> = arguments.iter().map(|word| format!("'{word}'")).collect();
        tmux.command(&top(&format!("{file} {}", quoted.join(" "))));
        let screen = tmux.wait("the totals", |screen| screen.contains("\nall: "));
        assert_eq!(totals(&screen), of_report, "{arguments:?}:\n{screen}");
        if arguments.is_empty() {
            assert!(screen.contains(&place(leak)), "{screen}");
            // The exact numbers of a line are those of the report too.
            let line = report["lines"]
                .as_array()
                .unwrap()
                .iter()
                .find(|line| line["verdict"] != "churn" && line["live_blocks"] != 0)
                .unwrap();
            let row = screen.lines().find(|row| row.starts_with("here: ")).unwrap();
            assert_eq!(
                number(row.split_whitespace().nth(1).unwrap()),
                line["live_bytes"].as_u64().unwrap(),
                "{screen}"
            );
            tmux.keys(&["3"]);
            tmux.wait("the collector", |screen| {
                screen.contains("collections") && screen.contains("Automatic collection")
            });
            signal(tmux.child(), Signal::TERM);
        } else {
            tmux.keys(&["q"]);
        }
        assert_given_back(&tmux, &before);
        tmux.command(&top(file));
        tmux.wait("the totals", |screen| screen.contains("\nall: "));
        let pid = tmux.child();
        drop(tmux);
        assert!(wait_for_end(pid, Duration::from_secs(30)), "it goes on without a terminal");
    }
}

#[test]
fn without_a_terminal_there_is_one_line() {
    let ran = Command::new(executable()).args(["top", "some.file"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(ran.status.code(), Some(2));
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("needs a terminal") && ran.stdout.is_empty(), "{said}");
}
