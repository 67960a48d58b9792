//! The reference graph: which object holds which.

use super::RefsError;
use super::nodes::{NONE, Node, Nodes};
use super::visit::Visitor;
use crate::census::Type;
use crate::census::listing::{Content, Listing};
use crate::cpython::Offsets;
use crate::target::Memory;

/// How often a container whose items moved while they were read is looked at again.
const TRIES: usize = 8;

/// Neighbours of each node in one array: 4 bytes a reference and 4 a node.
#[derive(Debug, Default)]
pub struct Adjacency {
    /// Where a node's neighbours begin; one more than there are nodes.
    starts: Vec<u32>,
    targets: Vec<Node>,
}

impl Adjacency {
    pub fn of(&self, node: Node) -> &[Node] {
        let node = node as usize;
        &self.targets[self.starts[node] as usize..self.starts[node + 1] as usize]
    }

    /// How many objects there are.
    pub fn nodes(&self) -> usize {
        self.starts.len() - 1
    }

    /// From pairs of who holds whom.
    #[cfg(test)]
    pub(super) fn from_pairs(nodes: usize, pairs: &[(Node, Node)]) -> Self {
        let mut pairs = pairs.to_vec();
        pairs.sort_by_key(|(from, _)| *from);
        let starts =
            (0..=nodes).map(|node| pairs.partition_point(|(from, _)| (*from as usize) < node) as u32).collect();
        Self { starts, targets: pairs.into_iter().map(|(_, to)| to).collect() }
    }

    /// How many references there are.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// The same references the other way round.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let nodes = self.starts.len() - 1;
        let mut starts = vec![0u32; nodes + 1];
        for &target in &self.targets {
            starts[target as usize + 1] += 1;
        }
        for node in 0..nodes {
            starts[node + 1] += starts[node];
        }
        let mut targets = vec![0; self.targets.len()];
        // Each start moves to its end while the targets are put in, and back afterwards.
        for node in 0..nodes {
            for &target in &self.targets[self.starts[node] as usize..self.starts[node + 1] as usize] {
                let at = &mut starts[target as usize];
                targets[*at as usize] = node as Node;
                *at += 1;
            }
        }
        starts.copy_within(0..nodes, 1);
        starts[0] = 0;
        Self { starts, targets }
    }
}

/// The objects of a heap and their references.
#[derive(Debug)]
pub struct Graph {
    pub nodes: Nodes,
    pub types: Vec<Type>,
    pub held: Adjacency,
    /// `sys.getsizeof` of each object; what is above 4 GiB counts as that.
    pub sizes: Vec<u32>,
    /// Objects that were something else, or could not be read, when their references were looked for.
    pub gone: u64,
    /// Objects that memory of no object points at: extensions may hold them.
    pub pointed_at: Vec<Node>,
    /// Bytes of such memory in arenas.
    pub unknown_bytes: u64,
}

impl Graph {
    /// Reads the references of all objects of a listing. The target runs on.
    pub fn read(memory: &dyn Memory, offsets: &Offsets, listing: &Listing<'_>) -> Result<Self, RefsError> {
        let nodes = Nodes::new(listing).ok_or(RefsError::TooLarge)?;
        let mut visitor = Visitor::new(memory, offsets, listing.types());
        let mut held = Adjacency { starts: Vec::with_capacity(nodes.len() + 1), targets: Vec::new() };
        held.targets.reserve_exact(nodes.len() + nodes.len() / 2);
        held.starts.push(0);
        let mut sizes = Vec::with_capacity(nodes.len());
        let mut gone = 0;
        for node in 0..nodes.len() as Node {
            let targets = &mut held.targets;
            if targets.capacity() - targets.len() < 1 << 16 {
                // Not doubled: these are most of what a graph takes.
                targets.reserve_exact((targets.len() / 8).max(1 << 16));
            }
            let start = targets.len();
            let mut tries = 0..TRIES;
            let seen = loop {
                let seen = visitor.visit(nodes.address(node), nodes.type_of(node), &mut |_, address| {
                    if let Some(target) = nodes.find(address) {
                        targets.push(target);
                    }
                });
                if tries.next().is_none() || !seen.is_some_and(|seen| seen.moved) {
                    break seen;
                }
                targets.truncate(start);
            };
            gone += u64::from(seen.is_none_or(|seen| seen.moved));
            sizes.push(seen.map_or(0, |seen| u32::try_from(seen.bytes).unwrap_or(u32::MAX)));
            held.starts.push(u32::try_from(held.targets.len()).map_err(|_| RefsError::TooLarge)?);
        }
        let (pointed_at, unknown_bytes) = unknown_memory(memory, listing, &nodes);
        Ok(Self { nodes, types: listing.types().to_vec(), held, sizes, gone, pointed_at, unknown_bytes })
    }

    pub fn type_of(&self, node: Node) -> &Type {
        &self.types[usize::from(self.nodes.type_of(node))]
    }

    /// Numbers of the objects of one type.
    pub fn instances(&self, number: u16) -> impl Iterator<Item = Node> + '_ {
        (0..self.nodes.len() as Node).filter(move |&node| node != NONE && self.nodes.type_of(node) == number)
    }
}

/// What the blocks of arenas that are no objects point at.
fn unknown_memory(memory: &dyn Memory, listing: &Listing<'_>, nodes: &Nodes) -> (Vec<Node>, u64) {
    let mut found = Vec::new();
    let mut bytes = 0;
    let mut buffer = Vec::new();
    for pool in listing.pools() {
        let unknown = pool.blocks().filter(|(_, content)| *content == Content::Unknown);
        let addresses: Vec<u64> = unknown.map(|(index, _)| pool.block_address(index)).collect();
        memory.read_many(&addresses, pool.block as usize, &mut buffer);
        bytes += addresses.len() as u64 * pool.block;
        for word in buffer.as_chunks().0 {
            found.extend(nodes.find(u64::from_le_bytes(*word)));
        }
    }
    found.sort_unstable();
    found.dedup();
    (found, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reversed_twice_is_the_same() {
        let graph = Adjacency { starts: vec![0, 2, 2, 5, 6], targets: vec![1, 2, 0, 3, 3, 0] };
        let back = graph.reversed();
        assert_eq!(back.of(0), [2, 3]);
        assert_eq!(back.of(3), [2, 2]);
        let again = back.reversed();
        assert_eq!((again.starts, again.targets), (graph.starts, vec![1, 2, 0, 3, 3, 0]));
    }
}
