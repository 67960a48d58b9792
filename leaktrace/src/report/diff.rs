//! Two reports compared, in the spirit of tracemalloc's `compare_to`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::style::Style;
use super::units::{bytes, span};
use super::words::{fit, printable};
use super::{Report, SiteReport, Totals, heap};
use crate::census::diff::{Difference, compare};
use crate::export;
use crate::model::Tally;

/// Name and version of the schema.
pub const SCHEMA: &str = "leaktrace.diff/1";
/// Columns of a place; longer ones lose their middle.
const PLACE: usize = 76;

/// What is taken as one, by tracemalloc's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    Lineno,
    Filename,
    Traceback,
    /// Of the last censuses: all objects in the heap, whenever they were allocated.
    Type,
}

/// One of the two.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct End {
    pub pid: u32,
    /// From its attach to its last look.
    pub seconds: f64,
    pub rss_bytes: u64,
    pub totals: Totals,
}

/// What changed from one report to another. Rows are live blocks and bytes; they add up to the difference of the totals.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    pub schema: &'static str,
    pub key: Key,
    pub old: End,
    pub new: End,
    /// Only what changed, that by the most bytes first. The name of a stack is its frames, innermost first, a line each.
    pub rows: Vec<Difference>,
}

/// A report and what its last census counted by type.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    pub report: &'a Report,
    pub types: &'a BTreeMap<String, Tally>,
}

impl Diff {
    pub fn of(old: Side<'_>, new: Side<'_>, key: Key) -> Self {
        let end = |side: Side<'_>| End {
            pid: side.report.target.pid,
            seconds: side.report.capture.duration_seconds,
            rss_bytes: side.report.target.rss_bytes.end,
            totals: side.report.totals,
        };
        Self { schema: SCHEMA, key, old: end(old), new: end(new), rows: compare(&groups(old, key), &groups(new, key)) }
    }

    /// For people.
    pub fn text(&self, top: usize, style: Style) -> String {
        let mut page = String::new();
        let other = if self.old.pid == self.new.pid { "" } else { ", of two processes" };
        let end = |end: &End| format!("{} live after {}", bytes(end.totals.live_bytes as f64), span(end.seconds));
        let rss = format!("RSS {} to {}", bytes(self.old.rss_bytes as f64), bytes(self.new.rss_bytes as f64));
        let title = format!("{}, then {}{other}; {rss}", end(&self.old), end(&self.new));
        let _ = writeln!(page, "{}", style.bold(title));
        let what = match self.key {
            Key::Lineno => "line",
            Key::Filename => "file",
            Key::Traceback => "stack",
            Key::Type => "type",
        };
        if self.rows.is_empty() {
            let _ = writeln!(page, "No {what} changed.");
            return page;
        }
        let blocks = if self.key == Key::Type { "objects" } else { "blocks" };
        let columns = format!("{:>11} {blocks:>10} {:>10} {:>8}  {what}", "bytes", "now", "");
        let _ = writeln!(page, "\n{}", style.dim(columns));
        for row in self.rows.iter().take(top) {
            let mut frames = row.name.split('\n');
            heap::difference(&mut page, row, &fit(&printable(frames.next().unwrap_or_default()), PLACE));
            for frame in frames {
                let _ = writeln!(page, "{:>44}{}", "", fit(&printable(frame), PLACE));
            }
        }
        let left = self.rows.len().saturating_sub(top);
        if left > 0 {
            let _ = writeln!(page, "{left} more; --top shows more of them, --json all");
        }
        page
    }
}

fn groups(side: Side<'_>, key: Key) -> BTreeMap<String, (u64, u64)> {
    if key == Key::Type {
        return side.types.iter().map(|(name, tally)| (name.clone(), (tally.blocks, tally.bytes))).collect();
    }
    let mut groups: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for site in side.report.sites.iter().filter(|site| site.live_blocks > 0) {
        let (blocks, bytes) = groups.entry(name(side.report, site, key)).or_default();
        *blocks += site.live_blocks;
        *bytes += site.live_bytes;
    }
    groups
}

fn name(report: &Report, site: &SiteReport, key: Key) -> String {
    let line = &report.lines[site.line];
    match key {
        Key::Lineno if line.line > 0 => format!("{}:{}", line.file, line.line),
        Key::Lineno | Key::Filename if !line.file.is_empty() => line.file.to_string(),
        _ => export::labels(site).join("\n"),
    }
}
