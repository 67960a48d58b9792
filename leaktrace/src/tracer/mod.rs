//! The BPF side in operation: loads and arms the programs, reads what they find, sweeps the table of blocks. Dropping the
//! [`Tracer`] disarms everything.

mod arming;
pub mod attach;
pub mod bpf_map;
pub mod cost;
pub mod guardian;
pub mod leftovers;
pub mod load;
pub mod multi;
pub mod object;
pub mod ring;
mod standing;
pub mod sweep;
pub mod task;
pub mod uprobes;

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use arming::RETURNS;
use attach::{AttachError, Definition};
use aya::{
    Ebpf,
    maps::{Array, Map, MapData, PerCpuArray, RingBuf},
};
use bpf_map::{HashTable, MappedArray};
use guardian::Guardian;
use leaktrace_common::{
    site::{self, Site, op},
    walk::PythonLayout,
    wire::{Block, Config, GcCounts, MAX_STACKS, SIZE_BUCKETS, SiteStats, StackTotals, c_call, counter, state},
};
use load::{LoadError, Sizes, program};
use standing::Standing;
use uprobes::{Armed, Uprobes, Way};

use crate::cpython::{Interpreter, PymallocState, gc};
use crate::plan::{Execution, ProbePlan};

#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error("cannot start the process that cleans up after this one, should it be killed: {0}")]
    Guardian(io::Error),
    #[error(transparent)]
    Task(#[from] task::TaskError),
    #[error("the plan of pid {pid} has {sites} sites, more than the table can tell apart; please report this")]
    TooManySites { pid: u32, sites: usize },
    #[error("cannot read the BPF map {name}: {source}")]
    Map { name: &'static str, source: io::Error },
}

/// What to trace.
#[derive(Debug, Clone, Copy)]
pub struct Spec<'a> {
    pub pid: u32,
    pub plan: &'a ProbePlan,
    pub layout: &'a PythonLayout,
    /// pymalloc's `usedpools` and constants; `None` when the target runs without pymalloc.
    pub pymalloc: Option<&'a PymallocState>,
    /// Offset of the interpreter in a thread's state.
    pub tstate_interpreter: u32,
    /// Whose collections are the main interpreter's, and which generation was collected where only counts tell.
    pub gc: GcCounts,
    /// A mounted tracefs.
    pub tracefs: &'a Path,
    pub sizes: Sizes,
    /// Diagnostics of the BPF side through the `log` crate.
    pub verbose: bool,
    /// Parts of the plan are armed for moments, instead of the whole for good.
    pub windows: bool,
}

impl<'a> Spec<'a> {
    /// A plan for the interpreter in process `pid`; `main` is the address of its main interpreter's state.
    pub fn of(
        pid: u32,
        interpreter: &'a Interpreter,
        main: u64,
        plan: &'a ProbePlan,
        tracefs: &'a Path,
        sizes: Sizes,
    ) -> Self {
        Self {
            pid,
            plan,
            layout: &interpreter.facts.layout,
            pymalloc: interpreter.facts.pymalloc.as_ref(),
            tstate_interpreter: interpreter.offsets.thread.interpreter,
            gc: gc::counts(&interpreter.offsets, main),
            tracefs,
            sizes,
            verbose: false,
            windows: false,
        }
    }
}

/// What a window is for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    /// See [`leaktrace_common::wire::window`].
    pub word: u64,
    /// Size classes, see [`state::CLASSES`].
    pub classes: u64,
    /// Of which sizes of the C allocator's blocks only the addresses are noted, and of which not even these: see [`state::QUIET`] and
    /// [`state::PASSED_OVER`].
    pub quiet: u64,
    pub passed_over: u64,
}

/// What the programs tell: all but collections, and these.
pub type Rings = [RingBuf<MapData>; 2];

/// The kernel's counters, indexed by [`counter`].
pub type Counters = [u64; counter::COUNT as usize];

