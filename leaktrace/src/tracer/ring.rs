//! The records of the ring buffer, decoded.

use leaktrace_common::wire::{GcRecord, MAX_FRAMES, ProcessRecord, RawFrame, StackRecord, record};
use zerocopy::FromBytes;

/// A record from the BPF programs.
#[derive(Debug, Clone, Copy)]
pub enum Record<'a> {
    Stack {
        head: StackRecord,
        frames: &'a [u8],
    },
    /// A code object, for [`crate::cpython::code::CodeInfo::from_record`].
    Code(&'a [u8]),
    Gc(GcRecord),
    Exec(ProcessRecord),
}

impl<'a> Record<'a> {
    /// Decodes a record, `None` when it is none of ours. (The kernel side is ours, but a wrong length must not panic.)
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let kind = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
        match kind {
            record::STACK => {
                let (head, rest) = StackRecord::read_from_prefix(bytes).ok()?;
                let len = usize::from(head.frames).min(MAX_FRAMES) * size_of::<RawFrame>();
                Some(Self::Stack { head, frames: rest.get(..len)? })
            }
            record::CODE => Some(Self::Code(bytes)),
            record::GC => Some(Self::Gc(GcRecord::read_from_prefix(bytes).ok()?.0)),
            record::EXEC => Some(Self::Exec(ProcessRecord::read_from_prefix(bytes).ok()?.0)),
            _ => None,
        }
    }
}

/// The frames of a stack record, innermost first.
pub fn frames(bytes: &[u8]) -> impl Iterator<Item = RawFrame> + '_ {
    bytes.chunks_exact(size_of::<RawFrame>()).filter_map(|chunk| RawFrame::read_from_bytes(chunk).ok())
}
