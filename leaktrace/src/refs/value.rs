//! The answers, as they are shown and written.

use serde::Serialize;

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
    Static,
    Memory,
    Held,
    Immortal,
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
