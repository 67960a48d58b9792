//! Where to set a probe so that the kernel emulates the instruction and the arguments are still known.

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory};
use leaktrace_common::site::{Operand, reg};

use super::Execution;
use super::code::{Code, Sweep};
use super::machine::{State, Value, number64};
use super::slots::SlotMemory;

/// Instructions looked at from a starting point.
const STEPS: usize = 64;

/// An instruction to probe, and where the wanted values are when it is about to run.
#[derive(Debug, Clone)]
pub struct Place {
    pub instruction: Instruction,
    pub a: Operand,
    pub b: Operand,
    pub execution: Execution,
}

/// Whether the kernel emulates an instruction instead of single-stepping a copy of it: push of a register, one-byte nop,
/// jmp, jcc and call with a relative target (Linux 6.1 `arch/x86/kernel/uprobes.c`, `branch_setup_xol_ops` and
/// `push_setup_xol_ops`). Prefixes are left out: what they change differs between kernels.
pub fn emulated(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [0x50..=0x57 | 0x90 | 0xe8 | 0xe9 | 0xeb | 0x70..=0x7f, ..] | [0x41, 0x50..=0x57, ..] | [0x0f, 0x80..=0x8f, ..]
    )
}

/// The best place for a probe on a function's entry: the first emulated instruction, if only straight-line code leads to
/// it and the arguments are still known there; else the very first instruction, single-stepped. `a` and `b` are the
/// registers that hold the arguments on entry. `None`: no instruction runs exactly once a call.
pub fn entry(code: &Code<'_>, sweep: &Sweep, function: u64, a: Option<u8>, b: Option<u8>) -> Option<Place> {
    let known = |state: &State, register: Option<u8>| {
        register.map_or(Some(Operand::default()), |r| state.registers[usize::from(r)].operand())
    };
    let (a_is, b_is) = (a.map(Value::register), b.map(Value::register));
    // An argument may have moved: any register that still holds it will do, its own first.
    let find = |state: &State, own: Option<u8>, is: Option<Value>| match is {
        None => Some(Operand::default()),
        Some(_) if known(state, own) == is.and_then(Value::operand) => known(state, own),
        Some(value) => {
            let n = state.registers.iter().position(|held| *held == value)?;
            Some(Operand::register(n as u8))
        }
    };
    if let Some((instruction, state)) = first_emulated(code, sweep, function, None)
        && let (Some(a), Some(b)) = (find(&state, a, a_is), find(&state, b, b_is))
    {
        return Some(Place { instruction, a, b, execution: Execution::Emulated });
    }
    let own = |register: Option<u8>| register.map_or_else(Operand::default, Operand::register);
    let instruction = first_instruction(code, sweep, function)?;
    Some(Place { instruction, a: own(a), b: own(b), execution: Execution::SingleStepped })
}

/// The best place for a return probe: as [`entry`], but the stack pointer must still be the one on entry, since the kernel
/// takes the return address from there.
pub fn returning(code: &Code<'_>, sweep: &Sweep, function: u64) -> Option<(Instruction, Execution)> {
    if let Some((instruction, state)) = first_emulated(code, sweep, function, None)
        && state.registers[usize::from(reg::RSP)] == Value::register(reg::RSP)
        // A jump out of the function is fine; a call would put its own return address there.
        && instruction.flow_control() != FlowControl::Call
    {
        return Some((instruction, Execution::Emulated));
    }
    first_instruction(code, sweep, function).map(|instruction| (instruction, Execution::SingleStepped))
}

/// The first emulated instruction after a call at which its result is still known.
pub fn after_call(code: &Code<'_>, sweep: &Sweep, call: &Instruction) -> Option<Place> {
    let (instruction, state) = first_emulated(code, sweep, call.next_ip(), Some(call.ip()))?;
    holding(instruction, &state, reg::RAX)
}

/// The first emulated instruction after a load into a register at which the value is still known, and whether other ways lead
/// there too. They have the like of it in that register: it is the same code.
pub fn after_load(code: &Code<'_>, sweep: &Sweep, load: &Instruction) -> Option<(Place, bool)> {
    let (instruction, state, joined) = run(code, sweep, load.next_ip(), Some(load.ip()), true)?;
    Some((holding(instruction, &state, number64(load.op0_register())? as u8)?, joined))
}

/// A place at `instruction` for the value that `register` held at the start.
fn holding(instruction: Instruction, state: &State, register: u8) -> Option<Place> {
    let value = Value::register(register);
    let n = state.registers.iter().position(|held| *held == value)?;
    let a = Operand::register(n as u8);
    Some(Place { instruction, a, b: Operand::default(), execution: Execution::Emulated })
}

