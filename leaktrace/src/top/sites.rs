//! Lines that allocate, unfolded into stacks and frames.

use std::fmt::Write as _;

use ratatui::style::Style;

use super::app::App;
use super::baseline::Change;
use super::rows::{Key, LineKey, Row, fit_place, plus, signed_bytes};
use super::sort::SiteSort;
use crate::model::Verdict;
use crate::report::live::sparkline;
use crate::report::units::{bytes, bytes_rate, count, thousands};
use crate::report::words::{frame, place, printable};
use crate::report::{Line, Report, SiteReport};

/// Columns of the mark of the cursor and of what can be unfolded.
const MARKS: usize = 4;
/// Columns of growth since the mark.
const SINCE: usize = 18;

/// Which columns there is room for.
struct Columns {
    spark: usize,
    rate: bool,
    /// Columns of the second number.
    second: usize,
    since: bool,
}

impl Columns {
    fn of(app: &App, width: usize) -> Self {
        let since = app.baseline.is_some();
        let spark = match width {
            110.. => 12,
            76.. if !since => 6,
            _ => 0,
        };
        let second = match app.site_sort {
            SiteSort::Allocated => 8,
            _ if width >= if since { 90 } else { 70 } => 6,
            _ => 0,
        };
        Self { spark, rate: width >= 56, second, since }
    }

    /// The cells of a line or of a stack.
    fn of_amounts(&self, app: &App, amounts: &Amounts<'_>, since: Option<Change>) -> String {
        let second = if app.site_sort == SiteSort::Allocated {
            bytes(amounts.allocated_bytes as f64)
        } else {
            count(amounts.live_blocks as f64)
        };
        // Only what grows has a rate worth reading.
        let grows = amounts.verdict == Verdict::Growing;
        let rate = if grows { bytes_rate(amounts.bytes_per_second) } else { String::new() };
        let since = since.map_or_else(String::new, self::since);
        self.cells(&bytes(amounts.live_bytes as f64), &second, &rate, &since, &sparkline(amounts.series, self.spark))
    }

    fn cells(&self, live: &str, second: &str, rate: &str, since: &str, bars: &str) -> String {
        let mut text = format!("{live:>8}");
        if self.second > 0 {
            let _ = write!(text, " {second:>width$}", width = self.second);
        }
        if self.rate {
            let _ = write!(text, " {rate:>10}");
        }
        if self.since {
            let _ = write!(text, " {since:>width$}", width = SINCE - 1);
        }
        if self.spark > 0 {
            let _ = write!(text, " {bars:<width$}", width = self.spark);
        }
        text + " "
    }
}

/// What lines and stacks have both.
struct Amounts<'a> {
    verdict: Verdict,
    live_bytes: u64,
    live_blocks: u64,
    allocated_bytes: u64,
    allocated_blocks: u64,
    bytes_per_second: f64,
    series: &'a [u64],
}

macro_rules! amounts_of {
    ($($from:ty),*) => {$(
        impl<'a> From<&'a $from> for Amounts<'a> {
            fn from(from: &'a $from) -> Self {
                Self {
                    verdict: from.verdict,
                    live_bytes: from.live_bytes,
                    live_blocks: from.live_blocks,
                    allocated_bytes: from.allocated_bytes,
                    allocated_blocks: from.allocated_blocks,
                    bytes_per_second: from.growth.bytes_per_second.estimate,
                    series: &from.series.live_bytes,
                }
            }
        }
    )*};
}
amounts_of!(Line, SiteReport);

/// The columns' names.
pub(super) fn titles(app: &App, width: usize) -> String {
    let second = if app.site_sort == SiteSort::Allocated { "alloc'd" } else { "blocks" };
    let columns = Columns::of(app, width);
    let bars = if columns.spark >= 12 { "over time" } else { "trend" };
    format!("{:MARKS$}{}{:<7} line", "", columns.cells("live", second, "rate", "since mark", bars), "verdict")
}

/// Lines that are shown, in order.
pub(super) fn lines<'a>(app: &App, report: &'a Report) -> Vec<&'a Line> {
    let filter = app.filter.to_lowercase();
    let shown = |line: &&Line| {
        (app.churn || line.live_blocks > 0 && line.verdict != Verdict::Churn)
            && (filter.is_empty() || searched(line).to_lowercase().contains(&filter))
            && app.thread.is_none_or(|tid| sites(report, line).any(|site| site.threads.contains(&tid)))
    };
    let mut lines: Vec<&Line> = report.lines.iter().filter(shown).collect();
    lines.sort_by(|a, b| app.site_sort.compare(a, b, app.baseline.as_ref()));
    if app.is_reversed() {
        lines.reverse();
    }
    lines
}

fn sites<'a>(report: &'a Report, line: &'a Line) -> impl Iterator<Item = &'a SiteReport> {
    line.sites.iter().filter_map(|&site| report.sites.get(site))
}

/// What of a line can be filtered and searched for.
fn searched(line: &Line) -> String {
    let functions = line.functions.join(", ");
    printable(&format!("{}:{} {functions} {} {}", line.file, line.line, line.verdict.name(), line.domain))
}

