//! One look at who holds what.

use super::RefsError;
use super::find;
use super::graph::{Adjacency, Graph};
use super::name::Namer;
use super::nodes::Node;
use super::path::merge;
use super::reach::Reach;
use super::roots::Roots;
use super::value::{PathGroup, Referrer};
use super::visit::Visitor;
use crate::census::Subject;
use crate::census::listing::Listing;

/// The graph of a heap with its roots.
pub struct Look {
    pub graph: Graph,
    pub holders: Adjacency,
    pub reach: Reach,
    pub roots: Roots,
}

impl Look {
    /// Reads the heap; the target runs on.
    pub fn take(subject: &Subject<'_>) -> Result<Self, RefsError> {
        let listing = Listing::take(subject)?;
        let graph = Graph::read(subject.memory, subject.offsets, &listing)?;
        let interpreters = listing.interpreters.clone();
        drop(listing);
        let holders = graph.held.reversed();
        let mut visitor = Visitor::new(subject.memory, subject.offsets, &graph.types);
        let roots = Roots::read(&mut visitor, &graph.nodes, subject.maps, &interpreters, &graph.pointed_at);
        let reach = Reach::new(&graph, &holders, &roots, subject.memory, subject.offsets);
        Ok(Self { graph, holders, reach, roots })
    }

    /// The objects of a type by its name, and its whole name.
    pub fn instances(&self, name: &str) -> Result<(String, Vec<Node>), RefsError> {
        find::instances(&self.graph, name)
    }

    /// The object at an address.
    pub fn at(&self, address: u64) -> Result<Node, RefsError> {
        find::at(&self.graph, address)
    }

    /// How objects are reached, merged by the shape of the paths.
    pub fn paths(&self, subject: &Subject<'_>, objects: &[Node]) -> Vec<PathGroup> {
        let mut visitor = Visitor::new(subject.memory, subject.offsets, &self.graph.types);
        merge(&mut Namer::new(&mut visitor, &self.graph.nodes), &self.reach, &self.roots, objects)
    }

    /// The objects that hold one, at most `most`.
    pub fn referrers(&self, subject: &Subject<'_>, object: Node, most: usize) -> Vec<Referrer> {
        let mut visitor = Visitor::new(subject.memory, subject.offsets, &self.graph.types);
        let mut namer = Namer::new(&mut visitor, &self.graph.nodes);
        let mut holders = self.holders.of(object).to_vec();
        holders.dedup();
        let holders = holders.into_iter().take(most).map(|holder| {
            let held = namer.held(holder, &[object]);
            let slot = held.slots.get(&object).copied();
            let by = slot.map(|slot| namer.step(&[holder, object], &[slot], &[held.length]).text);
            Referrer {
                name: self.graph.type_of(holder).qualified(),
                address: self.graph.nodes.address(holder),
                by: by.unwrap_or_default(),
            }
        });
        holders.collect()
    }

    /// The object's reference count now, and how many references objects have to it.
    pub fn counts(&self, subject: &Subject<'_>, object: Node) -> Option<(u32, u32)> {
        let at = self.graph.nodes.address(object).wrapping_add(subject.offsets.object.refcount.into());
        Some((subject.memory.u32(at).ok()?, self.holders.of(object).len() as u32))
    }
}
