//! Devirtualisation guards: in a profile-optimised build each inlined copy of an allocator function begins by comparing
//! the pointer in the allocator's table with the function that was inlined. The conditional jump after that compare
//! runs for every request, and the slow path beside it calls through the table, which tells where the arguments are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use iced_x86::{ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind};
use leaktrace_common::site::{Operand, reg};

use super::code::{Code, Sweep, direct_target};
use super::machine::{Environment as _, Flags, SlotFunction, State, Value, number64};
use super::slots::{SlotMemory, Slots};
use crate::cpython::discover;

/// Instructions followed on a slow path before it is given up.
const SLOW_PATH_STEPS: usize = 400;
/// Changes of a block's entry state before that is taken as unknown, so that hostile code cannot keep us busy.
const MAX_VISITS: u32 = 40;

/// The conditional jump of one inlined copy.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Address of the conditional jump.
    pub address: u64,
    pub function: SlotFunction,
    /// First and second argument (after the context) at the jump; `None`: could not be told.
    pub a: Option<Operand>,
    pub b: Option<Operand>,
    pub slow: u64,
    pub fast: u64,
}

/// Everything that the code does with the tables.
#[derive(Debug, Default)]
pub struct Found {
    pub guards: Vec<Guard>,
    /// As guards, where the pointer does not come from a table but from what a hook (debug hooks, tracemalloc) keeps of one:
    /// requests pass them only while such hooks are on. Their functions may be of [`domain::SHARED`].
    pub hooks: Vec<Guard>,
    /// Calls and jumps through a table that no guard stands before.
    pub direct: Vec<(u64, SlotFunction)>,
    /// Compares with the build's own function whose slow path does not call through the table.
    pub false_guards: usize,
    /// Guards whose jump is itself the target of a jump, so that other traffic passes it.
    pub shared: usize,
}

/// Whether an instruction mentions a table, an address from which one may be computed, or one of the build's own functions.
pub fn mentions<'a>(code: &'a Code<'a>, slots: &'a Slots) -> impl Fn(&Instruction) -> bool + 'a {
    let runtime = discover::runtime_address(code.file);
    let got: BTreeSet<u64> = code.imports("_PyRuntime").iter().copied().collect();
    let functions: BTreeSet<u64> = slots.0.iter().flat_map(|slot| slot.default).collect();
    move |instruction| {
        if instruction.mnemonic() == Mnemonic::Cmp
            && instruction.try_immediate(1).is_ok_and(|value| functions.contains(&value))
        {
            return true;
        }
        let leads = |address: u64| slots.covers(address) || runtime == Some(address);
        // Linkers write a load from the GOT so where the address is fixed (x86-64 ABI, `R_X86_64_REX_GOTPCRELX`).
        if instruction.mnemonic() == Mnemonic::Mov && instruction.try_immediate(1).is_ok_and(leads) {
            return true;
        }
        let address = if instruction.is_ip_rel_memory_operand() {
            instruction.ip_rel_memory_address()
        } else if instruction.memory_displ_size() >= 4 {
            instruction.memory_displacement64()
        } else {
            return false;
        };
        let own = instruction.mnemonic() == Mnemonic::Lea && functions.contains(&address);
        own || leads(address) || got.contains(&address)
    }
}

