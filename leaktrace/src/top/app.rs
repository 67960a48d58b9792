//! The state of the view.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::baseline::Baseline;
use super::rows::{Cursor, Key, Row};
use super::sort::{SiteSort, TypeSort};
use super::theme::Theme;
use super::{draw, gc, sites, threads, types};
use crate::recording::PastCollection;
use crate::report::Report;

/// A page of the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    Sites,
    Types,
    Gc,
    Threads,
}

impl Tab {
    pub(super) const ALL: [Self; 4] = [Self::Sites, Self::Types, Self::Gc, Self::Threads];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sites => "Sites",
            Self::Types => "Types",
            Self::Gc => "GC",
            Self::Threads => "Threads",
        }
    }

    /// The one that is `steps` further, round and round.
    pub(super) fn step(self, steps: usize) -> Self {
        Self::ALL[(self as usize + steps) % Self::ALL.len()]
    }
}

/// One look, with what a report does not hold.
#[derive(Debug, Clone)]
pub struct Picture {
    pub report: Arc<Report>,
    /// Of threads, by kernel id.
    pub names: BTreeMap<u32, String>,
    /// The last ones, oldest first; of recordings only.
    pub collections: Vec<PastCollection>,
}

/// What a line of text is being typed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Search,
    Filter,
}

/// A line of text being typed.
#[derive(Debug, Clone)]
pub(super) struct Prompt {
    pub(super) asked: Asked,
    pub(super) text: String,
    /// What holds again when it is given up.
    pub(super) before: String,
}

/// The view's state.
#[derive(Debug, Clone)]
pub struct App {
    pub(super) theme: Theme,
    /// Where it comes from: "pid 7", or a file.
    pub(super) source: String,
    pub(super) live: bool,
    pub(super) shown: Option<Picture>,
    /// When it came, by the caller's clock.
    shown_at: f64,
    /// The newest that came during a pause.
    waiting: Option<(Picture, f64)>,
    now: f64,
    pub(super) paused: bool,
    pub(super) tab: Tab,
    pub(super) cursors: [Cursor; 4],
    pub(super) size: (u16, u16),
    pub(super) help: bool,
    pub(super) prompt: Option<Prompt>,
    pub(super) search: String,
    pub(super) filter: String,
    pub(super) thread: Option<u32>,
    pub(super) churn: bool,
    pub(super) unfolded: HashSet<Key>,
    pub(super) baseline: Option<Baseline>,
    pub(super) site_sort: SiteSort,
    pub(super) type_sort: TypeSort,
    pub(super) reversed: [bool; 4],
    /// Said in place of the keys, until the next key.
    pub(super) message: Option<String>,
}

impl App {
    /// A view of what `source` names; `live`: more will come.
    pub fn new(theme: Theme, source: impl Into<String>, live: bool) -> Self {
        Self {
            theme,
            source: crate::report::words::printable(&source.into()),
            live,
            shown: None,
            shown_at: 0.0,
            waiting: None,
            now: 0.0,
            paused: false,
            tab: Tab::Sites,
            cursors: std::array::from_fn(|_| Cursor::default()),
            size: (80, 24),
            help: false,
            prompt: None,
            search: String::new(),
            filter: String::new(),
            thread: None,
            churn: false,
            unfolded: HashSet::new(),
            baseline: None,
            site_sort: SiteSort::default(),
            type_sort: TypeSort::default(),
            reversed: [false; 4],
            message: None,
        }
    }

    /// Tells it the time, in seconds of a clock that never goes back.
    pub fn tick(&mut self, now: f64) {
        self.now = now;
    }

    /// Tells it the terminal's size.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        self.size = (columns, rows);
        self.settle();
    }

    /// A new look came. During a pause it waits.
    pub fn receive(&mut self, picture: Picture) {
        if self.paused {
            self.waiting = Some((picture, self.now));
        } else {
            self.shown = Some(picture);
            self.shown_at = self.now;
            self.settle();
        }
    }

    /// Whether time alone changes what is shown.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    pub(super) fn pause(&mut self) {
        self.paused = !self.paused;
        if let (false, Some((picture, at))) = (self.paused, self.waiting.take()) {
            self.shown = Some(picture);
            self.shown_at = at;
            self.settle();
        }
    }

    /// Seconds since what is shown came.
    pub(super) fn age(&self) -> f64 {
        (self.now - self.shown_at).max(0.0)
    }

    pub(super) fn report(&self) -> Option<&Report> {
        self.shown.as_ref().map(|picture| &*picture.report)
    }

    pub(super) fn cursor(&mut self) -> &mut Cursor {
        &mut self.cursors[self.tab as usize]
    }

    pub(super) fn is_reversed(&self) -> bool {
        self.reversed[self.tab as usize]
    }

    /// The rows of the tab, as wide as `width`.
    pub(super) fn rows(&self, width: usize) -> Vec<Row> {
        let Some(picture) = &self.shown else { return Vec::new() };
        match self.tab {
            Tab::Sites => sites::rows(self, &picture.report, width),
            Tab::Types => types::rows(self, &picture.report, width),
            Tab::Gc => gc::rows(self, picture, width),
            Tab::Threads => threads::rows(self, picture, width),
        }
    }

    /// The same, as wide as the terminal.
    pub(super) fn own_rows(&self) -> Vec<Row> {
        self.rows(usize::from(self.size.0))
    }

    /// Brings the cursor back to where it may be.
    pub(super) fn settle(&mut self) {
        let (rows, height) = (self.own_rows(), draw::body_rows(self.size.1));
        self.cursor().follow(&rows, height);
    }
}
