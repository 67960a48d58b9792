//! What grew between two looks, and in which containers it is.

use std::collections::HashMap;
use std::time::Instant;

use super::RefsError;
use super::dominators::Dominators;
use super::look::{Look, evenly};
use super::name::Namer;
use super::nodes::{Index, NONE, Node, Nodes};
use super::path::merge;
use super::repr::shortened;
use super::slot::Slot;
use super::value::{Culprit, GrownType, Growth};
use super::visit::Visitor;
use crate::census::listing::Listing;
use crate::census::{Subject, Type};

/// Containers whose paths are looked for.
const ANCHORS: usize = 2000;
/// Grown types whose paths are told, and objects of each that are looked at.
const TYPES: usize = 5;
const SAMPLES: usize = 2000;
/// Items of a container whose types are told, and keys that are shown.
const ITEMS: usize = 200;
const KEYS: usize = 5;
/// Kinds of keys and values that are named.
const KINDS: usize = 3;

/// What a first look keeps: which addresses are objects, and how long containers are. Some 5 bytes an object.
pub struct Before {
    index: Index,
    lengths: Vec<u32>,
    counts: HashMap<String, u64>,
    taken: Instant,
}

impl Before {
    /// Reads the heap; the target runs on.
    pub fn take(subject: &Subject<'_>) -> Result<Self, RefsError> {
        let taken = Instant::now();
        let listing = Listing::take(subject)?;
        let nodes = Nodes::new(&listing).ok_or(RefsError::TooLarge)?;
        let visitor = Visitor::new(subject.memory, subject.offsets, listing.types());
        let mut numbers = vec![0u64; listing.types().len()];
        let mut lengths = Vec::with_capacity(nodes.len());
        for node in 0..nodes.len() as Node {
            let number = nodes.type_of(node);
            numbers[usize::from(number)] += 1;
            let length = visitor.length(nodes.address(node), number);
            lengths.push(length.map_or(u32::MAX, |length| u32::try_from(length).unwrap_or(u32::MAX - 1)));
        }
        let mut counts = HashMap::new();
        for (of, count) in listing.types().iter().zip(numbers) {
            *counts.entry(of.qualified()).or_default() += count;
        }
        Ok(Self { index: nodes.into_index(), lengths, counts, taken })
    }

    /// Since when.
    pub fn taken(&self) -> Instant {
        self.taken
    }

    /// Whether an object that is there now was not.
    pub fn is_new(&self, address: u64) -> bool {
        self.index.at(address).is_none()
    }

    fn length(&self, address: u64) -> Option<u64> {
        let length = self.lengths[self.index.at(address)? as usize];
        (length != u32::MAX).then(|| length.into())
    }
}

/// Of a container before and now; `None` for what has none.
type Lengths = Option<(u64, u64)>;

/// What an old object has got since: new objects that are reached through it.
#[derive(Debug, Clone, Copy, Default)]
struct Gain {
    objects: u64,
    bytes: u64,
    /// Of them those that it holds itself.
    direct: u64,
}

/// Compares a look with an earlier one, of `seconds` before.
pub(super) fn growth(
    look: &Look,
    subject: &Subject<'_>,
    before: &Before,
    dominators: &Dominators,
    seconds: f64,
) -> Growth {
    let graph = &look.graph;
    let nodes = &graph.nodes;
    let is_new: Vec<bool> = (0..nodes.len() as Node).map(|node| before.is_new(nodes.address(node))).collect();
    let gains = gains(look, &is_new);
    let new = (0..nodes.len()).filter(|&node| is_new[node]);
    let (new_objects, new_bytes) =
        new.fold((0, 0), |(objects, bytes), node| (objects + 1, bytes + u64::from(graph.sizes[node])));
    let mut visitor = Visitor::new(subject.memory, subject.offsets, &graph.types);
    let retained = dominators.retained(&graph.sizes);
    let culprits = culprits(look, &mut visitor, before, &gains, &retained, seconds);
    let types = grown_types(look, &mut visitor, before, &is_new);
    Growth { seconds, new_objects, new_bytes, culprits, types }
}

