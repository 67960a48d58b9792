//! What was allocated, what is left of it, and what that means: stacks, ledger, cohorts, growth and verdict.
//!
//! Pure: no I/O, no clock, no BPF. Times are CLOCK_MONOTONIC nanoseconds that the caller passes in.

mod ageing;
pub mod gc;
pub mod growth;
pub mod ledger;
pub mod sampling;
pub mod stacks;
pub mod timeline;
pub mod trail;
pub mod verdict;

pub use gc::{Collection, GcLog};
pub use growth::Rate;
pub use ledger::{Ledger, Pass, ScanEnd, Site};
pub use stacks::{Frame, FrameKind, FrameRef, Root, Stack, StackId, Stacks};
pub use timeline::Timeline;
pub use trail::{Tally, Trail};
pub use verdict::{Criteria, Evidence, Growth, Judgement, Verdict};
