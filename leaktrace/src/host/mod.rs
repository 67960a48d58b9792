//! The machine that leaktrace runs on: what its kernel and our privileges allow. Knows neither Python nor probes.

pub mod bpf;
pub mod claim;
pub mod freeze;
pub mod kernel;
pub mod memory;
pub mod perf;
pub mod priority;
pub mod privileges;
pub mod signals;
pub mod tracefs;
