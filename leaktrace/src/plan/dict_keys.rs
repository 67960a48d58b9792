//! Where dict keys are taken from their free list. They are no objects, so what tells of objects does not tell of them; without
//! a probe the keys of a dict that leaks would stay with the line that made them first, and accuse it.
//!
//! `new_keys_object` (CPython `Objects/dictobject.c`, 3.10 to 3.13) loads them from an array in the interpreter's state; each of
//! its inlined copies does so at that array's offset, with an index. So does the code that empties the list, but it hands
//! them on at once.

use std::cell::RefCell;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use leaktrace_common::site::{Operand, reg};

use super::code::{Code, Sweep};
use super::machine::number64;
use super::placement::{self, Place};

/// Bytes of an entry of the list.
const ENTRY: u64 = 8;

/// Notes the loads in a pass over all code.
#[derive(Debug)]
pub struct Loads {
    /// Offset of the array in `PyInterpreterState`, `None` where this version has none.
    offset: Option<u64>,
    found: RefCell<Vec<Instruction>>,
}

impl Loads {
    pub fn new(offset: Option<u32>) -> Self {
        Self { offset: offset.map(u64::from), found: RefCell::default() }
    }

    pub fn look_at(&self, instruction: &Instruction) {
        let Some(offset) = self.offset else { return };
        let indexed = instruction.mnemonic() == Mnemonic::Mov
            && instruction.op0_kind() == OpKind::Register
            && instruction.op1_kind() == OpKind::Memory
            && number64(instruction.op0_register()).is_some()
            && instruction.memory_base() != Register::None
            && u64::from(instruction.memory_index_scale()) == ENTRY
            && instruction.memory_index() != Register::None;
        // The index is the number of entries, before or after it was counted down.
        let displacement = instruction.memory_displacement64();
        if indexed && (displacement == offset || displacement == offset - ENTRY) {
            self.found.borrow_mut().push(*instruction);
        }
    }

    /// A probe after each load, with the keys as its first operand and whether they may be fresh as its second; and how many
    /// loads there is no place behind.
    pub fn places(&self, code: &Code<'_>, sweep: &Sweep) -> (Vec<Place>, usize) {
        let (mut places, mut unresolved) = (Vec::new(), 0);
        for load in self.found.borrow().iter() {
            let argument = number64(load.op0_register()) == Some(usize::from(reg::RDI));
            match placement::after_load(code, sweep, load) {
                // An argument of a call: the list is being emptied.
                _ if argument => {}
                Some((place, joined)) => places.push(Place { b: Operand::immediate(i32::from(joined)), ..place }),
                None => unresolved += 1,
            }
        }
        (places, unresolved)
    }
}
