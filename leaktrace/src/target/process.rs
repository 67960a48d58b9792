//! The identity of a process, and what `/proc` says of it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::maps::{FileId, Maps};
use super::memory::ProcessMemory;
use super::stat::{Stat, Status, proc_path};

/// `PF_KTHREAD` of the flags in `/proc/PID/stat` (Linux `include/linux/sched.h`).
const PF_KTHREAD: u64 = 0x0020_0000;
const ELFCLASS64: u8 = 2;
const EM_X86_64: u16 = 62;

/// Why a process cannot be a target. Each variant is a case of its own for the exit code.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("no process has pid {pid}")]
    NoSuchProcess { pid: u32 },
    #[error("process {pid} has exited and only waits for its parent (zombie)")]
    Zombie { pid: u32 },
    #[error("{tid} is a thread of process {pid}, not a process: give {pid} instead")]
    NotAProcess { tid: u32, pid: u32 },
    #[error("{pid} is a kernel thread: it has no program to trace")]
    KernelThread { pid: u32 },
    #[error("process {pid} is 32-bit ({exe}): only x86-64 programs are supported")]
    ThirtyTwoBit { pid: u32, exe: String },
    #[error("process {pid} runs code for machine type {machine} ({exe}): only x86-64 is supported")]
    NotX86_64 { pid: u32, exe: String, machine: u16 },
    #[error("no permission to read {what} of process {pid}: run as root")]
    PermissionDenied { pid: u32, what: &'static str },
    #[error("process {pid} ended, or replaced its program, in the meantime")]
    Gone { pid: u32 },
    #[error("cannot read {what} of process {pid}: {source}")]
    Io { pid: u32, what: &'static str, source: io::Error },
}

impl TargetError {
    pub(super) fn from_io(pid: u32, what: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { pid, what },
            io::ErrorKind::NotFound => Self::Gone { pid },
            _ if source.raw_os_error() == Some(libc::ESRCH) => Self::Gone { pid },
            _ => Self::Io { pid, what, source },
        }
    }
}

/// `Seccomp:` of `/proc/PID/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seccomp {
    Disabled,
    Strict,
    /// A filter decides on each system call.
    Filter,
}

/// One process, told from every other by its pid and its start time.
#[derive(Debug)]
pub struct Target {
    pid: u32,
    ns_pid: u32,
    start_time: u64,
    uid: u32,
    exe: PathBuf,
    image: Image,
    cmdline: Vec<String>,
    pidfd: OwnedFd,
}

/// What an exec changes: the program, and (exec of the same program) where its code and stack were put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Image {
    exe: FileId,
    start_code: u64,
    start_stack: u64,
}

