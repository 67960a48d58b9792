//! What the page holds: the report and the history, with texts, frames and stacks written once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use crate::export::stacks::{Table, frames};
use crate::export::{Export, Value};
use crate::model::{FrameKind, Verdict};
use crate::recording::{History, TypeHistory};
use crate::report::{Capture, Collector, Line, Memory, Report, SiteReport, Target, Totals, words};

/// Lines whose evidence and series the page has: the first, worst first.
const TOLD_LINES: usize = 300;
/// Points of a series.
const POINTS: usize = 48;
/// Points of the charts.
const MOMENTS: usize = 600;
/// Types, those that changed most.
const TYPES: usize = 200;
/// Containers that grow.
const CONTAINERS: usize = 50;
/// Collections that are drawn one by one, the last.
const COLLECTIONS: usize = 5000;

/// The page's data. Lists of numbers where objects would repeat their keys ten thousand times.
#[derive(Debug, Serialize)]
pub(super) struct Document<'a> {
    leaktrace: &'a str,
    /// Seconds since 1970.
    started_at: f64,
    process: String,
    /// The value that the flame graph shows first; `None` for what leaks.
    value: Option<&'static str>,
    headline: Vec<String>,
    outlook: crate::report::Outlook,
    target: &'a Target,
    capture: &'a Capture,
    words: Words,
    totals: Totals,
    memory: &'a Memory,
    gc: &'a Collector,
    texts: Vec<Arc<str>>,
    /// Python or not, function, file, line; texts by number.
    frames: Vec<(bool, usize, usize, u32)>,
    /// Parent (-1: none) and frame: each after its parent.
    nodes: Vec<(i64, usize)>,
    sites: Vec<Site>,
    lines: Vec<LineRow>,
    /// Of the lines that grow, which are the first: bytes a second, estimate, low and high; blocks a second.
    growth: Vec<(f64, f64, f64, f64)>,
    /// Of the first lines.
    told: Vec<Told<'a>>,
    /// File, line and text.
    sources: BTreeMap<String, BTreeMap<u32, String>>,
    /// Seconds, resident set, live bytes, live blocks, seconds in probes.
    moments: Vec<(f64, u64, u64, u64, f64)>,
    /// Seconds, resident set, and of it objects, free space in arenas, native memory, files.
    censuses: Vec<(f64, u64, u64, u64, u64, u64)>,
    types: Vec<TypeRow<'a>>,
    containers: Vec<(&'a str, u64, u64, f64)>,
    /// Generation, seconds, pause in seconds.
    collections: Vec<(u8, f64, Option<f64>)>,
}

/// What the text report says of the capture.
#[derive(Debug, Serialize)]
struct Words {
    lost: String,
    coverage: String,
    cost: String,
    windows: Option<String>,
}

/// Verdict, domain, live bytes, live blocks, allocated bytes, allocated blocks, bytes an hour of growth, node, line.
type Site = (&'static str, &'static str, u64, u64, u64, u64, u64, usize, usize);

/// Verdict, place, live bytes, live blocks, allocated bytes, allocated blocks.
type LineRow = (Verdict, String, u64, u64, u64, u64);

/// What more is told of a line.
#[derive(Debug, Serialize)]
struct Told<'a> {
    file: &'a str,
    line: u32,
    facts: Vec<String>,
    /// Live bytes over time.
    series: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct TypeRow<'a> {
    name: &'a str,
    first: u64,
    last: u64,
    first_bytes: u64,
    last_bytes: u64,
    /// Objects a second; `None` where it was not measured.
    rate: Option<f64>,
    series: Vec<u64>,
}

impl<'a> Document<'a> {
    pub(super) fn of(export: &Export<'a>, history: &'a History) -> Self {
        let report = export.report;
        let origin = export.recording.origin();
        let capture = &report.capture;
        let mut stacks = Tree::default();
        let sites = report.sites.iter().map(|site| stacks.site(site)).collect();
        let picked = thinned(report.series_seconds.len(), POINTS);
        let growing = report.lines.iter().take_while(|line| line.verdict == Verdict::Growing);
        let last = history.collections.len().saturating_sub(COLLECTIONS);
        Self {
            leaktrace: &origin.leaktrace,
            started_at: origin.started_at,
            process: export.process(),
            value: (export.value != Value::LiveBytes).then(|| export.value.name()),
            headline: words::headline(report),
            outlook: report.headline.outlook,
            target: &report.target,
            capture,
            words: Words {
                lost: words::losses(capture),
                coverage: words::coverage(capture),
                cost: words::cost(capture),
                windows: capture.watch.as_ref().map(words::windows),
            },
            totals: report.totals,
            memory: &report.memory,
            gc: &report.gc,
            texts: stacks.texts.items().to_vec(),
            frames: stacks.frames.items().to_vec(),
            nodes: stacks.nodes.items().to_vec(),
            sites,
            lines: report.lines.iter().map(line_row).collect(),
            growth: growing.map(growth).collect(),
            told: report.lines.iter().take(TOLD_LINES).map(|line| told(line, &picked)).collect(),
            sources: sources(export),
            moments: (thinned(history.moments.len(), MOMENTS).into_iter().map(|index| &history.moments[index]))
                .map(|m| (m.seconds, m.rss_bytes, m.live.bytes, m.live.blocks, m.probe_seconds))
                .collect(),
            censuses: (thinned(history.censuses.len(), MOMENTS).into_iter().map(|index| &history.censuses[index]))
                .map(|c| (c.seconds, c.rss_bytes, c.objects, c.fragmentation, c.native, c.file))
                .collect(),
            types: types(report, &history.types),
            containers: (report.heap.iter().flat_map(|heap| &heap.containers).take(CONTAINERS))
                .map(|grown| (&*grown.name, grown.first, grown.last, grown.rate.estimate))
                .collect(),
            collections: (history.collections[last..].iter())
                .map(|c| (c.generation, c.seconds, c.pause_seconds))
                .collect(),
        }
    }
}

