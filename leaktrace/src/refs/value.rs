//! The answers, as they are shown and written.

use serde::Serialize;

use super::look::Look;
use super::roots::Root;

/// The JSON schema of `leaktrace refs`.
pub const SCHEMA: &str = "leaktrace.refs/1";

/// Where a path begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RootKind {
    Module,
    Local,
    Frame,
    ThreadLocal,
    Thread,
    Interpreter,
    Type,
    Static,
    Memory,
    Held,
    Immortal,
}

/// One answer of `leaktrace refs`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    pub schema: &'static str,
    pub pid: u32,
    /// Clock ticks since boot.
    pub process_start: u64,
    pub python: String,
    /// Of the look, or of the second of two.
    pub seconds: f64,
    /// How long the process was stopped for it.
    pub pause_seconds: Option<f64>,
    pub coverage: Coverage,
    /// With `--type`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objects: Option<Objects>,
    /// With `--address`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<OneObject>,
    /// With `--grown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
    /// With `--retained`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained: Option<Retained>,
    pub unreachable: Garbage,
}

impl Answer {
    pub fn new(pid: u32, process_start: u64, python: &str, coverage: Coverage) -> Self {
        Self {
            schema: SCHEMA,
            pid,
            process_start,
            python: python.to_owned(),
            seconds: 0.0,
            pause_seconds: None,
            coverage,
            objects: None,
            addresses: Vec::new(),
            growth: None,
            retained: None,
            unreachable: Garbage::default(),
        }
    }
}

/// How much of the heap the graph has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Coverage {
    pub objects: u64,
    pub references: u64,
    /// Objects that became something else, or could not be read, before their references were.
    pub gone: u64,
    /// Objects to which more references are counted than objects have: C code holds them.
    pub held_by_c: u64,
    /// Bytes in arenas that are no objects and belong to none: what they point at cannot be followed by name.
    pub unknown_bytes: u64,
    /// A collection ran meanwhile.
    pub collecting: bool,
}

impl Coverage {
    pub fn of(look: &Look) -> Self {
        let held = look.reach.root_nodes().filter(|&node| matches!(look.reach.root(node), Some(Root::Held(_))));
        Self {
            objects: look.graph.nodes.len() as u64,
            references: look.graph.held.len() as u64,
            gone: look.graph.gone,
            held_by_c: held.count() as u64,
            unknown_bytes: look.graph.unknown_bytes,
            collecting: look.collecting,
        }
    }
}

/// The objects of one type.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Objects {
    #[serde(rename = "type")]
    pub name: String,
    pub count: u64,
    /// Of how many the paths were looked for.
    pub sampled: u64,
    /// Of these, how many no root leads to.
    pub unreachable: u64,
    pub paths: Vec<PathGroup>,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OneObject {
    pub address: u64,
    #[serde(rename = "type")]
    pub name: String,
    /// `sys.getsizeof`.
    pub bytes: u64,
    /// `sys.getrefcount` less its own; `None` for immortal objects and those that ended meanwhile.
    pub reference_count: Option<u64>,
    /// References that objects and running frames have to it.
    pub references_found: u64,
    /// What would be freed with it, bytes.
    pub retained_bytes: u64,
    /// The shortest path; `None` if no root leads there.
    pub path: Option<PathGroup>,
    pub referrers: Vec<Referrer>,
}

/// Paths of one shape.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PathGroup {
    pub root: RootKind,
    /// `app.cache._seen[*].history[*]`: what the paths have in common.
    pub path: String,
    /// Objects that are reached so, of those that were looked at.
    pub objects: u64,
    pub share: f64,
    /// One of the paths.
    pub example: String,
    pub example_address: u64,
    /// Address of the object that holds the example.
    pub holder_address: Option<u64>,
    /// An expression that is the example's object when it is run inside the process (`gc` and `sys` imported).
    pub python: Option<String>,
}

/// Objects that hold one directly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Referrer {
    #[serde(rename = "type")]
    pub name: String,
    pub address: u64,
    /// How it holds it: ".history", "[3]".
    pub by: String,
}

/// Objects of one type.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TypeSum {
    #[serde(rename = "type")]
    pub name: String,
    pub objects: u64,
    pub bytes: u64,
}

/// Cycles of one shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CycleGroup {
    /// `Node.children[*].parent`, which leads back to where it began.
    pub cycle: String,
    /// Objects in one.
    pub length: usize,
    /// Cycles seen: a limited number is looked at.
    pub cycles: u64,
    pub example_address: u64,
}

/// Objects that no root and no C code holds, and that are still there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Garbage {
    pub objects: u64,
    pub bytes: u64,
    /// Of them those that are younger than the first of two looks.
    pub new_objects: u64,
    pub new_bytes: u64,
    /// Whether the collector is switched on; `None` when that could not be read.
    pub collector_enabled: Option<bool>,
    /// By bytes.
    pub types: Vec<TypeSum>,
    pub cycles: Vec<CycleGroup>,
}

/// A container, or containers reached by paths of one shape, that grew from one look to the other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Culprit {
    pub path: String,
    pub root: RootKind,
    pub python: Option<String>,
    #[serde(rename = "type")]
    pub name: String,
    /// Containers of this path's shape that grew.
    pub containers: u64,
    /// Address of that which grew most.
    pub address: u64,
    /// Their lengths together; `None` for what has none.
    pub length_before: Option<u64>,
    pub length_now: Option<u64>,
    /// Items a second.
    pub rate: Option<f64>,
    /// Objects and bytes that are new and that are reached through it.
    pub new_objects: u64,
    pub new_bytes: u64,
    /// The share of all that is new and reached.
    pub share: f64,
    /// What would be freed with it, bytes.
    pub retained_bytes: u64,
    pub key_types: Vec<String>,
    pub value_types: Vec<String>,
    /// Some keys, shortened.
    pub sample_keys: Vec<String>,
    /// Lines of a report of `leaktrace run` that allocate what it holds, the fastest first; with `--report`.
    pub inserted_by: Vec<Inserter>,
}

/// A line that allocates what a container holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inserter {
    pub function: String,
    pub file: String,
    pub line: u64,
    pub bytes_per_second: f64,
}

/// A type of which there are more than before.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GrownType {
    #[serde(rename = "type")]
    pub name: String,
    pub before: u64,
    pub now: u64,
    pub new_objects: u64,
    /// Of the new objects, by `sys.getsizeof`.
    pub new_bytes: u64,
    /// New objects that no root leads to, of those whose paths were looked for.
    pub unreachable: u64,
    pub paths: Vec<PathGroup>,
}

/// What grew between two looks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Growth {
    pub seconds: f64,
    pub new_objects: u64,
    pub new_bytes: u64,
    /// By the bytes that are new.
    pub culprits: Vec<Culprit>,
    pub types: Vec<GrownType>,
}

/// What is kept alive, and by what alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retained {
    pub types: Vec<RetainedSum>,
    pub modules: Vec<RetainedSum>,
    pub containers: Vec<RetainedContainer>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RetainedSum {
    pub name: String,
    pub objects: u64,
    pub retained_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RetainedContainer {
    pub path: String,
    #[serde(rename = "type")]
    pub name: String,
    pub address: u64,
    pub retained_bytes: u64,
}
