//! Which sites a view shows, and from when on it counts.

use std::collections::HashMap;

use globset::{Glob, GlobSet, GlobSetBuilder};
use leaktrace_common::site::domain;

use super::Facts;
use crate::model::{Ledger, Site, StackId, Tally, Timeline, Trail};

/// A choice of sites. The default is all of them.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    include: Option<GlobSet>,
    exclude: Option<GlobSet>,
    domain: Option<u8>,
    thread: Option<u32>,
    since: Option<Since>,
    words: Vec<String>,
}

/// Blocks allocated before it do not count.
#[derive(Debug, Clone, Default)]
struct Since {
    /// Seconds since the attach.
    seconds: f64,
    /// What each site had allocated by then, by its number.
    allocated: HashMap<usize, Tally>,
}

impl Selection {
    /// Only stacks with a frame whose function or file matches one of these globs. A `*` also matches slashes.
    pub fn include(mut self, globs: &[String]) -> Result<Self, globset::Error> {
        self.include = set(globs)?;
        self.say(globs, "with a frame in");
        Ok(self)
    }

    /// No site whose allocating line is in a function or file that matches one of these globs.
    pub fn exclude(mut self, globs: &[String]) -> Result<Self, globset::Error> {
        self.exclude = set(globs)?;
        self.say(globs, "not allocated in");
        Ok(self)
    }

    /// Only this domain, one of [`domain`].
    #[must_use]
    pub fn domain(mut self, value: u8) -> Self {
        self.domain = Some(value);
        self.words.push(format!("of domain {}", domain::NAMES.get(usize::from(value)).unwrap_or(&"unknown")));
        self
    }

    /// Only sites at which a block of this thread was seen alive.
    #[must_use]
    pub fn thread(mut self, tid: u32) -> Self {
        self.thread = Some(tid);
        self.words.push(format!("of thread {tid}"));
        self
    }

    /// Counts only blocks allocated later than `seconds` after the attach. `allocated`: what each site, by its number, had
    /// allocated by then. Verdicts and rates stay those of the whole trace.
    #[must_use]
    pub fn since(mut self, seconds: f64, allocated: HashMap<usize, Tally>) -> Self {
        self.since = Some(Since { seconds, allocated });
        self.words.push(format!(
            "allocated later than {seconds:.0} s after the attach (verdicts and rates are of the whole trace)"
        ));
        self
    }

    fn say(&mut self, globs: &[String], how: &str) {
        if !globs.is_empty() {
            self.words.push(format!("{how} {}", globs.join(", ")));
        }
    }

    /// What is shown, for the report's notes; `None` when that is everything.
    pub fn note(&self) -> Option<String> {
        (!self.words.is_empty()).then(|| format!("shown are only blocks {}", self.words.join(", ")))
    }

    /// Applied to a ledger.
    pub(super) fn of<'a>(&'a self, ledger: &'a Ledger, facts: &'a Facts) -> Chosen<'a> {
        let matching = |set: &GlobSet| ledger.stacks().texts().iter().map(|text| set.is_match(&**text)).collect();
        let included = self.include.as_ref().map(|set| {
            let texts: Vec<bool> = matching(set);
            let frames: Vec<bool> = (ledger.stacks().packed_frames().iter())
                .map(|frame| texts[frame.function as usize] || texts[frame.file as usize])
                .collect();
            let mut nodes: Vec<bool> = Vec::with_capacity(ledger.stacks().nodes().len());
            for node in ledger.stacks().nodes() {
                // A root has no frame, and is its own parent.
                let parent = nodes.get(node.parent as usize).copied().unwrap_or(false);
                nodes.push(parent || frames.get(node.frame as usize).copied().unwrap_or(false));
            }
            nodes
        });
        let first_cohort = self.since.as_ref().map(|since| {
            let timeline = ledger.timeline();
            let from = timeline.start_ns().saturating_add((since.seconds.max(0.0) * 1e9) as u64);
            (0..timeline.cohorts()).find(|&cohort| timeline.cohort_start(cohort) >= from).unwrap_or(timeline.cohorts())
        });
        Chosen { selection: self, ledger, facts, included, first_cohort }
    }
}

fn set(globs: &[String]) -> Result<Option<GlobSet>, globset::Error> {
    if globs.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(Glob::new(glob)?);
    }
    set.build().map(Some)
}

/// What is counted of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counted {
    pub(super) live: Tally,
    pub(super) allocated: Tally,
    pub(super) freed: Tally,
}

impl Counted {
    pub(super) fn add(&mut self, other: Self) {
        self.live.add(other.live);
        self.allocated.add(other.allocated);
        self.freed.add(other.freed);
    }
}

/// A selection of one ledger's sites.
pub(super) struct Chosen<'a> {
    selection: &'a Selection,
    ledger: &'a Ledger,
    facts: &'a Facts,
    /// By number of stack.
    included: Option<Vec<bool>>,
    first_cohort: Option<usize>,
}

impl Chosen<'_> {
    /// Numbers and sites that are shown: those that allocated something.
    pub(super) fn sites(&self) -> impl Iterator<Item = (usize, &Site)> {
        (self.ledger.sites().iter().enumerate())
            .filter(|(number, site)| self.shows(site) && self.counted(*number).allocated.blocks > 0)
    }

    fn shows(&self, site: &Site) -> bool {
        let Selection { exclude, domain, thread, .. } = self.selection;
        domain.is_none_or(|domain| domain == site.domain)
            && thread.is_none_or(|thread| site.threads().0.contains(&thread))
            && self.included.as_ref().is_none_or(|included| included[site.stack.number() as usize])
            && exclude.as_ref().is_none_or(|set| !self.excluded(set, site.stack))
    }

    fn excluded(&self, set: &GlobSet, stack: StackId) -> bool {
        let frame = self.ledger.stacks().line_frame(stack);
        frame.is_some_and(|frame| set.is_match(&*frame.function) || set.is_match(&*frame.file))
    }

    /// What is counted of the site with this number.
    pub(super) fn counted(&self, number: usize) -> Counted {
        let trail = &self.ledger.sites()[number].trail;
        let mut counted = [trail.live, trail.allocated, trail.freed()];
        if let (Some(since), Some(first)) = (&self.selection.since, self.first_cohort) {
            let live = young(trail, first, self.ledger.timeline());
            let later = trail.allocated.less(since.allocated.get(&number).copied().unwrap_or_default());
            let allocated = Tally { blocks: later.blocks.max(live.blocks), bytes: later.bytes.max(live.bytes) };
            // When what was lost was lost is not known.
            counted = [live, allocated, allocated.less(live)];
        }
        let [live, allocated, freed] = counted.map(|seen| self.facts.all_of(number, seen));
        Counted { live, allocated, freed }
    }
}

/// What lives of the cohorts from `first` on.
fn young(trail: &Trail, first: usize, timeline: &Timeline) -> Tally {
    let cells = trail.cells().iter().take(timeline.cohorts()).skip(first);
    cells.fold(Tally::default(), |sum, cell| Tally {
        blocks: sum.blocks + u64::from(cell.live),
        bytes: sum.bytes + cell.live_bytes,
    })
}