impl Target {
    /// Opens a process by its pid in this process's pid namespace.
    ///
    /// Nothing of the process is touched: only `/proc` is read. Fails with one distinct error for each way in which the
    /// pid is not a traceable x86-64 process, or may not be read.
    pub fn open(pid: u32) -> Result<Self, TargetError> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(TargetError::NoSuchProcess { pid })?;
        // A thread id is asked about before the pidfd: kernels differ in what pidfd_open answers to one.
        let status = Status::read(pid)?;
        if let Some(leader) = status.number("Tgid").filter(|&leader| leader != u64::from(pid)) {
            return Err(TargetError::NotAProcess { tid: pid, pid: leader as u32 });
        }
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|e| match e {
            rustix::io::Errno::SRCH => TargetError::NoSuchProcess { pid },
            _ => TargetError::from_io(pid, "the pidfd", e.into()),
        })?;
        let stat = Stat::read(pid)?;
        if matches!(stat.state, 'Z' | 'X') {
            return Err(TargetError::Zombie { pid });
        }
        if stat.flags & PF_KTHREAD != 0 {
            return Err(TargetError::KernelThread { pid });
        }
        let link = proc_path(pid, "exe");
        let exe = fs::read_link(&link).map_err(|e| TargetError::from_io(pid, "the executable", e))?;
        check_machine(pid, &link, &exe)?;
        let image = Image::read(pid)?;
        let cmdline = read_cmdline(pid)?;
        let status = Status::read(pid)?;
        let target = Self {
            pid,
            ns_pid: status.numbers("NSpid").last().map_or(pid, |&n| n as u32),
            start_time: stat.start_time,
            uid: status.numbers("Uid").get(1).map_or(0, |&n| n as u32),
            exe,
            image,
            cmdline,
            pidfd,
        };
        // All of the above was read by pid; it was one process's only if the one that the pidfd names still lives.
        if target.has_exited() || !target.still_same() {
            return Err(TargetError::Gone { pid });
        }
        Ok(target)
    }

    /// Pid in this process's namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Pid in the target's own, innermost namespace.
    pub fn ns_pid(&self) -> u32 {
        self.ns_pid
    }

    /// Clock ticks from boot to the start of the process: field 22 of `/proc/PID/stat`.
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Effective user id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The executable as the target names it; ends in " (deleted)" if it was deleted or replaced on disk.
    pub fn exe(&self) -> &Path {
        &self.exe
    }

    /// Device and inode of the executable.
    pub fn exe_id(&self) -> FileId {
        self.image.exe
    }

    /// The arguments at the time of the opening, invalid UTF-8 replaced.
    pub fn cmdline(&self) -> &[String] {
        &self.cmdline
    }

    /// Its children that run the same executable, as the workers of a server do.
    pub fn children_alike(&self) -> Vec<u32> {
        let tasks = fs::read_dir(self.proc_path("task")).into_iter().flatten().flatten();
        let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let mut children: Vec<u32> = lists
            .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
            .filter(|&child| fs::read_link(proc_path(child, "exe")).is_ok_and(|exe| exe == self.exe))
            .collect();
        children.sort_unstable();
        children
    }

    /// A file below `/proc/PID`.
    pub fn proc_path(&self, name: &str) -> PathBuf {
        proc_path(self.pid, name)
    }

    /// Whether the pid still names this very process.
    pub fn still_same(&self) -> bool {
        Stat::read(self.pid).is_ok_and(|s| s.start_time == self.start_time && !matches!(s.state, 'Z' | 'X'))
    }

    /// Whether the process runs another program image than when it was opened, also another run of the same file.
    /// `false` for a process that is gone: see [`Self::has_exited`].
    pub fn has_execed(&self) -> bool {
        self.still_same() && Image::read(self.pid).is_ok_and(|image| image != self.image)
    }

    /// # Errors
    /// [`TargetError::Gone`] when the process has ended or runs another program image than when it was opened.
    pub fn still_runs(&self) -> Result<(), TargetError> {
        if self.still_same() && !self.has_execed() { Ok(()) } else { Err(TargetError::Gone { pid: self.pid }) }
    }

    /// Whether the process has exited, without waiting.
    pub fn has_exited(&self) -> bool {
        self.wait_exit(Duration::ZERO)
    }

    /// Waits for the process to exit, at most for `timeout`. True: it has exited.
    pub fn wait_exit(&self, timeout: Duration) -> bool {
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&timeout)), Ok(n) if n > 0)
    }

    /// The process's memory.
    pub fn memory(&self) -> ProcessMemory {
        ProcessMemory::new(self.pid)
    }

    /// The process's mappings as they are now.
    pub fn maps(&self) -> Result<Maps, TargetError> {
        let text = fs::read(self.proc_path("maps")).map_err(|e| TargetError::from_io(self.pid, "the memory map", e))?;
        let maps = Maps::parse(&text);
        // The kernel shows an empty map for a process that has exited.
        if maps.iter().next().is_none() { Err(TargetError::Gone { pid: self.pid }) } else { Ok(maps) }
    }

    /// Resident memory in bytes (`VmRSS`).
    pub fn rss_bytes(&self) -> Result<u64, TargetError> {
        Status::read(self.pid)?.number("VmRSS").map(|kib| kib * 1024).ok_or(TargetError::Gone { pid: self.pid })
    }

    /// The text of `smaps_rollup`: what the kernel counts over all mappings.
    pub fn memory_rollup(&self) -> Result<String, TargetError> {
        let text = fs::read_to_string(self.proc_path("smaps_rollup"));
        text.map_err(|e| TargetError::from_io(self.pid, "the memory use", e))
    }

    /// CPU time of all threads so far, user and system.
    pub fn cpu_time(&self) -> Result<Duration, TargetError> {
        let ticks = Stat::read(self.pid)?.cpu_ticks;
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64))
    }

    /// CPU time that the process has used, to the nanosecond.
    pub fn cpu_clock(&self) -> Result<Duration, TargetError> {
        // A clock of a process is its pid's complement and what is measured (`linux/posix-timers.h`: `CPUCLOCK_SCHED` is 2).
        let clock = (!(self.pid as libc::clockid_t) << 3) | 2;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a timespec to write to.
        if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
            return Err(TargetError::Gone { pid: self.pid });
        }
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    /// The state letter of `/proc/PID/stat`: R, S, D, T (stopped), t (traced), Z ...
    pub fn state(&self) -> Result<char, TargetError> {
        Ok(Stat::read(self.pid)?.state)
    }

    /// How system calls are confined.
    pub fn seccomp(&self) -> Result<Seccomp, TargetError> {
        Ok(match Status::read(self.pid)?.number("Seccomp") {
            Some(1) => Seccomp::Strict,
            Some(2) => Seccomp::Filter,
            _ => Seccomp::Disabled,
        })
    }
}

/// Becomes readable when the process exits.
impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Image {
    fn read(pid: u32) -> Result<Self, TargetError> {
        let stat = Stat::read(pid)?;
        let exe = fs::metadata(proc_path(pid, "exe")).map_err(|e| TargetError::from_io(pid, "the executable", e))?;
        let exe = FileId { dev: exe.dev(), inode: exe.ino() };
        Ok(Self { exe, start_code: stat.start_code, start_stack: stat.start_stack })
    }
}

