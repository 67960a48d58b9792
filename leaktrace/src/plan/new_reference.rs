//! `_Py_NewReference`, which every new object passes, and what it calls while tracemalloc runs (CPython `Objects/object.c`, 3.8 to
//! 3.12): by their names, or in a file without symbols by what they do.

use std::collections::BTreeSet;
use std::ops::Range;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};
use leaktrace_common::site::reg;

use super::code::{Code, direct_target};
use super::machine::{State, Value};
use super::slots::SlotMemory;
use crate::cpython::{discover, methods};
use crate::target::Memory;

/// What `_Py_NewReference` calls while tracemalloc runs (CPython `Modules/_tracemalloc.c`, 3.8 to 3.12).
pub(super) const TELL_TRACEMALLOC: &str = "_PyTraceMalloc_NewReference";
/// Instructions of a function that does hardly anything.
const FEW: usize = 32;

/// The functions that each new object passes where their code is not inlined.
pub(super) struct NewReference {
    pub(super) functions: Vec<u64>,
    /// Their code.
    pub(super) own: Vec<Range<u64>>,
    /// What they call while tracemalloc runs, if it is a function of its own.
    pub(super) tell_tracemalloc: Option<u64>,
    /// Where the interpreter's state has what is to be told of new objects, which also inlined copies read (`_PyRuntime.ref_tracer`,
    /// CPython `Include/internal/pycore_object.h`, 3.13 to 3.15).
    pub(super) tracer: Option<u64>,
}

impl NewReference {
    pub(super) fn find(code: &Code<'_>, live: &dyn Memory) -> Option<Self> {
        let named = |name: &str| code.file.symbol(name).map(|symbol| symbol.address);
        match (named("_Py_NewReference"), named(TELL_TRACEMALLOC)) {
            (Some(address), _) => {
                let own = code.functions.containing(address)?;
                let callees: BTreeSet<u64> = code
                    .instructions(&own)
                    .into_iter()
                    .filter(|i| i.flow_control() == FlowControl::Call)
                    .filter_map(|i| direct_target(&i))
                    .collect();
                let tracer = tracer(code, &own);
                // Several: what tells tracemalloc is inlined in it, as a function that is called in one place only.
                let only = if callees.len() == 1 { callees.first().copied() } else { None };
                let tell_tracemalloc = only.filter(|_| tracer.is_none());
                Some(Self { functions: vec![address], own: vec![own], tell_tracemalloc, tracer })
            }
            // 3.8: always inlined.
            (None, Some(address)) => {
                Some(Self { functions: Vec::new(), own: Vec::new(), tell_tracemalloc: Some(address), tracer: None })
            }
            (None, None) => Self::unnamed(code, live),
        }
    }

    /// Without symbols: the functions that set the count of references of their argument to one, and besides test whether
    /// tracemalloc runs and call one function if it does; or (from 3.13 on) call what is to be told of new objects.
    pub(super) fn unnamed(code: &Code<'_>, live: &dyn Memory) -> Option<Self> {
        let methods = methods::table(live, code.file, &["is_tracing", "get_traced_memory", "clear_traces"])?;
        let flags = flags(code, *methods.get("is_tracing")?);
        let runtime = code.file.section(discover::RUNTIME_SECTION);
        let runtime = runtime
            .map_or(0..0, |s| code.file.address_of(s.vaddr)..code.file.address_of(s.vaddr.saturating_add(s.size)));
        let (mut functions, mut own, mut callees) = (Vec::new(), Vec::new(), BTreeSet::new());
        for range in code.functions.ranges() {
            let Some(does) = Does::read(code, range.start) else { continue };
            if does.tells(&flags) || does.calls_hook(&runtime) {
                functions.push(range.start);
                own.push(range.clone());
                callees.extend(does.callees);
            }
        }
        let tell_tracemalloc = if callees.len() == 1 { callees.first().copied() } else { None };
        let tracer = own.iter().find_map(|range| tracer(code, range));
        (!functions.is_empty()).then_some(Self { functions, own, tell_tracemalloc, tracer })
    }
}

/// The first pointer at a fixed place that a function reads and compares with null.
fn tracer(code: &Code<'_>, function: &Range<u64>) -> Option<u64> {
    let (mut state, mut factory) = (State::unknown(), InstructionInfoFactory::new());
    let memory = SlotMemory { code, slots: None };
    let mut loaded = None;
    for instruction in code.instructions(function).into_iter().take(FEW) {
        if instruction.flow_control() != FlowControl::Next {
            break;
        }
        let of = |register: Register| loaded.filter(|(into, _)| *into == register).map(|(_, address)| address);
        match instruction.mnemonic() {
            Mnemonic::Test if instruction.op0_register() == instruction.op1_register() => {
                return of(instruction.op0_register());
            }
            Mnemonic::Cmp if instruction.try_immediate(1).is_ok_and(|zero| zero == 0) => {
                return read(&instruction, &state).filter(|(_, size)| *size == 8).map(|(address, _)| address);
            }
            Mnemonic::Mov if instruction.op0_kind() == OpKind::Register => {
                let pointer = read(&instruction, &state).filter(|(_, size)| *size == 8);
                loaded = pointer.map_or(loaded, |(address, _)| Some((instruction.op0_register(), address)));
            }
            _ => {}
        }
        state.step(&instruction, &mut factory, &memory);
    }
    None
}

