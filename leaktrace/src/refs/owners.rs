//! Which object a block of the allocator is, or belongs to.

use super::graph::Graph;
use super::nodes::Node;
use super::visit::Visitor;

/// What may lie between a block's begin and its object: nothing, a GC head, that and two words.
const BEFORE: [u64; 3] = [0, 16, 32];

/// The objects of blocks, each given by address and bytes; a block of dict keys, list items or values is its owner's.
pub(super) fn owners(graph: &Graph, visitor: &mut Visitor<'_>, blocks: &[(u64, u64)]) -> Vec<Option<Node>> {
    let nodes = &graph.nodes;
    let mut owners: Vec<Option<Node>> = blocks
        .iter()
        .map(|&(address, _)| BEFORE.iter().find_map(|before| nodes.find(address.wrapping_add(*before))))
        .collect();
    let mut open: Vec<(u64, u64, usize)> = Vec::new();
    for (index, &(address, bytes)) in blocks.iter().enumerate() {
        if owners[index].is_none() {
            open.push((address, address.saturating_add(bytes), index));
        }
    }
    open.sort_unstable();
    if open.is_empty() {
        return owners;
    }
    for node in 0..nodes.len() as Node {
        visitor.parts(nodes.address(node), nodes.type_of(node), &mut |part| {
            let after = open.partition_point(|(start, ..)| *start <= part);
            if let Some(&(_, end, index)) = open[..after].last()
                && part < end
            {
                owners[index].get_or_insert(node);
            }
        });
    }
    owners
}
