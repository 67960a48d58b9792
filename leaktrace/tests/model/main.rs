//! The ledger and the verdicts on simulated services: streams of allocations and frees in simulated time.

mod diff;
mod ledger;
mod metrics;
mod recording;
mod report;
mod services;
mod simulator;
mod verdicts;
