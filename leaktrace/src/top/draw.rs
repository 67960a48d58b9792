//! The whole picture.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Position;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::app::{App, Asked, Tab};
use super::rows::{Key, Row};
use super::{gc, header, help, sites, threads, types};
use crate::report::words::fit;

/// Smallest terminal that is drawn for.
const SMALLEST: (u16, u16) = (40, 10);
/// Rows above the table: three of the header, the tabs, the columns' titles.
const ABOVE: u16 = 5;
/// Rows below it, besides the details: the keys.
const BELOW: u16 = 1;

/// Rows for exact numbers.
fn detail_rows(height: u16) -> u16 {
    match height {
        ..12 => 0,
        12..16 => 1,
        _ => 3,
    }
}

/// Rows of the table.
pub(super) fn body_rows(height: u16) -> usize {
    usize::from(height.saturating_sub(ABOVE + BELOW + detail_rows(height)))
}

/// Draws the view.
pub fn draw(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!("needs {}x{}, has {}x{}", SMALLEST.0, SMALLEST.1, area.width, area.height);
        if area.height > 0 {
            put(frame.buffer_mut(), 0, &[(text, Style::new())]);
        }
        return;
    }
    let width = usize::from(area.width);
    let buffer = frame.buffer_mut();
    for (y, spans) in header::rows(app, width).into_iter().enumerate() {
        put(buffer, y as u16, &spans);
    }
    if app.help {
        help::draw(app, buffer);
        return;
    }
    let rows = app.rows(width);
    put(
        buffer,
        ABOVE - 2,
        &header::tabs(app, rows.iter().filter(|row| !matches!(row.key, Key::Text(_))).count(), width),
    );
    put(buffer, ABOVE - 1, &[(titles(app, width), app.theme.dim())]);
    body(app, &rows, buffer);
    let details = detail_rows(area.height);
    let cursor = &app.cursors[app.tab as usize];
    for (row, text) in details_of(app, rows.get(cursor.index)).into_iter().take(details.into()).enumerate() {
        put(buffer, area.height - BELOW - details + row as u16, &[(fit(&text, width), Style::new())]);
    }
    footer(app, frame);
}

fn titles(app: &App, width: usize) -> String {
    match app.tab {
        Tab::Sites => sites::titles(app, width),
        Tab::Types => types::titles(app),
        Tab::Gc => gc::titles(),
        Tab::Threads => threads::titles(),
    }
}

fn body(app: &App, rows: &[Row], buffer: &mut Buffer) {
    let (height, cursor) = (body_rows(buffer.area.height), &app.cursors[app.tab as usize]);
    let first = cursor.first.min(rows.len().saturating_sub(1));
    for (place, row) in rows.iter().enumerate().skip(first).take(height) {
        let y = ABOVE + (place - first) as u16;
        let selected = place == cursor.index;
        put(buffer, y, &[(if selected { ">" } else { " " }.to_owned(), Style::new())]);
        put_from(buffer, 1, y, &row.spans);
        if selected {
            let whole = ratatui::layout::Rect { x: 0, y, width: buffer.area.width, height: 1 };
            buffer.set_style(whole, app.theme.selected());
        }
        highlight(app, buffer, y);
    }
}

/// Marks what is searched for in a row.
fn highlight(app: &App, buffer: &mut Buffer, y: u16) {
    let needle: Vec<String> = app.search.to_lowercase().chars().map(String::from).collect();
    let cells: Vec<String> = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol().to_lowercase()).collect();
    if needle.is_empty() {
        return;
    }
    for (start, _) in cells.windows(needle.len()).enumerate().filter(|(_, cells)| *cells == needle.as_slice()) {
        for x in start..start + needle.len() {
            let cell = &mut buffer[(x as u16, y)];
            cell.set_style(app.theme.found());
        }
    }
}

/// What is told exactly: of all, and of the row with the cursor.
fn details_of(app: &App, row: Option<&Row>) -> Vec<String> {
    let mut texts: Vec<String> = app.report().map(header::totals).into_iter().collect();
    texts.extend(row.map(|row| row.details.clone()).unwrap_or_default());
    texts
}

fn footer(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    let y = area.height - 1;
    if let Some(prompt) = &app.prompt {
        let what = match prompt.asked {
            Asked::Search => "search: ",
            Asked::Filter => "filter: ",
        };
        let room = usize::from(area.width).saturating_sub(what.len() + 1);
        let start = prompt.text.chars().count().saturating_sub(room);
        let shown: String = prompt.text.chars().skip(start).collect();
        let x = Span::raw(format!("{what}{shown}")).width() as u16;
        put(frame.buffer_mut(), y, &[(format!("{what}{shown}"), app.theme.bold())]);
        frame.set_cursor_position(Position { x: x.min(area.width - 1), y });
        return;
    }
    let (text, style) = match &app.message {
        Some(message) => (message.clone(), app.theme.warning()),
        None => (help::short(app, area.width.into()), app.theme.dim()),
    };
    put(frame.buffer_mut(), y, &[(text, style)]);
}

/// Writes pieces into a row; what does not fit is cut.
pub(super) fn put(buffer: &mut Buffer, y: u16, spans: &[(String, Style)]) {
    put_from(buffer, 0, y, spans);
}

fn put_from(buffer: &mut Buffer, x: u16, y: u16, spans: &[(String, Style)]) {
    if y >= buffer.area.height || x >= buffer.area.width {
        return;
    }
    let line: Line<'_> = spans.iter().map(|(text, style)| Span::styled(text.as_str(), *style)).collect();
    buffer.set_line(x, y, &line, buffer.area.width - x);
}
