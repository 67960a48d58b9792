//! `leaktrace diff`: what changed from one recording, or one saved census, to another.

use std::fs::File;
use std::path::Path;

use anyhow::Result;
use leaktrace::census::diff::Diff;
use leaktrace::census::{Census, SCHEMA};
use leaktrace::recording;
use leaktrace::report::{Style, diff, heap};
use serde::Serialize;

use super::output::{Json, Page};
use super::report::{open, selection};
use crate::cli::{DiffArgs, JsonOutput};
use crate::exit::{ExitCode, Failure};

pub(crate) fn run(args: &DiffArgs) -> Result<ExitCode> {
    match (is_recording(&args.old)?, is_recording(&args.new)?) {
        (true, true) => recordings(args),
        (false, false) => censuses(args),
        (old, _) => {
            let (recording, census) = if old { (&args.old, &args.new) } else { (&args.new, &args.old) };
            let what = format!("{} is a recording, {} is none", recording.display(), census.display());
            Err(Failure::new(ExitCode::Usage, what, "compare two recordings or two censuses").into())
        }
    }
}

fn recordings(args: &DiffArgs) -> Result<ExitCode> {
    let json = args.json.as_ref().map(Json::open).transpose()?;
    let read = |path: &Path| -> Result<_> {
        let recording = open(path)?;
        let report = recording.report(&selection(&recording, &args.filter, args.since)?);
        Ok((report, recording.types()))
    };
    let ((old, old_types), (new, new_types)) = (read(&args.old)?, read(&args.new)?);
    let compared = diff::Diff::of(&old, &new, args.by.unwrap_or_default().into()).with_types(&old_types, &new_types);
    show(args, json, &compared, |style| diff::text(&compared, args.top, style))
}

fn censuses(args: &DiffArgs) -> Result<ExitCode> {
    if args.by.is_some() || args.filter.is_given() || args.since.since.is_some() {
        let what = "--by and filters are for recordings, and these are censuses";
        return Err(Failure::new(ExitCode::Usage, what, "`leaktrace run --record FILE` makes a recording").into());
    }
    let json = args.json.as_ref().map(Json::open).transpose()?;
    let (old, new) = (load(&args.old)?, load(&args.new)?);
    let diff = Diff::of(&old, &new);
    show(args, json, &diff, |style| heap::diff(&diff, args.top, style))
}

fn show(
    args: &DiffArgs,
    json: Option<Json>,
    diff: &impl Serialize,
    text: impl FnOnce(Style) -> String,
) -> Result<ExitCode> {
    let page = Page { to_stderr: args.json == Some(JsonOutput::Stdout) };
    if let Some(json) = json {
        json.write_value(diff)?;
    }
    page.print(&text(page.style()))?;
    Ok(ExitCode::Success)
}

fn is_recording(path: &Path) -> Result<bool, Failure> {
    File::open(path).map_err(|error| unreadable(path, &error.to_string()))?;
    Ok(recording::is_one(path))
}

fn load(path: &Path) -> Result<Census, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error.to_string()))?;
    let census: Census = serde_json::from_str(&text)
        .map_err(|error| unreadable(path, &format!("it is no recording, and no census: {error}")))?;
    if census.schema == SCHEMA {
        Ok(census)
    } else {
        Err(unreadable(path, &format!("its schema is {:?}, not {SCHEMA}", census.schema)))
    }
}

fn unreadable(path: &Path, why: &str) -> Failure {
    let hint = "recordings are made by `leaktrace run --record`, censuses by `leaktrace heap --save`";
    Failure::new(ExitCode::Usage, format!("cannot read {}: {why}", path.display()), hint)
}
