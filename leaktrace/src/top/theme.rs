//! How things look, with colours and without.

use ratatui::style::{Color, Modifier, Style};

use crate::model::Verdict;

/// What the terminal may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    Colour,
    /// Bold and reverse video, no colours (`NO_COLOR`).
    Mono,
    /// Text alone (`TERM=dumb`): the selected row is the one with the mark.
    Plain,
}

impl Theme {
    fn attribute(self, modifier: Modifier) -> Style {
        if self == Self::Plain { Style::new() } else { Style::new().add_modifier(modifier) }
    }

    fn coloured(self, colour: Color) -> Style {
        if self == Self::Colour { Style::new().fg(colour) } else { Style::new() }
    }

    pub(super) fn bold(self) -> Style {
        self.attribute(Modifier::BOLD)
    }

    pub(super) fn dim(self) -> Style {
        if self == Self::Colour { Style::new().add_modifier(Modifier::DIM) } else { Style::new() }
    }

    pub(super) fn selected(self) -> Style {
        self.attribute(Modifier::REVERSED)
    }

    /// A text that was searched for.
    pub(super) fn found(self) -> Style {
        match self {
            Self::Colour => Style::new().fg(Color::Black).bg(Color::Yellow).remove_modifier(Modifier::REVERSED),
            _ => self.attribute(Modifier::BOLD | Modifier::UNDERLINED),
        }
    }

    pub(super) fn alarm(self) -> Style {
        self.coloured(Color::Red).patch(self.bold())
    }

    pub(super) fn warning(self) -> Style {
        self.coloured(Color::Yellow).patch(self.bold())
    }

    pub(super) fn verdict(self, verdict: Verdict) -> Style {
        match verdict {
            Verdict::Growing => self.alarm(),
            Verdict::Plateau => self.coloured(Color::Green),
            Verdict::Churn => self.dim(),
            Verdict::Unknown => self.coloured(Color::Yellow),
        }
    }
}
