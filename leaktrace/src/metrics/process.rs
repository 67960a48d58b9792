//! The target's process as `process_*` metrics of other exporters describe one.

use std::fs;

use procfs::process::Stat;
use procfs::{FromRead as _, ticks_per_second};

use crate::target::process::Target;

/// As the kernel tells now. What cannot be read is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ProcessStats {
    pub virtual_bytes: Option<u64>,
    pub cpu_seconds: Option<f64>,
    pub threads: Option<u64>,
    pub open_fds: Option<u64>,
    /// Seconds since the epoch.
    pub start_time_seconds: Option<f64>,
}

impl ProcessStats {
    /// Reads them of a process.
    pub fn of(target: &Target) -> Self {
        let stat = fs::File::open(target.proc_path("stat")).ok().and_then(|file| Stat::from_read(file).ok());
        let fds = fs::read_dir(target.proc_path("fd")).ok().map(|fds| fds.count() as u64);
        let Some(stat) = stat else { return Self { open_fds: fds, ..Self::default() } };
        let ticks = ticks_per_second() as f64;
        Self {
            virtual_bytes: Some(stat.vsize),
            cpu_seconds: Some((stat.utime + stat.stime) as f64 / ticks),
            threads: u64::try_from(stat.num_threads).ok(),
            open_fds: fds,
            start_time_seconds: procfs::boot_time_secs().ok().map(|boot| boot as f64 + stat.starttime as f64 / ticks),
        }
    }
}
