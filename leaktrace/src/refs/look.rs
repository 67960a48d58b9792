//! One look at who holds what.

use std::collections::{BTreeMap, HashMap};

use super::RefsError;
use super::cycles::garbage;
use super::dominators::Dominators;
use super::find;
use super::graph::{Adjacency, Graph};
use super::growth::{Before, growth};
use super::name::Namer;
use super::nodes::Node;
use super::owners::owners;
use super::path::merge;
use super::reach::{IMMORTAL, Reach};
use super::retained::retained;
use super::roots::{Root, Roots};
use super::slot::Slot;
use super::value::{Garbage, Growth, Objects, OneObject, PathGroup, Referrer, Retained};
use super::visit::Visitor;
use crate::census::Subject;
use crate::census::listing::Listing;
use crate::census::object::count_of;
use crate::cpython::{GcState, threads};

/// Most holders of one object that are named.
const MAX_REFERRERS: usize = 1000;

/// The graph of a heap with its roots.
pub struct Look {
    pub graph: Graph,
    pub holders: Adjacency,
    pub reach: Reach,
    pub roots: Roots,
    /// A collection ran while the heap was read.
    pub collecting: bool,
}

impl Look {
    /// Reads the heap; the target runs on.
    pub fn take(subject: &Subject<'_>) -> Result<Self, RefsError> {
        let listing = Listing::take(subject)?;
        let graph = Graph::read(subject.memory, subject.offsets, &listing)?;
        let interpreters = listing.interpreters.clone();
        let collecting = listing.collecting;
        drop(listing);
        let holders = graph.held.reversed();
        let mut visitor = Visitor::new(subject.memory, subject.offsets, &graph.types);
        let statics = graph.types.iter().filter(|of| !of.heap).map(|of| of.address);
        let roots = Roots::read(&mut visitor, &graph.nodes, subject.maps, &interpreters, &graph.pointed_at, statics);
        let reach = Reach::new(&graph, &holders, &roots, subject.memory, subject.offsets);
        Ok(Self { graph, holders, reach, roots, collecting })
    }

    /// Who holds the objects of a type; the paths of at most `samples` of them are looked for.
    pub fn of_type(&self, subject: &Subject<'_>, name: &str, samples: usize) -> Result<Objects, RefsError> {
        let (name, objects) = self.instances(name)?;
        let sampled = evenly(&objects, samples);
        Ok(Objects {
            name,
            count: objects.len() as u64,
            sampled: sampled.len() as u64,
            unreachable: sampled.iter().filter(|&&object| !self.reach.is_reached(object)).count() as u64,
            paths: self.paths(subject, &sampled),
        })
    }

    /// Who holds the objects at some addresses.
    pub fn of_objects(&self, subject: &Subject<'_>, addresses: &[u64]) -> Result<Vec<OneObject>, RefsError> {
        let objects: Vec<Node> = addresses.iter().map(|&address| self.at(address)).collect::<Result<_, _>>()?;
        let retained = self.dominators().retained(&self.graph.sizes);
        // What only passes through a frame may be borrowed: local variables are not.
        let mut in_frames: HashMap<Node, u64> = HashMap::new();
        for (node, root) in &self.roots.threads_held {
            if matches!(root, Root::Frame(_, Slot::Local(_))) {
                *in_frames.entry(*node).or_default() += 1;
            }
        }
        let mut visitor = Visitor::new(subject.memory, subject.offsets, &self.graph.types);
        let mut namer = Namer::new(&mut visitor, &self.graph.nodes);
        let one = |&object: &Node| {
            let address = self.graph.nodes.address(object);
            let header = subject.memory.bytes(address, subject.offsets.header() as usize).ok();
            let count = header.map(|header| count_of(subject.offsets, &header)).filter(|&count| count < IMMORTAL);
            let by_objects = self.holders.of(object).len() as u64;
            OneObject {
                address,
                name: self.graph.type_of(object).qualified(),
                bytes: self.graph.sizes[object as usize].into(),
                reference_count: count.map(u64::from),
                references_found: by_objects + in_frames.get(&object).copied().unwrap_or(0),
                retained_bytes: retained[object as usize],
                path: self.paths_by(&mut namer, &[object]).pop(),
                referrers: self.referrers(&mut namer, object, MAX_REFERRERS),
            }
        };
        Ok(objects.iter().map(one).collect())
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
        self.paths_by(&mut Namer::new(&mut visitor, &self.graph.nodes), objects)
    }

