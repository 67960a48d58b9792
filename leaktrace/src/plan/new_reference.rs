//! `_Py_NewReference`, which every new object passes, and what it calls while tracemalloc runs (CPython `Objects/object.c`, 3.8 to
//! 3.12): by their names, or in a file without symbols by what they do.

use std::collections::BTreeSet;
use std::ops::Range;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};

use super::code::{Code, direct_target};
use super::machine::State;
use super::methods;
use super::slots::SlotMemory;

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
}

impl NewReference {
    pub(super) fn find(code: &Code<'_>) -> Option<Self> {
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
                // Several: what tells tracemalloc is inlined in it, as a function that is called in one place only.
                let tell_tracemalloc = if callees.len() == 1 { callees.first().copied() } else { None };
                Some(Self { functions: vec![address], own: vec![own], tell_tracemalloc })
            }
            // 3.8: always inlined.
            (None, Some(address)) => {
                Some(Self { functions: Vec::new(), own: Vec::new(), tell_tracemalloc: Some(address) })
            }
            (None, None) => Self::by_flag(code),
        }
    }

    /// Without symbols: the functions that test whether tracemalloc runs, call one function if it does, and set the count of
    /// references to one either way. The flag is what `_tracemalloc.is_tracing` returns.
    fn by_flag(code: &Code<'_>) -> Option<Self> {
        let methods = methods::table(code, &["is_tracing", "get_traced_memory", "clear_traces"])?;
        let flag = flag(code, *methods.get("is_tracing")?)?;
        let (mut functions, mut own, mut callees) = (Vec::new(), Vec::new(), BTreeSet::new());
        for range in code.functions.ranges() {
            if let Some(callee) = tells_and_sets_one(code, range.start, flag) {
                functions.push(range.start);
                own.push(range.clone());
                callees.insert(callee);
            }
        }
        let tell_tracemalloc = callees.pop_first().filter(|_| callees.is_empty())?;
        Some(Self { functions, own, tell_tracemalloc: Some(tell_tracemalloc) })
    }
}

/// Address of the one number of 32 bits that a function, or what it calls first, reads at a fixed place.
fn flag(code: &Code<'_>, function: u64) -> Option<u64> {
    let mut factory = InstructionInfoFactory::new();
    let memory = SlotMemory { code, slots: None };
    let mut state = State::unknown();
    let mut address = function;
    for _ in 0..FEW {
        let instruction = code.decode(address)?;
        if let Some(flag) = reads_flag(&instruction, &state) {
            return Some(flag);
        }
        address = match instruction.flow_control() {
            FlowControl::Call | FlowControl::UnconditionalBranch => direct_target(&instruction)?,
            FlowControl::Next => instruction.next_ip(),
            _ => return None,
        };
        state.step(&instruction, &mut factory, &memory);
    }
    None
}

fn reads_flag(instruction: &Instruction, state: &State) -> Option<u64> {
    let is_read = instruction.op_kinds().any(|kind| kind == OpKind::Memory) && instruction.memory_size().size() == 4;
    state.address(instruction).as_constant().filter(|_| is_read)
}

/// What a function calls, if it reads `flag`, calls one function at most on each way, and stores 1 at its argument on all.
fn tells_and_sets_one(code: &Code<'_>, function: u64, flag: u64) -> Option<u64> {
    let mut factory = InstructionInfoFactory::new();
    let memory = SlotMemory { code, slots: None };
    let (mut seen, mut callees, mut reads) = (BTreeSet::new(), BTreeSet::new(), false);
    let mut work = vec![(function, State::start(), false)];
    while let Some((mut address, mut state, mut is_set)) = work.pop() {
        // The ways may come together behind the store, not before it.
        while seen.insert((address, is_set)) {
            let instruction = code.decode(address).filter(|_| seen.len() <= FEW)?;
            reads |= reads_flag(&instruction, &state) == Some(flag);
            // Where the argument is kept over a call is not told: no other store of the kind is there.
            is_set |= instruction.mnemonic() == Mnemonic::Mov
                && instruction.op0_kind() == OpKind::Memory
                && instruction.memory_displacement64() == 0
                && instruction.memory_index() == Register::None
                && instruction.try_immediate(1).is_ok_and(|one| one == 1);
            let target = direct_target(&instruction);
            address = match instruction.flow_control() {
                FlowControl::Next => instruction.next_ip(),
                FlowControl::Call => {
                    callees.insert(target?);
                    instruction.next_ip()
                }
                FlowControl::UnconditionalBranch => target?,
                FlowControl::ConditionalBranch => {
                    work.push((target?, state.clone(), is_set));
                    instruction.next_ip()
                }
                FlowControl::Return if is_set => break,
                _ => return None,
            };
            state.step(&instruction, &mut factory, &memory);
        }
    }
    callees.pop_first().filter(|_| callees.is_empty() && reads)
}
