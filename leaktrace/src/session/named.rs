//! Stacks that were named and wait for the ledger. There may be hundreds of thousands of them, and deep ones, so each
//! distinct frame is held, and looked up in its line table, once.

use std::{collections::HashMap, sync::Arc};

use super::native::NativeFrame;
use crate::{
    cpython::code::CodeInfo,
    model::stacks::{FrameKind, FrameRef, Root},
};

/// A frame with its code object.
#[derive(Debug)]
struct PythonFrame {
    code: Arc<CodeInfo>,
    /// 0 where the line table does not tell.
    line: u32,
}

/// A stack that the kernel numbered.
#[derive(Debug)]
struct NamedStack {
    /// Dense stack number.
    number: u32,
    /// One of [`leaktrace_common::site::domain`].
    domain: u8,
    truncated: bool,
    /// How many of [`NamedStacks::chain`] are its own, innermost first.
    frames: u16,
    /// The caller of the C allocator, for stacks without Python frames.
    native: Option<Box<NativeFrame>>,
}

/// Stacks in the order in which they came.
#[derive(Debug, Default)]
pub struct NamedStacks {
    stacks: Vec<NamedStack>,
    /// Their frames one after the other, as indices of `frames`.
    chain: Vec<u32>,
    /// Where in `chain` the stack begins that is not ended yet.
    open: usize,
    frames: Vec<PythonFrame>,
    /// By the address of the `CodeInfo`, which `frames` keeps alive, and the frame's instruction; `None`: still being set up.
    index: HashMap<(usize, u64), Option<u32>>,
}

impl NamedStacks {
    /// Adds a frame to the stack that [`Self::push`] will end. Those still being set up are left out, as Python's own stacks
    /// leave them out.
    pub fn frame(&mut self, code: &Arc<CodeInfo>, instr: u64) {
        let frames = &mut self.frames;
        let frame = *self.index.entry((Arc::as_ptr(code).addr(), instr)).or_insert_with(|| {
            let id = frames.len() as u32;
            frames.push(PythonFrame { code: Arc::clone(code), line: code.line_of(instr).unwrap_or(0) });
            (!code.is_incomplete(instr)).then_some(id)
        });
        self.chain.extend(frame);
    }

    /// Ends a stack: its frames are those added since the last one.
    pub fn push(&mut self, number: u32, domain: u8, truncated: bool, native: Option<NativeFrame>) {
        let frames = (self.chain.len() - self.open) as u16;
        self.open = self.chain.len();
        self.stacks.push(NamedStack { number, domain, truncated, frames, native: native.map(Box::new) });
    }

    /// Shows each stack: its number, domain and frames, innermost first.
    pub fn each(&self, mut learn: impl FnMut(u32, u8, &[FrameRef<'_>], Root)) {
        let mut chain = &self.chain[..];
        let mut frames = Vec::new();
        for stack in &self.stacks {
            let (own, rest) = chain.split_at(stack.frames.into());
            chain = rest;
            frames.clear();
            frames.extend(own.iter().map(|&id| {
                let PythonFrame { code, line } = &self.frames[id as usize];
                FrameRef { kind: FrameKind::Python, function: &code.qualname, file: &code.filename, line: *line }
            }));
            if let Some(native) = &stack.native {
                frames.push(FrameRef {
                    kind: FrameKind::Native,
                    function: &native.function,
                    file: &native.file,
                    line: 0,
                });
            }
            learn(stack.number, stack.domain, &frames, if stack.truncated { Root::Truncated } else { Root::Whole });
        }
    }
}
