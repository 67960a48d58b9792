//! What a census takes, beside a plain read of the same memory and the tools inside the process.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::spread::Spread;
use crate::workspace;

/// Objects of the heap that is read.
const OBJECTS: &str = "9000000";

#[derive(Debug, Deserialize)]
struct Answer {
    /// Its version.
    python: String,
    rounds: Vec<Round>,
    objgraph_seconds: Option<f64>,
    guppy_seconds: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Round {
    heap_bytes: f64,
    objects: f64,
    seconds: f64,
    cpu_seconds: f64,
    peak_rss_bytes: f64,
    plain_bytes: f64,
    plain_seconds: f64,
    work_slowdown: f64,
}

/// Medians and ranges over the rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Census {
    pub(crate) python: String,
    pub(crate) heap_bytes: Spread,
    pub(crate) objects: Spread,
    pub(crate) seconds: Spread,
    /// Of the whole command, with finding the interpreter.
    pub(crate) cpu_seconds: Spread,
    pub(crate) bytes_per_second: Spread,
    pub(crate) objects_per_second: Spread,
    /// The same over the CPU time of the whole command: what one core does that nothing else uses.
    pub(crate) bytes_per_cpu_second: Spread,
    pub(crate) objects_per_cpu_second: Spread,
    /// `process_vm_readv` of the same memory and nothing else.
    pub(crate) plain_bytes_per_second: Spread,
    /// Time of the census over that of the plain read, for each byte.
    pub(crate) over_plain: Spread,
    /// Largest resident set of the command over the heap.
    pub(crate) memory_share: Spread,
    /// CPU time of the process for its work in ten seconds with a census in them, over that without.
    pub(crate) slowdown: Spread,
    /// `objgraph.typestats()` and guppy3's `hpy().heap()` in the process, which stands still meanwhile.
    pub(crate) objgraph_seconds: Option<f64>,
    pub(crate) guppy_seconds: Option<f64>,
}

/// `python` should have objgraph and guppy3.
pub(crate) fn measure(leaktrace: &Path, plain_read: &Path, python: &Path, repeats: u32) -> Result<Census> {
    let script = workspace::root().join("tests/bench/heap.py");
    let mut command = Command::new(python);
    command.arg(script).arg(leaktrace).arg(plain_read).args([OBJECTS, &repeats.to_string()]);
    let output = command.stderr(Stdio::inherit()).output().context("the benchmark's script cannot be started")?;
    if !output.status.success() {
        bail!("the benchmark's script failed on {} ({})", python.display(), output.status);
    }
    let answer: Answer = serde_json::from_slice(&output.stdout).context("the benchmark's script says nonsense")?;
    let spread = |value: fn(&Round) -> f64| Spread::of(answer.rounds.iter().map(value)).context("nothing was measured");
    Ok(Census {
        python: answer.python,
        heap_bytes: spread(|r| r.heap_bytes)?,
        objects: spread(|r| r.objects)?,
        seconds: spread(|r| r.seconds)?,
        cpu_seconds: spread(|r| r.cpu_seconds)?,
        bytes_per_second: spread(|r| r.heap_bytes / r.seconds)?,
        objects_per_second: spread(|r| r.objects / r.seconds)?,
        bytes_per_cpu_second: spread(|r| r.heap_bytes / r.cpu_seconds)?,
        objects_per_cpu_second: spread(|r| r.objects / r.cpu_seconds)?,
        plain_bytes_per_second: spread(|r| r.plain_bytes / r.plain_seconds)?,
        over_plain: spread(|r| r.seconds / r.heap_bytes * r.plain_bytes / r.plain_seconds)?,
        memory_share: spread(|r| r.peak_rss_bytes / r.heap_bytes)?,
        slowdown: spread(|r| r.work_slowdown)?,
        objgraph_seconds: answer.objgraph_seconds,
        guppy_seconds: answer.guppy_seconds,
    })
}

/// As a table of the page.
pub(crate) fn table(census: &Census) -> String {
    let seconds = |value: Option<f64>| value.map_or_else(|| "not installed".to_owned(), |s| format!("{s:.2} s"));
    let rows = [
        (
            "heap",
            format!("{:.2} GB, {:.1} million objects", census.heap_bytes.median / 1e9, census.objects.median / 1e6),
        ),
        ("census", format!("{:.2} s; CPU of the command {:.2} s", census.seconds, census.cpu_seconds)),
        (
            "bytes a second; of CPU time of the command",
            format!(
                "{:.2} GB; {:.2} GB",
                census.bytes_per_second.median / 1e9,
                census.bytes_per_cpu_second.median / 1e9
            ),
        ),
        (
            "objects a second; of CPU time of the command",
            format!(
                "{:.1} million; {:.1} million",
                census.objects_per_second.median / 1e6,
                census.objects_per_cpu_second.median / 1e6
            ),
        ),
        (
            "plain `process_vm_readv` of the same bytes",
            format!("{:.2} GB/s", census.plain_bytes_per_second.median / 1e9),
        ),
        ("census over plain read", format!("{:.1}", census.over_plain)),
        ("memory of the command over the heap", format!("{:.3}", census.memory_share)),
        ("CPU time of the process with a census every 10 s, over that without", format!("{:.3}", census.slowdown)),
        ("objgraph.typestats() in the process", seconds(census.objgraph_seconds)),
        ("guppy3 hpy().heap() in the process", seconds(census.guppy_seconds)),
    ];
    let mut text = String::from("| heap census | median (range) |\n|---|---|\n");
    for (what, value) in rows {
        let _ = writeln!(text, "| {what} | {value} |");
    }
    text
}
