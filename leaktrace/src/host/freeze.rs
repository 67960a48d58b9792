//! Stops all threads of a process for a moment, by ptrace.
//!
//! The kernel lets every thread go on when the tracer ends, however it ends: killing leaktrace thaws the process. That is
//! why this is no SIGSTOP and no cgroup freezer, which would outlive it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ptr;
use std::time::{Duration, Instant};

/// Longest wait for all threads to stop. One in an uninterruptible sleep does not.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a process could not be stopped.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    #[error("cannot stop process {pid}: {source}")]
    Refused { pid: u32, source: io::Error },
    #[error("process {pid} has ended")]
    Gone { pid: u32 },
    #[error("process {pid} did not stop within {PATIENCE:?}: a thread waits in the kernel")]
    Busy { pid: u32 },
}

/// A stopped process. It goes on when this is dropped, which must happen on the thread that made it.
#[derive(Debug)]
pub struct Frozen {
    threads: BTreeSet<i32>,
    since: Instant,
    // The kernel knows the thread that traces.
    _here: std::marker::PhantomData<*const ()>,
}

impl Frozen {
    /// Stops every thread of a process.
    pub fn stop(pid: u32) -> Result<Self, FreezeError> {
        let mut frozen = Self { threads: BTreeSet::new(), since: Instant::now(), _here: std::marker::PhantomData };
        // A thread that is not stopped yet may start another: until a look finds no new one.
        loop {
            let new: Vec<i32> = threads(pid).filter(|tid| !frozen.threads.contains(tid)).collect();
            if new.is_empty() {
                break;
            }
            for tid in new {
                match request(libc::PTRACE_SEIZE, tid) {
                    Ok(()) => {}
                    // It ended since.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
                    Err(source) => return Err(FreezeError::Refused { pid, source }),
                }
                frozen.threads.insert(tid);
                if request(libc::PTRACE_INTERRUPT, tid).is_ok() {
                    frozen.wait_for(pid, tid)?;
                }
            }
        }
        if frozen.threads.is_empty() { Err(FreezeError::Gone { pid }) } else { Ok(frozen) }
    }

    /// How long it has been stopped.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Waits until a thread has stopped or ended.
    fn wait_for(&mut self, pid: u32, tid: i32) -> Result<(), FreezeError> {
        loop {
            let mut status = 0;
            // SAFETY: `status` is a valid place for the call to write to.
            match unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | libc::WNOHANG) } {
                0 if self.since.elapsed() > PATIENCE => return Err(FreezeError::Busy { pid }),
                0 => std::thread::sleep(Duration::from_micros(50)),
                -1 => {
                    self.threads.remove(&tid);
                    return Ok(());
                }
                _ if libc::WIFSTOPPED(status) => {
                    let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
                    if event == libc::PTRACE_EVENT_STOP {
                        return Ok(());
                    }
                    // A signal came first: it is delivered, and the stop that was asked for comes next.
                    resume(tid, signal);
                }
                _ => {
                    self.threads.remove(&tid);
                    return Ok(());
                }
            }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for &tid in &self.threads {
            // A thread that has ended needs nothing. One that did not stop in time cannot be detached: it goes on by itself
            // when this process ends.
            let _ = request(libc::PTRACE_DETACH, tid);
        }
    }
}

fn threads(pid: u32) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn request(what: libc::c_uint, tid: i32) -> io::Result<()> {
    // SAFETY: none of the requests used here reads or writes this process's memory; both arguments are null.
    let result = unsafe { libc::ptrace(what, tid, ptr::null_mut::<libc::c_void>(), ptr::null_mut::<libc::c_void>()) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn resume(tid: i32, signal: i32) {
    let signal = ptr::without_provenance_mut::<libc::c_void>(signal as usize);
    // SAFETY: the request takes a signal number in place of a pointer and touches no memory of this process.
    unsafe { libc::ptrace(libc::PTRACE_CONT, tid, ptr::null_mut::<libc::c_void>(), signal) };
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn state(pid: u32) -> char {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        text.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    #[test]
    fn a_process_stops_and_goes_on() {
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        let frozen = Frozen::stop(pid).unwrap();
        assert_eq!(state(pid), 't');
        assert!(matches!(Frozen::stop(pid), Err(FreezeError::Refused { .. })), "it is traced already");
        drop(frozen);
        assert_eq!(state(pid), 'R');
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(Frozen::stop(pid), Err(FreezeError::Gone { .. })));
    }
}
