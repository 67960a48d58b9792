//! Where the memory of a process goes, and the sentence that says so.

use serde::{Deserialize, Serialize};

use super::value::Census;

/// What the kernel says of a process's memory, in bytes (`/proc/PID/smaps_rollup`, proc_pid_smaps(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProcessMemoryUse {
    pub rss: u64,
    pub pss: u64,
    /// What would be free if the process ended.
    pub uss: u64,
    pub swap: u64,
    /// Resident memory of no file.
    pub anonymous: u64,
    /// Resident memory of files: code, mapped data.
    pub file: u64,
    /// Resident memory that other processes have too.
    pub shared: u64,
}

impl ProcessMemoryUse {
    /// From the text of `smaps_rollup`; lines that are not there count as 0.
    pub fn parse(text: &str) -> Self {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
            kib.unwrap_or(0).saturating_mul(1024)
        };
        let (rss, anonymous) = (field("Rss"), field("Anonymous"));
        Self {
            rss,
            pss: field("Pss"),
            uss: field("Private_Clean") + field("Private_Dirty"),
            swap: field("Swap"),
            anonymous,
            file: rss.saturating_sub(anonymous),
            shared: field("Shared_Clean") + field("Shared_Dirty"),
        }
    }
}

/// What most of the memory is, or most of its growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Live Python objects.
    Objects,
    /// Free space that arenas hold: fragmentation.
    Fragmentation,
    /// Memory of no file that Python's objects do not account for: C extensions, or what the C allocator keeps.
    Native,
    /// Mapped files.
    File,
}

/// The resident memory by cause, in bytes. It adds up to about the RSS: what was swapped out or shared may be in one figure
/// and not in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shares {
    pub objects: u64,
    pub fragmentation: u64,
    pub native: u64,
    pub file: u64,
}

impl Shares {
    pub fn of(census: &Census) -> Self {
        let objects = census.live_bytes();
        let fragmentation = census.arenas.free();
        let arenas = census.arenas.bytes + census.large_live_bytes();
        Self {
            objects,
            fragmentation,
            native: census.memory.anonymous.saturating_sub(arenas),
            file: census.memory.file,
        }
    }

    /// The largest.
    pub fn cause(&self) -> Cause {
        Self::largest(&[self.objects as f64, self.fragmentation as f64, self.native as f64, self.file as f64])
    }

    /// What grew most from `self` to `later`; `None` if nothing did.
    pub fn cause_of_growth(&self, later: &Self) -> Option<Cause> {
        let grown = |a: u64, b: u64| b as f64 - a as f64;
        let all = [
            grown(self.objects, later.objects),
            grown(self.fragmentation, later.fragmentation),
            grown(self.native, later.native),
            grown(self.file, later.file),
        ];
        all.iter().any(|&bytes| bytes > 0.0).then(|| Self::largest(&all))
    }

    fn largest(all: &[f64; 4]) -> Cause {
        let causes = [Cause::Objects, Cause::Fragmentation, Cause::Native, Cause::File];
        let mut best = 0;
        for (index, value) in all.iter().enumerate() {
            if *value > all[best] {
                best = index;
            }
        }
        causes[best]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figures() {
        let text = "00400000-7fff rollup\nRss:            1000 kB\nPss:             900 kB\nPss_Dirty:  5 kB\n\
            Shared_Clean: 100 kB\nPrivate_Clean:     50 kB\nPrivate_Dirty:   850 kB\nAnonymous:       800 kB\nSwap: 7 kB\n\
            SwapPss: 1 kB\n";
        let memory = ProcessMemoryUse::parse(text);
        let kib = |n: u64| n * 1024;
        assert_eq!((memory.rss, memory.pss, memory.uss), (kib(1000), kib(900), kib(900)));
        assert_eq!((memory.anonymous, memory.file, memory.swap), (kib(800), kib(200), kib(7)));
        assert_eq!(memory.shared, kib(100));
        assert_eq!(ProcessMemoryUse::parse("nonsense"), ProcessMemoryUse::default());
    }

    #[test]
    fn the_cause_is_the_largest() {
        let shares = |objects, fragmentation, native, file| Shares { objects, fragmentation, native, file };
        assert_eq!(shares(5, 9, 1, 1).cause(), Cause::Fragmentation);
        assert_eq!(shares(5, 9, 1, 1).cause_of_growth(&shares(5, 9, 1, 30)), Some(Cause::File));
        assert_eq!(shares(5, 9, 1, 1).cause_of_growth(&shares(5, 8, 1, 1)), None);
    }
}
