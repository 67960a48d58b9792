//! One process: who it is, what it has mapped, its ELF files as it sees them, its memory. Nothing here knows Python.

pub mod memory;
