//! What is kept as documents, and the texts of small lists.

use serde::{Deserialize, Serialize};

use crate::model::Timeline;
use crate::model::timeline::REFERENCES;

/// Where and when a recording was made.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Origin {
    /// Version of leaktrace that wrote it.
    pub leaktrace: String,
    /// Moment of the attach, seconds since 1970.
    pub started_at: f64,
    /// The same moment as CLOCK_MONOTONIC, which all `_ns` columns tell.
    pub start_ns: u64,
    /// Resident set then, bytes.
    pub rss_bytes: u64,
}

/// What of the ledger is in no table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) timeline: Timeline,
    pub(super) contradictions: u64,
}

/// What lives of one cohort at a site: when the cohort ended (nanoseconds since the attach), bytes, blocks, and blocks at
/// the reference scans. Cohorts that were joined later end when the last of them does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cohort(pub(super) u64, pub(super) u64, pub(super) u32, pub(super) [u32; REFERENCES]);

/// Names of documents.
pub(super) mod document {
    pub(in super::super) const ORIGIN: &str = "origin";
    pub(in super::super) const FACTS: &str = "facts";
    pub(in super::super) const STATE: &str = "state";
    pub(in super::super) const COLLECTOR: &str = "collector";
    pub(in super::super) const HEAP: &str = "heap";
}
