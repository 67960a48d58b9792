//! Verdicts and evidence in words, shared by the text views.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::units::{blocks_rate, bytes, bytes_rate, count, percent, span};
use super::{Capture, Collector, Headline, Holder, Line, Memory, Outlook, Report};
use crate::model::sampling::WatchFacts;
use crate::model::verdict::{CollectorTest, Evidence, Reason};
use crate::model::{Frame, FrameKind, Growth, Rate, Verdict};

/// Share of all growth from which on a line is said to be where it comes through.
const MOST: f64 = 0.5;
/// Ways to a line's blocks that are told, and the least share of the blocks that is worth it.
const MOST_HOLDERS: usize = 2;
const LEAST_SHARE: f64 = 0.05;

/// "5 KiB/s (95 %: 4.8 KiB/s to 5.2 KiB/s), 50 blocks/s".
pub(crate) fn growth(growth: &Growth) -> String {
    let Growth { bytes_per_second: bytes, blocks_per_second: blocks } = growth;
    format!("{} ({}), {}", bytes_rate(bytes.estimate), interval(bytes), blocks_rate(blocks.estimate))
}

/// "95 %: 4.8 KiB/s to 5.2 KiB/s".
pub(super) fn interval(rate: &Rate) -> String {
    format!("95 %: {} to {}", bytes_rate(rate.low), bytes_rate(rate.high))
}

/// "Held through app.CACHE[*] (98 %).".
pub(crate) fn holders(holders: &[Holder]) -> Option<String> {
    let way = |holder: &Holder| match &holder.path {
        Some(path) => format!("{} ({})", printable(path), percent(holder.share)),
        None => format!("reference cycles that nothing holds and that are not collected ({})", percent(holder.share)),
    };
    let shown: Vec<String> =
        holders.iter().filter(|holder| holder.share >= LEAST_SHARE).take(MOST_HOLDERS).map(way).collect();
    (!shown.is_empty()).then(|| format!("Held through {}.", shown.join(", ")))
}

/// Why the verdict is what it is, as sentences.
pub(crate) fn evidence(evidence: &Evidence, freed_blocks: u64, allocated_blocks: u64) -> Vec<String> {
    let mut words = vec![if evidence.by_line {
        "Judged by its line: this stack alone has too few blocks to tell.".to_owned()
    } else if evidence.by_stack {
        "Some of its stacks grow by themselves; the line as a whole also holds blocks that come and go.".to_owned()
    } else {
        reason(evidence)
    }];
    words.push(format!(
        "{} of {} blocks freed ({}); survivors in {} of {} cohorts, the oldest {} old.",
        count(freed_blocks as f64),
        count(allocated_blocks as f64),
        percent(evidence.freed_share),
        evidence.cohorts,
        evidence.cohorts_observed,
        span(evidence.oldest_survivor_seconds),
    ));
    words.extend(collector(evidence).map(str::to_owned));
    words
}

fn reason(evidence: &Evidence) -> String {
    let kept = evidence.retention.map_or_else(|| "-".to_owned(), percent);
    let age = span(evidence.mature_seconds);
    let watched = span(evidence.observed_seconds);
    match evidence.reason {
        Reason::CohortsSurvive => {
            format!(
                "Every cohort keeps surviving while new ones are added: {kept} of what was older than {age} still lives, in {watched}."
            )
        }
        Reason::BlocksEnlarge => {
            format!(
                "The number of blocks stays, but each is replaced by a larger one, for all of {watched}: a container that grows."
            )
        }
        Reason::NothingAdded => "It was filled once; nothing that lasts was added of late.".to_owned(),
        Reason::Balanced => "Old blocks die as fast as new ones last: bounded.".to_owned(),
        Reason::AllFreed => "All of it was freed.".to_owned(),
        Reason::NoneGrowsOld => format!("Next to no block grows older than {age}."),
        Reason::TooYoung => format!("Watched for {watched} only: too short to tell."),
        Reason::TooFew => "Too few blocks to tell.".to_owned(),
        Reason::OldBlocksDie => {
            format!("It rises, but old blocks die too ({kept} of what was older than {age} lives): watch longer.")
        }
        Reason::Slowing => "It rises ever more slowly, as a cache does that fills up: watch longer.".to_owned(),
        Reason::Uneven => "It rises too unevenly to tell: watch longer.".to_owned(),
        Reason::HeapDoesNotGrow => {
            "What windows saw seems to survive, but the heap does not grow by as many blocks of this size: \
             their addresses were handed out again between the windows."
                .to_owned()
        }
        Reason::Unproven => {
            "What windows saw survives and grows, but they had to leave out other sites of its size that are too hot: these may \
             have taken the addresses. Suspected, not proven."
                .to_owned()
        }
        Reason::Anothers => {
            "What windows saw seems to survive, but those that armed other sites of its size too saw none of it survive: it was freed, \
             and its addresses were handed out to what grows there."
                .to_owned()
        }
        Reason::Missed => "Too many of its blocks were missed to tell.".to_owned(),
        Reason::AwaitsCollector => {
            "It rises, but these may be cycles that wait for the garbage collector: watch longer.".to_owned()
        }
    }
}

