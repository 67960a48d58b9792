//! Which instructions to probe, and where the arguments are at each: a pure function of ELF bytes and interpreter facts.

use std::ops::Range;
use std::path::PathBuf;

use leaktrace_common::site::{Operand, op};

use crate::cpython::AllocatorSlot;
use crate::target::MemoryError;

pub mod assemble;
mod builder;
mod callers;
pub mod code;
pub mod dict_keys;
mod foreign;
pub mod functions;
pub mod gc;
pub mod guards;
pub mod hashing;
pub mod libc;
pub mod machine;
mod nameless;
mod native;
mod new_reference;
pub mod placement;
pub mod pymalloc;
pub mod render;
pub mod reuse;
pub mod slots;
#[cfg(test)]
mod tests;
pub mod tracked;

pub use assemble::{Inputs, plan, verify};
pub use hashing::perfect_factor;
pub use render::render;

/// Why a plan could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("{file} does not export {symbol}: it is not a CPython that can be traced")]
    NoSymbol { file: String, symbol: &'static str },
    #[error("{file}: the allocator table of domain {domain} was not found ({candidates} candidates)")]
    NoSlot { file: String, domain: &'static str, candidates: usize },
    #[error("{file}: the target's code at {address:#x} is not what the file holds: it was patched after loading")]
    Changed { file: String, address: u64 },
    #[error("{file}: a breakpoint is set at {address:#x} already: another tracer or debugger is at work, end it first")]
    Probed { file: String, address: u64 },
    #[error("the target's memory cannot be read: {0}")]
    Memory(#[from] MemoryError),
}

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
    /// The op of the entry that it closes; [`leaktrace_common::site::op::REFILLED`]: the result is a refilled pool's block.
    pub op: u8,
    pub execution: Execution,
    pub why: String,
    /// For the printed plan: the instruction in AT&T syntax.
    pub instruction: String,
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
    /// The allocator tables (raw, mem, obj) as the plan found them. Once the target changes them (tracemalloc started, say)
    /// the plan is no longer the right one.
    pub slots: [AllocatorSlot; 3],
    /// Bytes that hooks put between the start of a block of obj and what was asked for.
    pub block_head: u32,
    /// The interpreter's code, if guards of the raw domain were left out: what is called from there is a request of raw.
    pub raw_callers: Range<u64>,
    /// All that the C allocator hands out has a chunk of glibc's malloc around it.
    pub glibc: bool,
    /// Dict keys may change hands unseen: on their free list they are no one's, and nothing in them tells.
    pub unseen_dict_keys: bool,
    /// What the plan could not cover and why, for doctor and the report.
    pub gaps: Vec<String>,
    /// "pgo-guards", "stripped", "entry-probes", ... for the report's `features`.
    pub features: Vec<String>,
}

impl ProbePlan {
    /// For a target in which return probes are not safe: takes them out, and the entries that are of no use without them.
    pub fn without_returns(&mut self) {
        if self.returns.iter().any(|r| r.op != op::GC_START) {
            self.probes.retain(|p| !op::is_c(p.op));
            self.gaps.push("return probes are not safe here: blocks of the C allocator (requests above 512 bytes and native memory) are not seen".into());
        }
        if self.returns.iter().any(|r| r.op == op::GC_START) {
            self.probes.retain(|p| p.op != op::GC_START);
            self.gaps.push("return probes are not safe here: pauses of the collector are not known".into());
        }
        self.returns.clear();
    }

    /// What shows collections.
    pub fn collector(&self) -> (Vec<&Probe>, Vec<&ReturnProbe>) {
        let probes = self.probes.iter().filter(|p| op::is_collector(p.op));
        (probes.collect(), self.returns.iter().filter(|r| r.op == op::GC_START).collect())
    }

    /// Takes out all but that.
    pub fn only_collector(&mut self) {
        self.probes.retain(|p| op::is_collector(p.op));
        self.returns.retain(|r| r.op == op::GC_START);
    }
}