/// At most `most` of `length` indices, evenly, the last one included.
fn thinned(length: usize, most: usize) -> Vec<usize> {
    let count = length.min(most);
    (1..=count).map(|number| number * length / count - 1).collect()
}

fn line_row(line: &Line) -> LineRow {
    let Line { verdict, live_bytes, live_blocks, allocated_bytes, allocated_blocks, .. } = *line;
    (verdict, words::place(line), live_bytes, live_blocks, allocated_bytes, allocated_blocks)
}

fn growth(line: &Line) -> (f64, f64, f64, f64) {
    let rate = &line.growth.bytes_per_second;
    (rate.estimate, rate.low, rate.high, line.growth.blocks_per_second.estimate)
}

fn told<'a>(line: &'a Line, picked: &[usize]) -> Told<'a> {
    let mut facts = words::evidence(&line.evidence, line.freed_blocks, line.allocated_blocks);
    facts.extend(words::holders(&line.holders));
    let series = picked.iter().filter_map(|&index| line.series.live_bytes.get(index).copied()).collect();
    Told { file: &line.file, line: line.line, facts, series }
}

/// Types with their history, where there is one, else with what the run's own censuses found.
fn types<'a>(report: &'a Report, history: &'a [TypeHistory]) -> Vec<TypeRow<'a>> {
    let grown = report.heap.iter().flat_map(|heap| &heap.types);
    let mut rates: HashMap<&str, f64> = grown.clone().map(|row| (&*row.name, row.rate.estimate)).collect();
    let rows = history.iter().filter(|type_| !type_.levels.is_empty()).take(TYPES);
    let mut rows: Vec<TypeRow<'_>> = rows
        .map(|type_| {
            let (first, last) = (type_.levels[0], type_.levels[type_.levels.len() - 1]);
            let picked = thinned(type_.levels.len(), POINTS);
            TypeRow {
                name: &type_.name,
                first: first.blocks,
                last: last.blocks,
                first_bytes: first.bytes,
                last_bytes: last.bytes,
                rate: rates.remove(&*type_.name),
                series: picked.into_iter().map(|index| type_.levels[index].bytes).collect(),
            }
        })
        .collect();
    if rows.is_empty() {
        rows.extend(grown.take(TYPES).map(|row| TypeRow {
            name: &row.name,
            first: row.first,
            last: row.last,
            first_bytes: row.first_bytes,
            last_bytes: row.last_bytes,
            rate: Some(row.rate.estimate),
            series: Vec::new(),
        }));
    }
    rows
}

fn sources(export: &Export<'_>) -> BTreeMap<String, BTreeMap<u32, String>> {
    let mut sources = BTreeMap::<String, BTreeMap<u32, String>>::new();
    for ((file, line), text) in export.recording.sources() {
        sources.entry(file).or_default().insert(line, text);
    }
    sources
}

/// Stacks as a prefix tree, outermost frames first.
#[derive(Default)]
struct Tree {
    texts: Table<Arc<str>>,
    frames: Table<(bool, usize, usize, u32)>,
    nodes: Table<(i64, usize)>,
}

impl Tree {
    fn site(&mut self, site: &SiteReport) -> Site {
        let mut node = -1;
        for frame in frames(site) {
            let packed = (
                frame.kind == FrameKind::Python,
                self.texts.text(&words::printable(&frame.function)),
                self.texts.text(&words::printable(&frame.file)),
                frame.line,
            );
            let frame = self.frames.index(&packed);
            node = self.nodes.index(&(node, frame)) as i64;
        }
        (
            site.verdict.name(),
            site.domain,
            site.live_bytes,
            site.live_blocks,
            site.allocated_bytes,
            site.allocated_blocks,
            crate::export::stacks::value(site, Value::Growth),
            // There is a frame at least that says that none is known.
            usize::try_from(node).unwrap_or_default(),
            site.line,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_last() {
        assert_eq!(thinned(0, 3), Vec::<usize>::new());
        assert_eq!(thinned(2, 3), [0, 1]);
        assert_eq!(thinned(10, 3), [2, 5, 9]);
        assert_eq!(thinned(10, 10), (0..10).collect::<Vec<_>>());
    }
}
