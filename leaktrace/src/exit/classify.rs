//! The errors of the rooms as exit codes, hints and one line.

use std::error::Error;
use std::fmt::Write as _;
use std::io;

use leaktrace::census::CensusError;
use leaktrace::cpython::mimalloc::MimallocError;
use leaktrace::cpython::{DiscoverError, SnapshotError};
use leaktrace::host::claim::ClaimError;
use leaktrace::host::freeze::FreezeError;
use leaktrace::host::tracefs::TracefsError;
use leaktrace::metrics::ListenError;
use leaktrace::plan::PlanError;
use leaktrace::recording::RecordingError;
use leaktrace::refs::RefsError;
use leaktrace::session::SessionError;
use leaktrace::target::{ElfError, TargetError};
use leaktrace::tracer::TracerError;
use leaktrace::tracer::attach::AttachError;
use leaktrace::tracer::load::LoadError;

use super::{ExitCode, Failure};

type Class<'a> = (ExitCode, &'a str);

const REPORT: &str = "please report it, with the output of `leaktrace doctor`";
const DOCTOR: &str = "`leaktrace doctor` says what this kernel allows";
const GONE: &str = "look for its new pid, or try again";

/// The one line for stderr, and the code.
pub(crate) fn report(error: &anyhow::Error) -> (String, ExitCode) {
    let (code, hint) = classify(error);
    let mut line = format!("leaktrace: {}", in_one_line(error));
    if !hint.is_empty() {
        let _ = write!(line, "; hint: {hint}");
    }
    (line, code)
}

/// The error with its causes. Some errors say what their cause says: that is said once. File names and verifier logs
/// may hold line breaks.
pub(crate) fn in_one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            let _ = write!(text, "{separator}{cause}");
        }
    }
    text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" | ")
}

/// The code of an error and the hint that goes with it.
pub(crate) fn classify(error: &anyhow::Error) -> Class<'_> {
    error.chain().find_map(known).unwrap_or((ExitCode::Internal, REPORT))
}

fn known<'a>(error: &'a (dyn Error + 'static)) -> Option<Class<'a>> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Some((failure.code, &failure.hint));
    }
    None.or_else(|| error.downcast_ref().map(of_target))
        .or_else(|| error.downcast_ref().map(of_claim))
        .or_else(|| error.downcast_ref().map(of_tracefs))
        .or_else(|| error.downcast_ref().map(of_discovery))
        .or_else(|| error.downcast_ref().map(of_plan))
        .or_else(|| error.downcast_ref().map(of_tracer))
        .or_else(|| error.downcast_ref().map(of_load))
        .or_else(|| error.downcast_ref().map(of_session))
        .or_else(|| error.downcast_ref().map(of_census))
        .or_else(|| error.downcast_ref().map(of_refs))
        .or_else(|| error.downcast_ref().map(of_freeze))
        .or_else(|| error.downcast_ref().map(of_recording))
        .or_else(|| error.downcast_ref().map(of_listen))
}

fn of_listen(error: &ListenError) -> Class<'static> {
    match error {
        ListenError::Listen { .. } => (ExitCode::Address, "choose another with --metrics; port 0 takes a free one"),
        ListenError::Thread(_) => (ExitCode::Internal, REPORT),
    }
}

fn of_target(error: &TargetError) -> Class<'static> {
    match error {
        TargetError::NoSuchProcess { .. } | TargetError::Zombie { .. } => {
            (ExitCode::NoSuchProcess, "`pgrep -a python` lists the running ones")
        }
        TargetError::NotAProcess { .. } => (ExitCode::NoSuchProcess, ""),
        TargetError::KernelThread { .. } | TargetError::ThirtyTwoBit { .. } | TargetError::NotX86_64 { .. } => {
            (ExitCode::UnsupportedProcess, "")
        }
        TargetError::PermissionDenied { .. } => (ExitCode::NoPrivilege, ""),
        TargetError::Gone { .. } => (ExitCode::TargetChanged, GONE),
        TargetError::Io { .. } => (ExitCode::Internal, REPORT),
    }
}

