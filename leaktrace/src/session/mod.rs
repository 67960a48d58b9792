//! One traced process from start to end: the place where target, plan, tracer and model meet.

mod collections;
pub mod cost;
pub mod coverage;
pub mod drain;
mod estimates;
mod followed;
mod giving_up;
pub mod named;
pub mod native;
pub mod pauses;
mod reckoning;
mod standing;
pub mod survivors;
mod symbols;
mod window;
pub mod windows;
mod work;
mod young;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use collections::Collections;
use cost::CostMeter;
use coverage::{Coverage, Older};
use drain::Drain;
use leaktrace_common::wire::{Block, StackTotals, TICK_NS};
use native::NativeNames;
use standing::Standing;
use windows::{Limits, Watch};
use young::{SinceAttach, Young};

use crate::{
    cpython::{
        discover::{DiscoverError, Interpreter},
        gc::GcState,
        pools::{BlockState, Pools},
        snapshot::SnapshotError,
        threads,
        used_set::UsedSet,
    },
    model::ledger::{Ledger, Pass, ScanEnd},
    plan::{self, PlanError, ProbePlan},
    target::{Target, TargetError},
    tracer::{
        Counters, Spec, Tracer, TracerError, leftovers,
        load::Sizes,
        sweep::{Fate, Swept, now_ns},
    },
    watch::{Units, units::Indivisible},
};

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Tracer(#[from] TracerError),
    #[error(transparent)]
    Indivisible(#[from] Indivisible),
    #[error("cannot start the thread that drains the ring: {0}")]
    Drain(io::Error),
}

/// What the user chose.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// A mounted tracefs.
    pub tracefs: &'a Path,
    /// Most outstanding blocks.
    pub max_blocks: u32,
    pub verbose: bool,
    /// Whether return probes are safe in this target; without them the C allocator's blocks are not seen.
    pub return_probes: bool,
    /// Windows within these limits; without them everything is armed from the start on.
    pub limits: Option<Limits>,
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Exited,
    Execed,
    /// It changed its allocator tables (tracemalloc was started or stopped, say): the plan is no longer the right one.
    AllocatorReplaced,
    /// Windows cost far more than they were granted, as nobody was there to close them.
    OverBudget,
    /// Somebody else has set breakpoints where windows would.
    OtherTracer,
}

/// Numbers of the last scan.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScanStats {
    pub swept: Swept,
    pub coverage: Coverage,
    /// Whether the pools could be read, so that small blocks are settled and coverage is known.
    pub pools_read: bool,
    /// Time that the scan took.
    pub took: Duration,
}

/// A traced process.
#[derive(Debug)]
pub struct Session {
    target: Arc<Target>,
    interpreter: Interpreter,
    plan: ProbePlan,
    tracer: Tracer,
    drain: Drain,
    ledger: Ledger,
    /// Address of the main interpreter's state.
    main_interpreter: u64,
    collector: Collections,
    young: SinceAttach,
    older: Older,
    totals: Vec<StackTotals>,
    start_ns: u64,
    rss_start: u64,
    cpu_start: Duration,
    last: ScanStats,
    swept_blocks: u64,
    cost: CostMeter,
    tracefs: PathBuf,
    watch: Option<Watch>,
    standing: Option<Standing>,
}

impl Session {
    /// Finds the interpreter, makes the plan and arms it. When this returns every allocation of the target is seen.
    pub fn start(target: Target, options: &Options<'_>) -> Result<Self, SessionError> {
        let target = Arc::new(target);
        // Whatever cannot be read of a target that has just gone, that is why.
        Self::attach(&target, options).map_err(|error| {
            if target.has_exited() || target.has_execed() {
                TargetError::Gone { pid: target.pid() }.into()
            } else {
                error
            }
        })
    }