/// The first emulated instruction on one way of a conditional jump, the one that begins at `start`, at which the values are
/// still known that are in `a` and `b` at the jump.
pub fn after_jump(
    code: &Code<'_>,
    sweep: &Sweep,
    jump: u64,
    start: u64,
    [a, b]: [Operand; 2],
) -> Option<(Instruction, [Operand; 2])> {
    let (instruction, state) = first_emulated(code, sweep, start, Some(jump))?;
    let still = |operand: Operand| match operand {
        Operand { reg: reg::NONE, .. } | Operand { scale: 0, .. } => Some(operand),
        Operand { deref: 0, reg, scale, disp, .. } => {
            let base = Value::register(reg);
            if state.registers[usize::from(reg)] == base {
                return Some(operand);
            }
            let value = Value::Place { reg, scale, disp: disp.into(), deref: false };
            state.registers.iter().position(|held| *held == value).map(|n| Operand::register(n as u8))
        }
        _ => None,
    };
    Some((instruction, [still(a)?, still(b)?]))
}

/// Runs from `start` to the first emulated instruction, as long as nothing jumps in between. `from`: the instruction that
/// leads to `start`; `None` for a function's own start: jumps there from elsewhere are calls, those from inside it are loops.
fn first_emulated(code: &Code<'_>, sweep: &Sweep, start: u64, from: Option<u64>) -> Option<(Instruction, State)> {
    run(code, sweep, start, from, false).map(|(instruction, state, _)| (instruction, state))
}

/// As [`first_emulated`]; with `joins`, jumps from elsewhere in between are only told.
fn run(
    code: &Code<'_>,
    sweep: &Sweep,
    start: u64,
    from: Option<u64>,
    joins: bool,
) -> Option<(Instruction, State, bool)> {
    let mut factory = InstructionInfoFactory::new();
    let memory = SlotMemory { code, slots: None };
    let mut state = State::start();
    let mut address = start;
    let mut joined = false;
    for _ in 0..STEPS {
        let shared = if address == start && from.is_none() {
            loops_to_start(code, sweep, start)
        } else {
            let mut jumps = sweep.jumps_to(address).filter(|&source| address != start || Some(source) != from);
            joined |= jumps.next().is_some();
            joined && !joins || sweep.calls_of(address).next().is_some()
        };
        if shared {
            return None;
        }
        let instruction = code.decode(address)?;
        if emulated(code.text(address, instruction.len())) {
            return Some((instruction, state, joined));
        }
        if instruction.flow_control() != FlowControl::Next {
            return None;
        }
        state.step(&instruction, &mut factory, &memory);
        address = instruction.next_ip();
    }
    None
}

fn first_instruction(code: &Code<'_>, sweep: &Sweep, function: u64) -> Option<Instruction> {
    let instruction = code.decode(function)?;
    let plain = instruction.flow_control() == FlowControl::Next;
    (plain && !loops_to_start(code, sweep, function)).then_some(instruction)
}

fn loops_to_start(code: &Code<'_>, sweep: &Sweep, function: u64) -> bool {
    let Some(range) = code.functions.containing(function) else { return false };
    sweep.jumps_to(function).any(|source| range.contains(&source))
}

#[cfg(test)]
mod tests {
    use super::emulated;

    #[test]
    fn only_what_the_kernel_emulates() {
        // push %rbx; push %r12; nop; jne short; je near; jmp short; jmp near; call
        for bytes in [
            &[0x53][..],
            &[0x41, 0x54],
            &[0x90],
            &[0x75, 0x02],
            &[0x0f, 0x84, 0, 0, 0, 0],
            &[0xeb, 0],
            &[0xe9, 0, 0, 0, 0],
            &[0xe8, 0, 0, 0, 0],
        ] {
            assert!(emulated(bytes), "{bytes:x?}");
        }
        // endbr64; test %rdi,%rdi; jmp *mem; push $1; data16 call; ret; mov %rdi,%rsi; cmove
        for bytes in [
            &[0xf3, 0x0f, 0x1e, 0xfa][..],
            &[0x48, 0x85, 0xff],
            &[0xff, 0x25, 0, 0, 0, 0],
            &[0x6a, 1],
            &[0x66, 0xe8, 0, 0],
            &[0xc3],
            &[0x48, 0x89, 0xfe],
            &[0x0f, 0x44, 0xc1],
            &[],
        ] {
            assert!(!emulated(bytes), "{bytes:x?}");
        }
    }
}
