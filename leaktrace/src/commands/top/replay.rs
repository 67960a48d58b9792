//! The view of a recording: as of its last look.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use leaktrace::host::signals::reader_is_gone;
use leaktrace::top::{App, Picture};

use super::ui::{self, News};
use crate::cli::{FilterArgs, SinceArgs};
use crate::commands::report::{open, selection};
use crate::exit::ExitCode;

pub(super) fn run(file: &Path, filter: &FilterArgs, since: SinceArgs) -> Result<ExitCode> {
    let recording = open(file)?;
    let report = recording.report(&selection(&recording, filter, since)?);
    let collections = recording.history().collections;
    let picture = Picture { report: Arc::new(report), names: BTreeMap::new(), collections };
    let name = file.file_name().map_or_else(|| file.to_string_lossy(), |name| name.to_string_lossy());
    let mut app = App::new(super::theme(), name, false);
    let mut picture = Some(picture);
    match ui::run(&mut app, || picture.take().map_or(News::Nothing, News::Look)) {
        Err(error) if !reader_is_gone(&error) => Err(error).context("the terminal fails"),
        _ => Ok(ExitCode::Success),
    }
}
