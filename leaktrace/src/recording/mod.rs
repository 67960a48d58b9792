//! Recordings: what a trace found out, in one SQLite file that grows while it goes on (docs/recording.md has the schema).
//!
//! [`Recorder`] writes after each scan what changed, in one transaction: what was committed survives the end of the
//! collector, however it comes. [`Recording`] puts the [`Ledger`](crate::model::Ledger) and the facts together again, so
//! that the report, and every view of it, is built by the code that builds the live one and has the same numbers.
//! [`History`] is what is only over time. Nothing here needs a process, privileges or a clock.

mod check;
mod history;
mod open;
mod reader;
mod retention;
mod value;
mod writer;

pub use history::{CensusPoint, History, Level, Moment, PastCollection, TypeHistory};
pub use open::is_one;
pub use reader::Recording;
pub use value::Origin;
pub use writer::Recorder;

use std::path::PathBuf;

/// `PRAGMA application_id`: "LTRK".
pub const APPLICATION_ID: i32 = 0x4c54_524b;
/// `PRAGMA user_version`: tables and columns may be added under a version, none changes its meaning.
pub const VERSION: i32 = 1;

/// Why there is no recording, or none can be written.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: rusqlite::Error },
    #[error("cannot make {}: {source}", path.display())]
    Create { path: PathBuf, source: std::io::Error },
    #[error("cannot read {}: {source}", path.display())]
    Open { path: PathBuf, source: std::io::Error },
    #[error("{} is not a recording of leaktrace", path.display())]
    Foreign { path: PathBuf },
    #[error("{} was recorded by a newer leaktrace: its version is {version}, this one reads {VERSION}", path.display())]
    Newer { path: PathBuf, version: i32 },
    #[error("{} holds nothing yet: its trace had not begun", path.display())]
    Empty { path: PathBuf },
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
}
