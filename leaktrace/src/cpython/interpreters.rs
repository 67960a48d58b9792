//! The pools of interpreters that have an allocator of their own (PEP 684, 3.12 and later).

use leaktrace_common::walk::ABSENT;

use super::offsets::{Obmalloc, Offsets};
use super::{PymallocState, threads};
use crate::target::Memory;

/// Most interpreters that are looked at.
const MAX: usize = 1024;
/// Largest interpreter state that is searched, bytes.
const MAX_SIZE: u32 = 4 << 20;

/// Where each interpreter keeps the state of pymalloc: in its own state (`struct _obmalloc_state obmalloc`, 3.12), or in a block
/// that this points at (3.13; `Include/internal/pycore_interp.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerInterpreter {
    /// Address of the pointer to the newest interpreter.
    pub head: u64,
    /// The main interpreter, which every process has.
    pub main: u64,
    /// Offset in an interpreter's state, and whether a pointer is there.
    pub offset: u32,
    pub is_pointer: bool,
    next: u32,
    /// Offsets in the state of pymalloc.
    pub of: Obmalloc,
}

impl PerInterpreter {
    /// `None`: all interpreters of this version share one allocator.
    pub(super) fn find(memory: &dyn Memory, offsets: &Offsets, runtime: u64, state: &PymallocState) -> Option<Self> {
        let of = offsets.obmalloc;
        if of.used == ABSENT || offsets.interpreter.size > MAX_SIZE {
            return None;
        }
        let main = threads::main_interpreter(memory, offsets, runtime).ok()?;
        let base = state.usedpools.wrapping_sub(of.used.into());
        let head = runtime.wrapping_add(offsets.runtime.interpreters_head.into());
        let found = |offset, is_pointer| Self { head, main, offset, is_pointer, next: offsets.interpreter.next, of };
        let within = base.wrapping_sub(main);
        if within < offsets.interpreter.size.into() {
            return Some(found(within as u32, false));
        }
        let bytes = memory.bytes(main, offsets.interpreter.size as usize).ok()?;
        let mut pointers =
            bytes.as_chunks::<8>().0.iter().enumerate().filter(|(_, word)| u64::from_le_bytes(**word) == base);
        let (index, _) = pointers.next()?;
        Some(found(8 * index as u32, true))
    }

    /// The states of pymalloc of the interpreters beside the main one that have their own.
    pub(super) fn others(&self, memory: &dyn Memory, main: &PymallocState) -> Vec<PymallocState> {
        let mut found: Vec<PymallocState> = Vec::new();
        let mut interpreter = memory.u64(self.head).unwrap_or(0);
        let mut looked = 0;
        while interpreter != 0 && looked < MAX {
            looked += 1;
            if interpreter != self.main
                && let Some(state) = self.own(memory, interpreter, main)
                && found.iter().all(|known| known.arenas != state.arenas)
            {
                found.push(state);
            }
            interpreter = memory.u64(interpreter.wrapping_add(self.next.into())).unwrap_or(0);
        }
        found
    }

    fn own(&self, memory: &dyn Memory, interpreter: u64, main: &PymallocState) -> Option<PymallocState> {
        let at = interpreter.wrapping_add(self.offset.into());
        let base = if self.is_pointer { memory.u64(at).ok()? } else { at };
        let part = |offset: u32| base.wrapping_add(offset.into());
        let state = PymallocState {
            usedpools: part(self.of.used),
            arenas: part(self.of.arenas),
            maxarenas: part(self.of.maxarenas),
            raw_allocated_blocks: part(self.of.raw_allocated_blocks),
            ..*main
        };
        // Where an interpreter shares the main one's, 3.12 leaves its own zero.
        let is_set_up = base != 0 && memory.u64(state.usedpools).is_ok_and(|word| word != 0);
        (is_set_up && state.usedpools != main.usedpools).then_some(state)
    }
}
