//! Rows as all tabs have them, and the place of the cursor in them.

use std::sync::Arc;

use ratatui::style::Style;

use crate::report::Line;
use crate::report::units::bytes;

/// What a line is known by from one look to the next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LineKey {
    file: Arc<str>,
    line: u32,
    domain: &'static str,
    stack_lost: bool,
}

impl LineKey {
    pub(super) fn of(line: &Line) -> Self {
        Self { file: Arc::clone(&line.file), line: line.line, domain: line.domain, stack_lost: line.stack_lost }
    }
}

/// What a row is known by from one look to the next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Line(LineKey),
    /// By the site's number in the ledger.
    Stack(usize),
    /// Of that stack, counted from its innermost.
    Frame(usize, usize),
    Type(String),
    Thread(u32),
    /// One that stands for nothing, by its place.
    Text(usize),
}

/// A row of a tab.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) key: Key,
    /// Pieces from left to right.
    pub(super) spans: Vec<(String, Style)>,
    /// What a search looks through: also what did not fit.
    pub(super) text: String,
    /// What is told of it below the table, exactly.
    pub(super) details: Vec<String>,
    /// What it belongs to, where it was unfolded from.
    pub(super) parent: Option<Key>,
}

impl Row {
    /// A row of text that stands for nothing.
    pub(super) fn text(number: usize, text: impl Into<String>, style: Style) -> Self {
        let text = text.into();
        Self { key: Key::Text(number), spans: vec![(text.clone(), style)], text, details: Vec::new(), parent: None }
    }

    pub(super) fn matches(&self, needle: &str) -> bool {
        self.text.to_lowercase().contains(&needle.to_lowercase())
    }
}

/// Where the cursor is. It follows the row that was chosen when others come and go; until one is, it stays at the first.
#[derive(Debug, Clone, Default)]
pub(super) struct Cursor {
    /// The row that was chosen.
    key: Option<Key>,
    pub(super) index: usize,
    /// First row that is on the screen.
    pub(super) first: usize,
}

impl Cursor {
    /// Chooses a row.
    pub(super) fn go(&mut self, index: usize, rows: &[Row]) {
        self.index = index.min(rows.len().saturating_sub(1));
        self.key = rows.get(self.index).map(|row| row.key.clone());
    }

    /// Stays at the first row, whichever that is.
    pub(super) fn home(&mut self) {
        (self.index, self.key) = (0, None);
    }

    /// Finds its row again, and brings it onto a screen of `height` rows.
    pub(super) fn follow(&mut self, rows: &[Row], height: usize) {
        if let Some(key) = &self.key {
            self.go(rows.iter().position(|row| row.key == *key).unwrap_or(self.index), rows);
        }
        let height = height.max(1);
        let last_first = rows.len().saturating_sub(height);
        self.first = self.first.clamp((self.index + 1).saturating_sub(height), self.index).min(last_first);
    }
}

/// "+1.5 MiB", "-3 KiB", "0 B".
pub(super) fn signed_bytes(value: i128) -> String {
    format!("{}{}", plus(value), bytes(value as f64))
}

/// The sign that a number itself does not show.
pub(super) fn plus(value: i128) -> &'static str {
    if value > 0 { "+" } else { "" }
}

/// A place ("/srv/app.py:12 handle") in `width` columns: first the folders go, then the start of the function.
pub(super) fn fit_place(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let (file, function) = text.split_once(' ').unwrap_or((text, ""));
    let name = file.rsplit('/').next().unwrap_or(file);
    // As many folders as fit.
    let room = width.saturating_sub(function.chars().count() + 2);
    let fits = |at: &(usize, &str)| file[at.0..].chars().count() <= room;
    if let Some((slash, _)) = file.match_indices('/').find(fits) {
        return format!("\u{2026}{} {function}", &file[slash..]);
    }
    let room = width.saturating_sub(name.chars().count() + 1);
    let length = function.chars().count();
    if length <= room {
        return format!("{name} {function}");
    }
    if room < 6 {
        return format!("{name} {function}").chars().take(width).collect();
    }
    let end: String = function.chars().skip(length + 1 - room).collect();
    format!("{name} \u{2026}{end}")
}
