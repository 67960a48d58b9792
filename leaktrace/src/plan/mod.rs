//! Which instructions to probe, and where the arguments are at each: a pure function of ELF bytes and interpreter facts.

use std::path::PathBuf;

use leaktrace_common::site::Operand;

/// How the kernel executes a probed instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// Emulated (push, nop, jmp, jcc, call rel32): about 0.6 us a hit.
    Emulated,
    /// Single-stepped out of line: 11 us and more a hit in a virtual machine.
    SingleStepped,
}

/// One instruction to arm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Index into [`ProbePlan::files`].
    pub file: usize,
    /// Offset in the file, what the kernel's uprobe wants.
    pub file_offset: u64,
    /// Address in the target.
    pub address: u64,
    /// One of [`leaktrace_common::site::op`].
    pub op: u8,
    /// One of [`leaktrace_common::site::domain`].
    pub domain: u8,
    pub a: Operand,
    pub b: Operand,
    pub execution: Execution,
    /// For the printed plan: "guard of obj.malloc", "entry of libc malloc + 0".
    pub why: String,
    /// For the printed plan: the instruction in AT&T syntax.
    pub instruction: String,
    /// The instruction's bytes, to be proved equal to what is mapped in the target before it is armed.
    pub bytes: Vec<u8>,
}

/// A function whose return is probed as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnProbe {
    pub file: usize,
    /// Offset in the file of the instruction where the stack pointer still is the entry's.
    pub file_offset: u64,
    pub address: u64,
    /// The op of the entry that it closes.
    pub op: u8,
    pub why: String,
    pub bytes: Vec<u8>,
}

/// A file that probes are set in: the mapped inode, opened through the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanFile {
    /// Path by which this process can open the mapped inode (e.g. through /proc/PID/root).
    pub open_path: PathBuf,
    /// Path as the target names it.
    pub display: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProbePlan {
    pub files: Vec<PlanFile>,
    pub probes: Vec<Probe>,
    pub returns: Vec<ReturnProbe>,
    /// What the plan could not cover and why, for doctor and the report.
    pub gaps: Vec<String>,
    /// "pgo-guards", "stripped", "entry-probes", ... for the report's `features`.
    pub features: Vec<String>,
}

/// stub for the merge
pub fn perfect_factor(a: &[u64]) -> Option<u64> {
    let mut x = 0x9e3779b97f4a7c15u64;
    for _ in 0..1000000 { x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); let f = x | 1;
        let mut s: Vec<u32> = a.iter().map(|&i| leaktrace_common::site::slot(i, f)).collect(); s.sort(); s.dedup(); if s.len() == a.len() { return Some(f) } }
    None
}
