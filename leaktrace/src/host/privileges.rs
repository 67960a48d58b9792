//! What this process may do.

use std::fs;
use std::io;

/// Effective capabilities and identity of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privileges {
    /// Effective user id 0.
    pub root: bool,
    /// In the first user namespace, so that root is the machine's and not a container's.
    pub initial_user_namespace: bool,
    capabilities: u64,
}

/// A capability that tracing needs: its number in `include/uapi/linux/capability.h` and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    number: u32,
    pub name: &'static str,
}

const SYS_ADMIN: Capability = Capability { number: 21, name: "CAP_SYS_ADMIN" };

/// Needed whatever else is there: reading the target's memory.
const ALWAYS: [Capability; 1] = [Capability { number: 19, name: "CAP_SYS_PTRACE" }];
/// Each may be had through [`SYS_ADMIN`] as well (5.8 and later): BPF, perf events.
const OR_SYS_ADMIN: [Capability; 2] =
    [Capability { number: 39, name: "CAP_BPF" }, Capability { number: 38, name: "CAP_PERFMON" }];

impl Privileges {
    /// This process's.
    pub fn own() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let uid_map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Ok(Self {
            root: rustix::process::geteuid().is_root(),
            initial_user_namespace: is_whole_map(&uid_map),
            capabilities: effective(&status).unwrap_or(0),
        })
    }

    /// The capabilities that tracing needs and this process has not.
    pub fn missing(&self) -> Vec<Capability> {
        let has = |c: &Capability| self.capabilities & (1 << c.number) != 0;
        let mut missing: Vec<Capability> = ALWAYS.into_iter().filter(|c| !has(c)).collect();
        if !has(&SYS_ADMIN) {
            missing.extend(OR_SYS_ADMIN.into_iter().filter(|c| !has(c)));
        }
        missing
    }

    /// May mount a file system in a namespace of its own.
    pub fn can_mount(&self) -> bool {
        self.capabilities & (1 << SYS_ADMIN.number) != 0
    }
}

/// `CapEff:` of `/proc/PID/status`.
fn effective(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

/// The first user namespace maps every id to itself.
fn is_whole_map(uid_map: &str) -> bool {
    uid_map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// Raises this process's limit on locked memory, which kernels before 5.11 charge BPF maps to. A refusal is no error:
/// newer kernels do not look at it.
pub fn raise_memlock() -> bool {
    use rustix::process::{Resource, Rlimit, setrlimit};
    setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(capabilities: &[u32]) -> Vec<&'static str> {
        let capabilities = capabilities.iter().fold(0, |all, number| all | 1 << number);
        let privileges = Privileges { root: true, initial_user_namespace: true, capabilities };
        privileges.missing().iter().map(|c| c.name).collect()
    }

    #[test]
    fn missing_capabilities() {
        assert_eq!(with(&[]), ["CAP_SYS_PTRACE", "CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(with(&[21]), ["CAP_SYS_PTRACE"]);
        assert_eq!(with(&[19, 38]), ["CAP_BPF"]);
        assert!(with(&[19, 38, 39]).is_empty());
        assert!(with(&[19, 21]).is_empty());
    }

    #[test]
    fn parses_the_status() {
        assert_eq!(effective("Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(effective("CapEff:\tx\n"), None);
        assert!(is_whole_map("         0          0 4294967295\n"));
        assert!(!is_whole_map("         0       1000          1\n"));
        assert!(!is_whole_map(""));
    }
}
