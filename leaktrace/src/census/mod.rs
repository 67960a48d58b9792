//! The heap census: what is in the heap of a running interpreter, read from its memory without any probe.
//!
//! [`take`] reads; [`Census`] is the value that it gives, and that every view, [`diff`] and [`growth`] work on.

mod c_heap;
pub mod collector;
pub mod diff;
mod duplicates;
pub mod growth;
mod labels;
mod links;
pub mod listing;
mod look;
pub mod memory;
mod native;
pub mod object;
mod regions;
mod scan;
mod segments;
mod sizeof;
mod take;
mod tally;
#[cfg(test)]
pub(crate) mod tests;
mod types;
mod value;
pub mod watched;

pub use c_heap::CHeap;
pub use memory::ProcessMemoryUse;
pub use regions::{AddressMap, Region, Regions};
pub use take::{Subject, take};
pub use types::{Shape, Type, Types};
pub use value::{
    Arenas, Census, Consistency, Container, DuplicateGroup, Duplicates, Kinds, PartCount, SCHEMA, SizeClass, Totals,
    TypeCount,
};

use crate::cpython::SnapshotError;
use crate::cpython::mimalloc::MimallocError;

/// Why there is no census.
#[derive(Debug, thiserror::Error)]
pub enum CensusError {
    #[error("process {pid} does not use pymalloc (PYTHONMALLOC, or a build without it): its heap cannot be listed")]
    NoPymalloc { pid: u32 },
    #[error("the heap of process {pid} cannot be read: {reason}")]
    Mimalloc { pid: u32, reason: MimallocError },
    #[error("no object of process {pid} could be told: its memory is not that of the CPython it says it is")]
    NoTypes { pid: u32 },
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Target(#[from] crate::target::TargetError),
    #[error(transparent)]
    Memory(#[from] crate::target::MemoryError),
}