/// An armed plan.
#[derive(Debug)]
pub struct Tracer {
    /// Entries first: they are disarmed before the returns that belong to them.
    armed: Vec<Armed>,
    /// What is armed beside the windows.
    standing: Standing,
    /// What windows arm, for who has to mend what a killed leaktrace left: a link leaves no name.
    definition: Option<Definition>,
    /// After what is armed: it is dropped when nothing is any more.
    guardian: Option<Guardian>,
    uprobes: Uprobes,
    ebpf: Ebpf,
    totals: MappedArray<StackTotals>,
    site_stats: MappedArray<SiteStats>,
    c_calls: MappedArray<u64>,
    site_factor: u64,
    /// Parts of the plan are armed for moments.
    windows: bool,
    /// Slots of the sites of windows whose instruction is single-stepped.
    stepped: Vec<u32>,
    /// Slots of the sites that are witnesses.
    witnesses: BTreeSet<u32>,
}

impl Tracer {
    /// Loads the programs and makes them ready. Nothing is armed: see [`Self::arm`].
    pub fn load(spec: &Spec<'_>) -> Result<Self, TracerError> {
        let addresses: Vec<u64> = spec.plan.probes.iter().map(|p| p.address).collect();
        let site_factor = crate::plan::hashing::perfect_factor(&addresses)
            .ok_or(TracerError::TooManySites { pid: spec.pid, sites: addresses.len() })?;
        let pymalloc = spec.pymalloc.copied().unwrap_or_default();
        // Threads of other interpreters are told by their states.
        let others = pymalloc.others.filter(|_| spec.layout.tstate_tls != 0);
        let config = Config {
            site_factor,
            usedpools: pymalloc.usedpools,
            main_interpreter: others.map_or(0, |of| of.main),
            tstate_interpreter: spec.tstate_interpreter,
            interpreter_obmalloc: others.map_or(0, |of| of.offset),
            obmalloc_is_pointer: others.map_or(0, |of| of.is_pointer.into()),
            obmalloc_used: others.map_or(0, |of| of.of.used),
            small_max: pymalloc.small_max,
            pool_size: pymalloc.pool_size,
            class_shift: pymalloc.class_shift,
            tgid: spec.pid,
            task_fsbase: task::fsbase_offset()?,
            block_head: spec.plan.block_head,
            gc: spec.gc,
            raw_callers: spec.plan.raw_callers.start,
            raw_callers_end: spec.plan.raw_callers.end,
            python: *spec.layout,
        };
        let sites: Vec<Site> = spec
            .plan
            .probes
            .iter()
            .map(|p| Site { ip: p.address, a: p.a, b: p.b, op: p.op, domain: p.domain, witness: 0, pad: [0; 5] })
            .collect();
        let mut ebpf = load::load(object::OBJECT, &config, &sites, spec.sizes, spec.verbose)?;
        // Now, while all maps are still here: their descriptors are in the programs' instructions.
        let returns = RETURNS.iter().filter(|group| spec.plan.returns.iter().any(|r| (group.serves)(r.op)));
        // Windows leave the collector to what stands beside them.
        let returns = returns.filter(|group| !spec.windows || group.program != program::GC_RETURN);
        let names: Vec<_> = returns.map(|group| group.program).chain([program::ENTRY, program::EMPTY]).collect();
        let way = if spec.windows { Way::Link } else { Way::Group };
        let uprobes = Uprobes::load(&mut ebpf, &names, way)?;
        let standing = if spec.windows { Standing::load(&mut ebpf, spec.plan)? } else { Standing::default() };
        let totals = MappedArray::new(map_fd(&ebpf, "TOTALS")?, MAX_STACKS as usize)
            .map_err(|source| TracerError::Map { name: "TOTALS", source })?;
        let site_stats = MappedArray::new(map_fd(&ebpf, "SITE_STATS")?, site::SITE_SLOTS as usize)
            .map_err(|source| TracerError::Map { name: "SITE_STATS", source })?;
        let c_calls = MappedArray::new(map_fd(&ebpf, "C_CALLS")?, c_call::COUNT as usize)
            .map_err(|source| TracerError::Map { name: "C_CALLS", source })?;
        let of_windows = spec.plan.probes.iter().filter(|probe| !op::is_collector(probe.op));
        let stepped = of_windows.filter(|probe| probe.execution == Execution::SingleStepped);
        Ok(Self {
            armed: Vec::new(),
            standing,
            definition: None,
            guardian: None,
            uprobes,
            ebpf,
            totals,
            site_stats,
            c_calls,
            site_factor,
            windows: spec.windows,
            stepped: stepped.map(|probe| site::slot(probe.address, site_factor)).collect(),
            witnesses: BTreeSet::new(),
        })
    }