fn collector(evidence: &Evidence) -> Option<&'static str> {
    match evidence.collector {
        CollectorTest::FullSurvived => Some("A full garbage collection examined survivors and could not free them."),
        CollectorTest::YoungSurvived => Some(
            "No full garbage collection has examined them yet, only young ones: old cycles cannot be told from leaks.",
        ),
        CollectorTest::Untested => Some("No garbage collection has examined them yet."),
        CollectorTest::Disabled => Some("The garbage collector is switched off: cycles are never freed."),
        CollectorTest::NotApplied => None,
    }
}

/// The answer in a few lines.
pub(crate) fn headline(report: &Report) -> Vec<String> {
    let Headline { outlook, growing_sites, growing_lines, growth: rate, exhaustion } = &report.headline;
    let watched = span(report.capture.duration_seconds);
    let mut lines = match outlook {
        Outlook::TooEarly => {
            let mut lines = vec![format!("Too early to tell: watched for {watched}.")];
            lines.extend(suspects(report));
            lines.extend(report.capture.watch.as_ref().and_then(too_hot));
            lines
        }
        Outlook::NotLeaking => vec![format!("No leak found: nothing grew without bound in {watched}.")],
        Outlook::Incomplete => vec![
            format!("Cannot tell: nothing grew in what was seen in {watched},"),
            "but too much was missed: see below, under Tracing.".to_owned(),
        ],
        Outlook::Leaking => vec![
            format!("LEAKING {}", growth(rate)),
            format!(
                "at {}, through {}, in {watched}.",
                number(*growing_lines, "line"),
                number(*growing_sites, "stack")
            ),
        ],
    };
    if let Some(end) = exhaustion {
        let latest = end.latest_seconds.map_or_else(|| "never".to_owned(), span);
        lines.push(format!(
            "At this rate memory runs out in {} ({} to {latest}): {} left by {}.",
            span(end.seconds),
            span(end.earliest_seconds),
            bytes(end.room.available_bytes as f64),
            end.room.basis,
        ));
    }
    lines.extend(own_code(report));
    lines.push(memory(&report.memory));
    lines
}

/// Where it seems to leak, though that is not proven.
fn suspects(report: &Report) -> Option<String> {
    let first = report.suspects().next()?;
    let rate = report.suspects().map(|line| line.growth.bytes_per_second.estimate.max(0.0)).sum();
    Some(format!(
        "Suspected, not proven: {} at {}, first {}.",
        bytes_rate(rate),
        number(report.suspects().count(), "line"),
        place(first)
    ))
}

/// What to do where what grows is too hot for the limit of a watch: waiting alone does not help.
fn too_hot(watch: &WatchFacts) -> Option<String> {
    let (limit, needed) = (watch.max_slowdown, watch.slowdown_needed);
    (watch.classes_too_hot > 0).then(|| {
        format!(
            "Some of what grows costs too much to see within --max-slowdown {limit:.1}x: {needed:.1}x would do, or --mode \
             exact for a short while."
        )
    })
}

/// Where most of the growth passes through the service's own code: what leaks is often allocated in a library that it calls.
fn own_code(report: &Report) -> Option<String> {
    let mut rates: HashMap<Frame, f64> = HashMap::new();
    let mut total = 0.0;
    for site in report.sites.iter().filter(|site| site.verdict == Verdict::Growing) {
        let rate = site.growth.bytes_per_second.estimate.max(0.0);
        total += rate;
        let own = |frame: &Frame| {
            frame.kind == FrameKind::Python && !frame.file.starts_with('<') && *short(&frame.file) == *frame.file
        };
        if let Some(frame) = site.stack.frames().find(own) {
            *rates.entry(frame).or_default() += rate;
        }
    }
    let (frame, rate) = rates.into_iter().max_by(|a, b| a.1.total_cmp(&b.1).then_with(|| b.0.cmp(&a.0)))?;
    let worth_saying = report.headline.growing_lines > 1 && rate >= MOST * total;
    worth_saying.then(|| format!("{} of it come through {}.", bytes_rate(rate), self::frame(&frame)))
}

fn memory(memory: &Memory) -> String {
    let direction = if memory.rss_grown_bytes < 0 { "shrank" } else { "grew" };
    format!(
        "The process {direction} by {} (RSS); {} allocated since the attach live.",
        bytes(memory.rss_grown_bytes.unsigned_abs() as f64),
        bytes(memory.explained_bytes as f64),
    )
}

/// That pauses are not those of all collections, where that is so; where none was measured there is nothing to say.
pub(crate) fn untimed(gc: &Collector) -> Option<String> {
    let timed = gc.timed();
    (!gc.pauses_known && timed > 0).then(|| {
        let all = gc.generations.iter().fold(0u64, |sum, generation| sum.saturating_add(generation.collections));
        format!("pauses are those of {} collections of {}", count(timed as f64), count(all as f64))
    })
}

