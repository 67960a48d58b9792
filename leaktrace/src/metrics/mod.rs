//! Metrics for Prometheus: [`Page`] makes the text of a report, [`Server`] serves the last one over HTTP.

mod page;
mod server;

pub use page::Page;
pub use server::{Server, ServerError};