    fn attach(target: &Arc<Target>, options: &Options<'_>) -> Result<Self, SessionError> {
        // Before the bytes are looked at: a breakpoint that a killed leaktrace left must not pass for another tracer's.
        leftovers::sweep_dead(options.tracefs);
        let memory = target.memory();
        let interpreter = Interpreter::find(target)?;
        let maps = target.maps()?;
        let inputs = plan::Inputs::of(target, &interpreter, &maps, &memory);
        let mut plan = plan::plan(&plan::Inputs { in_parts: options.limits.is_some(), ..inputs })?;
        if !options.return_probes {
            plan.without_returns();
        }
        let main_interpreter = threads::main_interpreter(&memory, &interpreter.offsets, interpreter.runtime)
            .map_err(DiscoverError::Memory)?;
        let most = if options.limits.is_some() { windows::MOST_BLOCKS } else { u32::MAX };
        let sizes = Sizes { blocks: options.max_blocks.min(most), ring_bytes: 1 << 24 };
        let spec = Spec {
            verbose: options.verbose,
            windows: options.limits.is_some(),
            ..Spec::of(target.pid(), &interpreter, main_interpreter, &plan, options.tracefs, sizes)
        };
        let mut tracer = Tracer::load(&spec)?;
        let flush_log: Box<dyn FnMut() + Send> = match tracer.logger() {
            Ok(mut logger) if options.verbose => Box::new(move || logger.flush()),
            _ => Box::new(|| {}),
        };
        let drain =
            Drain::start(tracer.take_rings()?, target.memory(), NativeNames::new(Arc::clone(target)), flush_log)
                .map_err(SessionError::Drain)?;
        let gc_start = GcState::read(&memory, &interpreter.offsets, interpreter.runtime, main_interpreter).ok();
        let young = SinceAttach::new(Young::read(&memory, &interpreter, main_interpreter));
        let rss_start = target.rss_bytes()?;
        let cpu_start = target.cpu_time()?;
        target.still_runs()?;
        // The very last thing before arming: the bytes must still be those that the plan was made from.
        plan::verify(&plan, &memory)?;
        let start_ns = now_ns();
        let watch = if let Some(limits) = options.limits {
            let mut units = Units::of(&plan, tracer.site_factor(), |size| windows::size_class(&interpreter, size))?;
            if let Some(c) = units.sizes_mut() {
                // glibc notes beside each block how long it is.
                c.can_pass = plan.glibc && tracer.passes_over();
            }
            Some(Watch::new(limits, units, plan.glibc, sizes.blocks, target.cpu_clock()?.as_secs_f64()))
        } else {
            tracer.arm(&spec)?;
            None
        };
        let standing = options.limits.and_then(|of| Standing::of(&plan, tracer.site_factor(), of.overhead));
        // Another run of the same file may have the same bytes at the same addresses, but not the same objects.
        target.still_runs()?;
        let pools = interpreter.facts.pymalloc.and_then(|p| p.snapshot(&memory).ok());
        // The analysis of machine code and type information took tens of megabytes that are not needed any more.
        // SAFETY: malloc_trim has no precondition.
        unsafe { libc::malloc_trim(0) };
        let mut session = Self {
            older: pools.as_ref().map(Older::new).unwrap_or_default(),
            ledger: Ledger::new(start_ns, rss_start),
            collector: Collections::since(gc_start),
            young,
            target: Arc::clone(target),
            interpreter,
            plan,
            tracer,
            drain,
            main_interpreter,
            totals: Vec::new(),
            start_ns,
            rss_start,
            cpu_start,
            last: ScanStats::default(),
            swept_blocks: 0,
            cost: CostMeter::default(),
            tracefs: options.tracefs.to_path_buf(),
            watch,
            standing,
        };
        if session.standing.is_some() {
            session.calibrate();
            session.keep_standing();
        }
        if !session.is_watching() {
            session.cost.begin_sample(&session.tracer);
        }
        Ok(session)
    }

    /// Looks at everything that is outstanding now and brings the ledger up to date; not when the target has ended.
    pub fn scan(&mut self) -> Result<ScanStats, SessionError> {
        let begin_ns = now_ns();
        // Blocks carry times that may be so much behind: none that is older than the beginning is born after this.
        std::thread::sleep(Duration::from_nanos(TICK_NS));
        let memory = self.target.memory();
        let pools = self.interpreter.facts.pymalloc.map(|p| p.snapshot(&memory));
        let pools = match pools {
            Some(Ok(pools)) => Some(pools),
            // Without pools nothing is judged dead, and the table keeps what it holds until the next scan.
            Some(Err(SnapshotError::NoArenas | SnapshotError::Unsettled | SnapshotError::Memory(_))) | None => None,
        };
        if self.ended().is_some() {
            // What was read may be another program's, or of a process half gone.
            return Ok(self.last);
        }
        self.look(begin_ns, pools.as_ref())
    }

    /// Takes what the tables hold of a target that has ended, unless there was a look at it before: the last one tells
    /// more. Small blocks that were freed count as live. To be called when everything is disarmed.
    pub fn take_rest(&mut self) -> Result<(), SessionError> {
        if self.ledger.timeline().scans() == 0 {
            self.look(now_ns(), None)?;
        }
        Ok(())
    }

