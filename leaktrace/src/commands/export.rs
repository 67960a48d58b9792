//! `leaktrace export`: a recording in the format of another tool.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::Result;
use leaktrace::export::Export;
use leaktrace::host::signals::reader_is_gone;

use super::progress::Progress;
use super::report::{open, selection};
use crate::cli::{ExportArgs, JsonOutput};
use crate::exit::{ExitCode, Failure};

pub(crate) fn run(args: &ExportArgs) -> Result<ExitCode> {
    let format = args.format.into();
    if args.before.is_some() && !leaktrace::export::Format::compares(format) {
        let hint = "flamegraph and collapsed can be; `leaktrace diff` compares in words";
        return Err(Failure::new(ExitCode::Usage, "two recordings cannot be compared in this format", hint).into());
    }
    if args.output == JsonOutput::Stdout && format.is_binary() && io::stdout().is_terminal() {
        let hint = "-o FILE writes it to a file";
        return Err(Failure::new(ExitCode::Usage, "this format is not text", hint).into());
    }
    let recording = open(&args.file)?;
    let before = args.before.as_deref().map(open).transpose()?;
    let report = recording.report(&selection(&recording, &args.filter, args.since)?);
    let before = match &before {
        Some(before) => Some(before.report(&selection(before, &args.filter, args.since)?)),
        None => None,
    };
    let progress = Progress::start(format!("exporting {}", args.file.display()));
    let mut bytes = Vec::new();
    Export { report: &report, before: before.as_ref(), recording: &recording, value: args.value.into() }
        .write(format, &mut bytes)
        .map_err(|error| Failure::new(ExitCode::Output, format!("cannot be exported: {error}"), ""))?;
    drop(progress);
    let (place, written) = match &args.output {
        JsonOutput::Stdout => ("stdout".to_owned(), io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush())),
        JsonOutput::File(path) => (path.display().to_string(), create(path, args.force)?.write_all(&bytes)),
    };
    match written {
        Err(error) if !reader_is_gone(&error) => {
            Err(Failure::new(ExitCode::Output, format!("cannot write {place}: {error}"), "choose another place").into())
        }
        _ => Ok(ExitCode::Success),
    }
}

/// Makes the file; an existing one is replaced only if that was asked.
fn create(path: &Path, replace: bool) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    options.write(true);
    if replace {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::new(ExitCode::Output, format!("{} exists already", path.display()), "--force replaces it")
        }
        _ => {
            Failure::new(ExitCode::Output, format!("cannot write {}: {error}", path.display()), "choose another place")
        }
    })
}
