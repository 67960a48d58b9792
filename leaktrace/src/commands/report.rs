//! `leaktrace report`: what a recording holds, as the run that made it reported it.

use std::path::Path;

use anyhow::Result;
use leaktrace::recording::Recording;
use leaktrace::report::{Selection, SourceReader, json, text};

use super::output::{Json, Page};
use super::progress::Progress;
use super::run::gate;
use crate::cli::{FilterArgs, JsonOutput, ReportArgs, SinceArgs};
use crate::exit::{ExitCode, Failure};

pub(crate) fn run(args: &ReportArgs) -> Result<ExitCode> {
    let json = args.json.as_ref().map(Json::open).transpose()?;
    let recording = open(&args.file)?;
    let report = recording.report(&selection(&recording, &args.filter, args.since)?);
    if let Some(json) = json {
        json.write(|out| json::write(&report, out))?;
    }
    let page = Page { to_stderr: args.json == Some(JsonOutput::Stdout) };
    let mut source = SourceReader::recorded(recording.sources());
    let mut text = Vec::new();
    text::write(&report, args.top, page.style(), &mut source, &mut text)?;
    page.print(&String::from_utf8_lossy(&text))?;
    Ok(if args.fail_on_growth { gate(report.headline.outlook) } else { ExitCode::Success })
}

/// Reads a recording.
pub(super) fn open(path: &Path) -> Result<Recording> {
    let _progress = Progress::start(format!("reading {}", path.display()));
    Ok(Recording::open(path)?)
}

/// The sites that the arguments choose.
pub(super) fn selection(recording: &Recording, filter: &FilterArgs, since: SinceArgs) -> Result<Selection, Failure> {
    let selection = filter.selection()?;
    let Some(since) = since.since else { return Ok(selection) };
    let from = (recording.seconds() - since.as_secs_f64()).max(0.0);
    Ok(selection.since(from, recording.allocated_by(from)))
}
