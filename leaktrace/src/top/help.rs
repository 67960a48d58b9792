//! The keys, in short and at length.

use ratatui::buffer::Buffer;
use ratatui::style::Style;

use super::app::{App, Tab};
use super::draw::put;

const KEYS: [(&str, &str); 16] = [
    ("1 2 3 4, Tab, Shift-Tab", "sites, types, garbage collector, threads"),
    ("arrows, j k, PgUp PgDn, g G", "move; g and Home: first, G and End: last"),
    ("Enter, right, left", "unfold a line, a stack; fold"),
    ("z", "fold all"),
    ("s, S", "sort by the next column; least first"),
    ("/, n, N", "search in the rows; next, previous"),
    ("f", "only rows with it: name, file, verdict, domain"),
    ("Esc", "no filter, no search, all threads"),
    ("c", "also churn, and what is all freed"),
    ("b, B", "mark: show growth since now; no mark"),
    ("p, Space", "pause the picture; tracing goes on"),
    ("Enter on a thread", "lines with blocks of this thread"),
    ("Ctrl-Z", "to the shell; fg comes back"),
    ("q, Ctrl-C", "end, with the report"),
    ("growing, plateau", "grows without bound; was filled and stays"),
    ("churn, unknown", "comes and goes; cannot be told yet"),
];

/// The line at the bottom.
pub(super) fn short(app: &App, width: usize) -> String {
    let own = match app.tab {
        Tab::Sites => &["Enter open", "s sort"][..],
        Tab::Types => &["s sort"],
        Tab::Gc => &[],
        Tab::Threads => &["Enter its lines"],
    };
    let words = ["? help", "q quit", "Tab view"].into_iter().chain(own.iter().copied());
    // What does not fit is in the help.
    let mut text = String::new();
    for word in words.chain(["/ find", "f filter", "p pause", "b mark", "c churn"]) {
        if text.chars().count() + word.chars().count() + 2 > width + usize::from(text.is_empty()) * 2 {
            break;
        }
        if !text.is_empty() {
            text.push_str("  ");
        }
        text.push_str(word);
    }
    text
}

/// Takes the place of the table.
pub(super) fn draw(app: &App, buffer: &mut Buffer) {
    let keys = KEYS.iter().map(|(key, does)| {
        let does = if !app.live && *key == "q, Ctrl-C" { "end" } else { does };
        vec![(format!(" {key:<28}"), app.theme.bold()), (does.to_owned(), Style::new())]
    });
    let title = vec![(" Keys; any key leads back".to_owned(), app.theme.dim())];
    for (row, spans) in std::iter::once(title).chain(keys).enumerate() {
        put(buffer, 4 + row as u16, &spans);
    }
}
