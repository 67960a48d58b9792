//! From raw records to named stacks. Records are taken in the order of the ring: a code object's copy comes before the
//! first stack that shows it, and a stack names the code that lay at an address at that moment.

use std::{collections::HashMap, sync::Arc};

use leaktrace_common::wire::{GcRecord, STACK_NO_PYTHON, STACK_TRUNCATED, StackRecord};

use super::named::NamedStacks;
use super::native::NativeNames;
use crate::{
    cpython::code::CodeInfo,
    target::Memory,
    tracer::ring::{self, Record},
};

/// What the ring has told, not yet taken by the ledger.
#[derive(Debug, Default)]
pub struct Symbols {
    codes: HashMap<u64, Arc<CodeInfo>>,
    stacks: NamedStacks,
    collections: Vec<GcRecord>,
    /// Stacks with a frame whose code object is not known.
    unnamed: u64,
    execed: bool,
}

impl Symbols {
    /// Takes a record over.
    pub fn apply(&mut self, bytes: &[u8], memory: &dyn Memory, native: &mut NativeNames) {
        match Record::decode(bytes) {
            Some(Record::Code(bytes)) => {
                if let Ok(code) = CodeInfo::from_record(bytes, Some(memory)) {
                    self.codes.insert(code.address, Arc::new(code));
                }
            }
            Some(Record::Stack { head, frames }) => self.stack(&head, frames, native),
            Some(Record::Gc(collection)) => self.collections.push(collection),
            Some(Record::Exec(_)) => self.execed = true,
            None => {}
        }
    }

    fn stack(&mut self, head: &StackRecord, frames: &[u8], native: &mut NativeNames) {
        for frame in ring::frames(frames) {
            match self.codes.get(&frame.code) {
                Some(code) => self.stacks.frame(code, frame.instr),
                None => self.unnamed += 1,
            }
        }
        let native = (head.flags & STACK_NO_PYTHON != 0 && head.native != 0).then(|| native.name(head.native));
        self.stacks.push(head.stack, head.domain, head.flags & STACK_TRUNCATED != 0, native);
    }

    /// The stacks that came since the last call.
    pub fn take_stacks(&mut self) -> NamedStacks {
        std::mem::take(&mut self.stacks)
    }

    /// The collections that came since the last call.
    pub fn take_collections(&mut self) -> Vec<GcRecord> {
        std::mem::take(&mut self.collections)
    }

    /// Frames that could not be named since the attach.
    pub fn unnamed(&self) -> u64 {
        self.unnamed
    }

    /// Whether the target replaced its program.
    pub fn execed(&self) -> bool {
        self.execed
    }
}
