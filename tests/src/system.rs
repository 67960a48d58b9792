//! What the kernel holds: the target's text, BPF programs and links.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// The version of the kernel that runs: 6.13 is (6, 13).
pub fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split(['.', '-']).map(|number| number.trim().parse().expect("a version"));
    (numbers.next().expect("a major number"), numbers.next().expect("a minor number"))
}

/// The bytes of a process's executable file mappings that differ from the files: breakpoints that are armed.
/// Each is the file, the offset in it, and the byte in memory.
pub fn altered_text(pid: u32) -> Vec<(String, u64, u8)> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the target's maps");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("the target's memory");
    let mut altered = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(mode), Some(offset)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let Some(path) = fields.nth(2).filter(|path| path.starts_with('/')) else { continue };
        if !mode.starts_with("r-x") {
            continue;
        }
        let Some((start, end)) = range.split_once('-') else { continue };
        let number = |text| u64::from_str_radix(text, 16).expect("maps has hexadecimal numbers");
        let (start, end, offset) = (number(start), number(end), number(offset));
        let file = File::open(format!("/proc/{pid}/map_files/{start:x}-{end:x}")).expect("the mapped file");
        let in_file = (end - start).min(file.metadata().expect("a mapped file").len().saturating_sub(offset));
        let mut seen = vec![0; in_file as usize];
        let mut truth = seen.clone();
        memory.read_exact_at(&mut seen, start).expect("text is readable");
        file.read_exact_at(&mut truth, offset).expect("the file is as long as it says");
        let different = seen.iter().zip(&truth).zip(offset..).filter(|((seen, truth), _)| seen != truth);
        altered.extend(different.map(|((&seen, _), at)| (path.to_owned(), at, seen)));
    }
    altered
}

/// Waits until the text of a process is its files' again: after a SIGKILL the guardian removes what the kernel left.
///
/// # Panics
/// When it is not.
pub fn assert_unaltered(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let altered = altered_text(pid);
        if altered.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{} altered bytes stayed behind: {:?}", altered.len(), altered.first());
        std::thread::yield_now();
    }
}

/// The BPF programs and links that the kernel holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bpf {
    programs: BTreeSet<u32>,
    links: BTreeSet<u32>,
}

impl Bpf {
    /// Without the right to ask it is empty.
    pub fn now() -> Self {
        // One that is freed between its listing and the look at it is an error of the iterator, and not there.
        let programs = aya::programs::loaded_programs().filter_map(Result::ok).map(|program| program.id());
        let links = aya::programs::loaded_links().filter_map(Result::ok).map(|link| link.id());
        Self { programs: programs.collect(), links: links.collect() }
    }

    /// What a process holds. Other processes load programs at any time, so only its own are told.
    pub fn of(pid: u32) -> Self {
        let mut held = Self::default();
        let Ok(folder) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return held };
        // A descriptor that is closed between its listing and the look at it is not held.
        for text in folder.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok()) {
            let id = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u32>().ok());
            match (id("link_id:"), id("prog_id:")) {
                (Some(link), _) => held.links.extend([link]),
                (None, Some(program)) => held.programs.extend([program]),
                (None, None) => {}
            }
        }
        held
    }

    /// What is there now and was not `before`, whoever holds it.
    #[must_use]
    pub fn since(before: &Self) -> Self {
        let now = Self::now();
        Self {
            programs: now.programs.difference(&before.programs).copied().collect(),
            links: now.links.difference(&before.links).copied().collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.links.is_empty()
    }

    /// Waits until the kernel has let go of all of these: it frees programs some time after their last user.
    ///
    /// # Panics
    /// When it does not.
    pub fn assert_gone(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let now = Self::now();
            let programs: Vec<_> = self.programs.intersection(&now.programs).collect();
            let links: Vec<_> = self.links.intersection(&now.links).collect();
            if programs.is_empty() && links.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "BPF programs {programs:?} and links {links:?} stayed behind");
            std::thread::yield_now();
        }
    }
}

/// CPU time that a process has used, in ticks of a hundredth of a second (`utime` and `stime` of proc(5)).
///
/// # Panics
/// When it is not there.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let (_, after_name) = stat.rsplit_once(") ").expect("a name in brackets");
    after_name.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

/// Somebody else's breakpoint in one process, as a profiler would set it: an event of perf, which counts. Dropping it takes it out.
#[derive(Debug)]
pub struct Foreign {
    _event: OwnedFd,
}

/// `PERF_FLAG_FD_CLOEXEC` (linux/perf_event.h).
const CLOSE_ON_EXEC: libc::c_ulong = 8;

impl Foreign {
    /// # Panics
    /// When the kernel does not set it.
    pub fn set(pid: u32, file: &str, offset: u64) -> Self {
        let kind = std::fs::read_to_string("/sys/bus/event_source/devices/uprobe/type").expect("a kernel with uprobes");
        let kind: u32 = kind.trim().parse().expect("a number");
        let path = CString::new(file).expect("a path has no zeros");
        // `struct perf_event_attr` (linux/perf_event.h): type, size, and where config1 and config2 are.
        let mut attr = [0_u8; 128];
        attr[..4].copy_from_slice(&kind.to_ne_bytes());
        attr[4..8].copy_from_slice(&128_u32.to_ne_bytes());
        attr[56..64].copy_from_slice(&(path.as_ptr() as u64).to_ne_bytes());
        attr[64..72].copy_from_slice(&offset.to_ne_bytes());
        // SAFETY: the kernel reads a whole attr and the path that it points at; both outlive the call.
        let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), pid, -1, -1, CLOSE_ON_EXEC) };
        assert!(fd >= 0, "{file}+{offset:#x}: {}", std::io::Error::last_os_error());
        // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
        Self { _event: unsafe { OwnedFd::from_raw_fd(fd as i32) } }
    }
}
