//! leaktrace finds memory leaks in a running CPython service from outside it. See ARCHITECTURE.md for the rooms.

pub mod census;
pub mod cpython;
pub mod export;
pub mod host;
pub mod metrics;
pub mod model;
pub mod plan;
pub mod recording;
pub mod refs;
pub mod report;
pub mod session;
pub mod target;
pub mod top;
pub mod tracer;
pub mod watch;
