//! Two reports compared, as tracemalloc's `Snapshot.compare_to` compares two snapshots.

mod text;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use super::{Report, SiteReport};
use crate::census::diff::{Change, Difference, compare};
use crate::model::{Frame, FrameKind, FrameRef, Root, Stack, StackId, Stacks, Tally, Verdict};

pub use text::text;

/// Name and version of the schema.
pub const SCHEMA: &str = "leaktrace.diff/1";

/// What is compared, in the words of tracemalloc's `key_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Key {
    #[serde(rename = "lineno")]
    Line,
    #[serde(rename = "filename")]
    File,
    #[serde(rename = "traceback")]
    Stack,
}

/// What changed from one report to another. All domains of a line, file or stack are one row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// [`SCHEMA`].
    pub schema: &'static str,
    pub by: Key,
    pub old: Side,
    pub new: Side,
    /// Only what changed, that by the most bytes first.
    pub rows: Vec<Row>,
    /// Types as the last census of each counted them, only what changed; empty where one has none.
    pub types: Vec<Difference>,
}

/// One of the two.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    pub pid: u32,
    pub cmdline: Vec<String>,
    /// Version of the interpreter.
    pub python: String,
    /// From the attach to the last scan.
    pub duration_seconds: f64,
    pub live_bytes: u64,
    pub live_blocks: u64,
}

/// A line, file or stack. `count` and `bytes` are of its live blocks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub difference: Difference,
    /// Whether the newer report says that a site of it grows.
    pub growing: bool,
    /// Of the frame that allocates; `None` where there is none.
    pub kind: Option<FrameKind>,
    /// Empty where there is no frame.
    pub file: Arc<str>,
    /// 0 for a file, and where it is not known.
    pub line: u32,
    /// Of [`Key::Stack`], innermost first.
    #[serde(skip_serializing_if = "Stack::is_empty")]
    pub stack: Stack,
}

/// Live blocks and bytes by type's name.
pub type Types = BTreeMap<String, (u64, u64)>;

impl Diff {
    /// Compares what lives.
    pub fn of(old: &Report, new: &Report, by: Key) -> Self {
        let mut sums = Sums { by, stacks: Stacks::default(), entries: HashMap::new() };
        old.sites.iter().for_each(|site| sums.add(site, false));
        new.sites.iter().for_each(|site| sums.add(site, true));
        Self { schema: SCHEMA, by, old: Side::of(old), new: Side::of(new), rows: sums.into_rows(), types: Vec::new() }
    }

    /// With what the censuses counted of each type.
    #[must_use]
    pub fn with_types(mut self, old: &Types, new: &Types) -> Self {
        if !old.is_empty() && !new.is_empty() {
            self.types = compare(old, new);
        }
        self
    }
}

impl Side {
    fn of(report: &Report) -> Self {
        Self {
            pid: report.target.pid,
            cmdline: report.target.cmdline.clone(),
            python: report.target.python.version.clone(),
            duration_seconds: report.capture.duration_seconds,
            live_bytes: report.totals.live_bytes,
            live_blocks: report.totals.live_blocks,
        }
    }
}

/// A row while it is put together.
#[derive(Default)]
struct Entry {
    old: Tally,
    new: Tally,
    growing: bool,
    /// Where the newest of its sites allocates.
    place: Option<Frame>,
    lost: bool,
}

struct Sums {
    by: Key,
    /// Stacks of both, so that equal ones are one.
    stacks: Stacks,
    entries: HashMap<StackId, Entry>,
}

impl Sums {
    fn add(&mut self, site: &SiteReport, new: bool) {
        let live = Tally { blocks: site.live_blocks, bytes: site.live_bytes };
        let frames: Vec<Frame> = site.stack.frames().collect();
        let place = frames.iter().find(|frame| frame.kind == FrameKind::Python).or(frames.first());
        let root = match (site.stack_lost, site.truncated, self.by) {
            (true, ..) => Root::Lost,
            (_, true, Key::Stack) => Root::Truncated,
            _ => Root::Whole,
        };
        let whole: Vec<FrameRef<'_>> = match self.by {
            Key::Stack => frames.iter().map(Frame::as_ref).collect(),
            Key::Line => place.map(|place| FrameRef { function: "", ..place.as_ref() }).into_iter().collect(),
            Key::File => place.map(|place| FrameRef { function: "", line: 0, ..place.as_ref() }).into_iter().collect(),
        };
        let entry = self.entries.entry(self.stacks.intern(&whole, root)).or_default();
        if new { &mut entry.new } else { &mut entry.old }.add(live);
        entry.growing |= new && site.verdict == Verdict::Growing;
        entry.lost |= site.stack_lost;
        if entry.place.is_none() || new {
            entry.place = place.cloned();
        }
    }

    /// In the order of tracemalloc's `compare_to`: change in bytes, bytes, change in blocks, blocks.
    fn into_rows(self) -> Vec<Row> {
        let Self { by, stacks, entries } = self;
        let mut rows: Vec<Row> = entries
            .into_iter()
            .filter_map(|(id, entry)| {
                let (old, new) = (entry.old, entry.new);
                let change = Change::of((old.blocks, old.bytes), (new.blocks, new.bytes))?;
                let (file, line) =
                    entry.place.as_ref().map_or_else(|| ("".into(), 0), |p| (Arc::clone(&p.file), p.line));
                let difference = Difference {
                    name: name(&entry, by),
                    change,
                    old_count: old.blocks,
                    new_count: new.blocks,
                    old_bytes: old.bytes,
                    new_bytes: new.bytes,
                };
                let stack = stacks.stack(if by == Key::Stack { id } else { StackId::EMPTY });
                let line = if by == Key::File { 0 } else { line };
                let kind = entry.place.as_ref().map(|place| place.kind);
                Some(Row { difference, growing: entry.growing, kind, file, line, stack })
            })
            .collect();
        rows.sort_by(|a, b| a.order().cmp(&b.order()).then_with(|| a.stack.cmp(&b.stack)));
        rows
    }
}

impl Row {
    fn order(&self) -> impl Ord + '_ {
        let d = &self.difference;
        let size = (d.bytes_delta().unsigned_abs(), d.new_bytes, d.count_delta().unsigned_abs(), d.new_count);
        (Reverse(size), &*d.name)
    }
}

fn name(entry: &Entry, by: Key) -> String {
    let Some(Frame { file, line, function, .. }) = &entry.place else {
        return if entry.lost { "(stack lost)" } else { "(no Python frame)" }.to_owned();
    };
    match (by, line) {
        (Key::File, _) => file.to_string(),
        (_, 0) => format!("{file} {function}"),
        (_, line) => format!("{file}:{line} {function}"),
    }
}
