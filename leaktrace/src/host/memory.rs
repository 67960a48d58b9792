//! How much memory a process can still take, and giving back what this one does not need.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Memory that a process can still take, and what bounds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Available {
    pub bytes: u64,
    /// `memory.max of CGROUP` or `MemAvailable`.
    pub basis: String,
}

/// Gives what this process has freed back to the kernel: glibc keeps it in the middle of its heap.
pub fn give_back() {
    // SAFETY: malloc_trim has no precondition.
    unsafe { libc::malloc_trim(0) };
}

/// The tightest bound on a process: the limits of its control groups (v2) up to the root, and what the machine has left.
pub fn available(pid: u32) -> Option<Available> {
    let machine = machine_available().map(|bytes| Available { bytes, basis: "MemAvailable".into() });
    groups(pid).into_iter().filter_map(|group| group_available(&group)).chain(machine).min_by_key(|a| a.bytes)
}

/// The directories of a process's control group and of its parents.
fn groups(pid: u32) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::/")) else { return Vec::new() };
    let own = root.join(path);
    own.ancestors().take_while(|group| group.starts_with(root) && *group != root).map(Path::to_path_buf).collect()
}

fn group_available(group: &Path) -> Option<Available> {
    // "max": no limit here.
    let max: u64 = fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok()?;
    let current: u64 = fs::read_to_string(group.join("memory.current")).ok()?.trim().parse().ok()?;
    Some(Available { bytes: max.saturating_sub(current), basis: format!("memory.max of {}", group.display()) })
}

fn machine_available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 =
        text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_bounds_this_process() {
        let available = available(std::process::id()).unwrap();
        assert!(available.bytes <= machine_available().unwrap() + (1 << 30), "{available:?}");
    }

    #[test]
    fn a_group_with_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("memory.max"), "1000\n").unwrap();
        fs::write(dir.path().join("memory.current"), "400\n").unwrap();
        assert_eq!(group_available(dir.path()).unwrap().bytes, 600);
        fs::write(dir.path().join("memory.max"), "max\n").unwrap();
        assert_eq!(group_available(dir.path()), None);
    }
}