/// Finds the guards and direct calls in the functions that `sweep` wanted.
pub fn find(code: &Code<'_>, sweep: &Sweep, slots: &Slots) -> Found {
    let mut search = Search { code, slots, factory: InstructionInfoFactory::new() };
    let mut compared = BTreeMap::new();
    let mut calls = BTreeMap::new();
    for range in &sweep.wanted {
        search.function(sweep, range, &mut compared, &mut calls);
    }
    let mut found = Found::default();
    let mut guarded = BTreeSet::new();
    for (address, (jump, through, state)) in compared {
        let Some(target) = direct_target(&jump) else { continue };
        let (slow, fast) = match jump.condition_code() {
            ConditionCode::ne => (target, jump.next_ip()),
            ConditionCode::e => (jump.next_ip(), target),
            _ => continue,
        };
        let ends = search.slow_path(slow, through, &state);
        let Some(first) = ends.first() else {
            found.false_guards += usize::from(matches!(through, Through::Table(_)));
            continue;
        };
        if sweep.jumps_to(address).next().is_some() {
            found.shared += 1;
            continue;
        }
        guarded.extend(ends.iter().map(|end| end.call));
        let agree =
            |pick: fn(&SlowEnd) -> Option<Operand>| pick(first).filter(|_| ends.iter().all(|e| pick(e) == pick(first)));
        let (list, function) = match through {
            Through::Table(function) => (&mut found.guards, function),
            Through::Register(_, function) => (&mut found.hooks, function),
        };
        list.push(Guard { address, function, a: agree(|e| e.a), b: agree(|e| e.b), slow, fast });
    }
    found.direct = calls.into_iter().filter(|(address, _)| !guarded.contains(address)).collect();
    found
}

/// A call through the table at the end of a slow path.
struct SlowEnd {
    call: u64,
    a: Option<Operand>,
    b: Option<Operand>,
}

/// Where the pointer that is compared comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Through {
    Table(SlotFunction),
    /// From elsewhere into a register, and compared with this function.
    Register(usize, SlotFunction),
}

/// Conditional jumps that compare a pointer with the build's own function, and the state there.
type Compared = BTreeMap<u64, (Instruction, Through, State)>;

struct Search<'a> {
    code: &'a Code<'a>,
    slots: &'a Slots,
    factory: InstructionInfoFactory,
}

