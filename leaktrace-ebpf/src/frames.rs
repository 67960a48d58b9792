//! Reading frames many at a time: they lie one behind the other on the interpreter's own stack, and a call of
//! `bpf_probe_read_user` costs as much for 1000 bytes as for 8.

use leaktrace_common::walk::{FrameWords, PythonLayout, ReadFrames, ReadTarget};

use crate::{
    maps::config,
    target::{Target, read_into},
};

/// Most bytes of the stack of frames that are fetched at once.
const STACK: u64 = 4096;
/// Most bytes fetched where frames seem to lie one behind the other, but not on the stack that the last walk saw.
const PIECE: u64 = 1216;
/// No piece of the interpreter's stack of frames is asked to be longer (`DATA_STACK_CHUNK_SIZE`, CPython `Python/pystate.c`).
const CHUNK: u64 = 16 << 10;
/// Largest part of a frame that the walk looks at.
const FRAME: u64 = 128;
const PAGE: u64 = 4096;
const WORDS: u64 = (STACK + PIECE) / 8;

/// Copies of two pieces of the target's memory: of the stack of frames, and of frames beside it. A generator's frame lies in the
/// generator, and the frames of its callers on the stack again.
///
/// What it knows lies here too, not in registers: so the verifier has less to tell apart in a loop.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Window {
    stack: Span,
    beside: Span,
    /// The one that the walk is in.
    current: Span,
    /// The lowest frame on the stack of frames: of the walk before this, once seen of this; 0: not known.
    reach: u64,
    /// The first frame in the piece beside it.
    highest: u64,
    /// The last frame there.
    lowest: u64,
    /// With room past the end, so that an index needs one check.
    words: [u64; (WORDS + FRAME / 8) as usize + 1],
}

/// The addresses that a copy is of; none, if `end` is 0.
#[repr(C)]
#[derive(Clone, Copy)]
struct Span {
    base: u64,
    end: u64,
    /// Address of what would be at index 0 of [`Window::words`].
    origin: u64,
}

impl Span {
    #[inline(always)]
    const fn holds(&self, start: u64, end: u64) -> bool {
        start >= self.base && end <= self.end
    }
}

impl Window {
    /// The walk has been at the frame at `last`.
    #[inline(always)]
    fn leave(&mut self, last: u64) {
        if self.current.end == 0 {
            return;
        }
        if self.stack.end != 0 && self.current.origin == self.stack.origin {
            self.reach = last;
        } else {
            self.lowest = last;
        }
    }

    /// Makes the copy that has the memory from `start` to `end` the current one, or such a copy.
    #[inline(always)]
    fn turn_to(&mut self, start: u64, end: u64) -> bool {
        if self.stack.holds(start, end) {
            self.current = self.stack;
        } else if self.beside.holds(start, end) {
            self.current = self.beside;
        } else if !self.fetch_stack(start, end) {
            return self.fetch_beside(start, end);
        }
        true
    }

    /// The callers' frames lie below a frame on the stack, as far down as they reached last time.
    #[inline(always)]
    fn fetch_stack(&mut self, start: u64, end: u64) -> bool {
        if self.reach == 0 || start.wrapping_sub(self.reach) >= CHUNK || config().python.instr_is_offset != 0 {
            return false;
        }
        let low = if end.wrapping_sub(self.reach) > STACK { end - STACK } else { self.reach };
        let len = end.wrapping_sub(low);
        if len > STACK || !read_into(self.words.as_mut_ptr().cast(), len as u32, low) {
            return false;
        }
        self.stack = Span { base: low, end, origin: low };
        self.current = self.stack;
        true
    }

    /// A frame elsewhere comes alone, unless the one before it lay just above.
    #[inline(always)]
    fn fetch_beside(&mut self, start: u64, end: u64) -> bool {
        let follows = self.lowest.wrapping_sub(start) < PIECE && config().python.instr_is_offset == 0;
        let page = start & !(PAGE - 1);
        let low = if !follows {
            start
        } else if end.wrapping_sub(page) > PIECE {
            end - PIECE
        } else {
            page
        };
        if !follows {
            self.highest = start;
        }
        let len = end.wrapping_sub(low);
        if len > PIECE || !read_into(self.words[(STACK / 8) as usize..].as_mut_ptr().cast(), len as u32, low) {
            return false;
        }
        self.beside = Span { base: low, end, origin: low.wrapping_sub(STACK) };
        self.current = self.beside;
        true
    }
}

/// Turns a window to the memory from `start` to `end`, from that of the frame at `last`. 0 when it cannot be read.
///
/// A global function: the verifier proves it once, not for each frame.
///
/// # Safety
///
/// `window` points at a map value.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn turn(window: *mut Window, start: u64, end: u64, last: u64) -> u32 {
    // SAFETY: by the caller.
    let Some(window) = (unsafe { window.as_mut() }) else { return 0 };
    window.leave(last);
    window.turn_to(start, end).into()
}

/// Reads frames through a window.
pub struct WindowReader<'a> {
    window: &'a mut Window,
    current: Span,
    /// The frame that was read last.
    last: u64,
}

impl<'a> WindowReader<'a> {
    /// An empty window: what it held belongs to an earlier event. `reach`: what [`Self::reached`] gave after the walk before.
    #[inline(always)]
    pub fn new(window: &'a mut Window, reach: u64) -> Self {
        // One by one: of many words at once the compiler makes a call that sets byte by byte.
        for word in [
            &raw mut window.stack.end,
            &raw mut window.beside.end,
            &raw mut window.current.end,
            &raw mut window.highest,
            &raw mut window.lowest,
        ] {
            // SAFETY: fields of a map value.
            unsafe { word.write_volatile(0) };
        }
        window.reach = reach;
        Self { window, current: Span { base: 0, end: 0, origin: 0 }, last: 0 }
    }

    /// The lowest frame on the stack of frames, for the next walk.
    #[inline(always)]
    pub fn reached(self) -> u64 {
        self.window.leave(self.last);
        // Several behind each other where no stack was known: that is it.
        let is_new = self.window.stack.end == 0 && self.window.lowest < self.window.highest;
        if is_new { self.window.lowest } else { self.window.reach }
    }
}

impl ReadTarget for WindowReader<'_> {
    #[inline(always)]
    fn word(&self, address: u64) -> Option<u64> {
        Target.word(address)
    }
}

impl ReadFrames for WindowReader<'_> {
    #[inline(always)]
    fn frame(&mut self, layout: &PythonLayout, address: u64) -> Option<FrameWords> {
        let start = address + u64::from(layout.frame_window);
        let end = start + u64::from(layout.frame_window_len);
        if address & 7 != 0 || end - start > FRAME {
            return None;
        }
        if start < self.current.base || end > self.current.end {
            // SAFETY: the window is a map value.
            if unsafe { turn(&raw mut *self.window, start, end, self.last) } == 0 {
                return None;
            }
            self.current = self.window.current;
        }
        self.last = start;
        // Opaque, so that the comparison is on the very register that indexes: the verifier cannot relate two.
        let index = core::hint::black_box((start - self.current.origin) / 8);
        if index > WORDS {
            return None;
        }
        let at = |offset: u32| self.window.words[(index + u64::from(offset / 8) % (FRAME / 8)) as usize];
        Some(FrameWords::new(layout, at))
    }
}
