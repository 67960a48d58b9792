//! Reading frames many at a time: they lie one behind the other on the interpreter's own stack, and a call of
//! `bpf_probe_read_user` costs as much for 1000 bytes as for 8.

use leaktrace_common::walk::{FrameWords, PythonLayout, ReadFrames, ReadTarget};

use crate::target::{Target, read_into};

/// Most bytes fetched at once.
const WINDOW: u64 = 4096;
/// Bytes fetched at once where how far the frames reach is not known.
const UNKNOWN: u64 = 1216;
/// No piece of the interpreter's stack of frames is asked to be longer (`DATA_STACK_CHUNK_SIZE`, CPython `Python/pystate.c`).
const CHUNK: u64 = 16 << 10;
/// Largest part of a frame that the walk looks at.
const FRAME: u64 = 128;
const PAGE: u64 = 4096;

/// A copy of a piece of the target's memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Window {
    /// With room past the end, so that an index needs one check.
    words: [u64; ((WINDOW + FRAME) / 8) as usize + 1],
}

/// Reads frames through a window.
pub struct WindowReader<'a> {
    window: &'a mut Window,
    base: u64,
    end: u64,
    /// Frames lie one behind the other; else each is an object of its own.
    contiguous: bool,
    /// The lowest frame of the walk before this: how far frames lie one behind the other.
    reach: u64,
    /// The first frame seen in this window, and the last.
    highest: u64,
    lowest: u64,
}

impl<'a> WindowReader<'a> {
    /// An empty window: what it held belongs to an earlier event.
    #[inline(always)]
    pub fn new(window: &'a mut Window, layout: &PythonLayout, reach: u64) -> Self {
        Self { window, base: 0, end: 0, contiguous: layout.instr_is_offset == 0, reach, highest: 0, lowest: 0 }
    }

    /// The lowest frame of a piece of the stack of frames, for the next walk.
    #[inline(always)]
    pub fn reached(&self) -> u64 {
        if self.lowest < self.highest { self.lowest } else { self.reach }
    }

    #[inline(always)]
    fn fetch(&mut self, start: u64, end: u64) -> bool {
        self.reach = self.reached();
        self.highest = start;
        // SAFETY: the window is a map value.
        self.base =
            unsafe { fetch_below(&raw mut *self.window, start, end, if self.contiguous { self.reach } else { end }) };
        self.end = end;
        self.base != 0
    }
}

/// Copies the memory up to `end` into the window, from as far below as frames reached last time, else from where the frame's
/// page begins: the callers' frames lie below. Where the copy begins, 0 when the frame at `start` cannot be read.
///
/// A global function: the verifier proves it once, not for each frame.
///
/// # Safety
///
/// `window` points at a map value.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn fetch_below(window: *mut Window, start: u64, end: u64, reach: u64) -> u64 {
    // SAFETY: by the caller.
    let Some(window) = (unsafe { window.as_mut() }) else { return 0 };
    if reach <= start && start - reach < CHUNK {
        let low = if end - reach > WINDOW { end - WINDOW } else { reach };
        if copy(window, low, end) {
            return low;
        }
    }
    let page = start & !(PAGE - 1);
    let low = if reach == end {
        start
    } else if end - page > UNKNOWN {
        end - UNKNOWN
    } else {
        page
    };
    if copy(window, low, end) { low } else { 0 }
}

#[inline(always)]
fn copy(window: &mut Window, low: u64, end: u64) -> bool {
    let len = end - low;
    len <= WINDOW && read_into(window.words.as_mut_ptr().cast(), len as u32, low)
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
        if (start < self.base || end > self.end) && !self.fetch(start, end) {
            return None;
        }
        // Opaque, so that the comparison is on the very register that indexes: the verifier cannot relate two.
        let index = core::hint::black_box((start - self.base) / 8);
        if index > WINDOW / 8 {
            return None;
        }
        let at = |offset: u32| self.window.words[(index + u64::from(offset / 8) % (FRAME / 8)) as usize];
        self.lowest = start;
        Some(FrameWords::new(layout, at))
    }
}