/// Addresses of the numbers of 32 bits that a function and what it calls read at fixed places: the flag is one, where it is read
/// under a lock there may be others.
fn flags(code: &Code<'_>, function: u64) -> BTreeSet<u64> {
    let mut factory = InstructionInfoFactory::new();
    let memory = SlotMemory { code, slots: None };
    let mut flags = BTreeSet::new();
    let mut work = vec![(function, true)];
    while let Some((mut address, may_call)) = work.pop() {
        let mut state = State::unknown();
        for _ in 0..FEW {
            let Some(instruction) = code.decode(address) else { break };
            flags.extend(read(&instruction, &state).filter(|(_, size)| *size == 4).map(|(flag, _)| flag));
            match instruction.flow_control() {
                FlowControl::Next => {}
                FlowControl::Call => work.extend(direct_target(&instruction).filter(|_| may_call).map(|f| (f, false))),
                FlowControl::UnconditionalBranch => {
                    work.extend(direct_target(&instruction).filter(|_| may_call).map(|f| (f, false)));
                    break;
                }
                _ => break,
            }
            state.step(&instruction, &mut factory, &memory);
            address = instruction.next_ip();
        }
    }
    flags
}

/// A fixed address that an instruction mentions, and how many bytes it reads or writes there.
fn read(instruction: &Instruction, state: &State) -> Option<(u64, usize)> {
    let has_memory = instruction.op_kinds().any(|kind| kind == OpKind::Memory);
    let address = state.address(instruction).as_constant().filter(|_| has_memory)?;
    Some((address, instruction.memory_size().size()))
}

/// What a short function does that sets a word to 1, the one that its argument points at, on all ways.
#[derive(Debug, Default)]
struct Does {
    reads: BTreeSet<(u64, usize)>,
    callees: BTreeSet<u64>,
    /// It calls a function that is not fixed with its argument and 0 (`PyRefTracer_CREATE`, CPython `Include/cpython/tracemalloc.h`
    /// and `Include/cpython/object.h`, 3.13).
    calls: bool,
}

impl Does {
    fn read(code: &Code<'_>, function: u64) -> Option<Self> {
        let mut factory = InstructionInfoFactory::new();
        let memory = SlotMemory { code, slots: None };
        let begins = |address: u64| code.functions.containing(address).is_some_and(|range| range.start == address);
        let mut does = Self::default();
        let mut seen = BTreeSet::new();
        let mut work = vec![(function, State::start(), false)];
        while let Some((mut address, mut state, mut is_set)) = work.pop() {
            while seen.insert((address, is_set)) {
                let instruction = code.decode(address).filter(|_| seen.len() <= FEW)?;
                does.reads.extend(read(&instruction, &state));
                // Where the argument is kept over a call is not followed: no other store of the kind is there.
                is_set |= instruction.mnemonic() == Mnemonic::Mov
                    && instruction.op0_kind() == OpKind::Memory
                    && instruction.memory_displacement64() == 0
                    && instruction.memory_index() == Register::None
                    && instruction.try_immediate(1).is_ok_and(|one| one == 1);
                let argument = |n: u8| state.registers[usize::from(n)];
                let is_told =
                    argument(reg::RDI) == Value::register(reg::RDI) && argument(reg::RSI).as_constant() == Some(0);
                let target = direct_target(&instruction);
                address = match instruction.flow_control() {
                    FlowControl::Next => instruction.next_ip(),
                    // Done; or, with calls behind the store, in a copy of what the hook often is.
                    FlowControl::Call | FlowControl::Return if is_set => break,
                    FlowControl::UnconditionalBranch if is_set && target.is_some_and(begins) => break,
                    FlowControl::Call => {
                        does.callees.insert(target?);
                        instruction.next_ip()
                    }
                    FlowControl::IndirectCall if is_told => {
                        does.calls = true;
                        instruction.next_ip()
                    }
                    FlowControl::IndirectBranch if is_told && is_set => {
                        does.calls = true;
                        break;
                    }
                    FlowControl::UnconditionalBranch => target?,
                    FlowControl::ConditionalBranch => {
                        work.push((target?, state.clone(), is_set));
                        instruction.next_ip()
                    }
                    _ => return None,
                };
                state.step(&instruction, &mut factory, &memory);
            }
        }
        Some(does)
    }

    /// Whether it calls one function if one of `flags` is set.
    fn tells(&self, flags: &BTreeSet<u64>) -> bool {
        self.callees.len() == 1 && !self.calls && flags.iter().any(|&flag| self.reads.contains(&(flag, 4)))
    }

    /// Whether it does nothing more than call a function that the interpreter's state names.
    fn calls_hook(&self, runtime: &Range<u64>) -> bool {
        let pointer = |(address, size): &(u64, usize)| runtime.contains(address) && *size == 8;
        self.calls && self.callees.is_empty() && self.reads.iter().any(pointer)
    }
}