/// For each old object what is new below it on the shortest paths.
fn gains(look: &Look, is_new: &[bool]) -> HashMap<Node, Gain> {
    let mut anchors = vec![NONE; is_new.len()];
    let mut gains: HashMap<Node, Gain> = HashMap::new();
    let mut way = Vec::new();
    for node in (0..is_new.len() as Node).filter(|&node| is_new[node as usize]) {
        let mut at = node;
        way.clear();
        let anchor = loop {
            if !is_new[at as usize] {
                break at;
            }
            if anchors[at as usize] != NONE {
                break anchors[at as usize];
            }
            way.push(at);
            match look.reach.parent(at) {
                Some(parent) => at = parent,
                None => break NONE,
            }
        };
        for &on_way in &way {
            anchors[on_way as usize] = anchor;
        }
        if anchor != NONE {
            let gain = gains.entry(anchor).or_default();
            gain.objects += 1;
            gain.bytes += u64::from(look.graph.sizes[node as usize]);
            gain.direct += u64::from(look.reach.parent(node) == Some(anchor));
        }
    }
    gains
}

fn culprits(
    look: &Look,
    visitor: &mut Visitor<'_>,
    before: &Before,
    gains: &HashMap<Node, Gain>,
    retained: &[u64],
    seconds: f64,
) -> Vec<Culprit> {
    let nodes = &look.graph.nodes;
    let all: u64 = gains.values().map(|gain| gain.bytes).sum();
    let mut anchors: Vec<(Node, f64, Lengths)> = Vec::new();
    for (&node, gain) in gains {
        let address = nodes.address(node);
        let now = visitor.length(address, nodes.type_of(node));
        let lengths = before.length(address).zip(now);
        // What came in the place of something else is no growth: a cache that is full, a name that is bound anew.
        let kept = match lengths {
            Some((before, now)) => (2.0 * now.saturating_sub(before) as f64 / gain.direct.max(1) as f64).min(1.0),
            None => 1.0,
        };
        if kept > 0.0 {
            anchors.push((node, gain.bytes as f64 * kept, lengths));
        }
    }
    anchors.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    anchors.truncate(ANCHORS);
    let of: HashMap<Node, (f64, Lengths)> = anchors.iter().map(|&(node, score, l)| (node, (score, l))).collect();
    let objects: Vec<Node> = anchors.iter().map(|(node, ..)| *node).collect();
    let mut namer = Namer::new(visitor, nodes);
    let groups = merge(&mut namer, &look.reach, &look.roots, &objects);
    let mut culprits: Vec<(f64, Culprit)> = Vec::new();
    for (group, members) in groups {
        let mut culprit = Culprit {
            path: group.path,
            root: group.root,
            python: group.python,
            name: look.graph.type_of(members[0]).qualified(),
            containers: members.len() as u64,
            address: nodes.address(members[0]),
            length_before: None,
            length_now: None,
            rate: None,
            new_objects: 0,
            new_bytes: 0,
            share: 0.0,
            retained_bytes: 0,
            key_types: Vec::new(),
            value_types: Vec::new(),
            sample_keys: Vec::new(),
            inserted_by: Vec::new(),
        };
        let mut score = 0.0;
        for &member in &members {
            let (gain, (scored, lengths)) = (gains[&member], of[&member]);
            score += scored;
            culprit.new_objects += gain.objects;
            culprit.new_bytes += gain.bytes;
            culprit.retained_bytes += retained[member as usize];
            if let Some((before, now)) = lengths {
                *culprit.length_before.get_or_insert(0) += before;
                *culprit.length_now.get_or_insert(0) += now;
            }
        }
        culprit.share = culprit.new_bytes as f64 / all.max(1) as f64;
        if let (Some(before), Some(now)) = (culprit.length_before, culprit.length_now) {
            culprit.rate = (seconds > 0.0).then(|| (now as f64 - before as f64) / seconds);
        }
        contents(&mut namer, before, members[0], &mut culprit);
        culprits.push((score, culprit));
    }
    culprits.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.path.cmp(&b.1.path)));
    culprits.into_iter().map(|(_, culprit)| culprit).collect()
}