fn of_claim(error: &ClaimError) -> Class<'static> {
    match error {
        ClaimError::Taken { .. } => (ExitCode::AlreadyTraced, "wait for it to end, or end it"),
        ClaimError::Io { .. } => (ExitCode::TargetChanged, GONE),
    }
}

fn of_tracefs(error: &TracefsError) -> Class<'static> {
    match error {
        TracefsError::PermissionDenied(_) => (ExitCode::NoPrivilege, ""),
        TracefsError::Mount(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            (ExitCode::NoPrivilege, "run as root, or mount a tracefs at /sys/kernel/tracing")
        }
        TracefsError::Mount(_) | TracefsError::NoUprobes(_) | TracefsError::Unusable { .. } => {
            (ExitCode::UnsupportedKernel, DOCTOR)
        }
        TracefsError::Threaded => (ExitCode::Internal, "mount a tracefs at /sys/kernel/tracing"),
    }
}

fn of_discovery(error: &DiscoverError) -> Class<'static> {
    match error {
        DiscoverError::NotPython { .. } => (ExitCode::NotPython, "`pgrep -a python` lists the running ones"),
        DiscoverError::Unsupported { .. } => (ExitCode::UnsupportedPython, ""),
        DiscoverError::NotInitialised { .. } => (ExitCode::TargetChanged, ""),
        DiscoverError::Target(error) => of_target(error),
        DiscoverError::Elf(ElfError::Open { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            (ExitCode::NoPrivilege, "run as root")
        }
        DiscoverError::Elf(ElfError::Replaced { .. }) => {
            (ExitCode::UnsupportedPython, "its files were replaced on disk since it started: restart it first")
        }
        DiscoverError::Elf(_) | DiscoverError::Memory(_) => (ExitCode::TargetChanged, "try again"),
    }
}

fn of_plan(error: &PlanError) -> Class<'static> {
    match error {
        PlanError::NoSymbol { .. } | PlanError::NoSlot { .. } => {
            (ExitCode::UnsupportedPython, "please report it, with the output of `leaktrace doctor --pid PID`")
        }
        PlanError::Probed { .. } => (ExitCode::AlreadyTraced, ""),
        PlanError::Changed { .. } => (ExitCode::UnsupportedPython, "restart it, or trace it before it is patched"),
        PlanError::Memory(_) => (ExitCode::TargetChanged, "try again"),
    }
}

fn of_tracer(error: &TracerError) -> Class<'static> {
    match error {
        TracerError::Load(error) => of_load(error),
        TracerError::Attach(AttachError::Open { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {
            (ExitCode::TargetChanged, GONE)
        }
        TracerError::Attach(error) => refused(error),
        TracerError::Task(_) => (ExitCode::UnsupportedKernel, DOCTOR),
        TracerError::TooManySites { .. } | TracerError::Map { .. } | TracerError::Guardian(_) => {
            (ExitCode::Internal, REPORT)
        }
    }
}

fn of_session(error: &SessionError) -> Class<'static> {
    match error {
        SessionError::Target(error) => of_target(error),
        SessionError::Discover(error) => of_discovery(error),
        SessionError::Plan(error) => of_plan(error),
        SessionError::Tracer(error) => of_tracer(error),
        SessionError::Indivisible(_) => (ExitCode::UnsupportedPython, "`--mode exact` traces everything"),
        SessionError::Drain(_) => (ExitCode::Internal, REPORT),
    }
}

fn of_census(error: &CensusError) -> Class<'static> {
    match error {
        CensusError::NoPymalloc { .. } => (ExitCode::UnsupportedPython, "start it without PYTHONMALLOC"),
        CensusError::NoTypes { .. }
        | CensusError::Mimalloc { reason: MimallocError::NotFound, .. }
        | CensusError::Snapshot(SnapshotError::NoArenas) => {
            (ExitCode::UnsupportedPython, "please report it, with the output of `leaktrace doctor --pid PID`")
        }
        CensusError::Snapshot(_) | CensusError::Mimalloc { .. } | CensusError::Memory(_) => {
            (ExitCode::TargetChanged, "try again")
        }
        CensusError::Target(error) => of_target(error),
    }
}

