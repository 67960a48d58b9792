//! What a watch shows while it goes on: a page that is redrawn on a terminal, else a line for each look. Both on stderr.

use std::io::{self, IsTerminal as _, Stderr, Write as _};

use leaktrace::host::signals::reader_is_gone;
use leaktrace::report::live::LiveTable;
use rustix::termios::tcgetwinsize;

use super::output::style;

/// Size of a terminal that does not tell it.
const USUAL: (usize, usize) = (80, 24);

pub(super) enum Screen {
    Page(LiveTable<Stderr>),
    Lines,
    /// The terminal is gone.
    Silent,
}

impl Screen {
    pub(super) fn new() -> io::Result<Self> {
        if !io::stderr().is_terminal() {
            return Ok(Self::Lines);
        }
        match LiveTable::start(io::stderr(), style(true)) {
            Err(error) if reader_is_gone(&error) => Ok(Self::Silent),
            page => page.map(Self::Page),
        }
    }

    /// Shows `page` where it can be redrawn, else `line`. A reader that went away ends the view, not the watch.
    pub(super) fn show(&mut self, page: impl FnOnce() -> String, line: impl FnOnce() -> String) -> io::Result<()> {
        let shown = match self {
            Self::Page(table) => {
                let size = tcgetwinsize(io::stderr()).ok().filter(|size| size.ws_col > 0);
                let (columns, rows) = size.map_or(USUAL, |size| (size.ws_col.into(), size.ws_row.into()));
                table.draw_page(&page(), columns, rows)
            }
            Self::Lines => writeln!(io::stderr(), "{}", line()),
            Self::Silent => Ok(()),
        };
        self.unless_gone(shown)
    }

    /// Removes the page, so that what follows takes its place.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let cleared = match self {
            Self::Page(table) => table.clear(),
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
            result => result,
        }
    }
}
