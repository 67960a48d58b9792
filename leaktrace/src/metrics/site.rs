//! Which lines have series of their own.
//!
//! A label that takes ever new values fills the server that scrapes it. So a few lines at a time are told apart, one that
//! is stays so while it ranks near the top, and in a whole run only so many different ones ever are. The rest is one sum.

use std::collections::HashSet;

use super::TOP;
use super::text::shorten;
use crate::model::Verdict;
use crate::report::Line;

/// A line that is told apart keeps its place until it ranks below this.
const KEPT: usize = 2 * TOP;
/// Most different lines of a run: those that do not grow, and all.
const MAX_CALM: usize = 5 * TOP;
const MAX_EVER: usize = 25 * TOP;

/// Labels of a line, each bounded in length.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SiteKey {
    pub(super) file: String,
    pub(super) line: String,
    pub(super) function: String,
    pub(super) domain: &'static str,
}

impl SiteKey {
    fn of(line: &Line) -> Self {
        let file = if line.stack_lost { "(stack lost)" } else { shorten(&line.file) };
        Self {
            file: file.to_owned(),
            line: line.line.to_string(),
            function: shorten(&line.function).to_owned(),
            domain: line.domain,
        }
    }

    /// As the samples have them.
    pub(super) fn labels(&self) -> [(&str, &str); 4] {
        [("file", &self.file), ("line", &self.line), ("function", &self.function), ("domain", self.domain)]
    }
}

/// The choice, which remembers the looks before.
#[derive(Debug, Default)]
pub(super) struct Sites {
    shown: HashSet<SiteKey>,
    ever: HashSet<SiteKey>,
}

impl Sites {
    /// The lines that have series now, in the report's order. All others count in the sum of the rest.
    pub(super) fn choose<'a>(&mut self, lines: &'a [Line]) -> Vec<(SiteKey, &'a Line)> {
        let ranked: Vec<_> = lines.iter().take(KEPT).map(|line| (SiteKey::of(line), line)).collect();
        // Those shown before first, then the others by rank.
        let (before, new): (Vec<_>, Vec<_>) = (0..ranked.len()).partition(|&rank| self.shown.contains(&ranked[rank].0));
        // A leak that is new displaces a line that does not grow.
        let (growing, calm): (Vec<_>, Vec<_>) =
            before.into_iter().chain(new).partition(|&rank| ranked[rank].1.verdict == Verdict::Growing);
        let mut chosen = Vec::new();
        let mut taken = HashSet::new();
        for rank in growing.into_iter().chain(calm) {
            let (key, line) = &ranked[rank];
            let room = if line.verdict == Verdict::Growing { MAX_EVER } else { MAX_CALM };
            // What comes and goes is not worth a series.
            let new = line.verdict != Verdict::Churn && self.ever.len() < room;
            let admitted = self.ever.contains(key) || new;
            if chosen.len() < TOP && admitted && taken.insert(key.clone()) {
                self.ever.insert(key.clone());
                chosen.push(rank);
            }
        }
        chosen.sort_unstable();
        self.shown = taken;
        chosen.into_iter().map(|rank| ranked[rank].clone()).collect()
    }
}
