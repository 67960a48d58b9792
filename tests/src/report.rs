//! The JSON report `leaktrace.report/1`, as a reader outside the project would declare it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::process::Place;

#[derive(Debug, Deserialize)]
pub struct Report {
    pub schema: String,
    pub target: Target,
    pub capture: Capture,
    pub headline: Headline,
    pub totals: Totals,
    pub sites: Vec<Site>,
    pub lines: Vec<Line>,
    pub gc: Gc,
    /// The document as it was written.
    #[serde(skip)]
    pub text: String,
}

#[derive(Debug, Deserialize)]
pub struct Line {
    pub verdict: String,
    pub file: String,
    pub line: u32,
    pub live_bytes: u64,
    pub live_blocks: u64,
    pub holders: Vec<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
pub struct Target {
    pub pid: u32,
    pub pid_inside: u32,
    pub exe: String,
    pub cmdline: Vec<String>,
    pub python: TargetPython,
    pub rss_bytes: Rss,
}

#[derive(Debug, Deserialize)]
pub struct TargetPython {
    pub version: String,
    pub features: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Rss {
    pub start: u64,
    pub end: u64,
}

#[derive(Debug, Deserialize)]
pub struct Headline {
    pub outlook: String,
}

#[derive(Debug, Deserialize)]
pub struct Capture {
    pub mode: String,
    pub duration_seconds: f64,
    pub events: Events,
    pub lost: BTreeMap<String, u64>,
    pub coverage: Coverage,
    pub cost: Cost,
    pub notes: Vec<String>,
    /// `None`: everything was traced.
    pub watch: Option<Watch>,
}

#[derive(Debug, Deserialize)]
pub struct Watch {
    pub windows: u64,
    pub overhead: f64,
    pub overhead_limit: f64,
    /// Requests to the C allocator that windows only counted.
    pub passed_over: u64,
}

#[derive(Debug, Deserialize)]
pub struct Events {
    pub alloc: u64,
    pub free: u64,
    pub realloc: u64,
    pub native_alloc: u64,
    pub native_realloc: u64,
    pub reused: u64,
    pub gc: u64,
}

#[derive(Debug, Deserialize)]
pub struct Coverage {
    /// None: it could not be measured.
    pub ratio: Option<f64>,
    pub basis: String,
}

#[derive(Debug, Deserialize)]
pub struct Cost {
    pub probe_seconds: f64,
    pub collector_cpu_seconds: f64,
    pub collector_rss_bytes: u64,
}

#[derive(Debug, Deserialize)]
pub struct Totals {
    pub allocated_bytes: u64,
    pub allocated_blocks: u64,
    pub live_bytes: u64,
    pub live_blocks: u64,
}

#[derive(Debug, Deserialize)]
pub struct Site {
    pub verdict: String,
    pub domain: String,
    pub live_bytes: u64,
    pub live_blocks: u64,
    pub allocated_bytes: u64,
    pub allocated_blocks: u64,
    pub freed_blocks: u64,
    pub lost_blocks: u64,
    pub growth: Growth,
    pub evidence: Evidence,
    /// Most recent call first.
    pub stack: Vec<Frame>,
    #[serde(default)]
    pub truncated: bool,
}

#[derive(Debug, Deserialize)]
pub struct Growth {
    pub bytes_per_second: Estimate,
    pub blocks_per_second: Estimate,
}

#[derive(Debug, Deserialize)]
pub struct Estimate {
    pub estimate: f64,
    pub low: f64,
    pub high: f64,
}

#[derive(Debug, Deserialize)]
pub struct Evidence {
    pub cohorts: u64,
    pub oldest_survivor_seconds: f64,
    pub freed_share: f64,
    /// What else speaks for the verdict, for the messages of tests that fail.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Frame {
    pub kind: String,
    pub function: String,
    pub file: String,
    pub line: u32,
}

#[derive(Debug, Deserialize)]
pub struct Gc {
    pub generations: Vec<Generation>,
    pub pauses_known: bool,
    pub other_interpreters: OtherCollectors,
}

#[derive(Debug, Deserialize)]
pub struct OtherCollectors {
    pub collections: u64,
    pub pause_seconds: Pause,
}

#[derive(Debug, Deserialize)]
pub struct Generation {
    pub generation: u32,
    pub collections: u64,
    pub collected: u64,
    pub uncollectable: u64,
    pub pause_seconds: Option<Pause>,
    pub pause_counts: Vec<u64>,
}

#[derive(Debug, Deserialize)]
pub struct Pause {
    pub total: f64,
    pub max: f64,
}

/// Live memory of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Sum {
    pub bytes: u64,
    pub blocks: u64,
}

impl Site {
    /// The Python frames, most recent call first.
    pub fn places(&self) -> Vec<Place> {
        let python = self.stack.iter().filter(|frame| frame.kind == "python");
        python.map(|f| Place { function: f.function.clone(), file: f.file.clone(), line: f.line }).collect()
    }

    /// Whether the block belongs to CPython's own allocator, which tracemalloc sees.
    pub fn is_python(&self) -> bool {
        matches!(self.domain.as_str(), "raw" | "mem" | "obj")
    }
}

impl Report {
    /// # Panics
    /// When the file is not such a report.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut report: Self =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in the report {text:.2000}"));
        assert_eq!(report.schema, "leaktrace.report/1");
        report.text = text;
        report
    }

    /// Sites whose innermost Python frame is of `function`, a qualified name.
    pub fn sites_in(&self, function: &str) -> impl Iterator<Item = &Site> {
        self.sites.iter().filter(move |site| site.places().first().is_some_and(|place| place.function == function))
    }

    /// Live memory by innermost Python line, "file:line", of the sites chosen. Sites without a Python frame are left out.
    pub fn by_line(&self, choose: impl Fn(&Site) -> bool) -> BTreeMap<String, Sum> {
        let mut lines: BTreeMap<String, Sum> = BTreeMap::new();
        for site in self.sites.iter().filter(|site| choose(site)) {
            if let Some(place) = site.places().first() {
                let sum = lines.entry(format!("{}:{}", place.file, place.line)).or_default();
                sum.bytes += site.live_bytes;
                sum.blocks += site.live_blocks;
            }
        }
        lines
    }

    /// The sites said to grow, worst first.
    pub fn growing(&self) -> Vec<&Site> {
        self.sites.iter().filter(|site| site.verdict == "growing").collect()
    }

    /// # Panics
    /// When anything was lost.
    pub fn assert_nothing_lost(&self) {
        assert!(self.capture.lost.values().all(|&count| count == 0), "lost: {:?}", self.capture.lost);
    }
}