/// What is in a container: kinds of keys and values, of the new ones first.
fn contents(namer: &mut Namer<'_, '_>, before: &Before, container: Node, culprit: &mut Culprit) {
    let mut keys = Vec::new();
    let mut values = Vec::new();
    let (address, number) = (namer.nodes.address(container), namer.nodes.type_of(container));
    namer.visitor.visit(address, number, &mut |slot, held| {
        let place = match slot {
            Slot::Key => &mut keys,
            Slot::Value(_) | Slot::Item(_) | Slot::Member => &mut values,
            _ => return,
        };
        // The last are kept: what a container got last is at its end.
        if place.len() >= 2 * ITEMS {
            place.drain(..ITEMS);
        }
        place.push(held);
    });
    culprit.key_types = kinds(namer, &keys);
    culprit.value_types = kinds(namer, &values);
    let new = keys.iter().rev().filter(|&&key| before.is_new(key));
    culprit.sample_keys = new.take(KEYS).map(|&key| shortened(&namer.key(key).text)).collect();
}

/// The names of the types of some objects, the most frequent first.
fn kinds(namer: &Namer<'_, '_>, objects: &[u64]) -> Vec<String> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for &object in objects {
        *counts.entry(namer.type_name_at(object)).or_default() += 1;
    }
    let mut kinds: Vec<(String, usize)> = counts.into_iter().collect();
    kinds.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
    kinds.into_iter().take(KINDS).map(|(name, _)| name).collect()
}

fn grown_types(look: &Look, visitor: &mut Visitor<'_>, before: &Before, is_new: &[bool]) -> Vec<GrownType> {
    let graph = &look.graph;
    let mut numbers = vec![(0u64, 0u64, 0u64); graph.types.len()];
    for node in 0..graph.nodes.len() as Node {
        let (now, new, bytes) = &mut numbers[usize::from(graph.nodes.type_of(node))];
        *now += 1;
        if is_new[node as usize] {
            *new += 1;
            *bytes += u64::from(graph.sizes[node as usize]);
        }
    }
    let mut by_name: HashMap<String, GrownType> = HashMap::new();
    for (of, (now, new, bytes)) in graph.types.iter().zip(numbers) {
        let name = of.qualified();
        let grown = by_name.entry(name.clone()).or_insert_with(|| GrownType {
            before: before.counts.get(&name).copied().unwrap_or(0),
            name,
            now: 0,
            new_objects: 0,
            new_bytes: 0,
            unreachable: 0,
            paths: Vec::new(),
        });
        grown.now += now;
        grown.new_objects += new;
        grown.new_bytes += bytes;
    }
    let mut types: Vec<GrownType> =
        by_name.into_values().filter(|grown| grown.now > grown.before && grown.new_bytes > 0).collect();
    types.sort_by(|a, b| net_bytes(b).total_cmp(&net_bytes(a)).then_with(|| a.name.cmp(&b.name)));
    for grown in types.iter_mut().take(TYPES) {
        let of_type: Vec<bool> = graph.types.iter().map(Type::qualified).map(|name| name == grown.name).collect();
        let new = (0..graph.nodes.len() as Node).filter(|&node| is_new[node as usize]);
        let objects: Vec<Node> = new.filter(|&node| of_type[usize::from(graph.nodes.type_of(node))]).collect();
        let objects = evenly(&objects, SAMPLES);
        grown.unreachable = objects.iter().filter(|&&node| !look.reach.is_reached(node)).count() as u64;
        let groups = merge(&mut Namer::new(visitor, &graph.nodes), &look.reach, &look.roots, &objects);
        grown.paths = groups.into_iter().map(|(group, _)| group).collect();
    }
    types
}

/// What a type's objects grew by, at the size of the new ones.
fn net_bytes(grown: &GrownType) -> f64 {
    let each = grown.new_bytes as f64 / grown.new_objects.max(1) as f64;
    grown.now.saturating_sub(grown.before) as f64 * each
}