    fn paths_by(&self, namer: &mut Namer<'_, '_>, objects: &[Node]) -> Vec<PathGroup> {
        merge(namer, &self.reach, &self.roots, objects).into_iter().map(|(group, _)| group).collect()
    }

    /// The objects that hold one, at most `most`.
    fn referrers(&self, namer: &mut Namer<'_, '_>, object: Node, most: usize) -> Vec<Referrer> {
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

    /// Through what blocks of the allocator (address, bytes) are held: paths up to the first container of many, and their
    /// share, most first; `None` stands for cycles that nothing holds. Blocks that are no objects and belong to none are left
    /// out; all of them may be.
    pub fn holders_of(&self, subject: &Subject<'_>, blocks: &[(u64, u64)]) -> Vec<(Option<String>, f64)> {
        let mut visitor = Visitor::new(subject.memory, subject.offsets, &self.graph.types);
        let objects: Vec<Node> = owners(&self.graph, &mut visitor, blocks).into_iter().flatten().collect();
        let unreached = objects.iter().filter(|&&object| !self.reach.is_reached(object)).count();
        let mut shares: BTreeMap<Option<String>, f64> = BTreeMap::new();
        for group in self.paths_by(&mut Namer::new(&mut visitor, &self.graph.nodes), &objects) {
            *shares.entry(Some(to_container(&group.path).to_owned())).or_default() += group.share;
        }
        if unreached > 0 {
            shares.insert(None, unreached as f64 / objects.len() as f64);
        }
        let mut held: Vec<(Option<String>, f64)> = shares.into_iter().collect();
        held.sort_by(|a, b| b.1.total_cmp(&a.1));
        held
    }

    /// Which object alone keeps which alive.
    pub fn dominators(&self) -> Dominators {
        let mut roots: Vec<Node> = self.reach.root_nodes().collect();
        roots.sort_unstable();
        Dominators::new(&self.graph.held, &self.holders, &roots)
    }

    /// What grew since an earlier look.
    pub fn growth(&self, subject: &Subject<'_>, before: &Before, seconds: f64) -> Growth {
        growth(self, subject, before, &self.dominators(), seconds)
    }

    /// What would be freed with types, modules and containers.
    pub fn retained(&self, subject: &Subject<'_>) -> Retained {
        retained(self, subject, &self.dominators())
    }

    /// What nothing reaches.
    pub fn garbage(&self, subject: &Subject<'_>, before: Option<&Before>) -> Garbage {
        let mut visitor = Visitor::new(subject.memory, subject.offsets, &self.graph.types);
        let mut namer = Namer::new(&mut visitor, &self.graph.nodes);
        let is_new = |node| before.is_some_and(|before| before.is_new(self.graph.nodes.address(node)));
        let mut garbage = garbage(&self.graph, &self.reach, &mut namer, &is_new);
        let interpreters = threads::interpreters(subject.memory, subject.offsets, subject.runtime).unwrap_or_default();
        garbage.collector_enabled = interpreters.last().and_then(|main| {
            let state = GcState::read(subject.memory, subject.offsets, subject.runtime, main.address);
            Some(state.ok()?.enabled)
        });
        garbage
    }
}

/// At most so many of some objects, taken evenly.
pub fn evenly(objects: &[Node], most: usize) -> Vec<Node> {
    if objects.len() <= most {
        return objects.to_vec();
    }
    (0..most).map(|index| objects[(index as u128 * objects.len() as u128 / most as u128) as usize]).collect()
}

/// A merged path up to where it leads to one of many: `app.CACHE[*]` of `app.CACHE[*].text`.
fn to_container(path: &str) -> &str {
    let many = ["[*]", "{*}"].iter().filter_map(|any| Some(path.find(any)? + any.len())).min();
    many.map_or(path, |end| &path[..end])
}
