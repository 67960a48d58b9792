//! Inside pymalloc: where an empty pool is refilled, and where realloc allocates without calling malloc.

use std::collections::{BTreeSet, HashMap};

use iced_x86::{ConditionCode, FlowControl, Instruction, Mnemonic, OpKind, Register};
use leaktrace_common::site::Operand;

use super::Execution;
use super::code::{Code, Sweep, direct_target};
use super::placement::{self, Place, emulated};

/// Offset of `nextpool` in `struct pool_header` (CPython `Objects/obmalloc.c`, 3.8 to 3.11; `pycore_obmalloc.h` later).
const NEXT_POOL: u64 = 16;
/// Distance between the load of `nextpool` and the compare, in instructions.
const NEAR: usize = 8;
/// Instructions followed from the test for an empty class to the call that refills it.
const TO_CALL: usize = 16;

/// The function that takes a new pool for an empty size class (`allocate_from_new_pool`).
///
/// Each copy of pymalloc's malloc compares the class's pool with its `nextpool`; equal means that the class is empty, and
/// the first direct call on that way is the function. The copies in `functions` vote, and `malloc`, the build's own
/// out-of-line one, must be among those for the winner. Where that one leaves all of pymalloc to a function of its own, of
/// which refilling is a part (3.8), it is that function: nothing is known before it returns.
pub fn refill_function(code: &Code<'_>, functions: &BTreeSet<u64>, malloc: u64) -> Option<u64> {
    let mut votes: HashMap<u64, usize> = HashMap::new();
    for &function in functions {
        for callee in refill_calls(code, function) {
            *votes.entry(callee).or_default() += 1;
        }
    }
    let own: BTreeSet<u64> = refill_calls(code, malloc).into_iter().collect();
    if own.is_empty() {
        return first_call(code, malloc, true).filter(|&callee| tests_class(code, callee));
    }
    let candidates = own.into_iter().filter(|&f| code.functions.containing(f).is_some_and(|range| range.start == f));
    candidates.max_by_key(|f| (votes.get(f).copied().unwrap_or(0), std::cmp::Reverse(*f)))
}

/// Whether the code of a function tests for an empty class.
fn tests_class(code: &Code<'_>, function: u64) -> bool {
    let Some(range) = code.functions.containing(function) else { return false };
    let instructions: Vec<Instruction> = code.instructions(&range).into_iter().collect();
    instructions.iter().enumerate().any(|(index, compare)| {
        compare.mnemonic() == Mnemonic::Cmp && is_class_test(&instructions[index.saturating_sub(NEAR)..index], compare)
    })
}

fn refill_calls(code: &Code<'_>, function: u64) -> Vec<u64> {
    let Some(range) = code.functions.containing(function) else { return Vec::new() };
    let instructions: Vec<Instruction> = code.instructions(&range).into_iter().collect();
    let mut callees = Vec::new();
    for (index, compare) in instructions.iter().enumerate() {
        if compare.mnemonic() != Mnemonic::Cmp
            || !is_class_test(&instructions[index.saturating_sub(NEAR)..index], compare)
        {
            continue;
        }
        let Some(jump) = instructions.get(index + 1) else { continue };
        let empty = match jump.condition_code() {
            ConditionCode::e => direct_target(jump),
            ConditionCode::ne => Some(jump.next_ip()),
            _ => None,
        };
        callees.extend(empty.and_then(|address| first_call(code, address, false)));
    }
    callees
}

/// `mov 16(%pool), %next; ...; cmp %next, %pool`, either way round.
fn is_class_test(before: &[Instruction], compare: &Instruction) -> bool {
    if compare.op0_kind() != OpKind::Register || compare.op1_kind() != OpKind::Register {
        return false;
    }
    let (left, right) = (compare.op0_register(), compare.op1_register());
    before.iter().rev().any(|load| {
        load.mnemonic() == Mnemonic::Mov
            && load.op0_kind() == OpKind::Register
            && load.op1_kind() == OpKind::Memory
            && load.memory_displacement64() == NEXT_POOL
            && load.memory_index() == Register::None
            && [(left, right), (right, left)].contains(&(load.op0_register(), load.memory_base()))
    })
}

