//! The same pass as over the arenas of pymalloc, over the segments of mimalloc.
//!
//! Its pages tell what may be in them: those of two heaps hold nothing but objects that the collector knows, at a known place of
//! each block, those of a third other objects, and the rest none.

use std::collections::HashSet;

use crate::cpython::mimalloc::{Page, Segment};
use crate::cpython::offsets::Mimalloc;
use crate::cpython::threads;

use super::Type;
use super::labels::{ArenaLabels, Label, Labels, PoolShape};
use super::look::{DEBUG_HEADER, Found, Look, debug_size};
use super::scan::{Allocator, Scan, Window};
use super::{CensusError, Subject};
use crate::target::words::{u32_at, u64_at};

/// Times that a page is read before it is given up.
const TRIES: usize = 4;
/// Most bytes that are read of a block that has a page of its own: its beginning says what it is.
const HEAD: u64 = 1 << 16;

impl Scan<'_> {
    /// What is known of the segments before they are read.
    pub(super) fn of_mimalloc(subject: &Subject<'_>) -> Result<(Allocator, Labels), CensusError> {
        let Subject { pid, memory, offsets, maps, runtime, .. } = *subject;
        // `sys.modules`, an object that every interpreter has.
        let main = threads::main_interpreter(memory, offsets, runtime)?;
        let modules = memory.u64(main.wrapping_add(offsets.interpreter.modules.into()))?;
        let found = Mimalloc::find(offsets.mimalloc(), memory, maps, modules);
        let (layout, segments) = found.map_err(|reason| CensusError::Mimalloc { pid, reason })?;
        let slice = layout.slice();
        let usual = u64::from(layout.segment_size) / slice;
        let arenas = segments.iter().map(|segment| {
            let stretched = segment.slices > usual;
            ArenaLabels {
                address: segment.address,
                size: segment.slices * slice,
                first: segment.address,
                // Of a huge block the page begins right behind the header.
                slots: if stretched { layout.header_bytes(segment) / slice + 1 } else { segment.slices } as usize,
                stretched,
                overhead: layout.header_bytes(segment),
                unused: segment.kept_slices * slice,
                ..ArenaLabels::default()
            }
        });
        let labels = Labels::new(slice, Vec::new(), arenas.collect());
        Ok((Allocator::Mimalloc(layout, segments), labels))
    }

    /// Bytes of a generator or frame object, whose beginning is `object`: up to the local variables and the value stack of its
    /// frame, and those (`gen_sizeof`, Objects/genobject.c, and `frame_sizeof`, Objects/frameobject.c, of 3.11 to 3.15).
    pub(super) fn frame_bytes(&self, of: &Type, object: &[u8]) -> Option<u64> {
        let (generator, frame) = (&self.offsets.generator, &self.offsets.frame_object);
        let of_frame = self.offsets.frame;
        let (fixed, code) = if of.name == "frame" {
            let at = u64_at(object, frame.frame)?.checked_add(of_frame.code.into())?;
            (frame.data, self.memory.u64(at).ok()?)
        } else {
            (generator.frame, u64_at(object, generator.frame + of_frame.code)?)
        };
        let code = code & !u64::from(self.offsets.references.tags);
        let int = |offset: u32| u32_at(&self.memory.bytes(code.checked_add(offset.into())?, 4).ok()?, 0);
        let slots = u64::from(int(self.offsets.code.nlocalsplus)?) + u64::from(int(self.offsets.code.stacksize)?);
        Some(u64::from(fixed) + u64::from(of_frame.localsplus) + 8 * slots)
    }

    /// Reads all pages.
    pub(super) fn segments(&mut self, layout: &Mimalloc, segments: &[Segment]) {
        let mut buffers = Buffers::default();
        for (number, segment) in segments.iter().enumerate() {
            self.labels.clear(number);
            let Some(pages) = layout.pages(self.memory, segment) else {
                self.tally.unreadable_bytes += segment.slices * layout.slice();
                continue;
            };
            let delayed = layout.delayed(self.memory, pages.iter());
            for page in pages {
                if let Some(page) = buffers.fill(self, layout, segment, page) {
                    self.page(layout, number, &page, &mut buffers, &delayed);
                } else {
                    let bytes = page.slices * layout.slice();
                    self.labels.unsettled(number, page.slice, page.slices as usize, bytes);
                }
            }
            self.finish(&Window::default());
        }
    }

    /// Labels the blocks of a page.
    fn page(&mut self, layout: &Mimalloc, segment: usize, page: &Page, buffers: &mut Buffers, delayed: &HashSet<u64>) {
        let places = places(layout, page);
        let first = self.labels.arenas[segment].first + page.slice as u64 * layout.slice();
        let header = page.start - first;
        let shape = PoolShape {
            header: header as u32,
            block: page.block,
            capacity: page.capacity,
            slots: page.slices as usize,
            bytes: header + page.len(),
        };
        let Some(first) = self.labels.pool(segment, page.slice, &shape) else {
            self.labels.unsettled(segment, page.slice, shape.slots, shape.bytes);
            return;
        };
        let mut found = Found::default();
        let mut undecided = Vec::new();
        let Buffers { bytes, free } = buffers;
        let size = page.block as usize;
        let blocks = (0..page.capacity).filter(|block| free[block / 64] & (1 << (block % 64)) == 0);
        for block in blocks {
            let place = first + block;
            let (from, whole) = (block * size, page.block);
            if places.is_empty() {
                let label = if delayed.contains(&(page.start + from as u64)) { Label::FREE } else { Label::UNKNOWN };
                self.labels.set(place, label);
                continue;
            }
            let content = &bytes[from.min(bytes.len())..(from + size).min(bytes.len())];
            let (at, whole) = match debug_size(content, whole) {
                Some(requested) => (DEBUG_HEADER, requested),
                None => (0, whole),
            };
            let content = &content[at..content.len().min(at + whole as usize)];
            let at = page.start + (from + at) as u64;
            match self.look(content, whole, places, &mut found) {
                Look::Undecided => undecided.push((place, from, at, content, whole)),
                Look::Waiting | Look::Other if delayed.contains(&(page.start + from as u64)) => {
                    self.labels.set(place, Label::FREE);
                }
                look => self.settle(place, at, content, look, &found),
            }
        }
        let mut missing = std::mem::take(&mut self.missing);
        self.types.resolve(&mut missing);
        self.missing = missing;
        for (place, from, at, content, whole) in undecided {
            let look = match self.look(content, whole, places, &mut found) {
                // Not known to be a type after it was asked: the table of types or of refusals is full.
                Look::Undecided => Look::Other,
                look => look,
            };
            if look != Look::Object && delayed.contains(&(page.start + from as u64)) {
                self.labels.set(place, Label::FREE);
                continue;
            }
            self.settle(place, at, content, look, &found);
        }
        self.missing.clear();
    }
}

