//! The kernel's tracefs, where probe events are defined.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// `TRACEFS_MAGIC` of include/uapi/linux/magic.h.
const MAGIC: i64 = 0x7472_6163;
/// Where it is mounted by convention. The kernel makes the first directory for that, and mounts the second by itself
/// when debugfs is mounted.
const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Why there is no tracefs to use.
#[derive(Debug, thiserror::Error)]
pub enum TracefsError {
    #[error("no tracefs is mounted, and mounting one needs a thread of its own before others start")]
    Threaded,
    #[error("no tracefs is mounted, and mounting one for this process alone failed: {0}")]
    Mount(#[source] io::Error),
    #[error("the tracefs at {} has no uprobe_events: this kernel was built without CONFIG_UPROBE_EVENTS", .0.display())]
    NoUprobes(PathBuf),
    #[error("no permission to write {}: run as root", .0.display())]
    PermissionDenied(PathBuf),
    #[error("cannot write {}: {source}", path.display())]
    Unusable { path: PathBuf, source: io::Error },
}

/// How a tracefs came to be where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was mounted already.
    Mounted,
    /// In this process's own mount namespace, gone with it.
    Private,
}

/// A tracefs whose `uprobe_events` can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracefs {
    pub root: PathBuf,
    pub origin: Origin,
}

impl Tracefs {
    /// A mounted tracefs, or else one mounted in a private mount namespace.
    ///
    /// Must be called while this process has one thread only: a namespace is a thread's, and its later threads inherit
    /// it. Paths resolve as before, `/proc/PID/root/...` too.
    pub fn find_or_mount() -> Result<Self, TracefsError> {
        let found = match Self::find_mounted() {
            Some(root) => Self { root, origin: Origin::Mounted },
            None => Self { root: mount_privately()?, origin: Origin::Private },
        };
        found.check()?;
        Ok(found)
    }

    fn find_mounted() -> Option<PathBuf> {
        let conventional = PLACES.iter().map(PathBuf::from);
        let others = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        conventional.chain(mount_points(&others)).find(|root| is_tracefs(root))
    }

    /// The file that probes are defined in.
    pub fn uprobe_events(&self) -> PathBuf {
        self.root.join("uprobe_events")
    }

    /// Opens `uprobe_events` for writing and defines nothing.
    fn check(&self) -> Result<(), TracefsError> {
        let path = self.uprobe_events();
        match fs::OpenOptions::new().append(true).open(&path) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(TracefsError::NoUprobes(self.root.clone())),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(TracefsError::PermissionDenied(path)),
            Err(source) => Err(TracefsError::Unusable { path, source }),
        }
    }
}

fn is_tracefs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == MAGIC)
}

/// Mount points of type tracefs in the text of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
fn mount_points(mountinfo: &str) -> Vec<PathBuf> {
    let point = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let is_tracefs = file_system.split(' ').next()? == "tracefs";
        // A path with escaped characters (blanks) would have to be decoded; nobody mounts a tracefs there.
        is_tracefs.then(|| mount.split(' ').nth(4).map(PathBuf::from)).flatten()
    };
    mountinfo.lines().filter_map(point).collect()
}

fn mount_privately() -> Result<PathBuf, TracefsError> {
    let failed = |e: rustix::io::Errno| TracefsError::Mount(e.into());
    if fs::read_dir("/proc/self/task").map_or(0, Iterator::count) != 1 {
        return Err(TracefsError::Threaded);
    }
    // SAFETY: without UnshareFlags::FILES no file descriptor changes; this is the only thread, so no other is left
    // behind in the old namespace.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(failed)?;
    // Ours must not reach the others, but what they unmount should go here too: a copy kept would hold it busy.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM).map_err(failed)?;
    let root = PathBuf::from(PLACES[0]);
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tracefs", &root, "tracefs", flags, None).map_err(failed)?;
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_of_tracefs() {
        let mountinfo = "\
24 29 0:22 / /proc rw,nosuid - proc proc rw
31 24 0:12 / /sys/kernel/tracing rw,relatime shared:5 master:1 - tracefs tracefs rw
32 24 0:12 / /mnt/t rw - tracefs nodev rw
33 24 0:12 / /tracefs rw - ext4 tracefs rw
short line
";
        assert_eq!(mount_points(mountinfo), [PathBuf::from("/sys/kernel/tracing"), PathBuf::from("/mnt/t")]);
    }

    #[test]
    fn other_file_systems_are_not_tracefs() {
        assert!(!is_tracefs(Path::new("/proc")));
        assert!(!is_tracefs(Path::new("/does/not/exist")));
    }
}
