//! One line per interval, for logs and pipes.

use super::units::{bytes, bytes_rate, count, span};
use super::words::{losses, number, place};
use super::{Outlook, Report};

/// The state of the trace in one line, without newline.
pub fn line(report: &Report) -> String {
    let lost =
        if report.capture.lost.total() > 0 { format!(", lost: {}", losses(&report.capture)) } else { String::new() };
    let state = match (report.headline.outlook, report.lines.first()) {
        (Outlook::Leaking, Some(worst)) => format!(
            "LEAKING {} at {}, worst {}",
            bytes_rate(report.headline.growth.bytes_per_second.estimate),
            number(report.headline.growing_lines, "line"),
            place(worst),
        ),
        (Outlook::TooEarly, _) => "too early to tell".to_owned(),
        (Outlook::Incomplete, _) => "cannot tell, too much was missed".to_owned(),
        _ => "nothing grows".to_owned(),
    };
    format!(
        "{:>8}  {} live in {} blocks, RSS {}, {} allocations{lost}; {state}",
        span(report.capture.duration_seconds),
        bytes(report.totals.live_bytes as f64),
        count(report.totals.live_blocks as f64),
        bytes(report.target.rss_bytes.end as f64),
        count(report.capture.events.alloc as f64),
    )
}
