//! Arming many instructions as one: a tracefs event can hold any number of probes, and one perf event arms them all.
//!
//! Attaching one by one is quick, but the kernel takes 0.1 s to detach each; a group of 500 is gone in 0.2 s.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::leftovers::Owner;
use aya_obj::generated::{PERF_FLAG_FD_CLOEXEC, perf_event_attr, perf_type_id};

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("cannot define the probes in {}: {source}", path.display())]
    Define { path: PathBuf, source: io::Error },
    #[error("the kernel refused the probe at offset {offset:#x} of {file}: {source}")]
    Probe { file: String, offset: u64, source: io::Error },
    #[error("cannot read the number of the event in {}: {source}", path.display())]
    Id { path: PathBuf, source: io::Error },
    #[error("cannot open a perf event on pid {pid}: {source}")]
    Open { pid: u32, source: io::Error },
    #[error("cannot attach the BPF program to the probes of pid {pid}: {source}")]
    SetBpf { pid: u32, source: io::Error },
    #[error("the kernel refused {count} probes in {file}: {source}")]
    Link { file: String, count: usize, source: io::Error },
    #[error("the BPF program {0} is not loaded; please report this")]
    NoProgram(&'static str),
}

/// An instruction to arm.
#[derive(Debug, Clone, Copy)]
pub struct Point<'a> {
    pub file: &'a Path,
    pub offset: u64,
}

/// An event in tracefs that stands for instructions. By itself it arms none of them. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Definition {
    tracefs: PathBuf,
    name: String,
}

impl Definition {
    /// Defines the event `event` with all `points` for process `pid`.
    pub(super) fn new(
        tracefs: &Path,
        event: &str,
        points: &[Point<'_>],
        returns: bool,
        pid: u32,
    ) -> Result<Self, AttachError> {
        let definition = Self { tracefs: tracefs.to_path_buf(), name: format!("{}/{event}", Owner::here(pid)) };
        let path = tracefs.join("uprobe_events");
        let mut events = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(|source| AttachError::Define { path: path.clone(), source })?;
        let kind = if returns { 'r' } else { 'p' };
        for point in points {
            // The kernel parses each write as whole lines, and takes at most a page of them.
            let line = format!("{kind}:{} {}:{:#x}\n", definition.name, point.file.display(), point.offset);
            events.write_all(line.as_bytes()).map_err(|source| AttachError::Probe {
                file: point.file.display().to_string(),
                offset: point.offset,
                source,
            })?;
        }
        Ok(definition)
    }
}

impl Drop for Definition {
    fn drop(&mut self) {
        // An event that is not there (its first probe was refused) is no error worth telling.
        let _ = undefine(&self.tracefs, &self.name);
    }
}

/// One armed event. Dropping it disarms its instructions and removes its definition.
#[derive(Debug)]
pub struct Group {
    // Before the definition: it is closed first.
    _perf: OwnedFd,
    _definition: Definition,
}

impl Group {
    /// Defines the event `event` with all `points` and arms it with `program` in the process `pid`, in all its threads.
    pub fn arm(
        tracefs: &Path,
        event: &str,
        points: &[Point<'_>],
        returns: bool,
        program: BorrowedFd<'_>,
        pid: u32,
    ) -> Result<Self, AttachError> {
        let definition = Definition::new(tracefs, event, points, returns, pid)?;
        let perf = perf_event(tracefs, &definition.name, pid)?;
        for (request, argument) in
            [(libc_ioctl::SET_BPF, program.as_raw_fd() as libc::c_ulong), (libc_ioctl::ENABLE, 0)]
        {
            // SAFETY: both requests take a number, and the descriptor is a perf event.
            if unsafe { libc::ioctl(perf.as_raw_fd(), request, argument) } < 0 {
                return Err(AttachError::SetBpf { pid, source: io::Error::last_os_error() });
            }
        }
        Ok(Self { _perf: perf, _definition: definition })
    }
}

/// Opens a defined event on a process. That sets its breakpoints; nothing is counted before `PERF_EVENT_IOC_ENABLE`.
pub(super) fn perf_event(tracefs: &Path, name: &str, pid: u32) -> Result<OwnedFd, AttachError> {
    let path = tracefs.join("events").join(name).join("id");
    let id = fs::read_to_string(&path)
        .and_then(|text| text.trim().parse::<u64>().map_err(io::Error::other))
        .map_err(|source| AttachError::Id { path, source })?;
    let mut attr = perf_event_attr {
        type_: perf_type_id::PERF_TYPE_TRACEPOINT as u32,
        size: size_of::<perf_event_attr>() as u32,
        config: id,
        ..unsafe_zeroed()
    };
    attr.__bindgen_anon_1.sample_period = 1;
    attr.set_disabled(1);
    // SAFETY: `attr` is a valid perf_event_attr with its size in it; the other arguments are plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, pid, -1, -1, PERF_FLAG_FD_CLOEXEC) };
    if fd < 0 {
        return Err(AttachError::Open { pid, source: io::Error::last_os_error() });
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `linux/perf_event.h`: `PERF_EVENT_IOC_*`.
mod libc_ioctl {
    pub(super) const ENABLE: libc::c_ulong = 0x2400;
    pub(super) const SET_BPF: libc::c_ulong = 0x4004_2408;
}

fn unsafe_zeroed() -> perf_event_attr {
    // SAFETY: perf_event_attr is made of integers and unions of integers; all zero means defaults.
    unsafe { std::mem::zeroed() }
}

pub(super) fn undefine(tracefs: &Path, name: &str) -> io::Result<()> {
    OpenOptions::new().append(true).open(tracefs.join("uprobe_events"))?.write_all(format!("-:{name}\n").as_bytes())
}
