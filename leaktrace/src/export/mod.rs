//! Reports in the formats of other tools. Every format has the same stacks with the same values, so their sums are the
//! report's totals.

mod collapsed;
mod firefox;
mod flamegraph;
mod html;
mod pprof;
mod rows;
mod speedscope;
mod stacks;

use std::io::{self, Write};

use crate::recording::Recording;
use crate::report::Report;

/// A format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// profile.proto, compressed: `go tool pprof` and what reads the like. Has all values.
    Pprof,
    /// <https://www.speedscope.app>. Has all values.
    Speedscope,
    /// A line a stack, outermost frame first, with its value: for flamegraph.pl and the like.
    Collapsed,
    /// A flame graph that can be searched and zoomed in a browser.
    Flamegraph,
    /// <https://profiler.firefox.com>, processed profile.
    Firefox,
    /// The whole report as one page, with charts, tables and a flame graph.
    Html,
    /// A row a site, with a header. Has all values.
    Csv,
    /// JSON: the totals on the first line, then a site a line. Has all values.
    Jsonl,
}

impl Format {
    /// Whether it would do a terminal harm.
    pub fn is_binary(self) -> bool {
        self == Self::Pprof
    }

    /// Whether two recordings can be compared in it.
    pub fn compares(self) -> bool {
        matches!(self, Self::Flamegraph | Self::Collapsed)
    }
}

/// What is told of each stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    LiveBytes,
    LiveBlocks,
    AllocatedBytes,
    AllocatedBlocks,
    /// Bytes an hour, of sites that grow.
    Growth,
}

impl Value {
    pub const ALL: [Self; 5] =
        [Self::LiveBytes, Self::LiveBlocks, Self::AllocatedBytes, Self::AllocatedBlocks, Self::Growth];

    /// Its name as pprof has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::LiveBytes => "inuse_space",
            Self::LiveBlocks => "inuse_objects",
            Self::AllocatedBytes => "alloc_space",
            Self::AllocatedBlocks => "alloc_objects",
            Self::Growth => "growth",
        }
    }

    /// What it is called in a picture.
    fn title(self) -> &'static str {
        match self {
            Self::LiveBytes => "Live bytes allocated since the attach",
            Self::LiveBlocks => "Live blocks allocated since the attach",
            Self::AllocatedBytes => "Bytes allocated since the attach",
            Self::AllocatedBlocks => "Blocks allocated since the attach",
            Self::Growth => "Growth, bytes an hour",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::LiveBytes | Self::AllocatedBytes | Self::Growth => "bytes",
            Self::LiveBlocks | Self::AllocatedBlocks => "count",
        }
    }
}

/// What is exported.
#[derive(Debug, Clone, Copy)]
pub struct Export<'a> {
    pub report: &'a Report,
    /// What it is compared with, where the format can.
    pub before: Option<&'a Report>,
    /// Where it comes from: has what is over time.
    pub recording: &'a Recording,
    /// For the formats that have one, and what others show first.
    pub value: Value,
}

impl Export<'_> {
    /// Writes it.
    pub fn write(&self, format: Format, out: &mut dyn Write) -> io::Result<()> {
        match format {
            Format::Pprof => pprof::write(self, out),
            Format::Speedscope => speedscope::write(self, out),
            Format::Collapsed => collapsed::write(self, out),
            Format::Flamegraph => flamegraph::write(self, out),
            Format::Firefox => firefox::write(self, out),
            Format::Html => html::write(self, out),
            Format::Csv => rows::csv(self.report, out),
            Format::Jsonl => rows::json_lines(self.report, out),
        }
    }

    /// "python3 app.py, pid 4242".
    fn process(&self) -> String {
        let target = &self.report.target;
        format!("{}, pid {}", target.cmdline.join(" "), target.pid)
    }
}
