//! Exit codes, and how errors become one line and a code.

use std::fmt::Write as _;

use leaktrace::host::claim::ClaimError;
use leaktrace::host::tracefs::TracefsError;
use leaktrace::target::process::TargetError;

/// What the process ends with. The numbers are a contract: `--help` documents them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ExitCode {
    Success = 0,
    Growth = 1,
    Usage = 2,
    NoSuchProcess = 3,
    NotPython = 4,
    UnsupportedPython = 5,
    UnsupportedProcess = 6,
    NoPrivilege = 7,
    UnsupportedKernel = 8,
    Output = 9,
    AlreadyTraced = 10,
    TargetChanged = 11,
    Internal = 70,
}

impl ExitCode {
    const ALL: [Self; 13] = [
        Self::Success,
        Self::Growth,
        Self::Usage,
        Self::NoSuchProcess,
        Self::NotPython,
        Self::UnsupportedPython,
        Self::UnsupportedProcess,
        Self::NoPrivilege,
        Self::UnsupportedKernel,
        Self::Output,
        Self::AlreadyTraced,
        Self::TargetChanged,
        Self::Internal,
    ];

    fn meaning(self) -> &'static str {
        match self {
            Self::Success => "done; also when the target ended or replaced itself while it was traced",
            Self::Growth => "a site grows, and --fail-on-growth was given",
            Self::Usage => "bad arguments",
            Self::NoSuchProcess => "no process has that pid",
            Self::NotPython => "the process is not a Python",
            Self::UnsupportedPython => "a Python that is not supported",
            Self::UnsupportedProcess => "not a 64-bit x86 program, or a kernel thread",
            Self::NoPrivilege => "no privilege",
            Self::UnsupportedKernel => "the kernel lacks something that is needed",
            Self::Output => "the report cannot be written",
            Self::AlreadyTraced => "another leaktrace traces that process",
            Self::TargetChanged => "the process ended or replaced itself during the start",
            Self::Internal => "a fault of leaktrace",
        }
    }

    /// The table for `--help`.
    pub(crate) fn help() -> String {
        Self::ALL.iter().fold(String::from("Exit codes:\n"), |mut text, &code| {
            let _ = writeln!(text, "  {:>2}  {}", code as u8, code.meaning());
            text
        })
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// An error with its exit code and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Failure {
    pub(crate) code: ExitCode,
    /// What went wrong, with the pid or the file.
    pub(crate) what: String,
    /// What to do, empty when there is nothing.
    pub(crate) hint: String,
}

impl Failure {
    pub(crate) fn new(code: ExitCode, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, what: what.into(), hint: hint.into() }
    }
}

/// The code of an error and the hint that goes with it.
pub(crate) fn classify(error: &anyhow::Error) -> (ExitCode, &str) {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return (failure.code, &failure.hint);
        }
        if let Some(error) = cause.downcast_ref::<TargetError>() {
            return of_target(error);
        }
        if let Some(error) = cause.downcast_ref::<ClaimError>() {
            return match error {
                ClaimError::Taken { .. } => (ExitCode::AlreadyTraced, "wait for it to end, or end it"),
                ClaimError::Io { .. } => (ExitCode::TargetChanged, "look for its new pid"),
            };
        }
        if let Some(error) = cause.downcast_ref::<TracefsError>() {
            return of_tracefs(error);
        }
    }
    (ExitCode::Internal, "please report it, with the output of `leaktrace doctor`")
}

fn of_target(error: &TargetError) -> (ExitCode, &'static str) {
    match error {
        TargetError::NoSuchProcess { .. } | TargetError::Zombie { .. } => {
            (ExitCode::NoSuchProcess, "`pgrep -a python` lists the running ones")
        }
        TargetError::NotAProcess { .. } => (ExitCode::NoSuchProcess, ""),
        TargetError::KernelThread { .. } | TargetError::ThirtyTwoBit { .. } | TargetError::NotX86_64 { .. } => {
            (ExitCode::UnsupportedProcess, "")
        }
        TargetError::PermissionDenied { .. } => (ExitCode::NoPrivilege, ""),
        TargetError::Gone { .. } => (ExitCode::TargetChanged, "look for its new pid"),
        TargetError::Io { .. } => (ExitCode::Internal, "please report it, with the output of `leaktrace doctor`"),
    }
}

fn of_tracefs(error: &TracefsError) -> (ExitCode, &'static str) {
    match error {
        TracefsError::PermissionDenied(_) => (ExitCode::NoPrivilege, ""),
        TracefsError::Mount(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            (ExitCode::NoPrivilege, "run as root, or mount a tracefs at /sys/kernel/tracing")
        }
        TracefsError::Mount(_) | TracefsError::NoUprobes(_) | TracefsError::Unusable { .. } => {
            (ExitCode::UnsupportedKernel, "`leaktrace doctor` says what this kernel allows")
        }
        TracefsError::Threaded => (ExitCode::Internal, "mount a tracefs at /sys/kernel/tracing"),
    }
}

/// The one line for stderr, and the code.
pub(crate) fn report(error: &anyhow::Error) -> (String, ExitCode) {
    let (code, hint) = classify(error);
    let mut line = format!("leaktrace: {error:#}");
    if !hint.is_empty() {
        let _ = write!(line, "; hint: {hint}");
    }
    // File names and verifier logs may hold line breaks.
    (line.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" | "), code)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn codes_are_unique_and_documented() {
        let help = ExitCode::help();
        for (i, code) in ExitCode::ALL.iter().enumerate() {
            assert!(ExitCode::ALL[i + 1..].iter().all(|other| *other as u8 != *code as u8));
            assert!(help.contains(&format!("{:>2}  {}", *code as u8, code.meaning())));
        }
    }

    #[test]
    fn the_code_survives_context() {
        let error = Err::<(), _>(Failure::new(ExitCode::Output, "cannot write a\nb", "choose another"))
            .context("before the start")
            .unwrap_err();
        let (line, code) = report(&error);
        assert_eq!(line, "leaktrace: before the start: cannot write a | b; hint: choose another");
        assert_eq!(code, ExitCode::Output);
    }

    #[test]
    fn errors_of_the_rooms() {
        let code = |error: anyhow::Error| report(&error).1;
        assert_eq!(code(TargetError::NoSuchProcess { pid: 1 }.into()), ExitCode::NoSuchProcess);
        assert_eq!(code(TargetError::Gone { pid: 1 }.into()), ExitCode::TargetChanged);
        assert_eq!(code(ClaimError::Taken { pid: 1 }.into()), ExitCode::AlreadyTraced);
        assert_eq!(code(anyhow::anyhow!("x")), ExitCode::Internal);
    }
}
