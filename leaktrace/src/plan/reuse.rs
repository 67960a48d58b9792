//! Where an object is taken from a free list. No allocator is asked then: without a probe there its block would stay with
//! the line that first allocated it.
//!
//! Each new object, fresh or reused, passes `_Py_NewReference`, which tells tracemalloc when that runs (CPython
//! `Objects/object.c`, 3.8 to 3.12). Whether inlined or not there is a call, and before that of an inlined copy the
//! conditional jump around it, which always runs. Where the object came from is read backwards from there: one that an
//! allocator gave is known already, one that was loaded from memory is a reused one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
use leaktrace_common::site::{Operand, reg};

use super::code::{Code, Sweep};
use super::machine::{CALLER_SAVED, number64};
use super::new_reference::{NewReference, TELL_TRACEMALLOC};
use super::tracked::{Looks, Passed};

/// Steps of one walk backwards before it is given up.
const STEPS: usize = 4000;
/// Offset of `freeblock` in `struct pool_header` (CPython `Objects/obmalloc.c`, 3.8 to 3.11; `pycore_obmalloc.h` later).
const FREE_BLOCK: u64 = 8;

/// A place that objects from a free list pass.
#[derive(Debug, Clone)]
pub struct Reuse {
    /// The call, or the conditional jump around it.
    pub instruction: Instruction,
    pub object: Operand,
    /// Objects that an allocator gave pass it as well.
    pub joined: bool,
}

/// All places where an object becomes one.
#[derive(Debug, Default)]
pub struct Found {
    pub reuses: Vec<Reuse>,
    /// Places that only objects fresh from an allocator pass.
    pub fresh: usize,
    /// Places where it could not be told which register holds the object.
    pub unresolved: usize,
}

/// Finds the places in all code. `looks`: what was noted of inlined copies when `sweep` was made. `usedpools`: the addresses of
/// pymalloc's table of pools. `None`: this build has no `_Py_NewReference` that is called, and none whose inlined copies can be told.
pub(super) fn find(
    code: &Code<'_>,
    sweep: &Sweep,
    new_reference: NewReference,
    looks: &Looks,
    usedpools: &Range<u64>,
) -> Option<Found> {
    let NewReference { functions, own, tell_tracemalloc, tracer } = new_reference;
    let mut backwards = Backwards { code, sweep, factory: InstructionInfoFactory::new(), functions: HashMap::new() };
    let object = Held::in_register(reg::RDI);
    let mut places: BTreeMap<u64, (Instruction, Held)> = BTreeMap::new();
    let mut found = Found::default();
    let names = functions.into_iter().chain(stubs(code, sweep, "_Py_NewReference"));
    for call in names.flat_map(|callee| sweep.calls_of(callee)).filter_map(|call| code.decode(call)) {
        places.insert(call.ip(), (call, object));
    }
    if places.is_empty() && tell_tracemalloc.is_none() && tracer.is_none() {
        return None;
    }
    let (passed, unresolved) = looks.passed(code, sweep);
    found.unresolved += unresolved;
    let is_own = |jump: &Instruction| own.iter().any(|range| range.contains(&jump.ip()));
    for Passed { jump, register, plus } in passed.into_iter().filter(|passed| !is_own(&passed.jump)) {
        places.insert(jump.ip(), (jump, Held { by: Holder::Register(register), plus }));
    }
    let tells = tell_tracemalloc.into_iter().chain(stubs(code, sweep, TELL_TRACEMALLOC));
    for call in
        tells.flat_map(|callee| sweep.calls_of(callee)).filter(|call| !own.iter().any(|range| range.contains(call)))
    {
        let jumps = backwards.jumps_before(call, object);
        found.unresolved += usize::from(jumps.is_empty());
        places.extend(jumps.into_iter().map(|(jump, held)| (jump.ip(), (jump, held))));
    }
    for (address, (instruction, held)) in places {
        let origins = backwards.origins(address, held);
        let reused = |origin: &Origin| matches!(*origin, Origin::Load(load) if backwards.is_free_list(load, usedpools));
        let (reuses, others): (Vec<Origin>, Vec<Origin>) = origins.into_iter().partition(reused);
        if reuses.is_empty() {
            found.fresh += 1;
            continue;
        }
        match held.operand() {
            Some(object) => found.reuses.push(Reuse { instruction, object, joined: !others.is_empty() }),
            None => found.unresolved += 1,
        }
    }
    Some(found)
}

/// Entries of the procedure linkage table that lead to a symbol, of those that are called.
fn stubs(code: &Code<'_>, sweep: &Sweep, symbol: &str) -> Vec<u64> {
    if code.imports(symbol).is_empty() {
        return Vec::new();
    }
    sweep.callees().filter(|&stub| code.is_stub_of(stub, &[symbol])).collect()
}

