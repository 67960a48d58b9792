//! The collector's one function, through which automatic and explicit collections go. It is static and often stripped.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{FlowControl, InstructionInfoFactory};
use leaktrace_common::site::reg;

use super::code::{Code, Sweep, direct_target};
use super::machine::State;
use super::slots::SlotMemory;
use crate::cpython::methods;
use crate::target::Memory;

/// Instructions of `PyGC_Collect` looked at.
const STEPS: usize = 2000;
/// The oldest generation, which `PyGC_Collect` asks for (CPython `Modules/gcmodule.c`, 3.8 to 3.12: `NUM_GENERATIONS - 1`).
const OLDEST: u64 = 2;
/// Callers of the function in builds that do not merge them: `gc.collect`, `PyGC_Collect`, the automatic collection
/// (CPython `Modules/gcmodule.c`).
const CALLERS: usize = 3;

/// How what is given to `gc.callbacks` is made, the beginning of a text that nothing else uses (CPython `Modules/gcmodule.c`,
/// `invoke_gc_callback`, 3.8 to 3.12; `Python/gc.c` and `Python/gc_free_threading.c` later).
const OF_CALLBACKS: &[u8] = b"{sisnsn";
/// Most callers of a function that are looked at. Where the automatic collection is inlined wherever an object is made, there are some
/// forty.
const MOST_CALLERS: usize = 512;
/// Instructions of a function that are looked at for what it calls: of the collector itself, too.
const REACH: usize = 8000;
/// Instructions of a function that passes its arguments on to another.
const THUNK: usize = 4;

/// What shows collections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Collector {
    /// The function that collects, and the register of its generation.
    Function(u64, u8),
    /// The one that calls `gc.callbacks` at both ends of a collection; where the collector was made into several copies.
    Callbacks(u64),
}

impl Collector {
    fn function(self) -> u64 {
        match self {
            Self::Function(function, _) | Self::Callbacks(function) => function,
        }
    }
}

/// The collector, from exported `PyGC_Collect`; where no symbol names that, from the method `gc.collect`.
pub fn collector(code: &Code<'_>, sweep: &Sweep, live: &dyn Memory) -> Option<Collector> {
    match code.file.symbol("PyGC_Collect") {
        Some(symbol) => called_by(code, sweep, symbol.address),
        None => by_method(code, sweep, live),
    }
}

/// What `gc.collect` calls (CPython `Modules/gcmodule.c`, 3.8 to 3.15), what calls `gc.callbacks`, and what another function asks
/// for the oldest generation: that one is `PyGC_Collect`, or the like of it.
pub(super) fn by_method(code: &Code<'_>, sweep: &Sweep, live: &dyn Memory) -> Option<Collector> {
    let methods = methods::table(live, code.file, &["collect", "get_threshold", "isenabled", "get_objects"])?;
    let (callees, own) = reached(code, *methods.get("collect")?);
    let texts = code.file.find_constant(OF_CALLBACKS);
    let mut found = BTreeSet::new();
    for callee in callees {
        let (inner, instructions) = reached(code, callee);
        let mentions_text = |instructions: &BTreeSet<u64>| instructions.iter().any(|&at| mentions(code, at, &texts));
        if !mentions_text(&instructions) && !inner.into_iter().any(|function| mentions_text(&reached(code, function).1))
        {
            continue;
        }
        let sources = sweep.calls_of(callee).chain(sweep.jumps_to(callee)).filter(|source| !own.contains(source));
        let starts: BTreeSet<u64> =
            sources.filter_map(|source| Some(code.functions.containing(source)?.start)).collect();
        let collectors = starts.into_iter().take(MOST_CALLERS).filter_map(|start| called_by(code, sweep, start));
        found.extend(collectors.filter(|collector| collector.function() == callee));
    }
    // A function that has `PyGC_Collect` inlined twice shows its collector twice, as what calls the callbacks is.
    if found.iter().any(|collector| matches!(collector, Collector::Function(..))) {
        found.retain(|collector| matches!(collector, Collector::Function(..)));
    }
    found.pop_first().filter(|_| found.is_empty())
}

/// Whether an instruction has one of the addresses.
fn mentions(code: &Code<'_>, instruction: u64, addresses: &[u64]) -> bool {
    let Some(instruction) = code.decode(instruction) else { return false };
    let is_relative = instruction.is_ip_rel_memory_operand();
    let relative = is_relative.then(|| instruction.ip_rel_memory_address());
    relative.into_iter().chain(instruction.try_immediate(1).ok()).any(|address| addresses.contains(&address))
}

