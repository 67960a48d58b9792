//! The running kernel.

use std::fmt;
use std::fs;

use crate::target::process::Seccomp;

/// Version of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl KernelVersion {
    /// Oldest kernel that can remove an element of a BPF hash and tell what it held (5.14): the sweep needs that. Atomic
    /// fetches in BPF came in 5.12, its ring buffer in 5.8, many probes in one tracefs event in 5.5.
    pub const OLDEST: Self = Self::new(5, 14, 0);

    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// The numbers that a release name such as "6.1.0-28-amd64" begins with; a missing patch level is 0.
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let patch = numbers.next().and_then(Result::ok).unwrap_or(0);
        Some(Self { major, minor, patch })
    }

    /// The running kernel's; `None` when its release name has no version.
    pub fn running() -> Option<Self> {
        Self::parse(&rustix::system::uname().release().to_string_lossy())
    }
}

/// Whether the return of a probed function can be probed without danger to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnProbes {
    /// No seccomp filter sees them.
    Safe,
    /// Not with this kernel and a target that is confined by seccomp: its filter may kill it.
    Deadly,
}

impl ReturnProbes {
    /// Since 6.11 a return probe comes back to the kernel by a system call of its own, `uretprobe`, that a seccomp
    /// filter judges like any other (`arch/x86/kernel/uprobes.c`, 6.11). 6.14 lets it pass unjudged (commit
    /// cf6cb56ef244, "seccomp: passthrough uretprobe systemcall without filtering", 6.14-rc2), and so do 6.13.3 and
    /// 6.12.14; 6.11 was never mended. A distribution's backport to another number is not known here: better to do
    /// without than to kill.
    pub fn on(kernel: KernelVersion, seccomp: Seccomp) -> Self {
        let judged = match (kernel.major, kernel.minor) {
            (6, 11) => true,
            (6, 12) => kernel.patch < 14,
            (6, 13) => kernel.patch < 3,
            _ => false,
        };
        if judged && seccomp != Seccomp::Disabled { Self::Deadly } else { Self::Safe }
    }
}

/// The kernel's lockdown mode (`none`, `integrity`, `confidentiality`), `None` when it has none or will not say.
pub fn lockdown() -> Option<String> {
    parse_lockdown(&fs::read_to_string("/sys/kernel/security/lockdown").ok()?)
}

/// The mode in brackets of "none [integrity] confidentiality".
fn parse_lockdown(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// Whether the kernel describes its own types, which the BPF programs are fitted to.
pub fn has_btf() -> bool {
    use std::io::Read as _;
    // `BTF_MAGIC` of include/uapi/linux/btf.h, little endian.
    let mut magic = [0; 2];
    fs::File::open("/sys/kernel/btf/vmlinux").is_ok_and(|mut file| file.read_exact(&mut magic).is_ok())
        && magic == [0x9f, 0xeb]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_names() {
        let parse = KernelVersion::parse;
        assert_eq!(parse("6.1.0-28-amd64"), Some(KernelVersion::new(6, 1, 0)));
        assert_eq!(parse("6.18.44-fc-v669"), Some(KernelVersion::new(6, 18, 44)));
        assert_eq!(parse("5.8-rc1"), Some(KernelVersion::new(5, 8, 0)));
        assert_eq!(parse("6.14"), Some(KernelVersion::new(6, 14, 0)));
        assert_eq!(parse(""), None);
        assert_eq!(parse("linux"), None);
        assert_eq!(parse("99999999999.1"), None);
    }

    #[test]
    fn return_probes_of_a_confined_target() {
        let deadly = [(6, 11, 0), (6, 11, 11), (6, 12, 0), (6, 12, 13), (6, 13, 0), (6, 13, 2)];
        let safe = [(5, 10, 0), (6, 1, 0), (6, 10, 14), (6, 12, 14), (6, 13, 3), (6, 14, 0), (6, 18, 44), (7, 0, 0)];
        for (versions, confined) in [(&deadly[..], ReturnProbes::Deadly), (&safe[..], ReturnProbes::Safe)] {
            for &(major, minor, patch) in versions {
                let kernel = KernelVersion::new(major, minor, patch);
                assert_eq!(ReturnProbes::on(kernel, Seccomp::Filter), confined, "{kernel}");
                assert_eq!(ReturnProbes::on(kernel, Seccomp::Strict), confined, "{kernel}");
                assert_eq!(ReturnProbes::on(kernel, Seccomp::Disabled), ReturnProbes::Safe, "{kernel}");
            }
        }
    }

    #[test]
    fn lockdown_modes() {
        assert_eq!(parse_lockdown("none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(parse_lockdown("[none] integrity confidentiality\n").as_deref(), Some("none"));
        assert_eq!(parse_lockdown(""), None);
    }
}
