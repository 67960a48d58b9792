//! Inlined copies of `_Py_NewReference` from 3.13 on: each sets the new object's count of references to one, and looks whether somebody
//! is to be told of it (`_PyReftracerTrack`, CPython `Include/internal/pycore_object.h`, 3.13 to 3.15). The conditional jump behind that
//! look always runs. An object that dies is looked after in the same way, without the count.

use std::cell::RefCell;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::code::{Code, Sweep};
use super::machine::number64;

/// Instructions between the count, the look and the jump.
const NEAR: usize = 12;

/// Notes the looks in a pass over all code.
#[derive(Debug)]
pub struct Looks {
    /// Address of the pointer to what is to be told; `None` where this version has none.
    tracer: Option<u64>,
    found: RefCell<Vec<Instruction>>,
}

/// The jump that a new object passes, and where it is then: a register, and what is to be added to it.
pub struct Passed {
    pub jump: Instruction,
    pub register: u8,
    pub plus: i64,
}

impl Looks {
    pub fn new(tracer: Option<u64>) -> Self {
        Self { tracer, found: RefCell::default() }
    }

    pub fn look_at(&self, instruction: &Instruction) {
        let Some(tracer) = self.tracer else { return };
        let reads = match instruction.mnemonic() {
            Mnemonic::Mov => instruction.op0_kind() == OpKind::Register && instruction.op1_kind() == OpKind::Memory,
            Mnemonic::Cmp => instruction.op0_kind() == OpKind::Memory,
            _ => false,
        };
        if reads && fixed_address(instruction) == Some(tracer) {
            self.found.borrow_mut().push(*instruction);
        }
    }

    /// The jumps that new objects pass, and how many there may be besides of which it cannot be told where the object is.
    pub fn passed(&self, code: &Code<'_>, sweep: &Sweep) -> (Vec<Passed>, usize) {
        let (mut passed, mut unresolved) = (Vec::new(), 0);
        let mut near = Near { code, sweep, factory: InstructionInfoFactory::new() };
        for look in self.found.borrow().iter() {
            let Some((jump, between)) = near.jump_behind(look) else {
                unresolved += 1;
                continue;
            };
            // In the order in which they run.
            let before = near.straight_before(look);
            let run: Vec<Instruction> = before.into_iter().chain([*look]).chain(between).collect();
            let stores: Vec<(usize, Register, i64)> = run
                .iter()
                .enumerate()
                .filter_map(|(n, i)| count_of_one(i).map(|(base, plus)| (n, base, plus)))
                .collect();
            // The nearest one.
            let Some(&(at, base, plus)) = stores.last() else { continue };
            match number64(base).filter(|_| !run[at + 1..].iter().any(|i| near.writes(i, base))) {
                Some(register) => passed.push(Passed { jump, register: register as u8, plus }),
                None => unresolved += 1,
            }
        }
        (passed, unresolved)
    }
}

/// Where an instruction's memory operand is, if that is the same each time.
fn fixed_address(instruction: &Instruction) -> Option<u64> {
    if instruction.is_ip_rel_memory_operand() {
        return Some(instruction.ip_rel_memory_address());
    }
    let is_fixed = instruction.memory_base() == Register::None && instruction.memory_index() == Register::None;
    (is_fixed && instruction.memory_displ_size() >= 4).then(|| instruction.memory_displacement64())
}

/// What `movq $1,n(%base)` sets: the base and n.
fn count_of_one(instruction: &Instruction) -> Option<(Register, i64)> {
    let is_store = instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Memory
        && instruction.memory_size().size() == 8
        && instruction.memory_index() == Register::None
        && !matches!(instruction.memory_base(), Register::None | Register::RIP | Register::RSP);
    (is_store && instruction.try_immediate(1).is_ok_and(|one| one == 1))
        .then(|| (instruction.memory_base(), instruction.memory_displacement64() as i64))
}

struct Near<'a> {
    code: &'a Code<'a>,
    sweep: &'a Sweep,
    factory: InstructionInfoFactory,
}

impl Near<'_> {
    /// The first jump behind a look, with what lies between; `None` where something else leads there too.
    fn jump_behind(&self, look: &Instruction) -> Option<(Instruction, Vec<Instruction>)> {
        let mut between = Vec::new();
        let mut address = look.next_ip();
        for _ in 0..NEAR {
            let instruction = self.code.decode(address)?;
            if self.sweep.jumps_to(address).next().is_some() {
                return None;
            }
            match instruction.flow_control() {
                FlowControl::Next => between.push(instruction),
                FlowControl::ConditionalBranch => return Some((instruction, between)),
                _ => return None,
            }
            address = instruction.next_ip();
        }
        None
    }

    /// What runs right before a look on all ways to it, in order.
    fn straight_before(&self, look: &Instruction) -> Vec<Instruction> {
        let Some(range) = self.code.functions.containing(look.ip()) else { return Vec::new() };
        let mut straight: Vec<Instruction> = Vec::new();
        for instruction in &mut self.code.instructions(&(range.start..look.ip())) {
            if self.sweep.jumps_to(instruction.ip()).next().is_some() {
                straight.clear();
            }
            straight.push(instruction);
            if instruction.flow_control() != FlowControl::Next {
                straight.clear();
            }
        }
        if self.sweep.jumps_to(look.ip()).next().is_some() {
            straight.clear();
        }
        let near = straight.len().saturating_sub(NEAR);
        straight.split_off(near)
    }

    fn writes(&mut self, instruction: &Instruction, register: Register) -> bool {
        let mut used = self.factory.info(instruction).used_registers().iter();
        used.any(|used| {
            used.register().full_register() == register
                && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
        })
    }
}
