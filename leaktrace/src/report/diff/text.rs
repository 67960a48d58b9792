//! A comparison for people, at 80 columns.

use std::fmt::Write as _;

use super::{Diff, Key, Row, Side};
use crate::report::Style;
use crate::report::heap::{difference, signed};
use crate::report::units::{bytes, count, span};
use crate::report::words::{fit, frame, printable, short};

const WIDTH: usize = 80;
/// Frames shown of a stack.
const FRAMES: usize = 12;
/// Two recordings of such different length are not compared without a word.
const UNLIKE: f64 = 1.1;

/// The comparison as a page of text, with `top` rows of each table.
pub fn text(diff: &Diff, top: usize, style: Style) -> String {
    let mut page = String::new();
    let (old, new) = (&diff.old, &diff.new);
    let delta = new.live_bytes as f64 - old.live_bytes as f64;
    let sign = if delta > 0.0 { "+" } else { "" };
    let title = format!(
        "{sign}{} live: {} to {}, in {} to {} blocks",
        bytes(delta),
        bytes(old.live_bytes as f64),
        bytes(new.live_bytes as f64),
        count(old.live_blocks as f64),
        count(new.live_blocks as f64),
    );
    let _ = writeln!(page, "{}", style.bold(title));
    for (name, side) in [("old", old), ("new", new)] {
        let _ = writeln!(page, "{}", style.dim(whose(name, side)));
    }
    let (short, long) =
        (old.duration_seconds.min(new.duration_seconds), old.duration_seconds.max(new.duration_seconds));
    if long > short * UNLIKE {
        let text = "One was watched for longer than the other: more of it is live for that alone.";
        let _ = writeln!(page, "{}", style.warning(text));
    }
    let what = match diff.by {
        Key::Line => "line",
        Key::File => "file",
        Key::Stack => "stack",
    };
    if diff.rows.is_empty() {
        let _ = writeln!(page, "\nNothing changed by {what}.");
    } else {
        let shown = diff.rows.len().min(top);
        header(&mut page, "blocks", &format!("{what} ({shown} of {})", diff.rows.len()), style);
        diff.rows.iter().take(top).for_each(|row| line(&mut page, row, diff.by, style));
    }
    if !diff.types.is_empty() {
        let shown = diff.types.len().min(top);
        header(&mut page, "objects", &format!("type ({shown} of {})", diff.types.len()), style);
        diff.types.iter().take(top).for_each(|row| difference(&mut page, row));
    }
    page
}

fn whose(name: &str, side: &Side) -> String {
    let Side { pid, python, .. } = side;
    let start = format!("{name}: {} of process {pid}, Python {python}: ", span(side.duration_seconds));
    let command = fit(&printable(&side.cmdline.join(" ")), WIDTH.saturating_sub(start.len()));
    start + &command
}

fn header(page: &mut String, counted: &str, what: &str, style: Style) {
    let columns = format!("{:>11} {counted:>10} {:>10} {:>8}  {what}", "bytes", "now", "change");
    let _ = writeln!(page, "\n{}", style.dim(columns));
}

fn line(page: &mut String, row: &Row, by: Key, style: Style) {
    let d = &row.difference;
    let delta = d.bytes_delta();
    let sign = if delta > 0 { "+" } else { "" };
    let columns = format!(
        "{:>11} {:>10} {:>10} {:>8}  ",
        format!("{sign}{}", bytes(delta as f64)),
        signed(d.count_delta()),
        count(d.new_count as f64),
        d.change.name(),
    );
    let place = fit(&printable(short(&d.name)), WIDTH - columns.len());
    let place = if row.growing { style.bold(place) } else { place };
    let _ = writeln!(page, "{columns}{place}");
    if by != Key::Stack {
        return;
    }
    for shown in row.stack.frames().take(FRAMES) {
        let _ = writeln!(page, "{:13}{}", "", style.dim(fit(&frame(&shown), WIDTH - 13)));
    }
    let more = row.stack.len().saturating_sub(FRAMES);
    if more > 0 {
        let _ = writeln!(page, "{:13}{}", "", style.dim(format!("... {more} more")));
    }
}
