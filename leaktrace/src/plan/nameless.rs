//! The three allocator tables of a file in which no symbol names a function: a fully static, stripped executable.
//!
//! What names them is in the file's data and code instead. The debug hooks keep a copy of each table behind the letter of its
//! domain (CPython `Objects/obmalloc.c`, `_PyMem_Debug`, 3.8 to 3.11; `Include/internal/pycore_runtime_init.h` later), which tells the
//! functions of each domain. mem and obj have the same ones; `PyMem_GetAllocator` and `PyMem_SetAllocator` tell these two apart.

use std::collections::BTreeSet;
use std::ops::Range;

use iced_x86::{ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind};
use leaktrace_common::site::reg;

use super::code::{Code, direct_target};
use super::machine::{State, Value};
use super::slots::{SlotMemory, TABLE_BYTES};
use crate::cpython::discover;

/// `debug_alloc_api_t.api_id` of each domain (CPython `Objects/obmalloc.c`, 3.8 to 3.15).
const LETTERS: [u8; 3] = *b"rmo";
/// Size of `debug_alloc_api_t`: the letter, then a table.
const DEBUG_BYTES: u64 = 8 + TABLE_BYTES;
/// Instructions of a function followed for one domain.
const STEPS: usize = 400;

/// The tables of raw, mem and obj among those that look like one. `None`: the file has no such data or code, or they do not agree.
pub(super) fn tables(code: &Code<'_>, candidates: &[u64]) -> Option<[u64; 3]> {
    // From 3.12 on they are part of `_PyRuntime`, and constant data has what that is at the start (`Python/pylifecycle.c`).
    let runtime = code.file.section(discover::RUNTIME_SECTION);
    let in_runtime = |address: u64| runtime.is_some_and(|s| code.file.vaddr_of(address).wrapping_sub(s.vaddr) < s.size);
    let (within, others): (Vec<u64>, Vec<u64>) = candidates.iter().partition(|&&table| in_runtime(table));
    among(code, &within).or_else(|| among(code, &others))
}

fn among(code: &Code<'_>, candidates: &[u64]) -> Option<[u64; 3]> {
    let debug = debug_tables(code, candidates)?;
    let functions = debug.map(|table| functions(code, table));
    let of = |domain: usize| -> Vec<u64> {
        let tables = candidates.iter().copied().filter(|table| !debug.contains(table));
        tables.filter(|&table| self::functions(code, table) == functions[domain]).collect()
    };
    let [raw] = of(0)[..] else { return None };
    let [one, other] = of(1)[..] else { return None };
    if functions[1] != functions[2] {
        return None;
    }
    // From 3.12 on one struct holds them in this order, and the hooks' behind (`struct _pymem_allocators`).
    let in_struct = [1, 2].map(|n| raw.wrapping_add(n * TABLE_BYTES));
    if [one, other] == in_struct && debug[0] == raw.wrapping_add(3 * TABLE_BYTES + 8) {
        return Some([raw, one, other]);
    }
    by_domain(code, [raw, one, other])
}

fn functions(code: &Code<'_>, table: u64) -> [Option<u64>; 4] {
    std::array::from_fn(|i| code.initial_word(table.wrapping_add(8 + 8 * i as u64)))
}

/// The hooks' copies: three in a row, each behind its letter.
fn debug_tables(code: &Code<'_>, candidates: &[u64]) -> Option<[u64; 3]> {
    let lettered = |table: u64, letter: u8| code.initial_word(table.wrapping_sub(8)) == Some(letter.into());
    let mut found =
        candidates.iter().map(|&raw| [0, 1, 2].map(|n| raw.wrapping_add(n * DEBUG_BYTES))).filter(|three| {
            three
                .iter()
                .zip(LETTERS)
                .all(|(table, letter)| candidates.binary_search(table).is_ok() && lettered(*table, letter))
        });
    found.next().filter(|_| found.next().is_none())
}

