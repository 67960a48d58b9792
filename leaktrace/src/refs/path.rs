//! Paths from roots, equal shapes merged.

use std::collections::HashMap;

use super::name::{Held, Namer, Step};
use super::nodes::Node;
use super::reach::Reach;
use super::repr::quoted;
use super::roots::{Module, Root, Roots};
use super::slot::Slot;
use super::value::{PathGroup, RootKind};

/// Objects of a path that are named: of a longer one the first and the last.
const FIRST: usize = 40;
const LAST: usize = 24;
/// Steps of all paths together.
const MAX_STEPS: usize = 20_000_000;
/// Times that a step comes again before it is written once.
const REPEATS: usize = 3;

/// The path to one object: of its steps, those that are named.
struct Chain {
    nodes: Vec<Node>,
    /// After how many objects some are left out.
    cut: Option<usize>,
}

/// How objects are reached: merged by shape, the most frequent first, with the objects. Those that no root
/// leads to are in none.
pub(super) fn merge(
    namer: &mut Namer<'_, '_>,
    reach: &Reach,
    roots: &Roots,
    objects: &[Node],
) -> Vec<(PathGroup, Vec<Node>)> {
    let mut budget = MAX_STEPS;
    let mut chains = Vec::new();
    for &object in objects {
        let Some(chain) = chain(reach, object, &mut budget) else { continue };
        chains.push(chain);
    }
    let mut wanted: HashMap<Node, Vec<Node>> = HashMap::new();
    for pair in chains.iter().flat_map(|chain| chain.nodes.windows(2)) {
        wanted.entry(pair[0]).or_default().push(pair[1]);
    }
    let mut held: HashMap<Node, Held> = HashMap::new();
    for (parent, mut children) in wanted {
        children.sort_unstable();
        children.dedup();
        held.insert(parent, namer.held(parent, &children));
    }
    let mut groups: HashMap<(String, String), Group> = HashMap::new();
    for chain in &chains {
        let Some(root) = reach.root(chain.nodes[0]) else { continue };
        let begin = begin(namer, roots, chain.nodes[0], root);
        let steps = steps(namer, chain, &held);
        let shape = compressed(&steps);
        groups
            .entry((begin.text.clone(), shape.concat()))
            .and_modify(|group| group.add(&steps, chain))
            .or_insert_with(|| Group::new(begin, steps, shape, chain));
    }
    let total = objects.len() as u64;
    let mut merged: Vec<(PathGroup, Vec<Node>)> =
        groups.into_values().map(|group| group.finish(namer, total)).collect();
    merged.sort_by(|(a, _), (b, _)| (b.objects, &a.path).cmp(&(a.objects, &b.path)));
    merged
}

fn chain(reach: &Reach, object: Node, budget: &mut usize) -> Option<Chain> {
    let mut nodes = vec![object];
    reach.is_reached(object).then_some(())?;
    while let Some(parent) = reach.parent(nodes[nodes.len() - 1]) {
        nodes.push(parent);
        *budget = budget.checked_sub(1)?;
    }
    nodes.reverse();
    let cut = (nodes.len() > FIRST + LAST).then(|| {
        nodes.drain(FIRST..nodes.len() - LAST);
        FIRST
    });
    Some(Chain { nodes, cut })
}

/// What a path begins with.
struct Begin {
    kind: RootKind,
    text: String,
    /// `None`: Python cannot say it.
    python: Option<String>,
}

fn begin(namer: &Namer<'_, '_>, roots: &Roots, node: Node, root: Root) -> Begin {
    let begin = |kind, text: String, python| Begin { kind, text, python };
    match root {
        Root::Module(module) => {
            let Module { name, interpreter } = &roots.modules[module as usize];
            match interpreter {
                0 => begin(RootKind::Module, name.clone(), Some(format!("sys.modules[{}]", quoted(name)))),
                // No expression of the main interpreter leads there.
                other => begin(RootKind::Module, format!("interpreter {other}: {name}"), None),
            }
        }
        Root::Frame(frame, slot) => {
            let frame = &roots.frames[frame as usize];
            let file = frame.file.rsplit('/').next().unwrap_or_default();
            let line = frame.line.map_or_else(String::new, |line| format!(":{line}"));
            let place = format!("{} ({file}{line})", frame.function);
            // All frames of the thread, the first first: evaluating the expression adds some at the end only.
            let python = format!(
                "(lambda s: s(s, sys._current_frames()[{}]))(lambda s, f: (s(s, f.f_back) if f.f_back else []) + [f])[{}]",
                frame.thread, frame.height
            );
            match slot {
                Slot::Local(index) => match namer.local_name(frame.code, index) {
                    Some(name) => {
                        // Python gives out what the cell of a variable holds, not the cell.
                        let python = (!namer.is_cell(node)).then(|| format!("{python}.f_locals[{}]", quoted(&name)));
                        begin(RootKind::Local, format!("local {name} of {place}"), python)
                    }
                    None => begin(RootKind::Local, format!("a local variable of {place}"), None),
                },
                Slot::Stack(_) => begin(RootKind::Local, format!("a value in use by {place}"), None),
                _ => begin(RootKind::Frame, format!("the frame of {place}"), None),
            }
        }
        Root::ThreadDict(thread) => begin(RootKind::ThreadLocal, format!("the dict of thread {thread}"), None),
        Root::Thread(thread) => begin(RootKind::Thread, format!("the state of thread {thread}"), None),
        Root::Interpreter => begin(RootKind::Interpreter, "the interpreter's state".to_owned(), None),
        Root::Type => begin(RootKind::Type, namer.type_name(node), None),
        Root::Static(file) => begin(RootKind::Static, format!("a C variable of {}", roots.files[file as usize]), None),
        Root::Memory => begin(RootKind::Memory, "memory of C code".to_owned(), None),
        Root::Held(gap) if gap >= super::reach::IMMORTAL / 2 => {
            begin(RootKind::Immortal, "an immortal object".to_owned(), None)
        }
        Root::Held(gap) => {
            let more = if gap == 1 { "1 reference".to_owned() } else { format!("{gap} references") };
            begin(RootKind::Held, format!("C code ({more} that no object has)"), None)
        }
    }
}