    /// Tells the BPF side which window is open.
    pub fn set_window(&mut self, window: &Window) -> Result<(), TracerError> {
        self.set_state(state::CLASSES, window.classes)?;
        self.set_state(state::QUIET, window.quiet)?;
        self.set_state(state::PASSED_OVER, window.passed_over)?;
        self.set_state(state::WINDOW, window.word)
    }

    /// Whether requests to the C allocator that are passed over cost half of what others do: their returns are not seen.
    pub fn passes_over(&self) -> bool {
        self.uprobes.has_sessions()
    }

    /// What the C allocator was asked for in windows, by [`leaktrace_common::wire::size_bucket`].
    pub fn c_requests(&self) -> [u64; SIZE_BUCKETS as usize] {
        std::array::from_fn(|bucket| self.c_calls.get(bucket).unwrap_or_default())
    }

    /// Has the sites of these slots be witnesses in the next window, and no others: see [`Site::witness`].
    pub fn set_witnesses(&mut self, slots: &BTreeSet<u32>) -> Result<(), TracerError> {
        let failed = |source| TracerError::Load(LoadError::Map { name: "SITES", source });
        let table = self.ebpf.map_mut("SITES").ok_or(LoadError::Missing("map SITES"))?;
        let mut table = Array::<_, Site>::try_from(table).map_err(failed)?;
        let changed: Vec<u32> = self.witnesses.symmetric_difference(slots).copied().collect();
        for slot in changed {
            let is_witness = slots.contains(&slot);
            let site = table.get(&slot, 0).map_err(failed)?;
            table.set(slot, Site { witness: is_witness.into(), ..site }, 0).map_err(failed)?;
            if is_witness {
                self.witnesses.insert(slot)
            } else {
                self.witnesses.remove(&slot)
            };
        }
        Ok(())
    }

    /// What the site of a slot did in windows.
    pub fn site_stats(&self, slot: u32) -> SiteStats {
        self.site_stats.get(slot as usize).unwrap_or_default()
    }

    /// The factor of [`site::slot`] for this plan.
    pub fn site_factor(&self) -> u64 {
        self.site_factor
    }

    /// Empties the table of blocks, while nothing is armed.
    pub fn take_blocks(&self, mut each: impl FnMut(u64, Block)) -> Result<(), TracerError> {
        let failed = |source: io::Error| TracerError::Map { name: "BLOCKS", source };
        let table = self.blocks()?;
        let mut addresses = Vec::new();
        table.for_each(|&address, _| addresses.push(address)).map_err(failed)?;
        for address in addresses {
            if let Some(block) = table.take(&address).map_err(failed)? {
                each(address, block);
            }
        }
        Ok(())
    }

    /// Looks at the table of blocks, and leaves it as it is.
    pub fn each_block(&self, mut each: impl FnMut(u64, &Block)) -> Result<(), TracerError> {
        let failed = |source: io::Error| TracerError::Map { name: "BLOCKS", source };
        self.blocks()?.for_each(|&address, block| each(address, block)).map_err(failed)
    }

    /// Runs of the armed programs while statistics were on, and the time they took; single steps in windows at any time. See
    /// [`cost::enable_statistics`].
    pub fn run_statistics(&self) -> cost::Runs {
        let steps = self.stepped.iter().map(|&slot| self.site_stats(slot).hits).sum();
        let of_sessions = self.c_calls.get(c_call::RETURNS as usize).unwrap_or_default();
        cost::Runs { steps, ..self.uprobes.runs(of_sessions) }
    }

