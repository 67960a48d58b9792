//! Sites as rows: CSV (RFC 4180) and JSON lines.

use std::io::{self, Write};

use serde::Serialize;

use super::stacks::{frames, label};
use crate::report::{Report, SiteReport, Totals};

const HEADER: &str = "verdict,domain,file,line,function,live_bytes,live_blocks,allocated_bytes,allocated_blocks,freed_blocks,\
                      lost_blocks,growth_bytes_per_second,growth_low,growth_high,stack";

pub(super) fn csv(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    write!(out, "{HEADER}\r\n")?;
    for site in &report.sites {
        let line = &report.lines[site.line];
        let stack: Vec<String> = frames(site).iter().map(label).collect();
        let growth = &site.growth.bytes_per_second;
        let cells = [
            site.verdict.name().to_owned(),
            site.domain.to_owned(),
            line.file.to_string(),
            line.line.to_string(),
            line.function.to_string(),
            site.live_bytes.to_string(),
            site.live_blocks.to_string(),
            site.allocated_bytes.to_string(),
            site.allocated_blocks.to_string(),
            site.freed_blocks.to_string(),
            site.lost_blocks.to_string(),
            growth.estimate.to_string(),
            growth.low.to_string(),
            growth.high.to_string(),
            stack.join(";"),
        ];
        write!(out, "{}\r\n", cells.each_ref().map(|cell| quoted(cell)).join(","))?;
    }
    Ok(())
}

fn quoted(cell: &str) -> String {
    if cell.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

/// The first line.
#[derive(Serialize)]
struct Summary<'a> {
    kind: &'static str,
    schema: &'static str,
    target: &'a crate::report::Target,
    headline: &'a crate::report::Headline,
    totals: Totals,
}

/// The others.
#[derive(Serialize)]
struct Site<'a> {
    kind: &'static str,
    #[serde(flatten)]
    site: &'a SiteReport,
}

pub(super) fn json_lines(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let Report { schema, target, headline, totals, .. } = report;
    let summary = Summary { kind: "summary", schema, target, headline, totals: *totals };
    serde_json::to_writer(&mut *out, &summary)?;
    writeln!(out)?;
    for site in &report.sites {
        serde_json::to_writer(&mut *out, &Site { kind: "site", site })?;
        writeln!(out)?;
    }
    Ok(())
}
