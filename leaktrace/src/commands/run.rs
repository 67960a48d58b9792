//! `leaktrace run`.

use anyhow::Result;
use leaktrace::host::claim::Claim;
use leaktrace::target::process::Target;

use super::output::Json;
use crate::cli::RunArgs;
use crate::exit::{ExitCode, Failure};

pub(crate) fn run(args: RunArgs) -> Result<ExitCode> {
    let _json = args.json.as_ref().map(Json::open).transpose()?;
    let target = Target::open(args.pid)?;
    let _claim = Claim::new(target.pid())?;
    Err(Failure::new(ExitCode::Internal, "run is not built yet", "").into())
}
