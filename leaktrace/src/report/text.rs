//! The end report for people, at 80 columns.

use std::io::{self, Write};

use super::units::{bytes, count, percent, span};
use super::words::{self, fit, place, wrap};
use super::{Line, Report, SiteReport, SourceReader, Style};
use crate::model::{Verdict, verdict::Reason};

const WIDTH: usize = 80;
/// Frames shown of a stack.
pub const FRAMES: usize = 12;
/// Share of a line's live bytes from which on a stack of it is shown.
const WEIGHTY: f64 = 0.05;
/// Types shown of the heap.
const TYPES: usize = 5;
/// Stacks shown of a line.
pub const STACKS: usize = 2;

/// Writes the report: headline, the `top` worst growing lines with their stacks, what else holds memory, collector, losses, cost.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(
    report: &Report,
    top: usize,
    style: Style,
    source: &mut SourceReader,
    out: &mut dyn Write,
) -> io::Result<()> {
    head(report, style, out)?;
    let proven = report.lines.iter().any(|line| line.verdict == Verdict::Growing);
    // Suspects are worth a reader's time while nothing better is known.
    let named = |line: &&Line| {
        if proven { line.verdict == Verdict::Growing } else { line.evidence.reason == Reason::Unproven }
    };
    let growing: Vec<_> = report.lines.iter().filter(named).collect();
    let quiet = |line: &&Line| {
        !matches!(line.verdict, Verdict::Growing | Verdict::Churn)
            && !named(line)
            && (line.live_blocks > 0 || line.lost_blocks > 0)
    };
    if !growing.is_empty() {
        let shown = growing.len().min(top);
        let title = if proven { "Where it grows, worst first" } else { "Suspected to grow, not proven, worst first" };
        writeln!(out, "\n{}", style.bold(format!("{title} ({shown} of {})", growing.len())))?;
    }
    for (index, line) in growing.iter().take(top).enumerate() {
        line_block(index + 1, line, style, out)?;
        // What hardly matters is in the JSON.
        let weighty = |site: &&usize| report.sites[**site].live_bytes as f64 >= WEIGHTY * line.live_bytes as f64;
        let shown = line.sites.iter().filter(weighty).count().clamp(1, STACKS).min(line.sites.len());
        for &site in &line.sites[..shown] {
            stack(&report.sites[site], line, style, source, out)?;
        }
        let more = line.sites.len() - shown;
        if more > 0 {
            let text = format!("and through {} with less", words::number(more, "other stack"));
            writeln!(out, "     {}", style.dim(text))?;
        }
    }
    if growing.len() > top {
        let text = format!("{} more grow; --top shows more.", words::number(growing.len() - top, "line"));
        writeln!(out, "\n{}", style.warning(text))?;
    }
    not_growing(&report.lines.iter().filter(quiet).collect::<Vec<_>>(), top, style, out)?;
    heap(report, style, out)?;
    collector(report, style, out)?;
    capture(report, style, out)
}

/// Lines that hold memory and were not seen to grow, in one row each.
fn not_growing(lines: &[&Line], top: usize, style: Style, out: &mut dyn Write) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let shown = lines.len().min(top);
    writeln!(out, "\n{}", style.bold(format!("Holds memory, not seen to grow ({shown} of {})", lines.len())))?;
    for line in lines.iter().take(top) {
        let live = format!("{:>10} {:>7}", bytes(line.live_bytes as f64), count(line.live_blocks as f64));
        let verdict = style.verdict(line.verdict, format!("{:<8}", line.verdict.name()));
        writeln!(out, "{live}  {verdict} {}", fit(&place(line), WIDTH - 29))?;
    }
    Ok(())
}

/// What grew by type, as the census saw it.
fn heap(report: &Report, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let Some(growth) = &report.heap else { return Ok(()) };
    let grown: Vec<_> = growth.types.iter().filter(|row| row.delta() > 0).take(TYPES).collect();
    if grown.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", style.bold("What there is more of in the heap than at the start"))?;
    for row in grown {
        let rate = format!("{}/s", count(row.rate.estimate));
        let (more, now) = (format!("+{}", count(row.delta() as f64)), count(row.last as f64));
        writeln!(out, "{more:>10} {now:>9} now {rate:>9}  {}", fit(&words::printable(&row.name), WIDTH - 37))?;
    }
    Ok(())
}

fn head(report: &Report, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let lines = words::headline(report);
    for (index, text) in lines.iter().enumerate() {
        for line in wrap(text, WIDTH) {
            let line = match (index, report.is_growing()) {
                (0, true) => style.verdict(Verdict::Growing, line),
                (0, false) => style.bold(line),
                _ => line,
            };
            writeln!(out, "{line}")?;
        }
    }
    let target = &report.target;
    let inside =
        if target.pid_inside == target.pid { String::new() } else { format!(" ({} inside)", target.pid_inside) };
    let text = format!(
        "Process {}{inside}: Python {}, {}",
        target.pid,
        target.python.version,
        words::printable(&target.cmdline.join(" "))
    );
    writeln!(out, "{}", style.dim(fit(&text, WIDTH)))
}

