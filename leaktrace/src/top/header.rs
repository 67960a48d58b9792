//! What is always in sight: the answer, memory, coverage and losses, the tabs.

use ratatui::style::Style;
use ratatui::text::Span;

use super::app::{App, Tab};
use super::rows::signed_bytes;
use crate::model::Verdict;
use crate::report::units::{bytes, bytes_rate, count, percent, span, thousands};
use crate::report::{Outlook, Report, words};

type Spans = Vec<(String, Style)>;

/// The three rows on top.
pub(super) fn rows(app: &App, width: usize) -> Vec<Spans> {
    let theme = app.theme;
    let Some(report) = app.report() else {
        let text = format!("leaktrace top of {}: waiting for the first look ...", app.source);
        return vec![vec![(words::fit(&text, width), theme.bold())]];
    };
    let headline = words::headline(report).into_iter().next().unwrap_or_default();
    let style = match report.headline.outlook {
        Outlook::Leaking => theme.alarm(),
        Outlook::NotLeaking => theme.verdict(Verdict::Plateau).patch(theme.bold()),
        Outlook::TooEarly | Outlook::Incomplete => theme.bold(),
    };
    let state = if report.capture.lost.total() > 0 { theme.warning() } else { theme.dim() };
    vec![
        vec![(cut(headline, width), style)],
        vec![(level(app, report, width), Style::new())],
        vec![(quality(report, width), state)],
    ]
}

fn cut(text: String, width: usize) -> String {
    if text.chars().count() <= width { text } else { words::fit_start(&text, width) }
}

/// The first of these that fit, all of them if there is room.
fn joined(parts: Vec<String>, width: usize) -> String {
    let mut text = String::new();
    for part in parts {
        let separator = if text.is_empty() { "" } else { ", " };
        if !text.is_empty() && text.chars().count() + 2 + part.chars().count() > width {
            break;
        }
        text = text + separator + &part;
    }
    cut(text, width)
}

fn level(app: &App, report: &Report, width: usize) -> String {
    let (rss, totals) = (report.target.rss_bytes, &report.totals);
    let mut parts = vec![
        format!("RSS {} ({})", bytes(rss.end as f64), signed_bytes(report.memory.rss_grown_bytes.into())),
        format!("live {} in {} blocks", bytes(totals.live_bytes as f64), count(totals.live_blocks as f64)),
    ];
    if let Some(baseline) = &app.baseline {
        parts.push(format!("{} since mark", signed_bytes(baseline.total(report).bytes)));
    }
    parts.push(format!("rate {}", bytes_rate(report.headline.growth.bytes_per_second.estimate)));
    parts.push(format!("after {}", span(report.capture.duration_seconds)));
    parts.push(app.source.clone());
    joined(parts, width)
}

fn quality(report: &Report, width: usize) -> String {
    let capture = &report.capture;
    let coverage = match (&capture.watch, capture.coverage.ratio) {
        (Some(watch), _) => format!("{} windows at {} of its CPU", watch.windows, percent(watch.overhead)),
        (None, Some(ratio)) => format!("coverage {}", percent(ratio)),
        (None, None) => "coverage not measured".to_owned(),
    };
    let cost = &capture.cost;
    let parts = vec![
        coverage,
        format!("lost: {}", words::losses(capture)),
        format!("cost: {} in probes", span(cost.probe_seconds)),
        format!("{} CPU and {} here", span(cost.collector_cpu_seconds), bytes(cost.collector_rss_bytes as f64)),
    ];
    joined(parts, width)
}

/// All sites together, with all digits.
pub(super) fn totals(report: &Report) -> String {
    let totals = &report.totals;
    format!(
        "all: {} B live in {} blocks; {} B allocated in {}",
        thousands(totals.live_bytes),
        thousands(totals.live_blocks),
        thousands(totals.allocated_bytes),
        thousands(totals.allocated_blocks),
    )
}

/// The tabs, and how the one that is open shows its rows.
pub(super) fn tabs(app: &App, rows: usize, width: usize) -> Spans {
    let mut spans = Vec::new();
    let mut used = 0;
    for tab in Tab::ALL {
        let name = format!("{} {}", tab as usize + 1, tab.name());
        let (text, style) =
            if tab == app.tab { (format!("[{name}]"), app.theme.bold()) } else { (format!(" {name} "), Style::new()) };
        used += text.len();
        spans.push((text, style));
    }
    let room = width.saturating_sub(used + 1);
    let state = state(app, rows, room);
    // Columns, not characters: a filter may be in any script.
    let free = room.saturating_sub(Span::raw(state.as_str()).width());
    spans.push((" ".repeat(free + 1), Style::new()));
    spans.push((state, if app.paused { app.theme.warning() } else { app.theme.dim() }));
    spans
}

fn state(app: &App, rows: usize, room: usize) -> String {
    let mut words = Vec::new();
    if app.paused {
        words.push(format!("PAUSED {}", span(app.age().floor().max(1.0))));
    }
    if let Some(tid) = app.thread {
        words.push(format!("thread {tid}"));
    }
    if !app.filter.is_empty() {
        words.push(format!("filter {}", app.filter));
    }
    if let Some(baseline) = &app.baseline {
        words.push(format!("mark at {}", span(baseline.seconds)));
    }
    let arrow = if app.is_reversed() { ", least first" } else { "" };
    match app.tab {
        Tab::Sites => words.push(format!("by {}{arrow}", app.site_sort.name())),
        Tab::Types => words.push(format!("by {}{arrow}", app.type_sort.name())),
        Tab::Gc | Tab::Threads => {}
    }
    if rows > 0 && app.tab != Tab::Gc {
        words.push(format!("{}/{rows}", app.cursors[app.tab as usize].index + 1));
    }
    joined(words, room)
}
