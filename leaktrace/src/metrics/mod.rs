//! The report as Prometheus metrics, and the HTTP server that gives them out. See docs/metrics.md for the list.

mod exporter;
mod process;
mod server;
mod site;
mod text;

pub use exporter::Exporter;
pub use process::ProcessStats;
pub use server::{ListenError, Server};

/// Most lines, and most types, that have series at one time.
pub const TOP: usize = 20;