/// Where a value is at some instruction: what a register or a stack slot holds, plus a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    by: Holder,
    plus: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Register(u8),
    /// The word at this offset from the stack pointer.
    Stack(i64),
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// The result of a call or a block from an inlined allocator.
    Fresh,
    /// A word in memory, read by the instruction at this address.
    Load(u64),
    /// The function's caller had it.
    Argument,
    /// Computed: a block plus what lies before the object in it, which only an allocator's caller adds.
    Computed,
}

impl Held {
    const fn in_register(register: u8) -> Self {
        Self { by: Holder::Register(register), plus: 0 }
    }

    const fn on_stack(offset: i64) -> Self {
        Self { by: Holder::Stack(offset), plus: 0 }
    }

    fn operand(self) -> Option<Operand> {
        match self.by {
            Holder::Register(register) => {
                Some(Operand { disp: i32::try_from(self.plus).ok()?, ..Operand::register(register) })
            }
            Holder::Stack(offset) if self.plus == 0 => Some(Operand::memory(reg::RSP, i32::try_from(offset).ok()?)),
            Holder::Stack(_) => None,
        }
    }
}

/// Walks from an instruction to those that may have run before it.
struct Backwards<'a> {
    code: &'a Code<'a>,
    sweep: &'a Sweep,
    factory: InstructionInfoFactory,
    /// Instructions of the functions visited, by the function's start.
    functions: HashMap<u64, Vec<Instruction>>,
}

