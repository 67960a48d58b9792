//! What is shown while a run goes on, and the report at its end.

use std::io::{self, IsTerminal as _, Stderr, Write as _};

use leaktrace::host::signals::reader_is_gone;
use leaktrace::report::live::LiveTable;
use leaktrace::report::{Report, SourceReader, line, text};
use rustix::termios::tcgetwinsize;

use crate::commands::output::style;
use crate::commands::top::LiveTop;

/// What is to be seen of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Nothing,
    Table,
    /// `leaktrace top`.
    Top,
}

/// The view while it runs: a table that redraws on a terminal, else a line for each look, both on stderr; or the whole screen.
pub(super) enum View {
    Top(LiveTop),
    Table(LiveTable<Stderr>),
    Lines,
    /// The terminal is gone.
    Silent,
}

impl View {
    pub(super) fn new(kind: Kind, pid: u32) -> io::Result<Self> {
        match kind {
            Kind::Nothing => return Ok(Self::Silent),
            Kind::Top => return LiveTop::start(pid).map(Self::Top),
            Kind::Table => {}
        }
        if !io::stderr().is_terminal() {
            return Ok(Self::Lines);
        }
        match LiveTable::start(io::stderr(), style(true)) {
            Err(error) if reader_is_gone(&error) => Ok(Self::Silent),
            table => table.map(Self::Table),
        }
    }

    /// Shows the state. A reader that went away ends the view, not the run.
    pub(super) fn show(&mut self, report: Report) -> io::Result<()> {
        let shown = match self {
            Self::Table(table) => {
                let size = tcgetwinsize(io::stderr()).ok().filter(|size| size.ws_col > 0);
                let (columns, rows) = size.map_or((80, 24), |s| (s.ws_col.into(), s.ws_row.into()));
                table.draw(&report, columns, rows)
            }
            Self::Lines => writeln!(io::stderr(), "{}", line::line(&report)),
            Self::Top(top) => {
                top.show(report);
                Ok(())
            }
            Self::Silent => Ok(()),
        };
        self.unless_gone(shown)
    }

    /// Says something in one line.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        let said = match self {
            // Without a line feed: what follows takes its place.
            Self::Table(_) => write!(io::stderr(), "leaktrace: {text}"),
            Self::Lines | Self::Top(_) => writeln!(io::stderr(), "leaktrace: {text}"),
            Self::Silent => Ok(()),
        };
        self.unless_gone(said)
    }

    /// Makes room for the report.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let cleared = match self {
            Self::Table(table) => table.clear(),
            Self::Top(top) => top.end(),
            Self::Lines | Self::Silent => Ok(()),
        };
        self.unless_gone(cleared)
    }

    fn unless_gone(&mut self, result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(error) if reader_is_gone(&error) => {
                *self = Self::Silent;
                Ok(())
            }
            other => other,
        }
    }
}

/// What stderr gets when the run is cut short: on a terminal the cursor comes back.
pub(super) fn farewell() -> &'static str {
    if io::stderr().is_terminal() {
        "\x1b[?25h\r\nleaktrace: ended at once, without a report\r\n"
    } else {
        "leaktrace: ended at once, without a report\n"
    }
}

/// The report for people: on stdout, or on stderr when stdout is taken by the JSON.
pub(super) fn print(report: &Report, top: usize, source: &mut SourceReader, to_stderr: bool) -> io::Result<()> {
    let mut page = Vec::new();
    let terminal = if to_stderr { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
    text::write(report, top, style(terminal), source, &mut page)?;
    let written = if to_stderr { io::stderr().write_all(&page) } else { io::stdout().write_all(&page) };
    match written {
        Err(error) if reader_is_gone(&error) => Ok(()),
        other => other,
    }
}
