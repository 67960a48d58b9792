//! The report as plain data. Serialised, it is the schema `leaktrace.report/1`: fields may be added, none renamed.

use crate::model::sampling::WatchFacts;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{Evidence, Growth, Rate, Stack, Verdict};

/// Everything that was found out about one trace.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// [`super::json::SCHEMA`].
    pub schema: &'static str,
    pub target: Target,
    pub capture: Capture,
    pub headline: Headline,
    pub totals: Totals,
    pub memory: Memory,
    /// By full stack and domain; worst first: the growing ones by rate, then the others by live bytes.
    pub sites: Vec<SiteReport>,
    /// The same merged by innermost Python line and domain, in the same order.
    pub lines: Vec<Line>,
    pub gc: Collector,
    /// What grew in the heap since the start, by the census; `None` where there were not two to compare.
    pub heap: Option<crate::census::growth::Growth>,
    /// Times of all series, seconds since the attach; the first is 0.
    pub series_seconds: Vec<f64>,
}

/// The process traced.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Target {
    /// As the host sees it.
    pub pid: u32,
    /// As it is in its own pid namespace: in a container another number.
    pub pid_inside: u32,
    pub exe: String,
    pub cmdline: Vec<String>,
    pub python: Python,
    pub rss_bytes: RssBytes,
}

/// Its interpreter.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Python {
    /// As `sys.version` begins: "3.11.2".
    pub version: String,
    pub features: Vec<String>,
}

/// Resident set at the attach and at the last scan.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RssBytes {
    pub start: u64,
    pub end: u64,
}

/// How it was watched, and what that missed and cost.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Capture {
    pub mode: String,
    /// From the attach to the last scan.
    pub duration_seconds: f64,
    pub scans: u64,
    pub events: Events,
    pub lost: Lost,
    pub coverage: Coverage,
    pub cost: Cost,
    /// Of a watch at a bounded cost: its windows; `None` where everything was traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch: Option<WatchFacts>,
    /// What could not be covered and why, in words.
    pub notes: Vec<String>,
}

/// Events seen.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Events {
    pub alloc: u64,
    pub free: u64,
    pub realloc: u64,
    pub gc: u64,
    /// Frees of blocks that are older than the attach.
    pub free_before_attach: u64,
    /// Of `alloc` and `realloc`, those made by calling the C allocator directly, not through CPython.
    pub native_alloc: u64,
    pub native_realloc: u64,
    /// Objects taken from a free list: their block went from the stack that allocated it to the one that took it.
    pub reused: u64,
}

/// Events lost, by cause.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Lost {
    /// Records that the ring had no room for.
    pub ring: u64,
    /// Stacks that could not be walked or numbered.
    pub stack: u64,
    /// Blocks that the table had no room for.
    pub map_full: u64,
    /// Frees of blocks already freed: an allocation was missed.
    pub unmatched_free: u64,
    /// Allocations whose block was not learned.
    pub address: u64,
    /// Sites that at a scan had more live blocks than were ever allocated.
    pub contradictions: u64,
}

impl Lost {
    /// All losses.
    pub fn total(&self) -> u64 {
        self.ring + self.stack + self.map_full + self.unmatched_free + self.address + self.contradictions
    }
}

/// What share of the allocations was seen, and how that is known.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// 0 to 1; `None` when it could not be measured.
    pub ratio: Option<f64>,
    pub basis: String,
}

/// What tracing cost.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Cost {
    /// CPU time that the probes took from the target.
    pub probe_seconds: f64,
    pub collector_cpu_seconds: f64,
    pub collector_rss_bytes: u64,
}

/// All sites together.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Totals {
    pub allocated_bytes: u64,
    pub allocated_blocks: u64,
    pub live_bytes: u64,
    pub live_blocks: u64,
}

/// The answer in one glance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Headline {
    pub outlook: Outlook,
    /// Growing sites (stacks) and lines.
    pub growing_sites: usize,
    pub growing_lines: usize,
    /// Of all growing lines together.
    pub growth: Growth,
    /// When memory runs out at this rate; `None` when nothing grows or the room is not known.
    pub exhaustion: Option<Exhaustion>,
}

/// Whether it is leaking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outlook {
    Leaking,
    NotLeaking,
    /// Watched for too short a time.
    TooEarly,
    /// Nothing grew in what was seen, but so much was not that it proves nothing.
    Incomplete,
}

/// Memory that the target can still take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Room {
    pub available_bytes: u64,
    /// What sets the bound: "cgroup memory.max", "MemAvailable".
    pub basis: String,
}

/// When memory runs out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exhaustion {
    pub room: Room,
    pub seconds: f64,
    /// By the upper end of the rate's interval.
    pub earliest_seconds: f64,
    /// By the lower end; `None` when that end is no growth.
    pub latest_seconds: Option<f64>,
}

