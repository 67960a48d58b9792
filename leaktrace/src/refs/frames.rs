//! The frames of all threads: whose local variables hold what.

use std::collections::HashSet;

use leaktrace_common::walk::ABSENT;

use super::slot::Slot;
use super::visit::Visitor;
use crate::cpython::CodeInfo;
use crate::cpython::threads::InterpreterThreads;
use crate::target::Memory;

/// Most frames of one thread that are followed.
const MAX_FRAMES: usize = 1 << 16;
/// Most frames of one thread whose line is told.
const MAX_LINES: usize = 200;

/// One frame of a running thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameInfo {
    /// `threading.get_ident()` of its thread.
    pub thread: u64,
    /// How many frames are above it on the way to the thread's first.
    pub height: u32,
    pub function: String,
    pub file: String,
    pub line: Option<u32>,
    /// Address of the code object.
    pub code: u64,
}

/// Frames, and what each of them holds.
#[derive(Debug, Default)]
pub(super) struct Frames {
    pub(super) all: Vec<FrameInfo>,
    /// Index of the frame, place in it, address of the object.
    pub(super) held: Vec<(u32, Slot, u64)>,
}

impl Frames {
    pub(super) fn read(visitor: &mut Visitor<'_>, interpreters: &[InterpreterThreads]) -> Self {
        let mut frames = Self::default();
        for thread in interpreters.iter().flat_map(|interpreter| &interpreter.threads) {
            let mut seen = HashSet::new();
            let mut base = thread.frame;
            let mut depth = 0;
            let first = frames.all.len();
            while base != 0 && seen.len() < MAX_FRAMES && seen.insert(base) {
                if frames.add(visitor, base, thread.thread_id, depth) {
                    depth += 1;
                }
                let previous = base.wrapping_add(visitor.offsets.frame.previous.into());
                base = visitor.memory.u64(previous).unwrap_or(0);
            }
            for (height, frame) in frames.all[first..].iter_mut().rev().enumerate() {
                frame.height = height as u32;
            }
        }
        frames
    }

    /// Adds a frame, if it is one of a Python function.
    fn add(&mut self, visitor: &mut Visitor<'_>, base: u64, thread: u64, depth: u32) -> bool {
        let code = visitor.code_of(base);
        let Ok(info) = CodeInfo::read(&visitor.memory, visitor.offsets, code) else { return false };
        let of = visitor.offsets.frame;
        let line = if depth as usize > MAX_LINES {
            None
        } else {
            let position = base.wrapping_add(of.instr.into());
            let position = if visitor.offsets.code.instructions == ABSENT {
                visitor.memory.u32(position).map(|lasti| i64::from(lasti as i32) as u64)
            } else {
                visitor.memory.u64(position)
            };
            position.ok().and_then(|position| info.line_of(position))
        };
        let frame = self.all.len() as u32;
        self.all.push(FrameInfo { thread, height: 0, function: info.qualname, file: info.filename, line, code });
        let held = &mut self.held;
        let each = &mut |slot, address| held.push((frame, slot, address));
        if visitor.offsets.frame.function == ABSENT {
            visitor.locals(base, each);
        } else {
            visitor.frame(base, each);
        }
        true
    }
}