/// The functions that one calls and those that these do nothing but jump to, and the addresses of its own instructions.
fn reached(code: &Code<'_>, function: u64) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let (mut seen, mut work, mut found) = (BTreeSet::new(), vec![function], BTreeSet::new());
    let begins = |address: u64| code.functions.containing(address).is_some_and(|range| range.start == address);
    while let Some(address) = work.pop() {
        if seen.len() >= REACH || !seen.insert(address) {
            continue;
        }
        let Some(instruction) = code.decode(address) else { continue };
        let target = direct_target(&instruction);
        match instruction.flow_control() {
            FlowControl::Call => {
                found.extend(target);
                found.extend(target.and_then(|target| thunk(code, target)));
            }
            FlowControl::UnconditionalBranch if target.is_some_and(|target| target != function && begins(target)) => {
                found.extend(target);
                // Its out-of-line part begins so, too.
                work.extend(target);
                continue;
            }
            FlowControl::ConditionalBranch => work.extend(target),
            FlowControl::UnconditionalBranch => {
                work.extend(target);
                continue;
            }
            FlowControl::Next | FlowControl::IndirectCall => {}
            _ => continue,
        }
        work.push(instruction.next_ip());
    }
    (found, seen)
}

/// Where a function jumps to that only passes its arguments on.
fn thunk(code: &Code<'_>, mut address: u64) -> Option<u64> {
    for _ in 0..THUNK {
        let instruction = code.decode(address)?;
        match instruction.flow_control() {
            FlowControl::Next => address = instruction.next_ip(),
            FlowControl::UnconditionalBranch => return direct_target(&instruction),
            _ => break,
        }
    }
    None
}

/// The direct callee of `PyGC_Collect` that gets the oldest generation as its second argument; where several do,
/// the one with as many callers as the source has. `gc.callbacks` are called in two places. Where none does, it is the one that
/// gets it as its first: there the compiler left the state out, which is always the same (3.8).
fn called_by(code: &Code<'_>, sweep: &Sweep, start: u64) -> Option<Collector> {
    let mut factory = InstructionInfoFactory::new();
    let memory = SlotMemory { code, slots: None };
    let mut callees: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    let mut by_first: BTreeSet<u64> = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut work = vec![(start, State::unknown())];
    let mut steps = 0;
    while let Some((mut address, mut state)) = work.pop() {
        while seen.insert(address) && steps < STEPS {
            steps += 1;
            // A function that ends with a call that never returns.
            if address != start && code.functions.containing(address).is_some_and(|range| range.start == address) {
                break;
            }
            let Some(instruction) = code.decode(address) else { break };
            let target = direct_target(&instruction);
            match (instruction.flow_control(), target) {
                (FlowControl::Call, Some(callee)) => {
                    if state.registers[usize::from(reg::RSI)].as_constant() == Some(OLDEST) {
                        callees.entry(callee).or_default().insert(address);
                    } else if state.registers[usize::from(reg::RDI)].as_constant() == Some(OLDEST) {
                        by_first.insert(callee);
                    }
                    state.step(&instruction, &mut factory, &memory);
                    address = instruction.next_ip();
                }
                (FlowControl::UnconditionalBranch, Some(target)) => {
                    // Its last call may be a jump (3.14 to 3.14.4).
                    let begins = code.functions.containing(target).is_some_and(|range| range.start == target);
                    if begins && state.registers[usize::from(reg::RSI)].as_constant() == Some(OLDEST) {
                        callees.entry(target).or_default().insert(address);
                    }
                    address = target;
                }
                (FlowControl::ConditionalBranch, Some(target)) => {
                    work.push((target, state.clone()));
                    address = instruction.next_ip();
                }
                (FlowControl::Next | FlowControl::IndirectCall, _) => {
                    state.step(&instruction, &mut factory, &memory);
                    address = instruction.next_ip();
                }
                _ => break,
            }
        }
    }
    let (once, twice): (Vec<_>, Vec<_>) = callees.into_iter().partition(|(_, calls)| calls.len() == 1);
    let mut once: Vec<u64> = once.into_iter().map(|(callee, _)| callee).collect();
    if once.len() > 1 {
        once.retain(|&callee| sweep.calls_of(callee).count() == CALLERS);
    }
    match (&once[..], &twice[..]) {
        (&[function], _) => Some(Collector::Function(function, reg::RSI)),
        ([], [(callbacks, calls)]) if calls.len() == 2 => Some(Collector::Callbacks(*callbacks)),
        ([], []) if by_first.len() == 1 => by_first.first().map(|&function| Collector::Function(function, reg::RDI)),
        _ => None,
    }
}
