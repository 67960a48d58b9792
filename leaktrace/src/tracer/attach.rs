//! Arming many instructions as one: a tracefs event can hold any number of probes, and one perf event arms them all.
//!
//! Attaching one by one is quick, but the kernel takes 0.1 s to detach each; a group of 500 is gone in 0.2 s.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya_obj::generated::{PERF_FLAG_FD_CLOEXEC, perf_event_attr, perf_type_id};

/// Group names start with this; the rest is the pid and start time of the leaktrace that made them.
const PREFIX: &str = "leaktrace_";

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
}

/// An instruction to arm.
#[derive(Debug, Clone, Copy)]
pub struct Point<'a> {
    pub file: &'a Path,
    pub offset: u64,
}

/// One armed event. Dropping it disarms its instructions and removes its definition.
#[derive(Debug)]
pub struct Group {
    tracefs: PathBuf,
    name: String,
    perf: Option<OwnedFd>,
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
        let name = format!("{}/{event}", own_group());
        let mut group = Self { tracefs: tracefs.to_path_buf(), name, perf: None };
        let path = tracefs.join("uprobe_events");
        let mut events = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(|source| AttachError::Define { path: path.clone(), source })?;
        let kind = if returns { 'r' } else { 'p' };
        for point in points {
            // The kernel parses each write as whole lines, and takes at most a page of them.
            let line = format!("{kind}:{} {}:{:#x}\n", group.name, point.file.display(), point.offset);
            events.write_all(line.as_bytes()).map_err(|source| AttachError::Probe {
                file: point.file.display().to_string(),
                offset: point.offset,
                source,
            })?;
        }
        drop(events);
        group.open(program, pid)?;
        Ok(group)
    }

    fn open(&mut self, program: BorrowedFd<'_>, pid: u32) -> Result<(), AttachError> {
        let path = self.tracefs.join("events").join(&self.name).join("id");
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
        // SAFETY: `attr` is a valid perf_event_attr with its size in it; the other arguments are plain numbers.
        let fd =
            unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, pid, -1, -1, PERF_FLAG_FD_CLOEXEC) };
        if fd < 0 {
            return Err(AttachError::Open { pid, source: io::Error::last_os_error() });
        }
        // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        for (request, argument) in
            [(libc_ioctl::SET_BPF, program.as_raw_fd() as libc::c_ulong), (libc_ioctl::ENABLE, 0)]
        {
            // SAFETY: both requests take a number, and the descriptor is a perf event.
            if unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) } < 0 {
                return Err(AttachError::SetBpf { pid, source: io::Error::last_os_error() });
            }
        }
        self.perf = Some(fd);
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.perf = None;
        undefine(&self.tracefs, &self.name);
    }
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

/// The group of this process: its pid, and its start time so that a reused pid is not taken for it.
fn own_group() -> String {
    let pid = std::process::id();
    format!("{PREFIX}{pid}_{}", start_time(pid).unwrap_or(0))
}

/// Field 22 of /proc/PID/stat: clock ticks since boot.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn undefine(tracefs: &Path, name: &str) {
    // An event that is not there (its first probe was refused) is no error worth telling.
    if let Ok(mut events) = OpenOptions::new().append(true).open(tracefs.join("uprobe_events")) {
        let _ = events.write_all(format!("-:{name}\n").as_bytes());
    }
}

/// Removes the definitions that a killed leaktrace left behind. They are inert: its perf event died with it.
pub fn sweep_dead(tracefs: &Path) {
    let Ok(text) = fs::read_to_string(tracefs.join("uprobe_events")) else { return };
    let mut dead: Vec<&str> = text.lines().filter_map(|line| event_of_dead(line)).collect();
    dead.sort_unstable();
    dead.dedup();
    for name in dead {
        undefine(tracefs, name);
    }
}

/// `GROUP/EVENT` of a definition's line, if it is ours and its maker is gone.
fn event_of_dead(line: &str) -> Option<&str> {
    let name = line.split_once(':')?.1.split_whitespace().next()?;
    let maker = name.strip_prefix(PREFIX)?.split('/').next()?;
    let (pid, started) = maker.split_once('_')?;
    let (pid, started) = (pid.parse().ok()?, started.parse::<u64>().ok()?);
    (start_time(pid) != Some(started)).then_some(name)
}
