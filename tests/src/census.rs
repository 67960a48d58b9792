//! Runs of `leaktrace heap`, `diff` and `gc`, and what their JSON says.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::process::Service;
use crate::trace::executable;

#[derive(Debug, Clone, Deserialize)]
pub struct Census {
    pub schema: String,
    pub pause_seconds: Option<f64>,
    pub totals: Totals,
    pub consistency: Consistency,
    pub types: Vec<TypeCount>,
    pub containers: Vec<Container>,
    pub arenas: BTreeMap<String, u64>,
    pub memory: BTreeMap<String, u64>,
    pub c_allocator: Option<BTreeMap<String, u64>>,
    pub growth: Option<Growth>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Totals {
    pub objects: u64,
    pub tracked: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Consistency {
    pub lists_closed: Option<bool>,
    pub collecting: bool,
    pub unsettled_bytes: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct TypeCount {
    #[serde(rename = "type")]
    pub name: String,
    pub count: u64,
    pub bytes: u64,
    pub tracked: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Container {
    #[serde(rename = "type")]
    pub name: String,
    pub length: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Growth {
    pub censuses: u64,
    pub types: Vec<Grown>,
    pub cause: Option<String>,
    pub warm_up: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Grown {
    pub name: String,
    pub first: u64,
    pub last: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Diff {
    pub same_process: bool,
    pub types: Vec<Difference>,
    pub cause: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Difference {
    pub name: String,
    pub change: String,
    pub old_count: u64,
    pub new_count: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Collectors {
    pub schema: String,
    pub interpreters: Vec<Collector>,
    pub watched: Option<Watched>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Watched {
    pub seconds: f64,
    pub collections: Vec<u64>,
    pub pauses: Option<Pauses>,
    pub warnings: Vec<Warning>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Pauses {
    pub count: u64,
    pub total_seconds: f64,
    pub max_seconds: f64,
    pub histogram: Vec<Bucket>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Bucket {
    pub up_to: f64,
    pub count: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Warning {
    pub kind: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Collector {
    pub enabled: bool,
    pub generations: Vec<Generation>,
    pub frozen: Option<u64>,
    pub garbage: Garbage,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Generation {
    pub threshold: u64,
    pub objects: Option<u64>,
    pub whole: bool,
    pub collections: u64,
    pub collected: u64,
    pub uncollectable: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Garbage {
    pub count: u64,
    pub objects: Vec<GarbageObject>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct GarbageObject {
    #[serde(rename = "type")]
    pub name: String,
    pub repr: String,
}

impl Census {
    /// Of a type by its qualified name.
    pub fn of(&self, name: &str) -> TypeCount {
        let none = TypeCount { name: name.to_owned(), count: 0, bytes: 0, tracked: 0 };
        self.types.iter().find(|t| t.name == name).cloned().unwrap_or(none)
    }
}

/// Runs leaktrace and waits for its end.
///
/// # Panics
/// When it cannot be started.
pub fn leaktrace(arguments: &[&str]) -> Output {
    let executable = executable();
    let output = Command::new(&executable).args(arguments).output();
    output.unwrap_or_else(|error| panic!("cannot start {}: {error}", executable.display()))
}

/// The JSON that a run writes to stdout.
///
/// # Panics
/// With what it said, when it failed.
pub fn json<T: DeserializeOwned>(arguments: &[&str]) -> T {
    let output = leaktrace(&[arguments, &["--json", "-"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} ended with {}: {said}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"))
}

/// One census of a process.
pub fn heap(pid: u32, arguments: &[&str]) -> Census {
    json(&[&["heap", "--pid", &pid.to_string()], arguments].concat())
}

/// Waits until a service is in `read(0, ...)`: what it did before is done.
///
/// # Panics
/// When it ends instead.
pub fn wait_until_it_reads(service: &Service) {
    let path = format!("/proc/{}/syscall", service.pid());
    loop {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} ended: {error}", service.name()));
        // The number of the call and its first argument (proc_pid_syscall(5)).
        if text.starts_with("0 0x0 ") {
            return;
        }
        std::thread::yield_now();
    }
}