fn read_cmdline(pid: u32) -> Result<Vec<String>, TargetError> {
    let bytes = fs::read(proc_path(pid, "cmdline")).map_err(|e| TargetError::from_io(pid, "the command line", e))?;
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
    Ok(bytes.split(|&b| b == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect())
}

/// Looks at the ELF header of the executable.
fn check_machine(pid: u32, link: &Path, exe: &Path) -> Result<(), TargetError> {
    use std::io::Read as _;
    let mut header = [0; 20];
    let read = fs::File::open(link).and_then(|mut file| file.read_exact(&mut header));
    read.map_err(|e| TargetError::from_io(pid, "the executable", e))?;
    judge_header(pid, header, exe)
}

/// Class at byte 4, machine at byte 18.
fn judge_header(pid: u32, header: [u8; 20], exe: &Path) -> Result<(), TargetError> {
    let exe = exe.display().to_string();
    match u16::from_le_bytes([header[18], header[19]]) {
        _ if header[4] != ELFCLASS64 => Err(TargetError::ThirtyTwoBit { pid, exe }),
        EM_X86_64 => Ok(()),
        machine => Err(TargetError::NotX86_64 { pid, exe, machine }),
    }
}

/// When the process with this pid started, in clock ticks since boot; `None`: there is none. A zombie still counts.
pub fn start_time(pid: u32) -> Option<u64> {
    Stat::read(pid).ok().map(|stat| stat.start_time)
}

/// A path that the target names, as this process can open it: through the target's own root.
pub(super) fn through_root(pid: u32, path: &Path) -> PathBuf {
    let mut joined = proc_path(pid, "root").into_os_string().into_vec();
    joined.extend_from_slice(path.as_os_str().as_encoded_bytes());
    PathBuf::from(std::ffi::OsString::from_vec(joined))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn cat() -> Child {
        use std::io::{Read as _, Write as _};
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Its first echo says that exec is over.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        child
    }

    #[test]
    fn a_process_is_known_until_it_exits() {
        let mut child = cat();
        let target = Target::open(child.id()).unwrap();
        assert_eq!(target.cmdline(), ["cat"]);
        assert_eq!(target.seccomp().unwrap(), Target::open(std::process::id()).unwrap().seccomp().unwrap());
        assert!(target.exe().is_absolute() && target.rss_bytes().unwrap() > 4096);
        assert!(target.still_same() && !target.has_execed() && !target.has_exited());
        assert!(target.maps().unwrap().iter().any(|m| m.file == Some(target.exe_id()) && m.executable));
        child.kill().unwrap();
        assert!(target.wait_exit(Duration::from_mins(1)));
        assert!(matches!(Target::open(child.id()), Err(TargetError::Zombie { .. })), "not reaped yet");
        assert!(!target.still_same());
        child.wait().unwrap();
        assert!(matches!(Target::open(child.id()), Err(TargetError::NoSuchProcess { .. })));
    }

    #[test]
    fn an_exec_is_noticed_even_of_the_same_program() {
        use std::io::{BufRead as _, BufReader, Write as _};
        let script = "echo one; read x; exec sh -c 'echo two; read x'";
        let mut child =
            Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let target = Target::open(child.id()).unwrap();
        assert!(!target.has_execed());
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "one\ntwo\n");
        assert!(target.has_execed() && target.still_same());
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_thread_names_its_process() {
        let (send, receive) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            send.send(rustix::thread::gettid().as_raw_nonzero().get() as u32).unwrap();
            let _ = wait.recv();
        });
        let tid = receive.recv().unwrap();
        let error = Target::open(tid).unwrap_err();
        assert!(matches!(error, TargetError::NotAProcess { tid: t, pid } if t == tid && pid == std::process::id()));
        drop(done);
        thread.join().unwrap();
    }

    #[test]
    fn pids_that_cannot_be() {
        for pid in [0, u32::MAX, i32::MAX as u32] {
            assert!(matches!(Target::open(pid), Err(TargetError::NoSuchProcess { .. })), "{pid}");
        }
        // kthreadd, where this pid namespace shows it.
        if fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n") {
            assert!(matches!(Target::open(2), Err(TargetError::KernelThread { pid: 2 })));
        }
    }

    #[test]
    fn other_machines_are_refused() {
        let header = |class: u8, machine: u8| {
            let mut header = [0; 20];
            header[..4].copy_from_slice(b"\x7fELF");
            (header[4], header[18]) = (class, machine);
            judge_header(7, header, Path::new("/x"))
        };
        assert!(header(2, 62).is_ok());
        assert!(matches!(header(1, 3), Err(TargetError::ThirtyTwoBit { pid: 7, .. })), "i386");
        assert!(matches!(header(1, 62), Err(TargetError::ThirtyTwoBit { .. })), "x32");
        assert!(matches!(header(2, 183), Err(TargetError::NotX86_64 { machine: 183, .. })), "aarch64");
    }

    #[test]
    fn a_process_of_another_user_needs_privilege() {
        if !rustix::process::geteuid().is_root() && fs::metadata("/proc/1").is_ok_and(|m| m.uid() == 0) {
            assert!(matches!(Target::open(1), Err(TargetError::PermissionDenied { pid: 1, .. })));
        }
    }
}
