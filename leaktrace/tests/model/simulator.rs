//! A heap in simulated time that drives a ledger as the collector does.

use std::collections::BTreeMap;

use leaktrace::model::verdict::judge;
use leaktrace::model::{Collection, Criteria, FrameKind, FrameRef, Judgement, Ledger, Root, ScanEnd, Trail};
use leaktrace_common::site::domain;
use leaktrace_common::wire::{Block, StackTotals};

pub(crate) const SECOND: u64 = 1_000_000_000;
/// Simulated steps per second.
const STEPS: u64 = 20;

/// Repeatable random numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    /// In `0..bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// In [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        self.next() as f64 / (1u64 << 53) as f64
    }

    /// How many events happen in a step of a process of `rate` events per second.
    pub(crate) fn events(&mut self, rate: f64) -> u64 {
        let mean = rate / STEPS as f64;
        let limit = (-mean).exp();
        let (mut count, mut product) = (0, self.unit());
        while product > limit {
            count += 1;
            product *= self.unit();
        }
        count
    }
}

/// The simulated process: live blocks, totals, and the ledger that watches.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) random: Random,
    pub(crate) ledger: Ledger,
    /// What the service's frames run.
    pub(crate) file: &'static str,
    /// Most blocks that the table takes.
    pub(crate) room: usize,
    /// Times and seconds of windows. Once there is one, only what is allocated in windows is seen.
    pub(crate) windows: Vec<(u64, f64)>,
    open: bool,
    blocks: BTreeMap<u64, Block>,
    totals: Vec<StackTotals>,
    next_address: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let start = 1000 * SECOND;
        Self {
            now: start,
            random: Random::new(seed),
            ledger: Ledger::new(start, 50 << 20),
            file: "service.py",
            room: usize::MAX,
            windows: Vec::new(),
            open: true,
            blocks: BTreeMap::new(),
            totals: Vec::new(),
            next_address: 4096,
        }
    }

    /// Seconds since the start of the trace.
    pub(crate) fn seconds(&self) -> f64 {
        (self.now - self.ledger.timeline().start_ns()) as f64 / SECOND as f64
    }

    /// Allocates at stack number `stack`.
    pub(crate) fn alloc(&mut self, stack: u32, size: u64) -> u64 {
        let address = self.next_address;
        self.next_address += 16;
        if self.totals.len() <= stack as usize {
            for dense in self.totals.len() as u32..=stack {
                self.learn(dense);
            }
            self.totals.resize(stack as usize + 1, StackTotals::default());
        }
        if !self.open {
            return address;
        }
        self.totals[stack as usize].blocks += 1;
        self.totals[stack as usize].bytes += size;
        if self.blocks.len() < self.room {
            self.blocks.insert(address, Block::new(size, domain::OBJ, true, self.now, stack, 7));
        } else {
            self.totals[stack as usize].lost += 1;
        }
        address
    }

    pub(crate) fn free(&mut self, address: u64) {
        assert!(self.blocks.remove(&address).is_some() || self.room < usize::MAX, "double free in the simulation");
    }

    /// A collection that begins now.
    pub(crate) fn collect(&mut self, generation: u8) {
        let collection =
            Collection { generation, full: generation == 2, start_ns: self.now, pause_ns: Some(1_000_000) };
        self.ledger.gc_mut().record(collection);
    }

    /// Lets `service` run for `seconds` with a scan every `interval` seconds, and `check` look after each scan.
    pub(crate) fn run(
        &mut self,
        seconds: u64,
        interval: u64,
        service: &mut dyn FnMut(&mut Self),
        check: &mut dyn FnMut(&Self),
    ) {
        for step in 1..=seconds * STEPS {
            self.now += SECOND / STEPS;
            service(self);
            if step % (interval * STEPS) == 0 {
                self.scan();
                check(self);
            }
        }
    }

    /// The same in windows of one step, open with the probability `duty`; a scan follows each.
    pub(crate) fn watch(
        &mut self,
        seconds: u64,
        duty: f64,
        service: &mut dyn FnMut(&mut Self),
        check: &mut dyn FnMut(&Self),
    ) {
        // What was not seen is not missed when it is freed.
        self.room = usize::MAX - 1;
        for _ in 0..seconds * STEPS {
            self.now += SECOND / STEPS;
            self.open = self.random.unit() < duty;
            if self.open {
                self.windows.push((self.now, 1.0 / STEPS as f64));
            }
            service(self);
            if self.open {
                self.scan();
                check(self);
            }
        }
    }

    fn scan(&mut self) {
        // The collector is a little late, and never by the same amount.
        let late = self.random.below(SECOND / 50);
        let mut pass = self.ledger.scan(self.now + late);
        for block in self.blocks.values() {
            pass.observe(block);
        }
        pass.finish(&ScanEnd { totals: &self.totals, rss_bytes: 50 << 20 });
    }

    /// The judgement on all sites of the line of `stack` together, or on the one stack.
    pub(crate) fn judge(&self, stack: u32, whole_line: bool) -> Judgement {
        let stacks = self.ledger.stacks();
        let wanted = format!("function{}", stack % 100);
        let caller = 1000 + stack;
        let mut trail = Trail::default();
        for site in self.ledger.sites() {
            let frames: Vec<_> = stacks.frames(site.stack).collect();
            if *frames[0].function == *wanted && (whole_line || frames[1].line == caller) {
                trail.merge(&site.trail);
            }
        }
        let timeline = self.ledger.timeline();
        let exposure = (!self.windows.is_empty()).then(|| {
            let mut cohorts = vec![0.0; timeline.cohorts()];
            self.windows.iter().for_each(|(time, seconds)| cohorts[timeline.cohort_of(*time)] += seconds);
            cohorts
        });
        let weight = exposure.as_ref().map_or(1.0, |cohorts| self.seconds() / cohorts.iter().sum::<f64>());
        let criteria = Criteria { exposure, weight, ..Criteria::default() };
        judge(&trail, timeline, self.ledger.gc(), &criteria)
    }

    /// Stack numbers that are equal modulo 100 allocate on the same line, called from different ones.
    fn learn(&mut self, dense: u32) {
        let function = format!("function{}", dense % 100);
        let frames = [
            FrameRef { kind: FrameKind::Python, function: &function, file: self.file, line: 1 + dense % 100 },
            FrameRef { kind: FrameKind::Python, function: "caller", file: self.file, line: 1000 + dense },
        ];
        self.ledger.learn(dense, domain::OBJ, &frames, Root::Whole);
    }
}
