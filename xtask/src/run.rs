//! `cargo xtask run`: `leaktrace run` as root, on the demo service unless a pid is given.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context, Result};

use crate::build::{self, Profile};
use crate::demo::Demo;
use crate::root;

/// How long the demo is traced.
const DEMO_DURATION: &str = "30s";

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let executable = build::leaktrace(Profile::Release)?;
    if wants_help(arguments) {
        return exec(Command::new(executable).arg("run").args(arguments));
    }
    let mut leaktrace = root::command(executable, "tracing")?;
    leaktrace.arg("run").args(arguments);
    if has_option(arguments, "--pid") {
        return exec(&mut leaktrace);
    }
    let demo = Demo::start()?;
    leaktrace.args(["--pid", &demo.pid().to_string()]);
    if !has_option(arguments, "--mode") {
        // The quickest answer, whatever it costs the demo.
        leaktrace.args(["--mode", "exact"]);
    }
    if !has_option(arguments, "--duration") {
        leaktrace.args(["--duration", DEMO_DURATION]);
        eprintln!("==> tracing it for {DEMO_DURATION}; Ctrl-C ends it earlier, with its report");
    }
    let status = run_with_signals(&mut leaktrace)?;
    drop(demo);
    Ok(exit_code(status))
}

/// Becomes the command, so that its signals and its exit code are its own. Returns only if it cannot start.
fn exec(command: &mut Command) -> Result<ExitCode> {
    Err(command.exec()).with_context(|| format!("cannot start {}", crate::step::display(command)))
}

fn has_option(arguments: &[String], name: &str) -> bool {
    arguments.iter().any(|argument| argument.split('=').next() == Some(name))
}

fn wants_help(arguments: &[String]) -> bool {
    arguments.iter().any(|argument| argument == "--help" || argument == "-h")
}

/// The process that signals are handed on to, 0 before it runs.
static CHILD: AtomicI32 = AtomicI32::new(0);

/// Runs the command to its end whatever signal comes: it must print its report, and the demo must be ended after it.
fn run_with_signals(command: &mut Command) -> Result<ExitStatus> {
    // Handlers, unlike SIG_IGN, are not inherited by what is started.
    for (signal, handler) in
        [(libc::SIGINT, leave as extern "C" fn(libc::c_int)), (libc::SIGTERM, hand_on), (libc::SIGHUP, hand_on)]
    {
        // SAFETY: both handlers only do what signal-safety(7) allows: nothing, or kill(2).
        unsafe { libc::signal(signal, handler as *const () as libc::sighandler_t) };
    }
    let mut child = command.spawn().with_context(|| format!("cannot start {}", crate::step::display(command)))?;
    let pid = child.id();
    CHILD.store(pid.cast_signed(), Ordering::SeqCst);
    wait_for_end(pid);
    CHILD.store(0, Ordering::SeqCst);
    Ok(child.wait()?)
}

/// Waits for the child to end, but leaves it to be waited for: until then its pid names no other process.
fn wait_for_end(pid: u32) {
    // SAFETY: siginfo_t is made of integers and unions of integers, for which all zero is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: `info` is valid for writing.
        let waited = unsafe { libc::waitid(libc::P_PID, pid, &raw mut info, libc::WEXITED | libc::WNOWAIT) };
        if waited == 0 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            return;
        }
    }
}

/// For SIGINT: the terminal sends it to the child as well.
extern "C" fn leave(_signal: libc::c_int) {}

extern "C" fn hand_on(signal: libc::c_int) {
    let child = CHILD.load(Ordering::SeqCst);
    if child > 0 {
        // SAFETY: the pid is that of a child which has not been waited for, so it names no other process.
        unsafe { libc::kill(child, signal) };
    }
}

/// The child's code, or as a shell would tell of a signal.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;

    use super::*;

    #[test]
    fn options_in_the_arguments() {
        let arguments = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert!(has_option(&arguments("--top 3 --pid 7"), "--pid"));
        assert!(has_option(&arguments("--pid=7"), "--pid"));
        assert!(!has_option(&arguments("--pidfile 7"), "--pid"));
        assert!(wants_help(&arguments("--top 3 -h")));
        assert!(!wants_help(&arguments("--top 3")));
    }

    #[test]
    fn a_signal_reaches_the_child_and_its_code_comes_back() {
        let (reader, writer) = std::io::pipe().unwrap();
        let child = std::thread::spawn(|| {
            let mut command = Command::new("sh");
            // SIGKILL: a TERM that came before the new process became `sleep` would go to the trap that it inherits.
            command.args(["-c", "trap 'kill -9 $!; exit 42' TERM; sleep 1000 & echo ready; wait"]).stdout(writer);
            run_with_signals(&mut command).unwrap()
        });
        std::io::BufReader::new(reader).read_line(&mut String::new()).unwrap();
        while CHILD.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: raise has no preconditions; the handlers are installed.
            assert_eq!(unsafe { libc::raise(signal) }, 0);
        }
        assert_eq!(exit_code(child.join().unwrap()), ExitCode::from(42));
    }

    #[test]
    fn exit_codes_are_passed_on() {
        assert_eq!(exit_code(ExitStatus::from_raw(5 << 8)), ExitCode::from(5));
        assert_eq!(exit_code(ExitStatus::from_raw(libc::SIGKILL)), ExitCode::from(137));
    }
}