impl Backwards<'_> {
    /// The instructions that may run right before `address`. None: a function starts there, or a table of jumps leads there.
    fn before(&mut self, address: u64) -> Vec<Instruction> {
        let mut sources: Vec<Instruction> =
            self.sweep.jumps_to(address).filter_map(|jump| self.code.decode(jump)).collect();
        if let Some(range) = self.code.functions.containing(address) {
            let code = self.code;
            let instructions =
                self.functions.entry(range.start).or_insert_with(|| code.instructions(&range).into_iter().collect());
            let index = instructions.partition_point(|i| i.ip() < address);
            sources.extend(index.checked_sub(1).and_then(|i| instructions.get(i)).filter(|i| falls_through(i)));
        }
        sources
    }

    /// The nearest conditional jumps before a call, and where they have what the call gets in `held`.
    fn jumps_before(&mut self, call: u64, held: Held) -> Vec<(Instruction, Held)> {
        let mut jumps = Vec::new();
        let mut seen = BTreeSet::new();
        let mut work = vec![(call, held)];
        while let Some((address, held)) = work.pop() {
            for source in self.before(address) {
                if source.flow_control() == FlowControl::ConditionalBranch {
                    jumps.push((source, held));
                } else if let Ok(held) = self.undo(&source, held)
                    && seen.len() < STEPS
                    && seen.insert((source.ip(), held))
                {
                    work.push((source.ip(), held));
                }
            }
        }
        jumps
    }

    /// Where what is `held` before the instruction at `address` may have come from.
    fn origins(&mut self, address: u64, held: Held) -> BTreeSet<Origin> {
        let mut origins = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut work = vec![(address, held)];
        while let Some((address, held)) = work.pop() {
            let sources = self.before(address);
            if sources.is_empty() {
                origins.insert(Origin::Argument);
            }
            for source in sources {
                match self.undo(&source, held) {
                    Err(origin) => {
                        origins.insert(origin);
                    }
                    Ok(held) if seen.len() < STEPS => {
                        if seen.insert((source.ip(), held)) {
                            work.push((source.ip(), held));
                        }
                    }
                    Ok(_) => {
                        origins.insert(Origin::Computed);
                    }
                }
            }
        }
        origins
    }

    /// Whether the instruction at `load` reads the head of a free list. Lists lie in the interpreter's state, which code finds
    /// by its own means: what a caller points at is something else (`_PyBytes_Resize`), and so is a pool's free block.
    fn is_free_list(&mut self, load: u64, usedpools: &Range<u64>) -> bool {
        let Some(load) = self.code.decode(load) else { return false };
        let Some(base) = number64(load.memory_base()) else { return true };
        let of_base = self.origins(load.ip(), Held::in_register(base as u8));
        if of_base.iter().all(|origin| *origin == Origin::Argument) {
            return false;
        }
        let may_be_pool = load.memory_displacement64() == FREE_BLOCK && load.memory_index() == Register::None;
        !may_be_pool
            || !of_base.into_iter().any(|origin| match origin {
                Origin::Load(pool) => {
                    self.code.decode(pool).is_some_and(|i| usedpools.contains(&i.memory_displacement64()))
                }
                _ => false,
            })
    }

    /// Where a value was before `instruction` ran, given where it is afterwards; or where it came from.
    fn undo(&mut self, instruction: &Instruction, held: Held) -> Result<Held, Origin> {
        match held.by {
            Holder::Register(register) => self.undo_register(instruction, register, held),
            Holder::Stack(offset) => self.undo_stack(instruction, offset, held),
        }
    }

    fn undo_register(&mut self, instruction: &Instruction, register: u8, held: Held) -> Result<Held, Origin> {
        let moved = |held_before: Held, plus: i64| Held { plus: held.plus.wrapping_add(plus), ..held_before };
        if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
            return match register {
                reg::RAX => Err(Origin::Fresh),
                register if CALLER_SAVED.contains(&register) => Err(Origin::Computed),
                _ => Ok(held),
            };
        }
        if instruction.op0_kind() == OpKind::Register
            && instruction.op0_register().full_register() == register64(register)
        {
            let wide = instruction.op0_register().is_gpr64();
            match (instruction.mnemonic(), instruction.op_count()) {
                (Mnemonic::Mov, _) if wide && instruction.op1_kind() == OpKind::Register => {
                    return number64(instruction.op1_register())
                        .map_or(Err(Origin::Computed), |n| Ok(moved(Held::in_register(n as u8), 0)));
                }
                (Mnemonic::Mov, _) if wide && instruction.op1_kind() == OpKind::Memory => {
                    return match stack_slot(instruction) {
                        Some(offset) => Ok(moved(Held::on_stack(offset), 0)),
                        None => Err(Origin::Load(instruction.ip())),
                    };
                }
                (Mnemonic::Mov, _)
                    if instruction.op1_kind() != OpKind::Register && instruction.op1_kind() != OpKind::Memory =>
                {
                    return Err(Origin::Computed);
                }
                (Mnemonic::Xor, _) if instruction.op0_register() == instruction.op1_register() => {
                    return Err(Origin::Computed);
                }
                (Mnemonic::Lea, _) if wide && instruction.memory_index() == Register::None => {
                    return number64(instruction.memory_base()).map_or(Err(Origin::Computed), |n| {
                        Ok(moved(Held::in_register(n as u8), instruction.memory_displacement64() as i64))
                    });
                }
                (Mnemonic::Add, 2) if wide && let Ok(k) = instruction.try_immediate(1) => {
                    return Ok(moved(held, k as i64));
                }
                (Mnemonic::Sub, 2) if wide && let Ok(k) = instruction.try_immediate(1) => {
                    return Ok(moved(held, (k as i64).wrapping_neg()));
                }
                (Mnemonic::Pop, _) if wide => return Ok(moved(Held::on_stack(0), 0)),
                _ => {}
            }
        }
        if self.writes(instruction, register) { Err(Origin::Computed) } else { Ok(held) }
    }

    fn undo_stack(&mut self, instruction: &Instruction, offset: i64, held: Held) -> Result<Held, Origin> {
        let at = |offset: i64| Held { by: Holder::Stack(offset), ..held };
        let stored =
            |n: Option<usize>| n.map_or(Err(Origin::Computed), |n| Ok(Held { by: Holder::Register(n as u8), ..held }));
        if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
            return Ok(held);
        }
        let to_stack_pointer =
            instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::RSP;
        match instruction.mnemonic() {
            Mnemonic::Push if offset == 0 => stored(number64(instruction.op0_register())),
            Mnemonic::Push => Ok(at(offset - 8)),
            Mnemonic::Pop => Ok(at(offset + 8)),
            Mnemonic::Sub if to_stack_pointer && let Ok(k) = instruction.try_immediate(1) => {
                Ok(at(offset.wrapping_sub(k as i64)))
            }
            Mnemonic::Add if to_stack_pointer && let Ok(k) = instruction.try_immediate(1) => {
                Ok(at(offset.wrapping_add(k as i64)))
            }
            _ if instruction.op0_kind() == OpKind::Memory
                && let Some(slot) = stack_slot(instruction) =>
            {
                let size = instruction.memory_size().size() as i64;
                if slot == offset && instruction.mnemonic() == Mnemonic::Mov && size == 8 {
                    stored(number64(instruction.op1_register()))
                } else if slot < offset.wrapping_add(8)
                    && offset < slot.wrapping_add(size)
                    && self.writes_memory(instruction)
                {
                    Err(Origin::Computed)
                } else {
                    Ok(held)
                }
            }
            _ if self.writes(instruction, reg::RSP) => Err(Origin::Computed),
            _ => Ok(held),
        }
    }

    fn writes(&mut self, instruction: &Instruction, register: u8) -> bool {
        let register = register64(register);
        let used = self.factory.info(instruction).used_registers();
        used.iter().any(|used| used.register().full_register() == register && is_write(used.access()))
    }

    fn writes_memory(&mut self, instruction: &Instruction) -> bool {
        self.factory.info(instruction).used_memory().iter().any(|used| is_write(used.access()))
    }
}

fn is_write(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// The 64-bit register of a hardware number.
fn register64(number: u8) -> Register {
    Register::RAX + u32::from(number)
}

/// Offset from the stack pointer of a memory operand that is a plain stack slot.
fn stack_slot(instruction: &Instruction) -> Option<i64> {
    (instruction.memory_base() == Register::RSP && instruction.memory_index() == Register::None)
        .then(|| instruction.memory_displacement64() as i64)
}

fn falls_through(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall | FlowControl::ConditionalBranch
    )
}