/// Which table is which domain's, by the functions that are given the domain as a number and do something with its table only.
fn by_domain(code: &Code<'_>, tables: [u64; 3]) -> Option<[u64; 3]> {
    let mut told: BTreeSet<[u64; 3]> = BTreeSet::new();
    for range in code.functions.ranges().iter().filter(|range| mentions(code, range, tables)) {
        let of: Vec<u64> = (0..3).filter_map(|domain| only_table(code, range.start, domain, tables)).collect();
        if let [raw, mem, obj] = of[..]
            && raw == tables[0]
            && BTreeSet::from([raw, mem, obj]).len() == 3
        {
            told.insert([raw, mem, obj]);
        }
    }
    // What two such functions disagree about is not known.
    told.pop_first().filter(|_| told.is_empty())
}

/// Whether some of a function's instructions mentions one of the tables.
fn mentions(code: &Code<'_>, range: &Range<u64>, tables: [u64; 3]) -> bool {
    code.instructions(range).into_iter().any(|instruction| {
        let address = if instruction.is_ip_rel_memory_operand() {
            instruction.ip_rel_memory_address()
        } else {
            instruction.memory_displacement64()
        };
        tables.iter().any(|&table| is_in(table, address))
            || immediate(&instruction).is_some_and(|k| tables.contains(&k))
    })
}

/// The one table that a function works on when its first argument is `domain`.
fn only_table(code: &Code<'_>, function: u64, domain: u64, tables: [u64; 3]) -> Option<u64> {
    let mut factory = InstructionInfoFactory::new();
    let memory = SlotMemory { code, slots: None };
    let mut start = State::unknown();
    start.registers[usize::from(reg::RDI)] = Value::constant(domain);
    let (mut touched, mut seen, mut steps) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut work = vec![(function, start, None)];
    while let Some((mut address, mut state, mut compared)) = work.pop() {
        while seen.insert(address) {
            steps += 1;
            let instruction = code.decode(address).filter(|_| steps < STEPS)?;
            let at = state.address(&instruction).as_constant();
            let at = at.filter(|_| instruction.op_kinds().any(|kind| kind == OpKind::Memory));
            let named = immediate(&instruction).into_iter().chain(at);
            touched.extend(named.filter_map(|at| tables.into_iter().find(|&table| is_in(table, at))));
            address = match (instruction.flow_control(), direct_target(&instruction)) {
                (FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall, _) => instruction.next_ip(),
                (FlowControl::UnconditionalBranch, Some(target)) => target,
                (FlowControl::ConditionalBranch, Some(target)) => match is_taken(&instruction, compared) {
                    Some(true) => target,
                    Some(false) => instruction.next_ip(),
                    None => {
                        work.push((target, state.clone(), compared));
                        instruction.next_ip()
                    }
                },
                _ => break,
            };
            compared = constants(&instruction, &state, &memory, compared);
            state.step(&instruction, &mut factory, &memory);
        }
    }
    touched.pop_first().filter(|_| touched.is_empty())
}

/// The two constants that were last compared, after an instruction.
fn constants(
    instruction: &Instruction,
    state: &State,
    memory: &SlotMemory<'_>,
    before: Option<(u64, u64)>,
) -> Option<(u64, u64)> {
    let operand = |index| state.operand(instruction, index, memory).as_constant();
    match instruction.mnemonic() {
        Mnemonic::Cmp => Some((operand(0)?, operand(1)?)),
        Mnemonic::Test if instruction.op0_register() == instruction.op1_register() => Some((operand(0)?, 0)),
        _ if instruction.rflags_modified() == 0 => before,
        _ => None,
    }
}

/// Whether a conditional jump is taken, where that is known.
fn is_taken(jump: &Instruction, compared: Option<(u64, u64)>) -> Option<bool> {
    let (left, right) = compared?;
    match jump.condition_code() {
        ConditionCode::e => Some(left == right),
        ConditionCode::ne => Some(left != right),
        ConditionCode::a => Some(left > right),
        ConditionCode::be => Some(left <= right),
        _ => None,
    }
}

fn is_in(table: u64, address: u64) -> bool {
    address.wrapping_sub(table) < TABLE_BYTES
}

/// The number in an instruction that is wide enough for an address.
fn immediate(instruction: &Instruction) -> Option<u64> {
    let wide = |kind| matches!(kind, OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64);
    (0..instruction.op_count()).find(|&i| wide(instruction.op_kind(i))).map(|i| instruction.immediate(i))
}
