//! One file a subcommand: the only place where the rooms meet.

mod diagnostics;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod gc;
pub(crate) mod guard;
pub(crate) mod heap;
pub(crate) mod output;
mod progress;
pub(crate) mod refs;
pub(crate) mod report;
pub(crate) mod run;
mod screen;
pub(crate) mod shell;
pub(crate) mod top;

use tokio::time::{Instant, sleep_until};

/// Waits for a time; without one for ever.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
