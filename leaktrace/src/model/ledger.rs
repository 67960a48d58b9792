//! Outstanding blocks per site and cohort, derived anew from the kernel's table at each scan.
//!
//! Nothing is counted up and down here: what lives is what the scan shows, what was allocated is what the kernel's
//! totals say, and freed is the difference. A burst of lost events can therefore leave no negative count and no
//! drift; at worst a block is missing from, or lingers in, the table until the collector's sweep settles it.

use std::collections::HashMap;

use leaktrace_common::site::domain;
use leaktrace_common::wire::{Block, StackTotals};

use super::gc::GcLog;
use super::stacks::{FrameRef, Root, StackId, Stacks};
use super::timeline::{Step, Timeline, thin};
use super::trail::{Cell, Tally, Trail};

/// A dense stack number that was not learned.
const UNKNOWN: u32 = u32::MAX;
/// Largest dense stack number that is believed: the table of totals is an array, and this bounds ours.
const MAX_DENSE: u32 = 1 << 24;
/// Most threads remembered per site.
const MAX_THREADS: usize = 16;

/// Where blocks come from: a stack and a domain.
#[derive(Debug)]
pub struct Site {
    pub stack: StackId,
    /// One of [`leaktrace_common::site::domain`].
    pub domain: u8,
    pub trail: Trail,
    pub(crate) threads: Vec<u32>,
    pub(crate) threads_overflow: bool,
}

impl Site {
    fn new(stack: StackId, domain: u8) -> Self {
        Self { stack, domain, trail: Trail::default(), threads: Vec::new(), threads_overflow: false }
    }

    /// Kernel ids of threads whose blocks were seen alive, in order of appearance, and whether there were more.
    pub fn threads(&self) -> (&[u32], bool) {
        (&self.threads, self.threads_overflow)
    }

    fn saw_thread(&mut self, tid: u32) {
        if self.threads.last() == Some(&tid) || self.threads.contains(&tid) {
            return;
        }
        if self.threads.len() < MAX_THREADS {
            self.threads.push(tid);
        } else {
            self.threads_overflow = true;
        }
    }
}

/// What a scan reads beside the table of blocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScanEnd<'a> {
    /// Totals by dense stack number, read *after* the table, so that no block lives that they do not count yet.
    pub totals: &'a [StackTotals],
    /// Resident set of the target, bytes. 0, which a process has only once it is dying, keeps the last one.
    pub rss_bytes: u64,
}

/// All sites and their history.
#[derive(Debug)]
pub struct Ledger {
    stacks: Stacks,
    sites: Vec<Site>,
    index: HashMap<(StackId, u8), u32>,
    /// Dense stack number -> index of the site.
    dense: Vec<u32>,
    timeline: Timeline,
    gc: GcLog,
    rss: Vec<u64>,
    contradictions: u64,
}

impl Ledger {
    /// A ledger of a trace that began at `start_ns` with the resident set `rss_bytes`.
    pub fn new(start_ns: u64, rss_bytes: u64) -> Self {
        Self {
            stacks: Stacks::default(),
            sites: Vec::new(),
            index: HashMap::new(),
            dense: Vec::new(),
            timeline: Timeline::new(start_ns),
            gc: GcLog::default(),
            rss: vec![rss_bytes],
            contradictions: 0,
        }
    }

    /// A ledger as it was, put together from its parts. `rss` has one value for each sample of the timeline.
    pub(crate) fn restore(
        stacks: Stacks,
        sites: Vec<Site>,
        timeline: Timeline,
        gc: GcLog,
        rss: Vec<u64>,
        contradictions: u64,
    ) -> Self {
        let index = sites.iter().zip(0..).map(|(site, number)| ((site.stack, site.domain), number)).collect();
        Self { stacks, sites, index, dense: Vec::new(), timeline, gc, rss, contradictions }
    }

    /// Learns what a dense stack number stands for: frames innermost first. Several numbers may mean one site. Numbers
    /// beyond 2^24 are ignored: their blocks count as of a lost stack.
    pub fn learn(&mut self, dense: u32, domain: u8, frames: &[FrameRef<'_>], root: Root) {
        let stack = self.stacks.intern(frames, root);
        self.assign(dense, stack, domain);
    }

    /// Starts a scan of the table at `time_ns`. Until [`Pass::finish`] the ledger shows a part of the blocks only.
    pub fn scan(&mut self, time_ns: u64) -> Pass<'_> {
        let step = self.timeline.push(time_ns);
        for site in &mut self.sites {
            let trail = &mut site.trail;
            trail.live = Tally::default();
            trail.oldest_ns = None;
            if let (Some(merged), false) = (step.merged, trail.cells.is_empty()) {
                let cell = trail.cells.remove(merged);
                trail.cells[merged - 1].add(&cell);
            }
            for cell in &mut trail.cells {
                cell.live = 0;
                cell.live_bytes = 0;
            }
            if !trail.cells.is_empty() {
                trail.cells.push(Cell::default());
            }
        }
        Pass { ledger: self, step }
    }

    pub fn stacks(&self) -> &Stacks {
        &self.stacks
    }

    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    pub fn gc(&self) -> &GcLog {
        &self.gc
    }

    pub fn gc_mut(&mut self) -> &mut GcLog {
        &mut self.gc
    }

    /// Resident set at the times of [`Timeline::samples`], bytes.
    pub fn rss(&self) -> &[u64] {
        &self.rss
    }

    /// How often a site had more live blocks than were ever allocated: the sign of a lost update or of a race between
    /// table and totals.
    pub fn contradictions(&self) -> u64 {
        self.contradictions
    }

