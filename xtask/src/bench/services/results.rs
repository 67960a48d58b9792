//! docs/services.json: what was measured, in parts that are measured apart.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::curves::Curves;
use super::workload::Workload;
use crate::bench::machine::Machine;
use crate::bench::spread::Spread;
use crate::bench::subject::Latency;

const SCHEMA: &str = "leaktrace.services/1";

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Results {
    schema: String,
    pub(super) comparison: Option<Comparison>,
    /// Services that leak, and watch alone.
    #[serde(default)]
    pub(super) leaking: Option<Comparison>,
    pub(super) curves: Option<Curves>,
}

/// `cargo xtask bench --services`, with or without `--leaking`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Comparison {
    pub(super) machine: Machine,
    /// Of leaktrace.
    pub(super) version: String,
    /// Packages of the services and tools, as "NAME VERSION".
    pub(super) packages: Vec<String>,
    /// Connections of the load.
    pub(super) connections: u32,
    /// Seconds of a window under watch; the others have a tenth.
    pub(super) seconds: f64,
    /// Minutes that all of it took.
    pub(super) minutes: f64,
    pub(super) interpreters: Vec<Interpreter>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Interpreter {
    /// "3.11.2"; with what leaktrace says of the build where it was traced.
    pub(super) name: String,
    pub(super) services: Vec<Measured>,
}

/// One workload on one interpreter.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) workload: Workload,
    pub(super) untraced: Untraced,
    pub(super) rows: Vec<Row>,
}

/// All windows in which nothing traced.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Untraced {
    /// Requests, or units of work, a second.
    pub(super) throughput: Spread,
    /// Microseconds, of requests.
    pub(super) latency_us: Option<Latency<Spread>>,
}

/// One contender.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) contender: String,
    pub(super) rounds: usize,
    /// What went wrong in another round, or why there is none.
    pub(super) failure: Option<String>,
    pub(super) figures: Option<Figures>,
}

/// Each over the same of the untraced windows around it, where not said otherwise.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) throughput: Spread,
    /// CPU time of the process for a request or unit.
    pub(super) cpu: Spread,
    pub(super) latency: Option<Latency<Spread>>,
    /// Requests that failed in all traced windows: a number.
    pub(super) failed: u64,
    pub(super) tracer: Option<Tracer>,
    pub(super) watch: Option<Watched>,
}

/// What a tracer that is a process of its own takes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Tracer {
    /// CPU seconds a second, once it has attached.
    pub(super) cores: Spread,
    /// Largest resident set, bytes, without mapped BPF maps.
    pub(super) resident_bytes: Spread,
    /// Kernel memory of its BPF maps and programs, bytes.
    pub(super) bpf_bytes: Spread,
}

/// What leaktrace says of its windows.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Watched {
    pub(super) windows: Spread,
    /// Share of the process's CPU time.
    pub(super) overhead: Spread,
    pub(super) overhead_limit: f64,
}

impl Results {
    /// What was written last, of which a part may be replaced; empty where there is no such file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self { schema: SCHEMA.to_owned(), comparison: None, leaking: None, curves: None });
        }
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| {
            format!("{} is not from this version of the benchmark: remove it to start anew", path.display())
        })
    }
}

#[cfg(test)]
pub(super) mod sample {
    use serde_json::{Value, json};

    use super::Results;

    fn spread(median: f64) -> Value {
        json!({ "median": median, "min": 0.9 * median, "max": 1.2 * median })
    }

    fn row(contender: &str, left: f64, latency: bool) -> Value {
        let times = spread(1.0 / left);
        let latency = latency.then(|| json!({ "p50": times, "p90": times, "p99": times, "p999": times }));
        let tracer = json!({ "cores": spread(0.01), "resident_bytes": spread(3e7), "bpf_bytes": spread(2e8) });
        let watch = json!({ "windows": spread(5.0), "overhead": spread(0.008), "overhead_limit": 0.01 });
        let figures = json!({
            "throughput": spread(left), "cpu": times, "latency": latency, "failed": 0, "tracer": tracer, "watch": watch,
        });
        json!({ "contender": contender, "rounds": 2, "failure": null, "figures": figures })
    }

    fn machine() -> Value {
        json!({
            "date": "2026-11-24", "architecture": "x86_64", "cores": 2, "kernel": "6.18.44", "hypervisor": true,
            "load": [0.1, 2.0],
        })
    }

    /// Results with made-up numbers: two interpreters with six workloads each, and curves.
    pub(in crate::bench::services) fn results() -> Results {
        let interpreter = |name: &str| {
            let services = ["json", "flask", "aiohttp", "heap", "storm", "batch"].map(|workload| {
                let has_requests = !matches!(workload, "storm" | "batch");
                let us = spread(2000.0);
                let latency = has_requests.then(|| json!({ "p50": us, "p90": us, "p99": us, "p999": us }));
                let mut rows = vec![row("leaktrace, watch", 0.995, has_requests)];
                rows.push(row("tracemalloc.start(25)", 0.05, has_requests));
                rows.push(json!({ "contender": "memray attach", "rounds": 0, "failure": "it hung", "figures": null }));
                let untraced = json!({ "throughput": spread(5000.0), "latency_us": latency });
                json!({ "workload": workload, "untraced": untraced, "rows": rows })
            });
            json!({ "name": name, "services": services })
        };
        let point = |size: u32| {
            let (cores, bytes) = (spread(f64::from(size) / 1e8), spread(2e7 + f64::from(size)));
            json!({
                "size": size, "attach_cpu_seconds": spread(0.5), "cores": cores, "end_cpu_seconds": spread(0.2),
                "resident_bytes": bytes, "bpf_bytes": spread(1.5e8),
            })
        };
        let curve =
            |mode: &str, axis: &str, sizes: [u32; 3]| json!({ "mode": mode, "axis": axis, "points": sizes.map(point) });
        let lines = ["exact", "watch"].map(|mode| {
            [
                curve(mode, "events", [20_000, 60_000, 180_000]),
                curve(mode, "heap", [1_000_000, 4_000_000, 16_000_000]),
                curve(mode, "threads", [1, 4, 16]),
            ]
        });
        let survivors = json!({
            "blocks": 1_000_123, "objects": 1.35e8, "cores": 0.1, "resident_bytes": 8e7, "peak_bytes": 3e8, "bpf_bytes": 1e8,
        });
        let part = |seconds: f64, interpreters: Vec<Value>| {
            json!({
                "machine": machine(), "version": "0.1.0", "packages": ["Flask 3.1.0"], "connections": 8, "seconds": seconds,
                "minutes": 25.0, "interpreters": interpreters,
            })
        };
        serde_json::from_value(json!({
            "schema": super::SCHEMA,
            "comparison": part(20.0, vec![interpreter("3.11.2 (stripped)"), interpreter("3.11.7")]),
            "leaking": part(60.0, vec![interpreter("3.11.2 (stripped)")]),
            "curves": {
                "machine": machine(), "version": "0.1.0", "python": "3.11.2", "rounds": 2, "seconds": 12, "minutes": 9.0,
                "lines": lines.concat(), "survivors": survivors,
            },
        }))
        .unwrap()
    }
}