/// Where in the blocks of a page an object may begin.
fn places(layout: &Mimalloc, page: &Page) -> &'static [u32] {
    match page.tag {
        tag if tag == layout.gc_heap => &[0],
        tag if tag == layout.gc_pre_heap => &[16],
        // A type without the collector may have two words before its instances too.
        tag if tag == layout.object_heap => &[0, 16],
        _ => &[],
    }
}

/// A page that was read.
#[derive(Default)]
struct Buffers {
    /// Its blocks; of a block that has the page to itself only the beginning.
    bytes: Vec<u8>,
    /// A bit for each block that is free.
    free: Vec<u64>,
}

impl Buffers {
    /// Reads a page until it does not contradict itself.
    fn fill(&mut self, scan: &mut Scan<'_>, layout: &Mimalloc, segment: &Segment, page: Page) -> Option<Page> {
        for _ in 0..TRIES {
            let now = layout.again(scan.memory, segment, &page)?;
            let len = match now.capacity {
                _ if now.is_full() && places(layout, &now).is_empty() => 0,
                1 => now.len().min(HEAD),
                _ => now.len(),
            };
            self.bytes.resize(len as usize, 0);
            if scan.memory.read(now.start, &mut self.bytes).is_ok() {
                scan.tally.read_bytes += len;
                if now.free_blocks(&self.bytes, &mut self.free).is_some() {
                    return Some(now);
                }
            }
        }
        None
    }
}