fn of_refs(error: &RefsError) -> Class<'static> {
    match error {
        RefsError::NoType { .. } | RefsError::NoInstances { .. } => {
            (ExitCode::Usage, "`leaktrace heap --pid PID` lists the types")
        }
        RefsError::Ambiguous { .. } => (ExitCode::Usage, "say which, with its module"),
        RefsError::NoObject { .. } => (ExitCode::Usage, ""),
        RefsError::TooLarge => (ExitCode::UnsupportedProcess, ""),
        RefsError::Census(error) => of_census(error),
        RefsError::Memory(_) => (ExitCode::TargetChanged, "try again"),
    }
}

fn of_freeze(error: &FreezeError) -> Class<'static> {
    match error {
        FreezeError::Refused { .. } => (ExitCode::NoPrivilege, "leave out --pause, or end the debugger first"),
        FreezeError::Gone { .. } => (ExitCode::TargetChanged, GONE),
        FreezeError::Busy { .. } => (ExitCode::TargetChanged, "leave out --pause, or try again"),
    }
}

fn of_recording(error: &RecordingError) -> Class<'static> {
    match error {
        RecordingError::Exists { .. } => (ExitCode::Output, "--force replaces it"),
        RecordingError::Write { .. } | RecordingError::Create { .. } => {
            (ExitCode::Output, "choose another place for the recording")
        }
        RecordingError::Open { .. } | RecordingError::Foreign { .. } => {
            (ExitCode::Recording, "`leaktrace run --record FILE` makes one")
        }
        RecordingError::Newer { .. } => (ExitCode::Recording, "read it with that leaktrace"),
        RecordingError::Empty { .. } => (ExitCode::Recording, "trace again with --record FILE"),
        RecordingError::Damaged { .. } => (ExitCode::Recording, ""),
    }
}

fn of_load(error: &LoadError) -> Class<'static> {
    match error {
        LoadError::NoObject | LoadError::OtherVersion => (ExitCode::Internal, ""),
        LoadError::Missing(_) => (ExitCode::Internal, REPORT),
        LoadError::Object(_) | LoadError::Program { .. } | LoadError::Map { .. } | LoadError::Multi(_) => {
            refused(error)
        }
    }
}

/// The kernel said no: for want of privilege, or because it cannot.
fn refused(error: &(dyn Error + 'static)) -> Class<'static> {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    let denied = causes.any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
    });
    if denied { (ExitCode::NoPrivilege, "run as root") } else { (ExitCode::UnsupportedKernel, DOCTOR) }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

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
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("no such map").context("the kernel refused: no such map").context("at the start");
        assert_eq!(in_one_line(&error), "at the start: the kernel refused: no such map");
    }

    #[test]
    fn errors_of_the_rooms() {
        let code = |error: anyhow::Error| report(&error).1;
        assert_eq!(code(TargetError::NoSuchProcess { pid: 1 }.into()), ExitCode::NoSuchProcess);
        assert_eq!(code(TargetError::Gone { pid: 1 }.into()), ExitCode::TargetChanged);
        assert_eq!(code(DiscoverError::Target(TargetError::Gone { pid: 1 }).into()), ExitCode::TargetChanged);
        assert_eq!(code(ClaimError::Taken { pid: 1 }.into()), ExitCode::AlreadyTraced);
        assert_eq!(code(anyhow::anyhow!("x")), ExitCode::Internal);
    }

    #[test]
    fn refusals_of_the_kernel() {
        let open = |errno| {
            let source = io::Error::from_raw_os_error(errno);
            report(&TracerError::Attach(AttachError::Open { pid: 1, source }).into()).1
        };
        assert_eq!(open(libc::EACCES), ExitCode::NoPrivilege);
        assert_eq!(open(libc::EPERM), ExitCode::NoPrivilege);
        assert_eq!(open(libc::ESRCH), ExitCode::TargetChanged);
        assert_eq!(open(libc::EINVAL), ExitCode::UnsupportedKernel);
    }
}
