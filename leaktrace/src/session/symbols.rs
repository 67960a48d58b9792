//! From raw records to named stacks. Records are taken in the order of the ring: a code object's copy comes before the
//! first stack that shows it, and a stack names the code that lay at an address at that moment.

use std::{collections::HashMap, sync::Arc};

use leaktrace_common::wire::{GcRecord, STACK_NO_PYTHON, STACK_TRUNCATED, StackRecord};

use super::native::NativeNames;
use crate::{
    cpython::code::CodeInfo,
    target::Memory,
    tracer::ring::{self, Record},
};

/// A frame with its code object.
#[derive(Debug, Clone)]
pub struct PythonFrame {
    pub code: Arc<CodeInfo>,
    /// 0 where the line table does not tell.
    pub line: u32,
}

/// A stack that the kernel numbered, named.
#[derive(Debug, Clone)]
pub struct NamedStack {
    /// Dense stack number.
    pub number: u32,
    /// One of [`leaktrace_common::site::domain`].
    pub domain: u8,
    pub truncated: bool,
    /// Innermost first; frames that are still being set up are left out, as Python's own stacks leave them out.
    pub frames: Vec<PythonFrame>,
    /// The caller of the C allocator, for stacks without Python frames.
    pub native: Option<NativeFrame>,
}

/// A native function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeFrame {
    pub function: String,
    pub file: String,
}

/// What the ring has told, not yet taken by the ledger.
#[derive(Debug, Default)]
pub struct Symbols {
    codes: HashMap<u64, Arc<CodeInfo>>,
    stacks: Vec<NamedStack>,
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
        let mut named = Vec::with_capacity(head.frames.into());
        for frame in ring::frames(frames) {
            let Some(code) = self.codes.get(&frame.code) else {
                self.unnamed += 1;
                continue;
            };
            if !code.is_incomplete(frame.instr) {
                named.push(PythonFrame { code: Arc::clone(code), line: code.line_of(frame.instr).unwrap_or(0) });
            }
        }
        self.stacks.push(NamedStack {
            number: head.stack,
            domain: head.domain,
            truncated: head.flags & STACK_TRUNCATED != 0,
            frames: named,
            native: (head.flags & STACK_NO_PYTHON != 0 && head.native != 0).then(|| native.name(head.native)),
        });
    }

    /// The stacks that came since the last call.
    pub fn take_stacks(&mut self) -> Vec<NamedStack> {
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
