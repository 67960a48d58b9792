//! The end report for people, at 80 columns.

use std::io::{self, Write};

use super::units::{bytes, count, span};
use super::words::{self, fit, place, wrap};
use super::{Report, SiteReport, SourceReader, Style};
use crate::model::Verdict;

const WIDTH: usize = 80;
/// Frames shown of a stack.
const FRAMES: usize = 12;
/// Lines shown in the table by line.
const LINES: usize = 10;

/// Writes the report: headline, the `top` worst sites with their stacks, then lines, collector, losses and cost.
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
    let growing = report.sites.iter().filter(|site| site.verdict == Verdict::Growing).count();
    let notable = report.sites.iter().filter(|site| site.verdict != Verdict::Churn && site.live_blocks > 0);
    let shown: Vec<_> = notable.take(top).collect();
    if !shown.is_empty() {
        writeln!(out, "\n{}", style.bold(format!("Sites, worst first ({} of {})", shown.len(), report.sites.len())))?;
    }
    for (index, site) in shown.iter().enumerate() {
        site_block(index + 1, site, style, source, out)?;
    }
    if growing > shown.len() {
        writeln!(out, "\n{}", style.warning(format!("{} more sites grow; --top shows more.", growing - shown.len())))?;
    }
    by_line(report, style, out)?;
    collector(report, style, out)?;
    capture(report, style, out)
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
    let text = format!(
        "Process {}: Python {}, {}",
        target.pid,
        target.python.version,
        words::printable(&target.cmdline.join(" "))
    );
    writeln!(out, "{}", style.dim(fit(&text, WIDTH)))
}

fn site_block(
    number: usize,
    site: &SiteReport,
    style: Style,
    source: &mut SourceReader,
    out: &mut dyn Write,
) -> io::Result<()> {
    let verdict = style.verdict(site.verdict, words::verdict(site.verdict));
    let prefix = format!("{number:>3}. ");
    let room = WIDTH - prefix.len() - words::verdict(site.verdict).len() - 2;
    writeln!(out, "\n{prefix}{verdict}  {}", style.bold(fit(&place(site), room)))?;
    let mut facts = vec![format!(
        "{} in {} blocks live, domain {}",
        bytes(site.live_bytes as f64),
        count(site.live_blocks as f64),
        site.domain
    )];
    if site.verdict == Verdict::Growing {
        facts.insert(0, words::growth(&site.growth));
    }
    facts.extend(words::evidence(&site.evidence, site.freed_blocks, site.allocated_blocks));
    for line in facts.iter().flat_map(|fact| wrap(fact, WIDTH - 5)) {
        writeln!(out, "     {line}")?;
    }
    for frame in site.stack.iter().take(FRAMES) {
        writeln!(out, "       {}", fit(&words::frame(frame), WIDTH - 7))?;
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

fn by_line(report: &Report, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let lines: Vec<_> = report.lines.iter().filter(|line| line.live_blocks > 0).take(LINES).collect();
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", style.bold("By line, all callers together"))?;
    writeln!(out, "{}", style.dim(format!("{:>10} {:>8} {:>6} {:<8} line", "live", "blocks", "stacks", "verdict")))?;
    for line in lines {
        let place = if line.file.is_empty() {
            "(no Python frame)".to_owned()
        } else {
            words::printable(&format!("{}:{} {}", line.file, line.line, line.function))
        };
        writeln!(
            out,
            "{:>10} {:>8} {:>6} {} {}",
            bytes(line.live_bytes as f64),
            count(line.live_blocks as f64),
            line.sites.len(),
            style.verdict(line.verdict, format!("{:<8}", words::verdict(line.verdict))),
            fit(&place, WIDTH - 37),
        )?;
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
        return writeln!(out, "  no collection");
    }
    let header = ["generation", "collections", "collected", "uncollectable", "pauses", "longest"];
    let widths = [12, 12, 10, 14, 9, 9];
    let row = |cells: [String; 6]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$}"));
        padded.collect::<Vec<_>>().join(" ")
    };
    writeln!(out, "{}", style.dim(row(header.map(str::to_owned))))?;
    for generation in &gc.generations {
        let pause = |seconds| if gc.pauses_known { span(seconds) } else { "unknown".to_owned() };
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
    Ok(())
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
                "{} in {} blocks, of {} allocated",
                bytes(totals.live_bytes as f64),
                count(totals.live_blocks as f64),
                bytes(totals.allocated_bytes as f64)
            ),
        ),
        (
            "before",
            format!(
                "blocks older than the attach are not counted; {} frees of such were seen",
                count(events.free_before_attach as f64)
            ),
        ),
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