/// What is called first on the way from `address`; with `past_tests` conditional jumps are not taken, as that for sizes that are
/// not pymalloc's.
fn first_call(code: &Code<'_>, mut address: u64, past_tests: bool) -> Option<u64> {
    for _ in 0..TO_CALL {
        let instruction = code.decode(address)?;
        address = match instruction.flow_control() {
            FlowControl::Next => instruction.next_ip(),
            FlowControl::ConditionalBranch if past_tests => instruction.next_ip(),
            FlowControl::UnconditionalBranch => direct_target(&instruction)?,
            FlowControl::Call => return direct_target(&instruction),
            _ => return None,
        };
    }
    None
}

/// How the results of the refill function can be seen.
#[derive(Debug)]
pub enum Refills {
    /// After each of its calls.
    Sites(Vec<Place>),
    /// Some call shows no result that a probe can read: the function's return has to be probed.
    Returns,
}

/// A probe after each call of the refill function, all or none: a missed refill is a missed block.
pub fn refills(code: &Code<'_>, sweep: &Sweep, function: u64) -> Refills {
    // A jump to the function is a tail call: its result goes straight to the caller's caller.
    if sweep.jumps_to(function).next().is_some() {
        return Refills::Returns;
    }
    let mut calls = sweep.calls_of(function).peekable();
    if calls.peek().is_none() {
        return Refills::Returns;
    }
    let place = |call| placement::after_call(code, sweep, &code.decode(call)?);
    calls.map(place).collect::<Option<Vec<Place>>>().map_or(Refills::Returns, Refills::Sites)
}

/// Instructions of a copy of realloc looked at.
const REALLOC_STEPS: usize = 600;

/// Whether the code from `start` on calls the build's out-of-line malloc, as a copy of realloc does for a block that moves
/// unless malloc is inlined there.
pub fn calls_malloc(code: &Code<'_>, start: u64, malloc: u64) -> bool {
    let mut seen = BTreeSet::new();
    let mut work = vec![start];
    while let Some(mut address) = work.pop() {
        while seen.len() < REALLOC_STEPS && seen.insert(address) {
            let Some(instruction) = code.decode(address) else { break };
            let target = direct_target(&instruction);
            if target == Some(malloc) {
                return true;
            }
            match instruction.flow_control() {
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => address = instruction.next_ip(),
                FlowControl::ConditionalBranch => {
                    work.extend(target);
                    address = instruction.next_ip();
                }
                FlowControl::UnconditionalBranch => match target {
                    Some(target) => address = target,
                    None => break,
                },
                _ => break,
            }
        }
    }
    false
}

/// Where the build's realloc, which may have its own copy of malloc inside, decides whether a request is small: a compare
/// of the size with the largest small request, and the jump for larger ones. These run once for each block that moves.
pub fn nested_mallocs(code: &Code<'_>, sweep: &Sweep, realloc: u64, small_max: u64) -> Vec<Place> {
    let Some(range) = code.functions.containing(realloc) else { return Vec::new() };
    let instructions: Vec<Instruction> = code.instructions(&range).into_iter().collect();
    let mut places = Vec::new();
    for pair in instructions.windows(2) {
        let [compare, jump] = pair else { continue };
        let tested = compare.mnemonic() == Mnemonic::Cmp
            && compare.op0_kind() == OpKind::Register
            && compare.op0_register().is_gpr64()
            && matches!(jump.condition_code(), ConditionCode::a | ConditionCode::be)
            && sweep.jumps_to(jump.ip()).next().is_none()
            && emulated(code.text(jump.ip(), jump.len()));
        let Ok(limit) = compare.try_immediate(1) else { continue };
        // `size > 512`, or `size - 1 > 511` as unsigned numbers.
        let Some(less) = small_max.checked_sub(limit).filter(|&less| tested && less <= 1) else { continue };
        let register = compare.op0_register().number() as u8;
        let a = Operand { disp: less as i32, ..Operand::register(register) };
        places.push(Place { instruction: *jump, a, b: Operand::default(), execution: Execution::Emulated });
    }
    places
}
