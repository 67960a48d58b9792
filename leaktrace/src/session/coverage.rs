//! How much of what appeared in pymalloc's pools the probes saw.
//!
//! The pools know every block in use, whoever asked for it. Those that were in use at the attach are remembered; any other
//! block in use must be in the table. What is not was missed.

use leaktrace_common::wire::Block;

use crate::cpython::{
    pools::{BlockState, Pools},
    used_set::UsedSet,
};

/// Blocks of pymalloc in use, by what is known of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    /// In use since before the attach.
    pub older: u64,
    /// Appeared since and in the table.
    pub seen: u64,
    /// Appeared since and not in the table.
    pub missed: u64,
}

impl Coverage {
    /// Share of the blocks that appeared since the attach and were seen; 1 when none appeared.
    pub fn ratio(&self) -> f64 {
        let new = self.seen + self.missed;
        if new == 0 { 1.0 } else { self.seen as f64 / new as f64 }
    }
}

/// The blocks that were in use at the attach, less those freed since.
#[derive(Debug, Default)]
pub struct Older(UsedSet);

impl Older {
    /// From the pools as they were right after the plan was armed.
    pub fn new(pools: &Pools) -> Self {
        Self(pools.used_set())
    }

    /// A block that the table holds was handed out since the attach, so what was there before is gone.
    pub fn forget(&mut self, address: u64, block: &Block) {
        if block.in_pool() {
            self.0.remove(address);
        }
    }

    /// Compares the pools with the addresses that the table holds; forgets those older blocks that are free now.
    pub fn compare(&mut self, pools: &Pools, table: &UsedSet) -> Coverage {
        let mut coverage = Coverage::default();
        for (address, _) in pools.used_blocks() {
            if table.contains(address) {
                coverage.seen += 1;
            } else if self.0.contains(address) {
                coverage.older += 1;
            } else {
                coverage.missed += 1;
            }
        }
        self.0
            .retain(|address| pools.block(address) != BlockState::Free && pools.block(address) != BlockState::Outside);
        coverage
    }
}
