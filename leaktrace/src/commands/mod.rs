//! One file a subcommand: the only place where the rooms meet.

pub(crate) mod doctor;
pub(crate) mod guard;
pub(crate) mod output;
pub(crate) mod run;
