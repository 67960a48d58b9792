//! Colours, or none: the caller decides (terminal, `NO_COLOR`).

use std::fmt::Display;

use crate::model::Verdict;

/// How text is marked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// No escape sequences at all.
    pub const PLAIN: Self = Self { colour: false };
    /// ANSI colours.
    pub const COLOUR: Self = Self { colour: true };

    pub fn bold(self, text: impl Display) -> String {
        self.wrap("1", text)
    }

    pub fn dim(self, text: impl Display) -> String {
        self.wrap("2", text)
    }

    pub fn warning(self, text: impl Display) -> String {
        self.wrap("33", text)
    }

    /// In the colour of the verdict.
    pub fn verdict(self, verdict: Verdict, text: impl Display) -> String {
        let code = match verdict {
            Verdict::Growing => "1;31",
            Verdict::Plateau => "32",
            Verdict::Churn => "2",
            Verdict::Unknown => "33",
        };
        self.wrap(code, text)
    }

    fn wrap(self, code: &str, text: impl Display) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}
