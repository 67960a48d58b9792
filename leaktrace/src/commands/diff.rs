//! `leaktrace diff`: what changed from one recording, or saved census, to another.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use leaktrace::census::diff::Diff;
use leaktrace::census::{Census, SCHEMA};
use leaktrace::model::Tally;
use leaktrace::recording::{self, Recording};
use leaktrace::report::diff::Side;
use leaktrace::report::{self, heap};

use super::output::{Json, Page};
use crate::cli::{DiffArgs, JsonOutput};
use crate::exit::{ExitCode, Failure};

pub(crate) fn run(args: &DiffArgs) -> Result<ExitCode> {
    let json = args.json.as_ref().map(Json::open).transpose()?;
    let page = Page { to_stderr: args.json == Some(JsonOutput::Stdout) };
    let text = match (recording::is_one(&args.old), recording::is_one(&args.new)) {
        (true, true) => {
            let diff = recordings(args)?;
            json.map_or(Ok(()), |json| json.write_value(&diff))?;
            diff.text(args.top, page.style())
        }
        (false, false) => {
            let (old, new) = (load(&args.old)?, load(&args.new)?);
            let diff = Diff::of(&old, &new);
            json.map_or(Ok(()), |json| json.write_value(&diff))?;
            heap::diff(&diff, args.top, page.style())
        }
        _ => {
            let what = "a recording and a census cannot be compared";
            return Err(Failure::new(ExitCode::Usage, what, "give two recordings or two censuses").into());
        }
    };
    page.print(&text)?;
    Ok(ExitCode::Success)
}

fn recordings(args: &DiffArgs) -> Result<report::diff::Diff> {
    let (old, new) = (Recording::open(&args.old)?, Recording::open(&args.new)?);
    let selection = args.filter.selection()?;
    let (old_report, new_report) = (old.report(&selection), new.report(&selection));
    let types = |recording: &Recording| -> BTreeMap<String, Tally> {
        let types = recording.history().types.into_iter();
        types.map(|type_| (type_.name, type_.levels.last().copied().unwrap_or_default())).collect()
    };
    let (old_types, new_types) = (types(&old), types(&new));
    let old = Side { report: &old_report, types: &old_types };
    let new = Side { report: &new_report, types: &new_types };
    Ok(report::diff::Diff::of(old, new, args.by.into()))
}

fn load(path: &Path) -> Result<Census, Failure> {
    let hint = "it is made by `leaktrace heap --save` or `--json`";
    let failure = |why: String| Failure::new(ExitCode::Usage, format!("cannot read {}: {why}", path.display()), hint);
    let text = std::fs::read_to_string(path).map_err(|error| failure(error.to_string()))?;
    let census: Census = serde_json::from_str(&text).map_err(|error| failure(format!("no census: {error}")))?;
    if census.schema == SCHEMA {
        Ok(census)
    } else {
        Err(failure(format!("its schema is {:?}, not {SCHEMA}", census.schema)))
    }
}
