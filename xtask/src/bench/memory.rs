//! What the collector needs for each live block.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::contender::Tools;
use super::leaktrace::{self, Leaktrace};
use super::process;
use super::spread::Spread;
use super::subject::Subject as _;
use super::target::Target;

/// Small objects that the target makes and keeps after the attach.
const OBJECTS: u32 = 1_000_000;
/// Enough for two looks of the collector at the table.
const SCANS: Duration = Duration::from_millis(3500);

#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    pub(crate) live_blocks: Spread,
    /// Resident set of the collector with these blocks, bytes, without the BPF maps that it has mapped.
    pub(crate) resident_bytes: Spread,
    /// The same at its largest, bytes.
    pub(crate) peak_resident_bytes: Spread,
    /// Kernel memory of its BPF maps and programs, bytes.
    pub(crate) bpf_bytes: Spread,
    /// Peak resident set and BPF memory over live blocks.
    pub(crate) bytes_per_block: Spread,
    /// What both grew by when the blocks came, over live blocks.
    pub(crate) growth_per_block: Spread,
    /// Growth of the whole machine's slab and per-CPU memory meanwhile, over live blocks: a check of `bpf_bytes`.
    pub(crate) machine_growth_per_block: Spread,
}

/// Memory of a collector, bytes.
pub(crate) struct Sample {
    pub(crate) resident: f64,
    /// Largest resident set, without mapped BPF maps.
    pub(crate) peak: f64,
    /// Kernel memory of its BPF maps and programs.
    pub(crate) bpf: f64,
    machine: f64,
}

impl Sample {
    pub(crate) fn take(pid: u32) -> Result<Self> {
        let status = format!("/proc/{pid}/status");
        let machine = process::kilobytes("/proc/meminfo", "Slab")? + process::kilobytes("/proc/meminfo", "Percpu")?;
        let mapped = process::mapped_bpf_bytes(pid)?;
        let resident = |name| process::kilobytes(&status, name).map(|bytes| bytes.saturating_sub(mapped) as f64);
        Ok(Self {
            resident: resident("VmRSS")?,
            peak: resident("VmHWM")?,
            bpf: process::bpf_bytes(pid)? as f64,
            machine: machine as f64,
        })
    }
}

pub(crate) fn measure(tools: &Tools, python: &Path, repeats: u32) -> Result<Memory> {
    let mut rounds = Vec::new();
    for _ in 0..repeats {
        // A new one each time: arenas that an earlier round left behind would hold the next one's blocks.
        let mut target = Target::start(python, "allocations")?;
        let leaktrace = Leaktrace::attach(&tools.leaktrace, target.pid(), leaktrace::EXACT, &tools.scratch)?;
        sleep(SCANS);
        let before = Sample::take(leaktrace.pid())?;
        target.hold(OBJECTS)?;
        sleep(SCANS);
        let after = Sample::take(leaktrace.pid())?;
        let (report, _) = leaktrace.detach()?;
        rounds.push((before, after, report.totals.live_blocks as f64));
    }
    let spread = |value: &dyn Fn(&(Sample, Sample, f64)) -> f64| {
        Spread::of(rounds.iter().map(value)).context("nothing was measured")
    };
    Ok(Memory {
        live_blocks: spread(&|(_, _, live)| *live)?,
        resident_bytes: spread(&|(_, after, _)| after.resident)?,
        peak_resident_bytes: spread(&|(_, after, _)| after.peak)?,
        bpf_bytes: spread(&|(_, after, _)| after.bpf)?,
        bytes_per_block: spread(&|(_, after, live)| (after.peak + after.bpf) / live)?,
        growth_per_block: spread(&|(before, after, live)| {
            (after.resident - before.resident + after.bpf - before.bpf) / live
        })?,
        machine_growth_per_block: spread(&|(before, after, live)| (after.machine - before.machine) / live)?,
    })
}
