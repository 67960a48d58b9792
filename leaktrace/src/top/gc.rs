//! The garbage collector.

use ratatui::style::Style;

use super::app::{App, Picture};
use super::rows::Row;
use crate::report::units::{count, span};
use crate::report::words;

/// Columns of the longest bar.
const BAR: u64 = 30;
/// Collections that are listed.
const LAST: usize = 100;

/// The columns' names.
pub(super) fn titles() -> String {
    format!(
        "  {:>10} {:>12} {:>11} {:>13} {:>11} {:>10}",
        "generation", "collections", "collected", "uncollectable", "paused", "longest"
    )
}

/// Generations, pauses and the last collections.
pub(super) fn rows(app: &App, picture: &Picture, _width: usize) -> Vec<Row> {
    let gc = &picture.report.gc;
    let mut texts: Vec<(String, Style)> = Vec::new();
    for row in &gc.generations {
        let is_known = gc.pauses_known || row.timed() > 0;
        let pause = |seconds: f64| if is_known { span(seconds) } else { "-".to_owned() };
        let style = if row.uncollectable > 0 { app.theme.warning() } else { Style::new() };
        texts.push((
            format!(
                " {:>10} {:>12} {:>11} {:>13} {:>11} {:>10}",
                row.generation,
                count(row.collections as f64),
                count(row.collected as f64),
                count(row.uncollectable as f64),
                pause(row.pause_seconds.total),
                pause(row.pause_seconds.max),
            ),
            style,
        ));
    }
    let notes = [words::untimed(gc), words::other_collectors(gc)];
    texts.extend(notes.into_iter().flatten().map(|text| (format!(" {text}"), Style::new())));
    texts.push((String::new(), Style::new()));
    texts.push(match gc.enabled {
        Some(true) => (" Automatic collection is on.".to_owned(), Style::new()),
        Some(false) => {
            (" Automatic collection is off: reference cycles are never freed.".to_owned(), app.theme.warning())
        }
        None => (" Whether automatic collection is on cannot be told.".to_owned(), Style::new()),
    });
    texts.push((String::new(), Style::new()));
    pauses(app, picture, &mut texts);
    if !picture.collections.is_empty() {
        texts.push((String::new(), Style::new()));
        texts.push((" The last collections:".to_owned(), app.theme.bold()));
        texts.push((format!(" {:>12} {:>10} {:>11}", "at", "generation", "paused"), app.theme.dim()));
        for one in picture.collections.iter().rev().take(LAST) {
            let pause = one.pause_seconds.map_or_else(|| "-".to_owned(), span);
            texts.push((format!(" {:>12} {:>10} {pause:>11}", span(one.seconds), one.generation), Style::new()));
        }
    }
    texts.into_iter().enumerate().map(|(number, (text, style))| Row::text(number, text, style)).collect()
}

/// How many pauses were how long, all generations together.
fn pauses(app: &App, picture: &Picture, texts: &mut Vec<(String, Style)>) {
    let gc = &picture.report.gc;
    if !gc.pauses_known && gc.timed() == 0 {
        texts.push((" Pauses were not measured.".to_owned(), Style::new()));
        return;
    }
    let bounds = &gc.pause_bounds_seconds;
    let mut counts = vec![0u64; bounds.len() + 1];
    for row in &gc.generations {
        for (sum, count) in counts.iter_mut().zip(&row.pause_counts) {
            *sum = sum.saturating_add(*count);
        }
    }
    let most = counts.iter().copied().max().unwrap_or(0);
    if most == 0 {
        texts.push((" No collection has ended yet: no pauses.".to_owned(), Style::new()));
        return;
    }
    texts.push((format!(" {:>14} {:>8}", "pauses up to", "number"), app.theme.dim()));
    // Nothing is longer than the longest.
    let used = counts.iter().rposition(|&number| number > 0).map_or(0, |last| last + 1);
    for (index, &number) in counts.iter().enumerate().take(used) {
        let bound = match (bounds.get(index), bounds.last()) {
            (Some(bound), _) => span(*bound),
            (None, Some(last)) => format!("over {}", span(*last)),
            (None, None) => "all".to_owned(),
        };
        let bar = "\u{2588}".repeat((u128::from(number) * u128::from(BAR)).div_ceil(u128::from(most)) as usize);
        texts.push((format!(" {bound:>14} {:>8} {bar}", count(number as f64)), Style::new()));
    }
}
