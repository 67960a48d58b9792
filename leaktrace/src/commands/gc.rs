//! `leaktrace gc`: how the garbage collector is set and how it does.

use anyhow::Result;
use leaktrace::census::{Subject, collector};
use leaktrace::cpython::Interpreter;
use leaktrace::report::collector as view;
use leaktrace::target::process::Target;

use super::output::{Json, Page};
use crate::cli::{GcArgs, JsonOutput};
use crate::exit::ExitCode;

pub(crate) fn run(args: &GcArgs) -> Result<ExitCode> {
    let json = args.json.as_ref().map(Json::open).transpose()?;
    let target = Target::open(args.pid)?;
    let interpreter = Interpreter::find(&target)?;
    let (maps, memory) = (target.maps()?, target.memory());
    let subject = Subject::of(&target, &interpreter, &maps, &memory);
    let collector = collector::look(&subject).map_err(leaktrace::census::CensusError::from)?;
    let page = Page { to_stderr: args.json == Some(JsonOutput::Stdout) };
    if let Some(json) = json {
        json.write_value(&collector)?;
    }
    page.print(&view::page(&collector, page.style()))?;
    Ok(ExitCode::Success)
}
