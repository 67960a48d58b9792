//! One file a subcommand: the only place where the rooms meet.

pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod gc;
pub(crate) mod guard;
pub(crate) mod heap;
pub(crate) mod output;
pub(crate) mod refs;
pub(crate) mod run;