/// The process as the kernel sees it against what was traced.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Memory {
    pub rss_growth: Rate,
    /// End less start; negative when it shrank.
    pub rss_grown_bytes: i64,
    /// Live bytes allocated since the attach: the part of the growth that has a name. It may exceed the growth when
    /// they filled memory that was free inside the process.
    pub explained_bytes: u64,
    /// Resident set over time.
    pub rss_series: Vec<u64>,
}

/// One site.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SiteReport {
    /// Its number in the ledger and in a recording.
    #[serde(skip)]
    pub number: usize,
    pub verdict: Verdict,
    pub domain: &'static str,
    pub live_bytes: u64,
    pub live_blocks: u64,
    pub allocated_bytes: u64,
    pub allocated_blocks: u64,
    pub freed_blocks: u64,
    /// Blocks that the table had no room for: whether they live is not known.
    pub lost_blocks: u64,
    pub growth: Growth,
    pub evidence: Evidence,
    /// Innermost first.
    pub stack: Stack,
    /// Frames outside the outermost one are missing.
    pub truncated: bool,
    /// The stack's record was lost.
    pub stack_lost: bool,
    /// Index of its line in [`Report::lines`].
    pub line: usize,
    /// Kernel ids of threads whose blocks were seen alive (the first 16).
    pub threads: Vec<u32>,
    /// Of growing stacks only; lines have more.
    #[serde(skip_serializing_if = "Series::is_empty")]
    pub series: Series,
}

/// Live level at [`Report::series_seconds`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Series {
    pub live_bytes: Vec<u64>,
    pub live_blocks: Vec<u64>,
}

impl Series {
    pub fn is_empty(&self) -> bool {
        self.live_bytes.is_empty()
    }
}

/// All sites that allocate on one line in one domain.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    pub verdict: Verdict,
    pub domain: &'static str,
    /// Of its worst site; empty where there is no frame.
    pub function: Arc<str>,
    /// All functions that the line is in (a lambda or a comprehension is one of its own), the worst site's first.
    pub functions: Vec<Arc<str>>,
    pub file: Arc<str>,
    /// 0 where it is not known.
    pub line: u32,
    /// The stacks' records were lost.
    pub stack_lost: bool,
    pub live_bytes: u64,
    pub live_blocks: u64,
    pub allocated_bytes: u64,
    pub allocated_blocks: u64,
    pub freed_blocks: u64,
    pub lost_blocks: u64,
    pub growth: Growth,
    pub evidence: Evidence,
    /// Indices in [`Report::sites`], worst first.
    pub sites: Vec<usize>,
    /// Through what the blocks of a growing line are held, most first; empty where it was not looked for.
    pub holders: Vec<Holder>,
    /// Empty for churn.
    #[serde(skip_serializing_if = "Series::is_empty")]
    pub series: Series,
}

/// Ways to the blocks of a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    pub file: String,
    pub line: u32,
    pub domain: String,
    pub holders: Vec<Holder>,
}

/// A way from a root to blocks of a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// `app.CACHE[*]`, as `leaktrace refs` writes it; `None` for reference cycles that nothing holds.
    pub path: Option<String>,
    /// Of the blocks that were looked at.
    pub share: f64,
}

/// The cyclic collector, as `gc.get_stats()` of the main interpreter has it.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Collector {
    pub generations: Vec<Generation>,
    /// Whether automatic collection is on; `None` where it cannot be told.
    pub enabled: Option<bool>,
    /// Whether each pause was measured; else those of [`Self::timed`] collections were.
    pub pauses_known: bool,
    /// Upper bounds of [`Generation::pause_counts`].
    pub pause_bounds_seconds: Vec<f64>,
    /// What the collectors of other interpreters did; all else is the main interpreter's.
    pub other_interpreters: OtherCollectors,
}

/// The collectors of other interpreters than the main one, together. Of those before 3.9 there is but one for all.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct OtherCollectors {
    pub collections: u64,
    pub pause_seconds: Pause,
}

impl Collector {
    /// Collections whose pause was measured.
    pub fn timed(&self) -> u64 {
        self.generations.iter().fold(0, |sum, generation| sum.saturating_add(generation.timed()))
    }
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generation {
    pub generation: usize,
    pub collections: u64,
    pub collected: u64,
    pub uncollectable: u64,
    pub pause_seconds: Pause,
    /// How many pauses were within each of [`Collector::pause_bounds_seconds`] and not within the one before; the last
    /// count is of those longer than all.
    pub pause_counts: Vec<u64>,
}

impl Generation {
    /// Collections whose pause was measured.
    pub fn timed(&self) -> u64 {
        self.pause_counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// How long collections stopped the interpreter.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Pause {
    pub total: f64,
    pub max: f64,
}