/// What the collectors of other interpreters did, if they did anything.
pub(crate) fn other_collectors(gc: &Collector) -> Option<String> {
    let others = &gc.other_interpreters;
    (others.collections > 0).then(|| {
        format!(
            "besides, in other interpreters: {}, pauses {}, longest {}",
            number(others.collections as usize, "collection"),
            span(others.pause_seconds.total),
            span(others.pause_seconds.max)
        )
    })
}

/// Losses, "none" when there are none.
pub(crate) fn losses(capture: &Capture) -> String {
    let lost = &capture.lost;
    let named = [
        (lost.ring, "records (ring full)"),
        (lost.stack, "stacks"),
        (lost.map_full, "blocks (table full: raise --max-blocks)"),
        (lost.address, "block addresses"),
        (lost.unmatched_free, "frees without their allocation"),
        (lost.contradictions, "contradictory totals"),
    ];
    let words: Vec<_> = named
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, name)| format!("{} {name}", count(*number as f64)))
        .collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// Coverage with its basis.
pub(crate) fn coverage(capture: &Capture) -> String {
    match capture.coverage.ratio {
        Some(ratio) => format!("{} ({})", percent(ratio), capture.coverage.basis),
        None => format!("not measured ({})", capture.coverage.basis),
    }
}

/// What the windows of a watch were.
pub(crate) fn windows(watch: &WatchFacts) -> String {
    let mut words = format!(
        "{} windows, {} in all, at {} of the process's CPU time (limit {}), the slowest at {:.1} times its own work (limit {:.1}); \
         {} blocks that outlived theirs are followed",
        watch.windows,
        span(watch.open_seconds),
        percent(watch.overhead),
        percent(watch.overhead_limit),
        watch.slowest,
        watch.max_slowdown,
        count(watch.followed_blocks as f64),
    );
    if watch.reused_unseen > 0 {
        let _ = write!(words, ", {} others were replaced unseen", count(watch.reused_unseen as f64));
    }
    if watch.explained > 0.0 {
        let _ = write!(words, "; they are {} of what the heap grows by", percent(watch.explained));
    }
    if watch.sites_unseen > 0 {
        let _ = write!(words, "; {} sites have not had their turn yet", watch.sites_unseen);
    }
    if watch.classes_too_hot > 0 {
        let (classes, needed) = (watch.classes_too_hot, watch.slowdown_needed);
        let _ = write!(
            words,
            "; {classes} size classes that grow are too hot for the limit: one of them needs --max-slowdown {needed:.1}x"
        );
    }
    words
}

/// What tracing cost.
pub(crate) fn cost(capture: &Capture) -> String {
    format!(
        "{} in probes, collector {} CPU and {}",
        span(capture.cost.probe_seconds),
        span(capture.cost.collector_cpu_seconds),
        bytes(capture.cost.collector_rss_bytes as f64),
    )
}

/// "app.py:12 handle", or what stands for a missing frame.
pub(crate) fn frame(frame: &Frame) -> String {
    let file = printable(short(&frame.file));
    let place = if frame.line == 0 { file } else { format!("{file}:{}", frame.line) };
    format!("{place} {}", printable(&frame.function))
}

/// A file of an installed package or of the standard library without the way there, which fills a line and tells nothing.
pub(crate) fn short(file: &str) -> &str {
    let package = ["/site-packages/", "/dist-packages/"].iter().find_map(|folder| Some(file.rsplit_once(folder)?.1));
    let library = || file.split_once("/lib/python3.")?.1.split_once('/').map(|(_, rest)| rest);
    package.or_else(library).filter(|rest| !rest.is_empty()).unwrap_or(file)
}

/// The line that allocates: "app.py:12 handle", with the domain where it is not that of objects.
pub(crate) fn place(line: &Line) -> String {
    let (file, functions) = (short(&line.file), line.functions.join(", "));
    let place = match (line.file.is_empty() && line.function.is_empty(), line.line) {
        (true, _) if line.stack_lost => "(stack lost)".to_owned(),
        (true, _) => "(no Python frame)".to_owned(),
        (false, 0) => printable(&format!("{file} {functions}")),
        (false, number) => printable(&format!("{file}:{number} {functions}")),
    };
    if line.domain == "obj" { place } else { format!("{place} ({})", line.domain) }
}

/// Text of the target without control characters: it must not steer our terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// "1 line", "3 lines".
pub(super) fn number(value: usize, noun: &str) -> String {
    if value == 1 { format!("1 {noun}") } else { format!("{value} {noun}s") }
}

/// Cuts a text to `width` columns (characters), the middle replaced by "…", the end kept.
pub(crate) fn fit(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    if width < 4 {
        return text.chars().take(width).collect();
    }
    let head = (width - 1) / 3;
    let tail = width - 1 - head;
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(length - tail).collect();
    format!("{start}…{end}")
}

/// The words that fit.
pub(crate) fn fit_start(text: &str, width: usize) -> String {
    wrap(text, width).swap_remove(0).chars().take(width).collect()
}

/// Breaks words into lines of at most `width` columns.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("never empty");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
