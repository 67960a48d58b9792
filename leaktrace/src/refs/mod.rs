//! Who holds it: the reference graph of a running interpreter, read from its memory without any probe.

mod cycles;
pub mod dominators;
pub mod drawing;
mod find;
mod frames;
pub mod graph;
mod growth;
pub mod inserters;
mod layout;
mod look;
mod name;
pub mod nodes;
mod owners;
mod path;
mod reach;
mod repr;
mod retained;
mod roots;
mod slot;
#[cfg(test)]
mod tests;
pub mod value;
mod visit;

pub use graph::{Adjacency, Graph};
pub use growth::Before;
pub use look::{Look, evenly};
pub use nodes::{Node, Nodes};
pub use roots::{Module, Root, Roots};
pub use slot::Slot;

use crate::census::CensusError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RefsError {
    #[error("the heap has more objects or references than can be numbered (4 billion)")]
    TooLarge,
    #[error("no type {name} is in this heap{}", hint(near))]
    NoType { name: String, near: String },
    #[error("several types are called {name}: {candidates}")]
    Ambiguous { name: String, candidates: String },
    #[error("no object of type {name} is alive")]
    NoInstances { name: String },
    #[error("no object is at {address:#x}: it was freed, or it never was one{}", hint(near))]
    NoObject { address: u64, near: String },
    #[error(transparent)]
    Census(#[from] CensusError),
    #[error(transparent)]
    Memory(#[from] crate::target::MemoryError),
}

fn hint(near: &str) -> String {
    if near.is_empty() { String::new() } else { format!("; near it: {near}") }
}
