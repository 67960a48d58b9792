//! One line per interval, for logs and pipes.

use super::units::{bytes, bytes_rate, count, percent, span};
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
        (Outlook::TooEarly, _) => match report.suspects().next() {
            Some(suspect) => format!("suspected, not proven: {}", place(suspect)),
            None => "too early to tell".to_owned(),
        },
        (Outlook::Incomplete, _) => "cannot tell, too much was missed".to_owned(),
        _ => "nothing grows".to_owned(),
    };
    let cost = report.capture.watch.as_ref().map_or_else(String::new, |watch| {
        format!(", cost {} of at most {}", percent(watch.overhead), percent(watch.overhead_limit))
    });
    format!(
        "{:>8}  {} live in {} blocks, RSS {}, {} allocations{cost}{lost}; {state}",
        elapsed(report.capture.duration_seconds),
        bytes(report.totals.live_bytes as f64),
        count(report.totals.live_blocks as f64),
        bytes(report.target.rss_bytes.end as f64),
        count(report.capture.events.alloc as f64),
    )
}

/// Of one interval after the other: no two are the same.
fn elapsed(seconds: f64) -> String {
    if seconds < 100.0 {
        return span(seconds);
    }
    let seconds = seconds as u64;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let hours = if hours > 0 { format!("{hours}h") } else { String::new() };
    format!("{hours}{minutes}m{:02}s", seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::elapsed;

    #[test]
    fn intervals_are_told_apart() {
        assert_eq!([4.04, 99.0, 105.0, 3725.0].map(elapsed), ["4.04 s", "99 s", "1m45s", "1h2m05s"].map(str::to_owned));
    }
}
