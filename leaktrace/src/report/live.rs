//! The live table: redraws in place, without an alternate screen, so that the last picture stays when it ends.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::units::{bytes, bytes_rate, count, percent, span};
use super::words::{self, fit, fit_start, losses, place};
use super::{Line, Report, Style};
use crate::model::Verdict;

/// Rows that are not lines: headline (3), blank, header, blank, state (2).
const FRAME_ROWS: usize = 8;
/// Columns before the place, without the sparkline: live, rate, verdict.
const FIXED_COLUMNS: usize = 10 + 1 + 11 + 1 + 8 + 1;
/// Types named in the line of the heap.
const TYPES: usize = 3;
/// Columns of a sparkline.
const SPARK: usize = 12;
/// Terminals narrower than this get no sparklines.
const SPARK_FROM: usize = 64;
/// Smallest size that is drawn for.
const SMALLEST: (usize, usize) = (40, 10);

/// A table on a terminal. Dropping it shows the cursor again.
#[derive(Debug)]
pub struct LiveTable<W: Write> {
    out: W,
    style: Style,
    rows_drawn: usize,
}

impl<W: Write> LiveTable<W> {
    /// Hides the cursor.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn start(mut out: W, style: Style) -> io::Result<Self> {
        write!(out, "\x1b[?25l")?;
        out.flush()?;
        Ok(Self { out, style, rows_drawn: 0 })
    }

    /// Replaces the table by one of `report` that fits a terminal of `columns` by `rows`.
    ///
    /// # Errors
    /// When the terminal cannot be written, e.g. because it was closed.
    pub fn draw(&mut self, report: &Report, columns: usize, rows: usize) -> io::Result<()> {
        self.draw_lines(&render(report, self.style, columns, rows), rows)
    }

    /// Replaces the table by a page of text, of which what does not fit is left out.
    ///
    /// # Errors
    /// When the terminal cannot be written, e.g. because it was closed.
    pub fn draw_page(&mut self, page: &str, columns: usize, rows: usize) -> io::Result<()> {
        let (columns, rows) = (columns.max(SMALLEST.0) - 1, rows.max(SMALLEST.1));
        let lines = page.lines().take(rows - 1).map(|line| line.chars().take(columns).collect());
        let mut lines: Vec<String> = lines.collect();
        if let Some(title) = lines.first_mut() {
            *title = self.style.bold(&*title);
        }
        self.draw_lines(&lines, rows)
    }

    fn draw_lines(&mut self, lines: &[String], rows: usize) -> io::Result<()> {
        // One write, so that no half-drawn table shows. A terminal that shrank may keep a line of the last one.
        let mut frame = String::new();
        if self.rows_drawn > 0 {
            let up = self.rows_drawn.min(rows.saturating_sub(1));
            let _ = write!(frame, "\x1b[{up}A");
        }
        frame.push_str("\r\x1b[J");
        for line in lines {
            frame.push_str(line);
            frame.push_str("\r\n");
        }
        self.rows_drawn = lines.len();
        self.out.write_all(frame.as_bytes())?;
        self.out.flush()
    }

    /// Removes the table, so that the end report takes its place.
    ///
    /// # Errors
    /// When the terminal cannot be written.
    pub fn clear(&mut self) -> io::Result<()> {
        if self.rows_drawn > 0 {
            write!(self.out, "\x1b[{}A\r\x1b[J", self.rows_drawn)?;
            self.rows_drawn = 0;
        }
        self.out.flush()
    }
}

impl<W: Write> Drop for LiveTable<W> {
    fn drop(&mut self) {
        // The terminal may be gone; there is no one left to tell.
        let _ = write!(self.out, "\x1b[?25h");
        let _ = self.out.flush();
    }
}

