//! What would be freed with a type's objects, a module's, a container's.

use std::collections::HashMap;

use super::dominators::Dominators;
use super::look::Look;
use super::name::Namer;
use super::nodes::Node;
use super::path::merge;
use super::value::{Retained, RetainedContainer, RetainedSum};
use super::visit::Visitor;
use crate::census::{Shape, Subject};

/// Containers that are named.
const CONTAINERS: usize = 50;

/// Sums over the dominator tree.
pub(super) fn retained(look: &Look, subject: &Subject<'_>, dominators: &Dominators) -> Retained {
    let graph = &look.graph;
    let sizes = dominators.retained(&graph.sizes);
    let mut visitor = Visitor::new(subject.memory, subject.offsets, &graph.types);
    let mut namer = Namer::new(&mut visitor, &graph.nodes);
    Retained {
        types: by_type(look, dominators, &sizes),
        modules: by_module(look, &mut namer, dominators, &sizes),
        containers: by_container(look, &mut namer, &sizes),
    }
}

/// Objects that another of their type keeps alive count once.
fn by_type(look: &Look, dominators: &Dominators, sizes: &[u64]) -> Vec<RetainedSum> {
    let graph = &look.graph;
    let mut sums = vec![(0u64, 0u64); graph.types.len()];
    // How many objects of each type the way down leads through.
    let mut open = vec![0u32; graph.types.len()];
    let mut way: Vec<u16> = Vec::new();
    for (node, depth) in dominators.nested() {
        for number in way.drain(depth as usize - 1..) {
            open[usize::from(number)] -= 1;
        }
        let number = graph.nodes.type_of(node);
        let (objects, bytes) = &mut sums[usize::from(number)];
        *objects += 1;
        if open[usize::from(number)] == 0 {
            *bytes += sizes[node as usize];
        }
        open[usize::from(number)] += 1;
        way.push(number);
    }
    let mut by_name: HashMap<String, RetainedSum> = HashMap::new();
    for (of, (objects, retained_bytes)) in graph.types.iter().zip(sums).filter(|(_, (objects, _))| *objects > 0) {
        let name = of.qualified();
        let sum = by_name.entry(name.clone()).or_insert(RetainedSum { name, objects: 0, retained_bytes: 0 });
        sum.objects += objects;
        sum.retained_bytes += retained_bytes;
    }
    sorted(by_name.into_values().collect())
}

/// A module's namespace may be held by its functions too: what dominates what of the two does not matter.
fn by_module(look: &Look, namer: &mut Namer<'_, '_>, dominators: &Dominators, sizes: &[u64]) -> Vec<RetainedSum> {
    let mut modules = Vec::new();
    for (node, name) in look.roots.modules() {
        let dict = namer.namespace(node);
        let of_dict = dict.filter(|&dict| dominators.dominator(dict) != Some(node));
        let bytes = sizes[node as usize] + of_dict.map_or(0, |dict| sizes[dict as usize]);
        modules.push(RetainedSum { name: name.to_owned(), objects: 1, retained_bytes: bytes });
    }
    sorted(modules)
}

fn sorted(mut sums: Vec<RetainedSum>) -> Vec<RetainedSum> {
    sums.sort_by(|a, b| (b.retained_bytes, &a.name).cmp(&(a.retained_bytes, &b.name)));
    sums
}

/// The containers that keep most, of their own.
fn by_container(look: &Look, namer: &mut Namer<'_, '_>, sizes: &[u64]) -> Vec<RetainedContainer> {
    let graph = &look.graph;
    let is_container: Vec<bool> = graph
        .types
        .iter()
        .map(|of| matches!(of.shape, Shape::List | Shape::Dict | Shape::Set | Shape::Deque | Shape::Tuple))
        .collect();
    let containers =
        (0..graph.nodes.len() as Node).filter(|&node| is_container[usize::from(graph.nodes.type_of(node))]);
    let mut most: Vec<Node> = containers.filter(|&node| look.reach.is_reached(node)).collect();
    most.sort_by_key(|&node| std::cmp::Reverse(sizes[node as usize]));
    most.truncate(CONTAINERS);
    let mut named = Vec::new();
    for &node in &most {
        for (group, _) in merge(namer, &look.reach, &look.roots, &[node]) {
            named.push(RetainedContainer {
                path: group.example,
                name: graph.type_of(node).qualified(),
                address: graph.nodes.address(node),
                retained_bytes: sizes[node as usize],
            });
        }
    }
    named
}
