//! Arguments of what makes recordings and what reads them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use leaktrace::export;
use leaktrace::report::Selection;
use leaktrace::report::diff::Key;
use leaktrace_common::site::domain;

use super::{JsonOutput, TraceArgs, duration};
use crate::exit::{ExitCode, Failure};

#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    /// The recording; `leaktrace report FILE` shows it, also while it is being written
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// A recording that `run --record` or `record` made or is making
    pub(crate) file: PathBuf,
    /// How many sites to show; the JSON report has them all
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) top: usize,
    /// Write the report as JSON to a file, or to stdout (-)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<JsonOutput>,
    /// Exit with 1 when a site grows, with 12 when that cannot be told
    #[arg(long)]
    pub(crate) fail_on_growth: bool,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    #[command(flatten)]
    pub(crate) since: SinceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// A recording
    pub(crate) file: PathBuf,
    /// What to write
    #[arg(long, value_enum)]
    pub(crate) format: Format,
    /// Where to; stdout without it
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) output: JsonOutput,
    /// What is told of each stack, in formats that tell one thing; the others show it first
    #[arg(long, value_enum, default_value_t)]
    pub(crate) value: Value,
    /// Compare with this recording (flamegraph: red grew, blue shrank; collapsed: two values)
    #[arg(long, value_name = "FILE")]
    pub(crate) before: Option<PathBuf>,
    /// Replace a file that exists already
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    #[command(flatten)]
    pub(crate) since: SinceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The recording or census to compare with
    pub(crate) old: PathBuf,
    /// The recording or census to compare
    pub(crate) new: PathBuf,
    /// What of recordings is compared, in the words of tracemalloc's `compare_to`; lineno unless told otherwise
    #[arg(long, value_enum)]
    pub(crate) by: Option<By>,
    /// How many rows of each table to show; the JSON has them all
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub(crate) top: usize,
    /// Write the comparison as JSON to a file, or to stdout (-)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<JsonOutput>,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    #[command(flatten)]
    pub(crate) since: SinceArgs,
}

/// As [`export::Format`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// profile.proto, for `go tool pprof` and the like
    Pprof,
    /// For speedscope.app
    Speedscope,
    /// A line a stack, for flamegraph.pl and the like
    Collapsed,
    /// SVG, to be searched and zoomed in a browser
    Flamegraph,
    /// For profiler.firefox.com
    Firefox,
    /// The whole report as one page for a browser, without network
    Html,
    /// A row a site
    Csv,
    /// JSON, totals and then a site a line
    Jsonl,
}

impl From<Format> for export::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Pprof => Self::Pprof,
            Format::Speedscope => Self::Speedscope,
            Format::Collapsed => Self::Collapsed,
            Format::Flamegraph => Self::Flamegraph,
            Format::Firefox => Self::Firefox,
            Format::Html => Self::Html,
            Format::Csv => Self::Csv,
            Format::Jsonl => Self::Jsonl,
        }
    }
}

/// As [`export::Value`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Value {
    #[default]
    LiveBytes,
    LiveBlocks,
    AllocatedBytes,
    AllocatedBlocks,
    /// Bytes an hour, of sites that grow
    Growth,
}

impl From<Value> for export::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::LiveBytes => Self::LiveBytes,
            Value::LiveBlocks => Self::LiveBlocks,
            Value::AllocatedBytes => Self::AllocatedBytes,
            Value::AllocatedBlocks => Self::AllocatedBlocks,
            Value::Growth => Self::Growth,
        }
    }
}

/// As [`Key`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// Lines that allocate
    #[default]
    Lineno,
    /// Files of these lines
    Filename,
    /// Whole stacks
    Traceback,
}

impl From<By> for Key {
    fn from(by: By) -> Self {
        match by {
            By::Lineno => Self::Line,
            By::Filename => Self::File,
            By::Traceback => Self::Stack,
        }
    }
}

/// Which sites a view shows.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filters")]
pub(crate) struct FilterArgs {
    /// Only stacks with a frame whose function or file matches (`*/app/*`, `Cache.*`); may be given again
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
    /// Not what is allocated in a function or file that matches; may be given again
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Only blocks of this domain
    #[arg(long, value_enum)]
    pub(crate) domain: Option<Domain>,
    /// Only sites at which a block of the thread with this kernel id was seen alive
    #[arg(long, value_name = "TID")]
    pub(crate) thread: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, Args)]
#[command(next_help_heading = "Filters")]
pub(crate) struct SinceArgs {
    /// Count only blocks of the last TIME (10m) of the recording
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) since: Option<Duration>,
}

/// Who manages a block: CPython's three allocators, or the C allocator called directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Domain {
    Raw,
    Mem,
    Obj,
    Native,
}

impl FilterArgs {
    /// Whether anything is left out.
    pub(crate) fn is_given(&self) -> bool {
        !self.include.is_empty() || !self.exclude.is_empty() || self.domain.is_some() || self.thread.is_some()
    }

    /// As the report takes it.
    pub(crate) fn selection(&self) -> Result<Selection, Failure> {
        let bad = |error: globset::Error| {
            Failure::new(ExitCode::Usage, error.to_string(), "* is any text, ? any character, [ab] one of these")
        };
        let mut selection =
            Selection::default().include(&self.include).and_then(|s| s.exclude(&self.exclude)).map_err(bad)?;
        if let Some(value) = self.domain {
            selection = selection.domain(match value {
                Domain::Raw => domain::RAW,
                Domain::Mem => domain::MEM,
                Domain::Obj => domain::OBJ,
                Domain::Native => domain::NATIVE,
            });
        }
        Ok(match self.thread {
            Some(tid) => selection.thread(tid),
            None => selection,
        })
    }
}
