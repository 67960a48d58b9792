//! What nothing reaches and what was not collected: reference cycles of a collector that is switched off, late, or held up.

use std::collections::{HashMap, HashSet};

use super::graph::Graph;
use super::name::Namer;
use super::nodes::Node;
use super::reach::Reach;
use super::slot::Slot;
use super::value::{CycleGroup, Garbage, TypeSum};

/// Longest cycle that is shown, objects.
const MAX_CYCLE: usize = 24;
/// Cycles whose shapes are told, and objects that are looked at for one.
const MAX_CYCLES: usize = 2000;
const MAX_SEARCH: usize = 2000;

/// The unreachable objects, summed up, and the shapes of the cycles among them.
pub(super) fn garbage(
    graph: &Graph,
    reach: &Reach,
    namer: &mut Namer<'_, '_>,
    is_new: &dyn Fn(Node) -> bool,
) -> Garbage {
    let mut garbage = Garbage::default();
    let mut types: HashMap<u16, TypeSum> = HashMap::new();
    let mut groups: HashMap<String, CycleGroup> = HashMap::new();
    let mut looked = 0;
    let mut done: HashSet<Node> = HashSet::new();
    for node in reach.unreached() {
        let bytes = u64::from(graph.sizes[node as usize]);
        garbage.objects += 1;
        garbage.bytes += bytes;
        if is_new(node) {
            garbage.new_objects += 1;
            garbage.new_bytes += bytes;
        }
        let name = || graph.type_of(node).qualified();
        let sum =
            types.entry(graph.nodes.type_of(node)).or_insert_with(|| TypeSum { name: name(), ..TypeSum::default() });
        sum.objects += 1;
        sum.bytes += bytes;
        if looked >= MAX_CYCLES || done.contains(&node) {
            continue;
        }
        looked += 1;
        let Some(cycle) = cycle(graph, reach, node) else { continue };
        done.extend(&cycle);
        let shape = shape(graph, namer, &cycle);
        let group = groups.entry(shape.clone()).or_insert_with(|| CycleGroup {
            cycle: shape,
            length: cycle.len(),
            cycles: 0,
            example_address: graph.nodes.address(cycle[0]),
        });
        group.cycles += 1;
    }
    garbage.types = types.into_values().collect();
    garbage.types.sort_by(|a, b| (b.bytes, &a.name).cmp(&(a.bytes, &b.name)));
    garbage.cycles = groups.into_values().collect();
    garbage.cycles.sort_by(|a, b| (b.cycles, &a.cycle).cmp(&(a.cycles, &b.cycle)));
    garbage
}

/// A shortest cycle through an object, among what nothing reaches.
fn cycle(graph: &Graph, reach: &Reach, start: Node) -> Option<Vec<Node>> {
    let mut parents: HashMap<Node, Node> = HashMap::new();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for &target in graph.held.of(node) {
            if target == start {
                let mut cycle = vec![node];
                while let Some(&parent) = parents.get(&cycle[cycle.len() - 1]) {
                    cycle.push(parent);
                }
                cycle.reverse();
                return (cycle.len() <= MAX_CYCLE).then_some(cycle);
            }
            if !reach.is_reached(target) && !parents.contains_key(&target) && parents.len() < MAX_SEARCH {
                parents.insert(target, node);
                queue.push_back(target);
            }
        }
    }
    None
}

/// `Node.children[*].parent`: of the ways to read it that begin with an object of an own class, if there is one, the first in the
/// alphabet.
fn shape(graph: &Graph, namer: &mut Namer<'_, '_>, cycle: &[Node]) -> String {
    let mut begins: Vec<usize> = (0..cycle.len()).filter(|&at| graph.type_of(cycle[at]).heap).collect();
    if begins.is_empty() {
        begins = (0..cycle.len()).collect();
    }
    begins.into_iter().map(|first| shape_from(graph, namer, cycle, first)).min().unwrap_or_default()
}

fn shape_from(graph: &Graph, namer: &mut Namer<'_, '_>, cycle: &[Node], first: usize) -> String {
    let mut round: Vec<Node> = cycle[first..].iter().chain(&cycle[..first]).copied().collect();
    round.push(round[0]);
    let mut slots = Vec::new();
    let mut lengths = Vec::new();
    for pair in round.windows(2) {
        let held = namer.held(pair[0], &pair[1..]);
        slots.push(held.slots.get(&pair[1]).copied().unwrap_or(Slot::Stack(0)));
        lengths.push(held.length);
    }
    let mut text = graph.type_of(round[0]).qualified();
    let mut at = 0;
    while at < slots.len() {
        let step = namer.step(&round[at..], &slots[at..], &lengths[at..]);
        at += step.objects.max(1);
        text.push_str(&step.shape);
    }
    text
}
