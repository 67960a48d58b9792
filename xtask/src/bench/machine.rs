//! The machine, in general words.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// YYYY-MM-DD.
    pub(crate) date: String,
    pub(crate) architecture: String,
    pub(crate) cores: usize,
    /// Version without the builder's suffix.
    pub(crate) kernel: String,
    /// Whether it runs under a hypervisor.
    pub(crate) hypervisor: bool,
    /// Load averages of a minute: at the start and at the end.
    pub(crate) load: [f64; 2],
}

impl Machine {
    /// "2026-11-29, on a virtual machine with 2 cores (x86_64), Linux 6.18.5".
    pub(crate) fn describe(&self) -> String {
        let kind = if self.hypervisor { "a virtual machine" } else { "a machine" };
        format!("{}, on {kind} with {} cores ({}), Linux {}", self.date, self.cores, self.architecture, self.kernel)
    }

    pub(crate) fn look() -> Result<Self> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().context("cannot run date")?;
        Ok(Self {
            date: String::from_utf8_lossy(&date.stdout).trim().to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            cores: available_parallelism()?.get(),
            kernel: release.trim().split('-').next().unwrap_or_default().to_owned(),
            hypervisor: flags.split_whitespace().any(|flag| flag == "hypervisor"),
            load: [load(); 2],
        })
    }

    /// Notes the load at the end.
    pub(crate) fn finish(&mut self) {
        self.load[1] = load();
    }
}

/// Load average of the last minute.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}
