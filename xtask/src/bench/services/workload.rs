//! What is loaded: three services, and programs that work by themselves.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::load::Load;
use super::server::Server;
use super::twins::Worker;
use crate::bench::target::Target;
use crate::workspace;

/// What the services need beside an interpreter.
pub(super) const PACKAGES: [&str; 5] = ["flask", "gunicorn", "aiohttp", "numpy", "pandas"];
/// Objects that make a heap of 2 GB.
const HEAP_OBJECTS: &str = "26000000";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// A JSON service of the standard library
    Json,
    /// The same as a Flask application under gunicorn
    Flask,
    /// The same on asyncio and aiohttp
    Aiohttp,
    /// The JSON service with a heap of 2 GB
    Heap,
    /// A loop that makes and drops small objects
    Storm,
    /// A batch job on numpy and pandas
    Batch,
}

impl Workload {
    pub(super) const ALL: [Self; 6] = [Self::Json, Self::Flask, Self::Aiohttp, Self::Heap, Self::Storm, Self::Batch];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON service",
            Self::Flask => "Flask, gunicorn",
            Self::Aiohttp => "aiohttp",
            Self::Heap => "2 GB heap",
            Self::Storm => "alloc storm",
            Self::Batch => "pandas batch",
        }
    }

    /// One of the three services for which limits are set.
    pub(super) fn is_plain_service(self) -> bool {
        matches!(self, Self::Json | Self::Flask | Self::Aiohttp)
    }

    /// Whether a limit is set for it at all.
    pub(super) fn is_judged(self) -> bool {
        self.is_plain_service() || self == Self::Storm
    }

    /// Starts it; `python` has [`PACKAGES`]. One of the three services can leak.
    pub(super) fn start(self, python: &Path, leaking: bool, load: &Load) -> Result<Worker> {
        let folder = workspace::root().join("tests/bench/services");
        let mut command = Command::new(python);
        command.arg("-sB").envs(leaking.then_some(("SHOP_LEAKS", "1")));
        match self {
            Self::Json => command.arg("json_service.py"),
            Self::Heap => command.args(["json_service.py", HEAP_OBJECTS]),
            Self::Aiohttp => command.arg("aiohttp_service.py"),
            Self::Flask => command.args(["-m", "gunicorn", "--config"]).arg(folder.join("gunicorn_conf.py")),
            Self::Storm => return Ok(Box::new(Target::start(python, "allocations")?)),
            Self::Batch => return Ok(Box::new(Target::start(python, "batch")?)),
        };
        Ok(Box::new(Server::start(&mut command, load)?))
    }
}
