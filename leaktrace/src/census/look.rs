//! What a block looks like: whether it holds an object, and what that says of itself.

use leaktrace_common::walk::ABSENT;

use super::object::{self, Object};
use super::regions::Region;
use super::scan::{Allocator, Scan};
use super::types::{Shape, Type};
use crate::target::words::u64_at;

/// What a block looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Object,
    /// An object that was freed and waits for its type to need it again.
    Waiting,
    Other,
    /// It may be an object if some addresses turn out to be types.
    Undecided,
}

/// An object. To hand it on by value took a fifth of a census: it is filled in where it is.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Of its type.
    pub(super) number: u16,
    /// Where it begins in the bytes that were looked at.
    pub(super) at: usize,
    pub(super) object: Object,
    /// The collector tracks it.
    pub(super) tracked: bool,
    /// The collector leaves it alone (`gc.freeze()`), as far as the object itself says so.
    pub(super) frozen: bool,
    /// What the collector's lists have before and after it, if there are lists and it is in one.
    pub(super) links: Option<(u64, u64)>,
}

impl Scan<'_> {
    /// Decides what is in a block, in which an object may begin at `places`; it is put into `found`.
    #[inline]
    pub(super) fn look(&mut self, bytes: &[u8], size: u64, places: &[u32], found: &mut Found) -> Look {
        let type_at = self.offsets.object.type_;
        let before = self.missing.len();
        // What lies side by side is mostly alike: after an object at the block's beginning the next is looked for there first. Of
        // the other places the order counts: the tuple of one class looks like an instance of the class, two words on.
        let first = places.iter().copied().find(|&at| at == 0 && found.at == 0);
        for at in first.into_iter().chain(places.iter().copied().filter(|&at| Some(at) != first)) {
            let Some(address) = u64_at(bytes, at + type_at) else { continue };
            if address == 0 {
                continue;
            }
            let Some(number) = self.types.find(address) else {
                if self.types.may_be(address, &self.regions) {
                    self.missing.push(address);
                }
                continue;
            };
            let Some(of) = self.types.get(number) else { continue };
            if of.preheader != u64::from(at) {
                continue;
            }
            if let Some(look) = self.is_object((number, of), bytes, at as usize, Some(size), found) {
                self.missing.truncate(before);
                return look;
            }
        }
        if self.missing.len() > before { Look::Undecided } else { Look::Other }
    }

    /// Checks an object that begins at `at`; in a block of pymalloc's `size`, or of the C allocator's.
    #[inline]
    pub(super) fn is_object(
        &self,
        (number, of): (u16, &Type),
        bytes: &[u8],
        at: usize,
        size: Option<u64>,
        found: &mut Found,
    ) -> Option<Look> {
        let head = bytes.get(at..)?;
        let is_address = |count| self.regions.of(count) != Region::Elsewhere;
        let count = object::refcount(self.offsets, head, is_address)?;
        (found.tracked, found.frozen, found.links) = (false, false, None);
        if of.gc {
            self.gc_state(bytes, at, found)?;
        }
        (found.number, found.at) = (number, at);
        if count == 0 {
            return Some(Look::Waiting);
        }
        let object = &mut found.object;
        object::measure_into(self.offsets, of, bytes, at, object)?;
        if let Some(size) = size {
            let whole = of.preheader + object.own;
            let fits = match of.shape {
                // The code object says how long it is (3.11 and later).
                Shape::Frame if self.offsets.generator.state != ABSENT => {
                    object.own = self.frame_bytes(of, head).unwrap_or(object.own).min(size.checked_sub(of.preheader)?);
                    object.shallow = of.preheader + object.own;
                    true
                }
                // What stands at `ob_size` need not be a number of items; the block is then the best measure.
                Shape::Frame => {
                    if of.itemsize > 0 || whole > size {
                        object.own = size - of.preheader;
                        object.shallow = size;
                    }
                    true
                }
                // Shrunk in place: pymalloc keeps a block of which three quarters are used (`pymalloc_realloc`); a
                // number loses digits without any realloc.
                Shape::Str | Shape::Bytes | Shape::Tuple | Shape::Int
                    if !of.inline_values && !self.sizes_are_coarse() =>
                {
                    whole <= size && (4 * whole > 3 * size.saturating_sub(16) || of.shape == Shape::Int)
                }
                // A dict may be made with room for inline values, `PyType_GenericAlloc` adds an item, and times
                // without a zone take less than their type says (`Modules/_datetimemodule.c`).
                _ if found.tracked || self.sizes_are_coarse() => whole <= size + 16,
                _ => whole <= size + 16 && whole + 16 + of.itemsize >= size || of.inline_values && whole <= size,
            };
            if !fits {
                return None;
            }
        }
        Some(Look::Object)
    }

    /// Whether a block may be much larger than what was asked for: mimalloc's sizes are an eighth apart, and it keeps a block
    /// of which half is used (`_mi_heap_realloc_zero`, Objects/mimalloc/alloc.c of 3.13).
    fn sizes_are_coarse(&self) -> bool {
        matches!(self.allocator, Allocator::Mimalloc(..))
    }

    /// What the collector says of the object that begins at `at`; `None`: this cannot be.
    #[inline]
    fn gc_state(&self, bytes: &[u8], at: usize, found: &mut Found) -> Option<()> {
        let collector = &self.offsets.collector;
        if self.offsets.has_gc_heads() {
            let links = object::gc_links(self.offsets, bytes.get(at.checked_sub(16)?..)?)?;
            found.links = Some(links).filter(|(next, _)| *next != 0);
            found.tracked = found.links.is_some();
        } else {
            let bits = *bytes.get(at + self.offsets.object.gc_bits as usize)?;
            found.tracked = bits & collector.tracked_bit != 0;
            found.frozen = found.tracked && bits & collector.frozen_bit != 0;
        }
        Some(())
    }
}

/// Bytes that the debug hooks put before what was requested.
pub(super) const DEBUG_HEADER: usize = 16;

/// The bytes requested of a block of `size` that the debug hooks (`PYTHONMALLOC=debug`, `-X dev`) have wrapped: their number, a
/// letter for the domain, seven forbidden bytes, and the block (`_PyMem_DebugRawAlloc`, Objects/obmalloc.c). Nothing else looks so.
pub(super) fn debug_size(block: &[u8], size: u64) -> Option<u64> {
    if !is_debug_block(block) {
        return None;
    }
    let requested = u64::from_be_bytes(*block.first_chunk()?);
    (requested <= size.checked_sub(DEBUG_HEADER as u64)?).then_some(requested)
}

/// Whether the bytes are a block with its debug header.
pub(super) fn is_debug_block(block: &[u8]) -> bool {
    matches!(block.get(8..DEBUG_HEADER), Some([b'o' | b'm' | b'r', 0xfd, 0xfd, 0xfd, 0xfd, 0xfd, 0xfd, 0xfd]))
}