    /// What hits take, measured on this process itself, as far as it can be: the error says what could not. `returns`: also of
    /// functions' returns.
    pub fn calibrate(&mut self, tracefs: &Path, returns: bool) -> (cost::HitTimes, Option<TracerError>) {
        let mut times = cost::HitTimes::elsewhere(self.windows);
        let kinds = cost::Kinds { returns, steps: self.windows && !self.stepped.is_empty() };
        let result = cost::calibrate(tracefs, &self.uprobes, kinds, self.windows, &mut times);
        (times, result.err().map(TracerError::from))
    }

    /// Takes the rings out, for the thread that drains them.
    pub fn take_rings(&mut self) -> Result<Rings, TracerError> {
        let mut take = |name| {
            let map = self.ebpf.take_map(name).ok_or(LoadError::Missing("map of a ring"))?;
            RingBuf::try_from(map).map_err(|source| LoadError::Map { name, source })
        };
        Ok([take("RING")?, take("COLLECTIONS")?])
    }

    /// The diagnostics of the BPF side, to the `log` crate when flushed.
    pub fn logger(&mut self) -> Result<aya_log::EbpfLogger<&'static dyn log::Log>, aya_log::Error> {
        aya_log::EbpfLogger::init(&mut self.ebpf)
    }

    /// The counters, summed over CPUs.
    pub fn counters(&self) -> Result<Counters, TracerError> {
        let failed = |source| TracerError::Load(LoadError::Map { name: "COUNTERS", source });
        let map = self.ebpf.map("COUNTERS").ok_or(LoadError::Missing("map COUNTERS"))?;
        let map: PerCpuArray<_, u64> = PerCpuArray::try_from(map).map_err(failed)?;
        let mut counters = Counters::default();
        for (index, sum) in counters.iter_mut().enumerate() {
            *sum = map.get(&(index as u32), 0).map_err(failed)?.iter().sum();
        }
        Ok(counters)
    }

    /// What stack `number` allocated since the attach, `None` past the last number.
    pub fn totals(&self, number: u32) -> Option<StackTotals> {
        self.totals.get(number as usize)
    }

    /// Stack numbers given out so far; the first is 1, 0 collects the lost ones.
    pub fn stacks(&self) -> Result<u32, TracerError> {
        Ok(self.state(state::STACKS)?.min(u64::from(MAX_STACKS) - 1) as u32)
    }

    /// How often the target has started a process or a thread so far.
    pub fn forks(&self) -> Result<u64, TracerError> {
        self.state(state::FORKS)
    }

    fn state(&self, index: u32) -> Result<u64, TracerError> {
        let failed = |source| TracerError::Load(LoadError::Map { name: "STATE", source });
        let map = self.ebpf.map("STATE").ok_or(LoadError::Missing("map STATE"))?;
        let map: Array<_, u64> = Array::try_from(map).map_err(failed)?;
        map.get(&index, 0).map_err(failed)
    }

    /// Tells the BPF side that blocks are being removed, or no longer.
    fn set_sweeping(&mut self, on: bool) -> Result<(), TracerError> {
        self.set_state(state::SWEEPING, u64::from(on))
    }

    fn set_state(&mut self, index: u32, value: u64) -> Result<(), TracerError> {
        let failed = |source| TracerError::Load(LoadError::Map { name: "STATE", source });
        let map = self.ebpf.map_mut("STATE").ok_or(LoadError::Missing("map STATE"))?;
        let mut map: Array<_, u64> = Array::try_from(map).map_err(failed)?;
        map.set(index, value, 0).map_err(failed)?;
        Ok(())
    }

    fn blocks(&self) -> Result<HashTable<'_, u64, Block>, TracerError> {
        Ok(HashTable::new(map_fd(&self.ebpf, "BLOCKS")?))
    }
}

fn map_fd<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, LoadError> {
    match ebpf.map(name).ok_or(LoadError::Missing(name))? {
        Map::HashMap(data) | Map::Array(data) => Ok(data.fd().as_fd()),
        _ => Err(LoadError::Missing(name)),
    }
}