fn steps(namer: &mut Namer<'_, '_>, chain: &Chain, held: &HashMap<Node, Held>) -> Vec<Step> {
    let path = &chain.nodes;
    let of = |index: usize| held.get(&path[index])?.slots.get(&path[index + 1]).copied();
    let slots: Vec<Slot> = (0..path.len() - 1).map(|i| of(i).unwrap_or(Slot::Stack(0))).collect();
    let lengths: Vec<Option<u64>> = (0..path.len() - 1).map(|i| held.get(&path[i]).and_then(|h| h.length)).collect();
    let mut steps = Vec::new();
    let mut at = 0;
    while at < slots.len() {
        if chain.cut == Some(at + 1) {
            steps.push(Step { text: " … ".to_owned(), shape: " … ".to_owned(), python: String::new(), objects: 1 });
            at += 1;
            continue;
        }
        let step = namer.step(&path[at..], &slots[at..], &lengths[at..]);
        at += step.objects.max(1);
        steps.push(step);
    }
    steps
}

/// The shapes of steps, those that come again and again written once: `.next(.next)*`.
fn compressed(steps: &[Step]) -> Vec<String> {
    let shapes: Vec<&str> = steps.iter().map(|step| step.shape.as_str()).collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < shapes.len() {
        let period = (1..=3).find(|&period| {
            (1..REPEATS).all(|again| {
                shapes.get(at + again * period..at + (again + 1) * period) == shapes.get(at..at + period)
                    && at + (again + 1) * period <= shapes.len()
            })
        });
        let Some(period) = period else {
            out.push(shapes[at].to_owned());
            at += 1;
            continue;
        };
        let unit = &shapes[at..at + period];
        while shapes.get(at..at + period) == Some(unit) {
            at += period;
        }
        out.push(format!("({})*", unit.concat()));
    }
    out
}

/// Paths of one shape.
struct Group {
    begin: Begin,
    /// Of the first path.
    steps: Vec<Step>,
    shape: Vec<String>,
    /// Which steps all paths have in common; nothing when a step was written once for many.
    common: Vec<bool>,
    members: Vec<Node>,
    /// The object before the last.
    holder: Option<Node>,
    cut: bool,
}

impl Group {
    fn new(begin: Begin, steps: Vec<Step>, shape: Vec<String>, chain: &Chain) -> Self {
        let common = if shape.len() == steps.len() { vec![true; steps.len()] } else { Vec::new() };
        let nodes = &chain.nodes;
        Self {
            begin,
            steps,
            shape,
            common,
            members: vec![nodes[nodes.len() - 1]],
            holder: nodes.len().checked_sub(2).map(|at| nodes[at]),
            cut: chain.cut.is_some(),
        }
    }

    fn add(&mut self, steps: &[Step], chain: &Chain) {
        self.members.extend(chain.nodes.last());
        for ((common, first), step) in self.common.iter_mut().zip(&self.steps).zip(steps) {
            *common &= first.text == step.text;
        }
    }

    fn finish(self, namer: &Namer<'_, '_>, total: u64) -> (PathGroup, Vec<Node>) {
        let separator = if self.begin.kind == RootKind::Module { "" } else { " → " };
        let join = |steps: String| {
            // A local variable is a name already.
            if steps.is_empty() || self.begin.kind == RootKind::Module {
                format!("{}{steps}", self.begin.text)
            } else {
                format!("{}{separator}{steps}", self.begin.text)
            }
        };
        let text = |index: usize, step: &Step| match self.common.get(index) {
            Some(true) => step.text.clone(),
            Some(false) => step.shape.clone(),
            None => String::new(),
        };
        let path = if self.common.is_empty() && !self.shape.is_empty() {
            self.shape.concat()
        } else {
            self.steps.iter().enumerate().map(|(index, step)| text(index, step)).collect()
        };
        let python = self
            .begin
            .python
            .clone()
            .filter(|_| !self.cut)
            .map(|begin| self.steps.iter().fold(begin, |inner, step| step.python.replacen("{}", &inner, 1)));
        let example: String = self.steps.iter().map(|step| step.text.as_str()).collect();
        let group = PathGroup {
            root: self.begin.kind,
            path: join(path),
            objects: self.members.len() as u64,
            share: if total == 0 { 0.0 } else { self.members.len() as f64 / total as f64 },
            example: join(example),
            example_address: namer.nodes.address(self.members[0]),
            holder_address: self.holder.map(|holder| namer.nodes.address(holder)),
            python,
        };
        (group, self.members)
    }
}
