//! What the frames of the interpreter hold.

use leaktrace_common::walk::ABSENT;

use super::{Each, Visitor};
use crate::refs::slot::Slot;
use crate::target::Memory;

/// Most local variables, and most values on its stack, of a frame that is believed.
const MAX_LOCALS: u64 = 1 << 16;

impl Visitor<'_> {
    /// A frame of 3.11 and later: what it holds besides local variables, and those.
    pub(in crate::refs) fn frame(&mut self, base: u64, each: Each<'_>) {
        let of = self.offsets.frame;
        for offset in [of.function, of.locals, of.object, of.code] {
            if offset != ABSENT
                && let Ok(word) = self.memory.u64(base.wrapping_add(offset.into()))
                && self.untagged(word) != 0
            {
                each(Slot::Frame(offset), self.untagged(word));
            }
        }
        self.locals(base, each);
    }

    /// The reference without the bits that say how it is counted.
    pub(in crate::refs) fn untagged(&self, word: u64) -> u64 {
        word & !u64::from(self.offsets.references.tags)
    }

    /// Address of the code object of a frame.
    pub(in crate::refs) fn code_of(&self, base: u64) -> u64 {
        let code = self.memory.u64(base.wrapping_add(self.offsets.frame.code.into())).unwrap_or(0);
        self.untagged(code)
    }

    /// How many local variables, cells and free variables a function has.
    pub(in crate::refs) fn local_count(&self, code: u64) -> u64 {
        let of = self.offsets.code;
        let int = |offset: u32| self.memory.u32(code.wrapping_add(offset.into())).map_or(0, u64::from);
        let count = if of.nlocalsplus == ABSENT {
            let tuple = |offset: u32| {
                let tuple = self.memory.u64(code.wrapping_add(offset.into())).unwrap_or(0);
                self.memory.u64(tuple.wrapping_add(self.offsets.var_object.size.into())).unwrap_or(0).min(MAX_LOCALS)
            };
            tuple(of.varnames) + tuple(of.cellvars) + tuple(of.freevars)
        } else {
            int(of.nlocalsplus)
        };
        count.min(MAX_LOCALS)
    }

    /// Local variables and the value stack, as far as its depth is known: not of the function that is just running.
    pub(in crate::refs) fn locals(&mut self, base: u64, each: Each<'_>) {
        let of = self.offsets.frame;
        let count = self.local_count(self.code_of(base));
        let start = base.wrapping_add(of.localsplus.into());
        let tags = !u64::from(self.offsets.references.tags);
        self.words(start, count, &mut |index, word| each(Slot::Local(index as u32), word & tags));
        let depth = self.stack_depth(base, start, count);
        self.words(start.wrapping_add(8 * count), depth, &mut |index, word| {
            each(Slot::Stack(index as u32), word & tags);
        });
    }

    pub(in crate::refs) fn stack_depth(&self, base: u64, start: u64, count: u64) -> u64 {
        let of = self.offsets.frame;
        let depth = if of.stack_pointer != ABSENT {
            let pointer = self.memory.u64(base.wrapping_add(of.stack_pointer.into())).unwrap_or(0);
            (pointer.wrapping_sub(start) / 8).wrapping_sub(count)
        } else if of.stack_depth != ABSENT {
            let depth = self.memory.u32(base.wrapping_add(of.stack_depth.into())).unwrap_or(0);
            // From 3.11 on it counts the local variables too.
            let before = if of.function == ABSENT { 0 } else { count };
            (i64::from(depth as i32) as u64).wrapping_sub(before)
        } else {
            0
        };
        if depth < MAX_LOCALS { depth } else { 0 }
    }
}