    fn look(&mut self, begin_ns: u64, pools: Option<&Pools>) -> Result<ScanStats, SessionError> {
        self.learn();
        let mut table = UsedSet::default();
        let (ledger, older) = (&mut self.ledger, &mut self.older);
        let mut pass = ledger.scan(begin_ns);
        let mut unnamed = Vec::new();
        let fate = |address: u64, _: &_| match pools.map(|pools| pools.block(address)) {
            Some(BlockState::Free | BlockState::Outside) => Fate::Dead,
            Some(BlockState::Next) => Fate::DeadUnlessYoungest,
            Some(BlockState::Used | BlockState::Unsettled) | None => Fate::Live,
        };
        let swept = self.tracer.sweep(begin_ns, &fate, &mut |address, block| {
            if block.in_pool() {
                table.insert(address);
            }
            older.forget(address, block);
            if block.stack == 0 || pass.knows(block.stack) {
                pass.observe(block);
            } else {
                unnamed.push(*block);
            }
        })?;
        let coverage = pools.map(|pools| older.compare(pools, &table)).unwrap_or_default();
        // Of another program it says nothing.
        let execed = self.drain.symbols().execed() || self.target.has_execed();
        End { target: &self.target, tracer: &self.tracer, drain: &self.drain, execed }.finish(
            pass,
            &unnamed,
            &mut self.totals,
        )?;
        self.log_collections(execed);
        self.swept_blocks += swept.removed;
        self.cost.begin_sample(&self.tracer);
        let took = Duration::from_nanos(now_ns() - begin_ns);
        self.last = ScanStats { swept, coverage, pools_read: pools.is_some(), took };
        Ok(self.last)
    }

    fn learn(&mut self) {
        let stacks = self.drain.symbols().take_stacks();
        stacks.each(|number, domain, frames, root| self.ledger.learn(number, domain, frames, root));
    }

    /// Disarms everything. The target is back at full speed when this returns.
    pub fn disarm(&mut self) {
        self.cost.end_sample(&self.tracer);
        self.account_for_standing();
        self.tracer.disarm();
        self.drain.stop();
    }

    /// A moment for what is done between scans: ends the timing of the programs that the last scan began, once it has seen enough, and
    /// looks after what is armed beside windows.
    pub fn tick(&mut self) {
        self.cost.end_sample_if_enough(&self.tracer);
        self.calibrate();
        self.keep_standing();
    }

    fn calibrate(&mut self) {
        self.cost.calibrate(&mut self.tracer, &self.tracefs, !self.plan.returns.is_empty());
    }

    /// CPU seconds that the probes have taken from the target, estimated; see [`cost`]. Never more than the target used.
    pub fn probe_seconds(&self) -> Result<f64, SessionError> {
        let estimate = self.cost.probe_seconds(&self.counters()?);
        // A target that has ended does not tell any more.
        let used = self.target.cpu_time().map(|now| now.saturating_sub(self.cpu_start).as_secs_f64());
        Ok(used.map_or(estimate, |used| estimate.min(used)))
    }

    /// Whether the target is no longer the program that was traced, or is not to be traced any longer.
    pub fn ended(&self) -> Option<Ended> {
        if self.drain.symbols().execed() || self.target.has_execed() {
            Some(Ended::Execed)
        } else if self.target.has_exited() {
            Some(Ended::Exited)
        } else if plan::slots::changed(&self.plan.slots, &self.target.memory()) {
            Some(Ended::AllocatorReplaced)
        } else {
            self.watch.as_ref().and_then(|watch| watch.stopped)
        }
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    pub fn interpreter(&self) -> &Interpreter {
        &self.interpreter
    }

    pub fn plan(&self) -> &ProbePlan {
        &self.plan
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The kernel's counters; see [`counter`].
    pub fn counters(&self) -> Result<Counters, SessionError> {
        Ok(self.tracer.counters()?)
    }

    /// Frames and stacks that could not be named.
    pub fn unnamed(&self) -> u64 {
        self.drain.symbols().unnamed()
    }

    /// Blocks that sweeps found dead so far.
    pub fn swept_blocks(&self) -> u64 {
        self.swept_blocks
    }

    /// Collections since the attach.
    pub fn collections(&self) -> u64 {
        self.ledger.gc().generations().iter().map(|g| g.collections).sum()
    }

    pub fn last_scan(&self) -> ScanStats {
        self.last
    }

    /// Resident set at the attach, bytes.
    pub fn rss_start(&self) -> u64 {
        self.rss_start
    }

    /// Moment of the attach, CLOCK_MONOTONIC.
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }
}

/// What ends a pass over the blocks.
struct End<'a> {
    target: &'a Target,
    tracer: &'a Tracer,
    drain: &'a Drain,
    execed: bool,
}

impl End<'_> {
    /// Counts the blocks whose stacks were not named yet, and the totals, read after the blocks.
    fn finish(&self, mut pass: Pass<'_>, unnamed: &[Block], totals: &mut Vec<StackTotals>) -> Result<(), SessionError> {
        let rss_bytes = if self.execed { 0 } else { self.target.rss_bytes().unwrap_or(0) };
        let numbers = self.tracer.stacks()?;
        totals.clear();
        totals.extend((0..=numbers).map(|n| self.tracer.totals(n).unwrap_or_default()));
        // Stacks that appeared during the pass: their names are in the ring by now.
        let stacks = self.drain.settle().take_stacks();
        stacks.each(|number, domain, frames, root| pass.learn(number, domain, frames, root));
        for block in unnamed {
            pass.observe(block);
        }
        pass.finish(&ScanEnd { totals, rss_bytes });
        Ok(())
    }
}
