//! `leaktrace diff`: what changed from one saved census to another.

use std::path::Path;

use anyhow::Result;
use leaktrace::census::diff::Diff;
use leaktrace::census::{Census, SCHEMA};
use leaktrace::report::heap;

use super::output::{Json, Page};
use crate::cli::{DiffArgs, JsonOutput};
use crate::exit::{ExitCode, Failure};

pub(crate) fn run(args: &DiffArgs) -> Result<ExitCode> {
    let json = args.json.as_ref().map(Json::open).transpose()?;
    let (old, new) = (load(&args.old)?, load(&args.new)?);
    let diff = Diff::of(&old, &new);
    let page = Page { to_stderr: args.json == Some(JsonOutput::Stdout) };
    if let Some(json) = json {
        json.write_value(&diff)?;
    }
    page.print(&heap::diff(&diff, args.top, page.style()))?;
    Ok(ExitCode::Success)
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
