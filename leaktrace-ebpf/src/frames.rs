//! Reading frames many at a time: they lie one behind the other on the interpreter's own stack, and a call of
//! `bpf_probe_read_user` costs as much for 1000 bytes as for 8.

use leaktrace_common::walk::{FrameWords, PythonLayout, ReadFrames, ReadTarget};

use crate::target::{Target, read_into};

/// Bytes fetched at once. (With the frames, an element of the map of threads stays under the 4 KiB that the kernel's BPF
/// allocator can give.)
const WINDOW: u64 = 1216;
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
    len: u64,
    /// Most bytes fetched at once: frames that are objects of their own are fetched one by one.
    most: u64,
}

impl<'a> WindowReader<'a> {
    /// An empty window: what it held belongs to an earlier event.
    #[inline(always)]
    pub fn new(window: &'a mut Window, layout: &PythonLayout) -> Self {
        let most = if layout.instr_is_offset == 0 { WINDOW } else { u64::from(layout.frame_window_len) };
        Self { window, base: 0, len: 0, most }
    }

    /// Fetches the memory up to `end`, as far below as the window and the page reach: the callers' frames lie below, and
    /// what shares a page with a frame is mapped.
    #[inline(always)]
    fn fetch(&mut self, start: u64, end: u64) -> bool {
        let page = start & !(PAGE - 1);
        let low = if end - page > self.most { end - self.most } else { page };
        let len = end - low;
        self.base = low;
        self.len = len;
        len <= WINDOW && read_into(self.window.words.as_mut_ptr().cast(), len as u32, low)
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
        if (start < self.base || end > self.base + self.len) && !self.fetch(start, end) {
            return None;
        }
        // Opaque, so that the comparison is on the very register that indexes: the verifier cannot relate two.
        let index = core::hint::black_box((start - self.base) / 8);
        if index > WINDOW / 8 {
            return None;
        }
        let at = |offset: u32| self.window.words[(index + u64::from(offset / 8) % (FRAME / 8)) as usize];
        Some(FrameWords::new(layout, at))
    }
}