/// The table as lines, none wider than `columns`, fewer than `rows`.
pub fn render(report: &Report, style: Style, columns: usize, rows: usize) -> Vec<String> {
    // The last column stays free: some terminals wrap when it is written.
    let columns = columns.max(SMALLEST.0) - 1;
    let rows = rows.max(SMALLEST.1);
    let headline = words::headline(report);
    let mut lines = vec![
        if report.is_growing() {
            style.verdict(Verdict::Growing, fit_start(&headline[0], columns))
        } else {
            style.bold(fit_start(&headline[0], columns))
        },
        headline.get(1).map_or_else(String::new, |text| fit_start(text, columns)),
        headline.get(2).map_or_else(String::new, |text| fit_start(text, columns)),
        String::new(),
        style.dim(format!("{:>10}{} {:>11} {:<8} line", "live", bars(columns, &[]), "rate", "verdict")),
    ];
    let alive = report.lines.iter().filter(|line| line.live_blocks > 0 && line.verdict != Verdict::Churn);
    let heap = heap(report);
    let frame_rows = FRAME_ROWS + usize::from(heap.is_some());
    lines.extend(alive.take(rows - frame_rows - 1).map(|line| row(line, style, columns)));
    lines.push(String::new());
    let capture = &report.capture;
    lines.push(style.dim(fit_start(
        &match &capture.watch {
            Some(watch) => format!(
                "{} watched in {} windows, at {} of its CPU time",
                span(capture.duration_seconds),
                watch.windows,
                percent(watch.overhead)
            ),
            None => format!(
                "{} watched; coverage {}",
                span(capture.duration_seconds),
                capture.coverage.ratio.map_or_else(|| "not measured".to_owned(), percent)
            ),
        },
        columns,
    )));
    if let Some(heap) = heap {
        lines.push(style.dim(fit_start(&heap, columns)));
    }
    let lost = losses(capture);
    let state = fit_start(&format!("lost: {lost}; cost: {}", words::cost(capture)), columns);
    lines.push(if capture.lost.total() > 0 { style.warning(state) } else { style.dim(state) });
    lines
}

/// The types that the heap has most more of than at the start.
fn heap(report: &Report) -> Option<String> {
    let grown = report.heap.as_ref()?.types.iter().filter(|row| row.delta() > 0).take(TYPES);
    let grown: Vec<String> =
        grown.map(|row| format!("+{} {}", count(row.delta() as f64), words::printable(&row.name))).collect();
    (!grown.is_empty()).then(|| format!("in the heap: {}", grown.join(", ")))
}

fn row(line: &Line, style: Style, columns: usize) -> String {
    let rate = if line.verdict == Verdict::Growing {
        bytes_rate(line.growth.bytes_per_second.estimate)
    } else {
        String::new()
    };
    let bars = bars(columns, &line.series.live_bytes);
    let room = columns.saturating_sub(FIXED_COLUMNS + bars.chars().count());
    format!(
        "{:>10}{bars} {:>11} {} {}",
        bytes(line.live_bytes as f64),
        rate,
        style.verdict(line.verdict, format!("{:<8}", line.verdict.name())),
        fit(&place(line), room),
    )
}

/// The column of the sparkline with the space before it; nothing on a narrow terminal.
fn bars(columns: usize, values: &[u64]) -> String {
    if columns < SPARK_FROM { String::new() } else { format!(" {:<SPARK$}", sparkline(values, SPARK)) }
}

/// A level over time as bars from 0 to its maximum, in at most `width` columns.
pub fn sparkline(values: &[u64], width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let columns = width.min(values.len());
    let top = values.iter().copied().max().unwrap_or(0).max(1);
    (0..columns)
        .map(|column| {
            let value = values[(column + 1) * values.len() / columns - 1];
            BARS[(u128::from(value) * 7 / u128::from(top)) as usize]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparklines_rise_with_the_level_and_end_with_the_last_value() {
        assert_eq!(sparkline(&[], 12), "");
        assert_eq!(sparkline(&[0, 0], 12), "▁▁");
        assert_eq!(sparkline(&[0, 1, 2, 3, 4, 5, 6, 7], 12), "▁▂▃▄▅▆▇█");
        assert_eq!(sparkline(&[0, 0, 5, 0, 9, 0, u64::MAX], 3).chars().last(), Some('█'));
        assert_eq!(sparkline(&(0..64).collect::<Vec<_>>(), 12).chars().count(), 12);
    }
}