fn line_block(number: usize, line: &Line, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let verdict = style.verdict(line.verdict, line.verdict.name());
    let prefix = format!("{number:>3}. ");
    let room = WIDTH - prefix.len() - line.verdict.name().len() - 2;
    writeln!(out, "\n{prefix}{verdict}  {}", style.bold(fit(&place(line), room)))?;
    let mut facts = vec![format!(
        "{} in {} blocks live, domain {}",
        bytes(line.live_bytes as f64),
        count(line.live_blocks as f64),
        line.domain
    )];
    if line.verdict == Verdict::Growing || line.evidence.reason == Reason::Unproven {
        facts.insert(0, words::growth(&line.growth));
    }
    facts.extend(words::evidence(&line.evidence, line.freed_blocks, line.allocated_blocks));
    facts.extend(words::holders(&line.holders));
    for text in facts.iter().flat_map(|fact| wrap(fact, WIDTH - 5)) {
        writeln!(out, "     {text}")?;
    }
    Ok(())
}

/// A stack of a line, with what of the line is its own when there are several.
fn stack(
    site: &SiteReport,
    line: &Line,
    style: Style,
    source: &mut SourceReader,
    out: &mut dyn Write,
) -> io::Result<()> {
    if line.sites.len() > 1 {
        let share = site.live_bytes as f64 / line.live_bytes.max(1) as f64;
        let verdict = style.verdict(site.verdict, site.verdict.name());
        let live = bytes(site.live_bytes as f64);
        writeln!(out, "     {verdict}  {live} live ({}) through", percent(share))?;
    }
    for frame in site.stack.frames().take(FRAMES) {
        writeln!(out, "       {}", fit(&words::frame(&frame), WIDTH - 7))?;
        if let Some(text) = source.line(&frame.file, frame.line) {
            writeln!(out, "           {}", style.dim(fit(text, WIDTH - 11)))?;
        }
    }
    let more = site.stack.len().saturating_sub(FRAMES);
    if more > 0 || site.truncated {
        let cut = if site.truncated { ", then cut" } else { "" };
        writeln!(out, "       {}", style.dim(format!("... {more} more{cut}")))?;
    }
    Ok(())
}

fn collector(report: &Report, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let gc = &report.gc;
    let state = match gc.enabled {
        Some(true) => "on",
        Some(false) => "SWITCHED OFF: cycles are never freed",
        None => "state unknown",
    };
    writeln!(out, "\n{} ({state})", style.bold("Garbage collector"))?;
    if gc.generations.is_empty() {
        writeln!(out, "  no collection")?;
        return words::other_collectors(gc).map_or(Ok(()), |text| writeln!(out, "  {text}"));
    }
    let header = ["generation", "collections", "collected", "uncollectable", "pauses", "longest"];
    let widths = [12, 12, 10, 14, 9, 9];
    let row = |cells: [String; 6]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$}"));
        padded.collect::<Vec<_>>().join(" ")
    };
    writeln!(out, "{}", style.dim(row(header.map(str::to_owned))))?;
    for generation in &gc.generations {
        let is_known = gc.pauses_known || generation.timed() > 0;
        let pause = |seconds| if is_known { span(seconds) } else { "unknown".to_owned() };
        let cells = [
            generation.generation.to_string(),
            count(generation.collections as f64),
            count(generation.collected as f64),
            count(generation.uncollectable as f64),
            pause(generation.pause_seconds.total),
            pause(generation.pause_seconds.max),
        ];
        writeln!(out, "{}", row(cells))?;
    }
    let notes = [words::untimed(gc), words::other_collectors(gc)];
    notes.into_iter().flatten().try_for_each(|text| writeln!(out, "  {text}"))
}

fn capture(report: &Report, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let capture = &report.capture;
    let (events, totals) = (&capture.events, &report.totals);
    writeln!(out, "\n{}", style.bold("Tracing"))?;
    let lost = words::losses(capture);
    let rows = [
        (
            "seen",
            format!(
                "{} allocations, {} reallocations, {} frees, {} collections",
                count(events.alloc as f64),
                count(events.realloc as f64),
                count(events.free as f64),
                count(events.gc as f64)
            ),
        ),
        (
            "live",
            format!(
                "{} in {} blocks, of {} allocated{}",
                bytes(totals.live_bytes as f64),
                count(totals.live_blocks as f64),
                bytes(totals.allocated_bytes as f64),
                if capture.watch.is_some() { ", estimated from what windows saw" } else { "" }
            ),
        ),
        match &capture.watch {
            Some(watch) => ("windows", words::windows(watch)),
            None => (
                "before",
                format!(
                    "blocks older than the attach are not counted; {} frees of such were seen",
                    count(events.free_before_attach as f64)
                ),
            ),
        },
        ("lost", if capture.lost.total() > 0 { style.warning(lost) } else { lost }),
        ("coverage", words::coverage(capture)),
        ("cost", words::cost(capture)),
    ];
    for (name, text) in rows {
        for (index, line) in wrap(&text, WIDTH - 12).iter().enumerate() {
            writeln!(out, "  {:<9} {line}", if index == 0 { name } else { "" })?;
        }
    }
    for note in &capture.notes {
        for (index, line) in wrap(note, WIDTH - 12).iter().enumerate() {
            writeln!(out, "  {:<9} {line}", if index == 0 { "note" } else { "" })?;
        }
    }
    Ok(())
}