    /// Whether a dense stack number was learned.
    pub fn knows(&self, dense: u32) -> bool {
        self.site_of(dense).is_some_and(|site| self.sites[site].stack != StackId::LOST)
    }

    /// Index in [`Self::sites`] of what a dense stack number stands for.
    pub fn site(&self, dense: u32) -> Option<usize> {
        self.site_of(dense)
    }

    fn site_of(&self, dense: u32) -> Option<usize> {
        self.dense.get(dense as usize).filter(|site| **site != UNKNOWN).map(|site| *site as usize)
    }

    fn assign(&mut self, dense: u32, stack: StackId, domain: u8) -> usize {
        let next = self.sites.len() as u32;
        let site = *self.index.entry((stack, domain)).or_insert(next);
        if site == next {
            self.sites.push(Site::new(stack, domain));
        }
        if dense < MAX_DENSE {
            if self.dense.len() <= dense as usize {
                self.dense.resize(dense as usize + 1, UNKNOWN);
            }
            self.dense[dense as usize] = site;
        }
        site as usize
    }
}

/// A scan under way: every block of the table passes through [`Pass::observe`] once, in any order.
#[derive(Debug)]
pub struct Pass<'a> {
    ledger: &'a mut Ledger,
    step: Step,
}

impl Pass<'_> {
    /// As [`Ledger::learn`], for stacks that appeared during the scan.
    pub fn learn(&mut self, dense: u32, domain: u8, frames: &[FrameRef<'_>], root: Root) {
        self.ledger.learn(dense, domain, frames, root);
    }

    /// As [`Ledger::knows`].
    pub fn knows(&self, dense: u32) -> bool {
        self.ledger.knows(dense)
    }

    /// Counts a block that lives. Keeps nothing of it.
    #[inline]
    pub fn observe(&mut self, block: &Block) {
        let ledger = &mut *self.ledger;
        let site = match ledger.site_of(block.stack) {
            Some(site) => site,
            None => ledger.assign(block.stack, StackId::LOST, block.domain()),
        };
        let cohort = ledger.timeline.cohort_of(block.time_ns);
        let site = &mut ledger.sites[site];
        site.saw_thread(block.tid);
        let trail = &mut site.trail;
        if trail.cells.is_empty() {
            trail.cells.resize(ledger.timeline.cohorts(), Cell::default());
        }
        let cell = &mut trail.cells[cohort];
        cell.live = cell.live.saturating_add(1);
        cell.live_bytes += block.size();
        trail.live.add(Tally { blocks: 1, bytes: block.size() });
        trail.oldest_ns = Some(trail.oldest_ns.map_or(block.time_ns, |oldest| oldest.min(block.time_ns)));
    }

    /// Ends the scan.
    pub fn finish(self, end: &ScanEnd<'_>) {
        let Self { ledger, step } = self;
        let allocated = ledger.attribute(end.totals);
        let interval_start = ledger.timeline.cohort_start(ledger.timeline.cohorts() - 1);
        let samples = ledger.timeline.samples().len();
        for (site, (allocated, lost)) in ledger.sites.iter_mut().zip(allocated) {
            let trail = &mut site.trail;
            trail.lost_blocks = lost;
            let live = trail.live;
            if live.blocks > allocated.blocks || live.bytes > allocated.bytes {
                ledger.contradictions += 1;
            }
            trail.allocated =
                Tally { blocks: allocated.blocks.max(live.blocks), bytes: allocated.bytes.max(live.bytes) };
            if trail.first_ns == 0 && trail.allocated.blocks > 0 {
                trail.first_ns = interval_start.max(1);
            }
            // Where the last sample made way, `resize` drops its value.
            if step.thinned && !trail.series.is_empty() {
                thin(&mut trail.series);
            }
            if live.blocks > 0 || !trail.series.is_empty() {
                trail.series.resize(samples - 1, Tally::default());
                trail.series.push(live);
            }
            if step.referenced {
                trail.lost_references.rotate_right(1);
                trail.lost_references[0] = lost;
                for cell in &mut trail.cells {
                    cell.references.rotate_right(1);
                    cell.references[0] = cell.live;
                }
            }
        }
        let last = ledger.rss.last().copied().unwrap_or_default();
        if step.thinned {
            thin(&mut ledger.rss);
        }
        ledger.rss.truncate(samples - 1);
        ledger.rss.push(if end.rss_bytes == 0 { last } else { end.rss_bytes });
    }
}

impl Ledger {
    /// What each site allocated, and how many blocks of that were lost. Totals of stacks that were never learned, and of
    /// which no block was seen, go to a lost stack of the object domain, so that the sum over sites stays the kernel's.
    fn attribute(&mut self, totals: &[StackTotals]) -> Vec<(Tally, u64)> {
        let mut nameless = (Tally::default(), 0);
        let mut sums = vec![(Tally::default(), 0); self.sites.len()];
        for (dense, total) in totals.iter().enumerate().filter(|(_, total)| total.blocks > 0) {
            let (sum, lost) = match self.site_of(dense as u32) {
                Some(site) => &mut sums[site],
                None => &mut nameless,
            };
            sum.add(Tally { blocks: total.blocks, bytes: total.bytes });
            *lost += total.lost;
        }
        if nameless.0.blocks > 0 {
            let site = self.assign(MAX_DENSE, StackId::LOST, domain::OBJ);
            sums.resize(self.sites.len(), Default::default());
            sums[site].0.add(nameless.0);
            sums[site].1 += nameless.1;
        }
        sums
    }
}
