//! Shortest paths from the roots to every object, and what no root reaches.

use std::collections::{HashMap, VecDeque};

use super::graph::{Adjacency, Graph};
use super::nodes::{NONE, Node};
use super::roots::{Root, Roots};
use crate::census::object::count_of;
use crate::cpython::Offsets;
use crate::target::Memory;

/// Reference counts read at once.
const BATCH: usize = 4096;
/// `ob_refcnt` from here on is that of an immortal object (PEP 683).
pub(super) const IMMORTAL: u32 = 1 << 30;

/// The tree of shortest paths.
#[derive(Debug)]
pub struct Reach {
    /// The object that leads to each; itself for roots, [`NONE`] where no root leads.
    parents: Vec<Node>,
    roots: HashMap<Node, Root>,
}

impl Reach {
    /// Breadth first, by ranks of roots: what a module reaches is the module's, whatever else holds it. References that are
    /// counted but that no object has prove that C code holds an object.
    pub fn new(graph: &Graph, holders: &Adjacency, roots: &Roots, memory: &dyn Memory, offsets: &Offsets) -> Self {
        let mut reach = Self { parents: vec![NONE; graph.nodes.len()], roots: HashMap::new() };
        reach.spread(graph, &roots.modules_held);
        reach.spread(graph, &roots.threads_held);
        let gaps = reach.gaps(graph, holders, memory, offsets);
        let others = roots.others.iter().copied().filter(|(node, root)| *root == Root::Type || gaps.contains_key(node));
        let others: Vec<_> = others.collect();
        for rank in [Rank::Interpreter, Rank::Type, Rank::Static, Rank::Memory] {
            let of_rank: Vec<_> = others.iter().copied().filter(|(_, root)| Rank::of(*root) == rank).collect();
            reach.spread(graph, &of_rank);
        }
        let mut held: Vec<_> = gaps.into_iter().map(|(node, gap)| (node, Root::Held(gap))).collect();
        held.sort_unstable_by_key(|(node, _)| *node);
        reach.spread(graph, &held);
        reach
    }

    fn spread(&mut self, graph: &Graph, roots: &[(Node, Root)]) {
        let mut queue = VecDeque::new();
        for &(node, root) in roots {
            if self.parents[node as usize] == NONE {
                self.parents[node as usize] = node;
                self.roots.insert(node, root);
                queue.push_back(node);
            }
        }
        while let Some(node) = queue.pop_front() {
            for &target in graph.held.of(node) {
                let parent = &mut self.parents[target as usize];
                if *parent == NONE {
                    *parent = node;
                    queue.push_back(target);
                }
            }
        }
    }

    /// Of the objects not reached yet, those with more references than objects have to them, and how many more.
    fn gaps(&self, graph: &Graph, holders: &Adjacency, memory: &dyn Memory, offsets: &Offsets) -> HashMap<Node, u32> {
        let mut gaps = HashMap::new();
        let unreached: Vec<Node> = self.unreached().collect();
        let mut buffer = Vec::new();
        for batch in unreached.chunks(BATCH) {
            let header = offsets.header() as usize;
            let addresses: Vec<u64> = batch.iter().map(|&node| graph.nodes.address(node)).collect();
            let read = memory.read_many(&addresses, header, &mut buffer);
            for ((&node, header), read) in batch.iter().zip(buffer.chunks_exact(header)).zip(read) {
                let (count, known) = (count_of(offsets, header), holders.of(node).len() as u32);
                if read && count > known {
                    gaps.insert(node, count - known);
                }
            }
        }
        gaps
    }

    /// Objects that no root leads to, by rising number.
    pub fn unreached(&self) -> impl Iterator<Item = Node> + '_ {
        (0..self.parents.len() as Node).filter(|&node| self.parents[node as usize] == NONE)
    }

    pub fn is_reached(&self, node: Node) -> bool {
        self.parents[node as usize] != NONE
    }

    /// The object that leads to one; `None` for roots and where no root leads.
    pub fn parent(&self, node: Node) -> Option<Node> {
        let parent = self.parents[node as usize];
        (parent != NONE && parent != node).then_some(parent)
    }

    pub fn root(&self, node: Node) -> Option<Root> {
        self.roots.get(&node).copied()
    }

    /// The path to an object: root first, the object last. Empty if no root leads there.
    pub fn path(&self, node: Node) -> Vec<Node> {
        let mut path = Vec::new();
        if self.is_reached(node) {
            path.push(node);
            while let Some(parent) = self.parent(path[path.len() - 1]) {
                path.push(parent);
            }
            path.reverse();
        }
        path
    }

    /// All objects that are roots.
    pub fn root_nodes(&self) -> impl Iterator<Item = Node> + '_ {
        self.roots.keys().copied()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rank {
    Interpreter,
    Type,
    Static,
    Memory,
}

impl Rank {
    fn of(root: Root) -> Self {
        match root {
            Root::Static(_) => Self::Static,
            Root::Memory => Self::Memory,
            Root::Type => Self::Type,
            _ => Self::Interpreter,
        }
    }
}