impl Search<'_> {
    /// Propagates constants and table pointers over one function's control flow.
    fn function(
        &mut self,
        sweep: &Sweep,
        range: &Range<u64>,
        compared: &mut Compared,
        calls: &mut BTreeMap<u64, SlotFunction>,
    ) {
        let instructions: Vec<Instruction> = self.code.instructions(range).into_iter().collect();
        let leaders = leaders(&instructions, range);
        let environment = SlotMemory { code: self.code, slots: Some(self.slots) };
        let mut entry: HashMap<u64, State> = HashMap::new();
        let mut visits: HashMap<u64, u32> = HashMap::new();
        let mut work: Vec<u64> = Vec::new();
        // Blocks that nothing in this function leads to (jump tables, jumps from the function's other part) and those
        // that something outside leads to as well begin with nothing known.
        let mut reached = BTreeSet::new();
        for block in blocks(&instructions, &leaders) {
            reached.extend(successors(block).into_iter().filter(|s| range.contains(s)));
        }
        for &leader in &leaders {
            let from_outside = sweep.jumps_to(leader).any(|source| !range.contains(&source));
            let by_table = || !reached.contains(&leader) && !is_padding(&instructions, &leaders, leader);
            if leader == range.start || from_outside || by_table() {
                entry.insert(leader, State::unknown());
                work.push(leader);
            }
        }
        while let Some(leader) = work.pop() {
            let Some(block) = block_at(&instructions, &leaders, leader) else { continue };
            let mut state = entry.get(&leader).cloned().unwrap_or_else(State::unknown);
            for instruction in block {
                state.step(instruction, &mut self.factory, &environment);
            }
            for next in successors(block).into_iter().filter(|s| leaders.contains(s)) {
                let changed = match entry.get_mut(&next) {
                    Some(known) => known.join(&state),
                    None => entry.insert(next, state.clone()).is_none(),
                };
                let visits = visits.entry(next).or_default();
                *visits += u32::from(changed);
                if changed && *visits <= MAX_VISITS {
                    work.push(next);
                }
            }
        }
        for (&leader, state) in &entry {
            let Some(block) = block_at(&instructions, &leaders, leader) else { continue };
            if visits.get(&leader).is_some_and(|&v| v > MAX_VISITS) {
                continue;
            }
            let mut state = state.clone();
            for (index, instruction) in block.iter().enumerate() {
                if let Some(function) = self.call_through(&state, instruction) {
                    calls.insert(instruction.ip(), function);
                }
                if instruction.flow_control() == FlowControl::ConditionalBranch {
                    let before = index.checked_sub(1).map(|i| &block[i]);
                    let by_table = self.compared(state.flags).map(Through::Table);
                    let through = by_table.or_else(|| self.compared_in_register(before?, state.flags));
                    compared.extend(through.map(|through| (instruction.ip(), (*instruction, through, state.clone()))));
                }
                state.step(instruction, &mut self.factory, &environment);
            }
        }
    }

    /// The table entry whose pointer was compared with the build's own function for it.
    fn compared(&self, flags: Flags) -> Option<SlotFunction> {
        let Flags::Compare(left, right) = flags else { return None };
        let ((Value::Slot(function), other) | (other, Value::Slot(function))) = (left, right) else { return None };
        (other.as_constant() == Some(self.slots.default_of(function))).then_some(function)
    }

    /// As [`Self::compared`], of a pointer that no table is known to have held.
    fn compared_in_register(&self, compare: &Instruction, flags: Flags) -> Option<Through> {
        let Flags::Compare(left, right) = flags else { return None };
        if compare.mnemonic() != Mnemonic::Cmp || compare.op0_kind() != OpKind::Register {
            return None;
        }
        let (register, address) = match (left.as_constant(), right.as_constant()) {
            (None, Some(address)) => (compare.op0_register(), address),
            (Some(address), None) if compare.op1_kind() == OpKind::Register => (compare.op1_register(), address),
            _ => return None,
        };
        Some(Through::Register(number64(register)?, self.slots.owner_of(address)?))
    }

    /// The table entry that an indirect call or jump goes through.
    fn call_through(&self, state: &State, instruction: &Instruction) -> Option<SlotFunction> {
        if !matches!(instruction.flow_control(), FlowControl::IndirectCall | FlowControl::IndirectBranch) {
            return None;
        }
        let environment = SlotMemory { code: self.code, slots: Some(self.slots) };
        match state.operand(instruction, 0, &environment) {
            Value::Slot(function) => Some(function),
            // A register that holds the table's address as a constant.
            _ => match environment.load(state.address(instruction).as_constant()?) {
                Value::Slot(function) if instruction.op0_kind() == OpKind::Memory => Some(function),
                _ => None,
            },
        }
    }

    /// Runs from the slow edge to the calls of the pointer that was compared, both ways at each branch, in terms of the
    /// registers at the guard.
    fn slow_path(&mut self, slow: u64, through: Through, at_guard: &State) -> Vec<SlowEnd> {
        let environment = SlotMemory { code: self.code, slots: Some(self.slots) };
        let mut start = State::start();
        for (register, known) in start.registers.iter_mut().zip(&at_guard.registers) {
            if matches!(known, Value::Slot(_)) {
                *register = *known;
            }
        }
        let mut ends = Vec::new();
        let mut work = vec![(slow, start)];
        let mut seen = BTreeSet::new();
        let mut steps = 0;
        while let Some((mut address, mut state)) = work.pop() {
            while seen.insert(address) && steps < SLOW_PATH_STEPS {
                steps += 1;
                let Some(instruction) = self.code.decode(address) else { break };
                let called = self.call_through(&state, &instruction);
                let arrived = match through {
                    Through::Table(function) => called == Some(function),
                    Through::Register(register, _) => calls_register(&state, &instruction, register),
                };
                if arrived {
                    let argument = |n: u8| state.registers[usize::from(n)].operand();
                    ends.push(SlowEnd { call: address, a: argument(reg::RSI), b: argument(reg::RDX) });
                }
                if arrived || called.is_some() {
                    break;
                }
                match instruction.flow_control() {
                    FlowControl::UnconditionalBranch => match direct_target(&instruction) {
                        Some(target) => address = target,
                        None => break,
                    },
                    FlowControl::ConditionalBranch => {
                        if let Some(target) = direct_target(&instruction) {
                            work.push((target, state.clone()));
                        }
                        address = instruction.next_ip();
                    }
                    // What follows another call is another request.
                    FlowControl::Next => {
                        state.step(&instruction, &mut self.factory, &environment);
                        address = instruction.next_ip();
                    }
                    _ => break,
                }
            }
        }
        ends
    }
}

