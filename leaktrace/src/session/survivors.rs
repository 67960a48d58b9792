//! Some of the blocks that are outstanding, by site: whoever asks what became of them looks into memory.

use std::collections::HashMap;

use super::Session;
use crate::tracer::TracerError;

/// Address and requested bytes of some blocks of a site.
pub type Survivors = HashMap<usize, Vec<(u64, u64)>>;

impl Session {
    /// Blocks that were outstanding at the last look, at most `most` of each site (by its index in the ledger).
    pub fn survivors(&self, most: usize) -> Result<Survivors, TracerError> {
        let mut found = Survivors::new();
        let mut add = |address, block: &leaktrace_common::wire::Block| {
            if let Some(site) = self.ledger.site(block.stack) {
                let blocks = found.entry(site).or_default();
                if blocks.len() < most {
                    blocks.push((address, block.size()));
                }
            }
        };
        match &self.watch {
            Some(watch) => watch.followers.iter().for_each(|(address, block)| add(address, block)),
            None => self.tracer.each_block(&mut add)?,
        }
        Ok(found)
    }
}
