//! Whether the collector's lists are closed, told without walking them.
//!
//! In closed lists each node is the next of exactly one node: the nodes and their nexts are the same set. The sums over both
//! of a hash agree then, and only by a chance of 2^-64 otherwise.

/// Sums over the nodes of all lists.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Links {
    nodes: u64,
    nexts: u64,
}

impl Links {
    /// A node, which may be the head of a list, and the one after it.
    pub(super) fn add(&mut self, node: u64, next: u64) {
        self.nodes = self.nodes.wrapping_add(mix(node));
        self.nexts = self.nexts.wrapping_add(mix(next));
    }

    /// Whether every node leads to a node.
    pub(super) fn are_closed(&self) -> bool {
        self.nodes == self.nexts
    }
}

/// The finaliser of SplitMix64.
fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_closed_and_a_torn_one_is_not() {
        let ring = |nodes: &[(u64, u64)]| {
            let mut links = Links::default();
            for &(node, next) in nodes {
                links.add(node, next);
            }
            links.are_closed()
        };
        assert!(ring(&[]));
        assert!(ring(&[(16, 32), (48, 16), (32, 48), (64, 64)]));
        assert!(!ring(&[(16, 32), (48, 16), (32, 16), (64, 64)]));
        assert!(!ring(&[(16, 32), (32, 48)]));
    }
}