/// Whether an instruction calls what `register` held at the starting point.
fn calls_register(state: &State, instruction: &Instruction, register: usize) -> bool {
    matches!(instruction.flow_control(), FlowControl::IndirectCall | FlowControl::IndirectBranch)
        && instruction.op0_kind() == OpKind::Register
        && number64(instruction.op0_register()).is_some_and(|n| state.registers[n] == Value::register(register as u8))
}

/// First instructions of blocks.
fn leaders(instructions: &[Instruction], range: &Range<u64>) -> BTreeSet<u64> {
    let mut leaders = BTreeSet::from([range.start]);
    for instruction in instructions {
        if !matches!(instruction.flow_control(), FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall) {
            leaders.insert(instruction.next_ip());
            leaders.extend(direct_target(instruction).filter(|target| range.contains(target)));
        }
    }
    leaders
}

fn block_at<'i>(instructions: &'i [Instruction], leaders: &BTreeSet<u64>, leader: u64) -> Option<&'i [Instruction]> {
    let start = instructions.binary_search_by_key(&leader, Instruction::ip).ok()?;
    let end = leaders.range(leader + 1..).next().copied().unwrap_or(u64::MAX);
    let len = instructions[start..].partition_point(|i| i.ip() < end);
    Some(&instructions[start..start + len])
}

/// Whether a block is what fills the room behind a jump, up to where the next one may begin: it never runs, though it leads there.
fn is_padding(instructions: &[Instruction], leaders: &BTreeSet<u64>, leader: u64) -> bool {
    block_at(instructions, leaders, leader).is_some_and(|block| block.iter().all(|i| i.mnemonic() == Mnemonic::Nop))
}

fn blocks<'i>(instructions: &'i [Instruction], leaders: &'i BTreeSet<u64>) -> impl Iterator<Item = &'i [Instruction]> {
    leaders.iter().filter_map(|&leader| block_at(instructions, leaders, leader))
}

fn successors(block: &[Instruction]) -> Vec<u64> {
    let Some(last) = block.last() else { return Vec::new() };
    match last.flow_control() {
        FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => vec![last.next_ip()],
        FlowControl::ConditionalBranch => direct_target(last).into_iter().chain([last.next_ip()]).collect(),
        FlowControl::UnconditionalBranch => direct_target(last).into_iter().collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    #[test]
    fn what_fills_the_room_behind_a_jump_leads_nowhere() {
        // jmp over; nopl 0(%rax,%rax,1); over: cmp $1,%rax; jne over. Behind the next jump a nop begins code.
        let code = [
            0xeb, 8, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, 0x48, 0x83, 0xf8, 1, 0x75, 0xfa, 0xeb, 0, 0x90, 0x48, 0x89, 0xc7,
        ];
        let range = 0x1000..0x1000 + code.len() as u64;
        let instructions: Vec<Instruction> =
            Decoder::with_ip(64, &code, range.start, DecoderOptions::NONE).into_iter().collect();
        let leaders = leaders(&instructions, &range);
        let padding: Vec<u64> =
            leaders.iter().copied().filter(|&leader| is_padding(&instructions, &leaders, leader)).collect();
        assert_eq!(padding, [0x1002], "{leaders:x?}");
    }
}
