//! Exit codes, and the error that carries one. How other errors get theirs is in [`classify`].

mod classify;

use std::fmt::Write as _;

pub(crate) use classify::{classify, in_one_line, report};

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
    Undecided = 12,
    Recording = 13,
    Address = 14,
    Internal = 70,
    /// What [`leaktrace::host::signals::StopSignals`] ends with.
    Interrupted = 130,
}

impl ExitCode {
    const ALL: [Self; 17] = [
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
        Self::Undecided,
        Self::Recording,
        Self::Address,
        Self::Internal,
        Self::Interrupted,
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
            Self::Undecided => "whether a site grows cannot be told, and --fail-on-growth was given",
            Self::Recording => "a file is no recording, holds nothing yet, is damaged, or comes from a newer leaktrace",
            Self::Address => "the address of --metrics is taken, or not this host's",
            Self::Internal => "a fault of leaktrace",
            Self::Interrupted => "a second Ctrl-C ended it at once, without a report (143: a second SIGTERM)",
        }
    }

    /// The table for `--help`.
    pub(crate) fn help() -> String {
        Self::ALL.iter().fold(String::from("Exit codes:\n"), |mut text, &code| {
            let _ = writeln!(text, " {:>3}  {}", code as u8, code.meaning());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_documented() {
        let help = ExitCode::help();
        for (i, code) in ExitCode::ALL.iter().enumerate() {
            assert!(ExitCode::ALL[i + 1..].iter().all(|other| *other as u8 != *code as u8));
            assert!(help.contains(&format!("{:>3}  {}", *code as u8, code.meaning())));
        }
    }
}