/// The table.
pub(super) fn rows(app: &App, report: &Report, width: usize) -> Vec<Row> {
    let columns = Columns::of(app, width);
    let mut rows = Vec::new();
    for line in lines(app, report) {
        let key = Key::Line(LineKey::of(line));
        let open = app.unfolded.contains(&key);
        rows.push(line_row(app, line, key.clone(), open, &columns, width));
        if open {
            stacks(app, report, line, &key, &columns, width, &mut rows);
        }
    }
    if rows.is_empty() {
        let chosen = !app.filter.is_empty() || app.thread.is_some();
        let why =
            if chosen { " no line matches (Esc: show all)" } else { " nothing lives (c: show also what was freed)" };
        rows.push(Row::text(0, why, app.theme.dim()));
    }
    rows
}

fn line_row(app: &App, line: &Line, key: Key, open: bool, columns: &Columns, width: usize) -> Row {
    let amounts = Amounts::from(line);
    let cells = columns.of_amounts(app, &amounts, app.baseline.as_ref().map(|baseline| baseline.line(line)));
    let mark = if open { "-  " } else { "+  " };
    let room = width.saturating_sub(MARKS + cells.chars().count() + 8);
    let place = place(line);
    Row {
        key,
        spans: vec![
            (format!("{mark}{cells}"), Style::new()),
            (format!("{:<7} ", line.verdict.name()), app.theme.verdict(line.verdict)),
            (fit_place(&place, room), Style::new()),
        ],
        text: searched(line),
        details: vec![place, exact(&amounts, line.sites.len())],
        parent: None,
    }
}

fn stacks(app: &App, report: &Report, line: &Line, parent: &Key, columns: &Columns, width: usize, rows: &mut Vec<Row>) {
    let seen = |site: &&SiteReport| app.thread.is_none_or(|tid| site.threads.contains(&tid));
    for site in sites(report, line).filter(seen) {
        let key = Key::Stack(site.number);
        let open = app.unfolded.contains(&key);
        let amounts = Amounts::from(site);
        let cells = columns.of_amounts(app, &amounts, app.baseline.as_ref().map(|baseline| baseline.site(site)));
        // Stacks of one line differ in who calls.
        let caller = site.stack.frames().nth(1).map_or_else(|| "no caller".to_owned(), |f| frame(&f));
        let text = format!("called from {caller}");
        let room = width.saturating_sub(MARKS + cells.chars().count() + 8);
        rows.push(Row {
            key: key.clone(),
            spans: vec![
                (format!("{}{cells}", if open { " - " } else { " + " }), Style::new()),
                (format!("{:<7} ", site.verdict.name()), app.theme.verdict(site.verdict)),
                (format!("from {}", fit_place(&caller, room.saturating_sub(5))), Style::new()),
            ],
            details: vec![
                format!("{text}; {} frames; {}", site.stack.len(), seen_in(&site.threads)),
                exact(&amounts, 1),
            ],
            text,
            parent: Some(parent.clone()),
        });
        if open {
            frames(app, site, &key, width, rows);
        }
    }
}

fn frames(app: &App, site: &SiteReport, parent: &Key, width: usize, rows: &mut Vec<Row>) {
    for (depth, one) in site.stack.frames().enumerate() {
        let text = frame(&one);
        let full = printable(&format!("{}:{} {}", one.file, one.line, one.function));
        rows.push(Row {
            key: Key::Frame(site.number, depth),
            spans: vec![(format!("       {}", fit_place(&text, width.saturating_sub(8))), Style::new())],
            details: vec![full.clone()],
            text: full,
            parent: Some(parent.clone()),
        });
    }
    let missing = match (site.stack_lost, site.truncated) {
        (true, _) => "the stack was lost",
        (false, true) => "... frames outside of these are missing",
        (false, false) => return,
    };
    rows.push(Row {
        key: Key::Frame(site.number, site.stack.len()),
        spans: vec![(format!("       {missing}"), app.theme.dim())],
        text: missing.to_owned(),
        details: Vec::new(),
        parent: Some(parent.clone()),
    });
}

fn seen_in(threads: &[u32]) -> String {
    let ids: Vec<String> = threads.iter().map(u32::to_string).collect();
    if ids.is_empty() {
        "seen alive in no thread".to_owned()
    } else {
        format!("seen alive in thread {}", ids.join(", "))
    }
}

/// "+1.5 MiB +3.2k".
fn since(change: Change) -> String {
    format!("{} {}{}", signed_bytes(change.bytes), plus(change.blocks), count(change.blocks as f64))
}

fn exact(amounts: &Amounts<'_>, stacks: usize) -> String {
    let stacks = if stacks > 1 { format!("; {stacks} stacks") } else { String::new() };
    format!(
        "here: {} B live in {} blocks; {} B allocated in {}{stacks}",
        thousands(amounts.live_bytes),
        thousands(amounts.live_blocks),
        thousands(amounts.allocated_bytes),
        thousands(amounts.allocated_blocks),
    )
}
