//! What the heap has more of, by the census.

use ratatui::style::Style;

use super::app::App;
use super::rows::{Key, Row, plus, signed_bytes};
use crate::census::growth::Grown;
use crate::report::Report;
use crate::report::units::{bytes, count, span, thousands};
use crate::report::words::printable;

/// The columns' names.
pub(super) fn titles(app: &App) -> String {
    let since = if app.baseline.is_some() { format!(" {:>10}", "since mark") } else { String::new() };
    format!("  {:>8} {:>8} {:>9} {:>9} {:>9}{since}  type", "objects", "change", "a second", "bytes", "change")
}

/// The table, or why there is none.
pub(super) fn rows(app: &App, report: &Report, _width: usize) -> Vec<Row> {
    let Some(growth) = &report.heap else {
        let why = if app.live {
            " No two censuses of the heap were taken yet: there is nothing to compare."
        } else {
            " Fewer than two censuses of the heap were recorded: there is nothing to compare."
        };
        return vec![Row::text(0, why, Style::new())];
    };
    let filter = app.filter.to_lowercase();
    let mut types: Vec<&Grown> =
        growth.types.iter().filter(|row| filter.is_empty() || row.name.to_lowercase().contains(&filter)).collect();
    types.sort_by(|a, b| app.type_sort.compare(a, b, app.baseline.as_ref()));
    if app.is_reversed() {
        types.reverse();
    }
    let mut rows: Vec<Row> = types.into_iter().map(|grown| row(app, grown, growth.seconds)).collect();
    if rows.is_empty() {
        let why = if filter.is_empty() {
            " No type has more objects than at first."
        } else {
            " no type matches (Esc: show all)"
        };
        rows.push(Row::text(0, why, app.theme.dim()));
    }
    rows
}

fn row(app: &App, grown: &Grown, seconds: f64) -> Row {
    let name = printable(&grown.name);
    let delta = i128::from(grown.last) - i128::from(grown.first);
    let delta_bytes = i128::from(grown.last_bytes) - i128::from(grown.first_bytes);
    let signed = |value: i128| format!("{}{}", plus(value), count(value as f64));
    let since = app.baseline.as_ref().map_or_else(String::new, |baseline| {
        format!(" {:>10}", baseline.objects(grown).map_or_else(|| "-".to_owned(), signed))
    });
    let rate = grown.rate.estimate;
    let grows = grown.rate.is_positive() && delta > 0;
    let numbers = format!(
        " {:>8} {:>8} {:>9} {:>9} {:>9}{since}  ",
        count(grown.last as f64),
        signed(delta),
        count(rate),
        bytes(grown.last_bytes as f64),
        signed_bytes(delta_bytes),
    );
    Row {
        key: Key::Type(grown.name.clone()),
        spans: vec![(numbers, Style::new()), (name.clone(), if grows { app.theme.alarm() } else { Style::new() })],
        details: vec![
            name.clone(),
            format!(
                "{} objects, {} B; {} and {} B at first, {} before",
                thousands(grown.last),
                thousands(grown.last_bytes),
                thousands(grown.first),
                thousands(grown.first_bytes),
                span(seconds),
            ),
        ],
        text: name,
        parent: None,
    }
}
