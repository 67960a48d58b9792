//! Code objects: each is copied to user space when a stack first shows it, while a frame is running it and it cannot die.
//!
//! A code object's address may be handed out again. Every allocation is held against the code objects that were sent; the
//! death of one changes the tag of its address, so that stacks of its successor get another hash and are sent anew.

use aya_ebpf::bindings::BPF_ANY;
use leaktrace_common::{
    walk::{ABSENT, COPY_SHIFT, ReadTarget},
    wire::{CODE_BYTES, CODE_NAME_BYTES, CodeRecord, RawFrame, counter, record},
};

use crate::maps::{CODE_TAG_BITS, CODE_TAGS, CODES, RING, config, count};
use crate::target::{Target, read, read_into};

/// A record with room for everything.
#[repr(C)]
struct Message {
    head: CodeRecord,
    filename: [u8; CODE_NAME_BYTES],
    qualname: [u8; CODE_NAME_BYTES],
    linetable: [u8; CODE_BYTES],
}

#[inline(always)]
fn tag_word(code: u64) -> Option<*mut u16> {
    let tags = CODE_TAGS.get_ptr_mut(0)?;
    // SAFETY: the index is within the map's value.
    Some(unsafe { tags.cast::<u16>().add(tag_index(code)) })
}

/// The tags, looked up once for a walk.
#[derive(Clone, Copy)]
pub struct Tags(*const u16);

impl Tags {
    #[inline(always)]
    pub fn get() -> Option<Self> {
        CODE_TAGS.get_ptr(0).map(|tags| Self(tags.cast()))
    }

    /// Distinguishes code objects that lived at `code` one after the other. Addresses leave the high bits free.
    #[inline(always)]
    pub fn of(self, code: u64) -> u64 {
        // SAFETY: the index is within the map's value, see `tag_index`.
        u64::from(unsafe { *self.0.add(tag_index(code)) } & !1) << 47
    }
}

/// Index of CODE_TAG_BITS bits, which is the length of the array.
#[inline(always)]
fn tag_index(code: u64) -> usize {
    (code.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - CODE_TAG_BITS)) as usize
}

/// A block was handed out at `address`: if a code object that was sent lay there, it is dead.
#[inline(always)]
pub fn allocated_at(address: u64) {
    let Some(tag) = tag_word(address) else { return };
    // SAFETY: points into a map value.
    if unsafe { *tag } & 1 != 0 && CODES.remove(address).is_ok() {
        // The low bit stays: other code objects may share the word.
        // SAFETY: as above.
        unsafe { *tag = (*tag).wrapping_add(2) };
        count(counter::CODE_DEAD);
    }
}

/// Sends the code object unless it was sent before. 0 when it could not be sent.
///
/// A global function: the verifier proves it once, not for each frame of the loop that calls it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn send_if_new(code: u64) -> u32 {
    if CODES.get_ptr(code).is_some() {
        return 1;
    }
    let Some(mut entry) = RING.reserve::<Message>(0) else {
        count(counter::LOST_RING);
        return 0;
    };
    // Before it is sent: where the table is full each stack would send it again, and fill the ring. Who finds it there sends
    // a stack that comes after this entry.
    if CODES.insert(code, 1, u64::from(BPF_ANY)).is_err() {
        entry.discard(0);
        return 0;
    }
    let message = entry.as_mut_ptr();
    // SAFETY: the reserved entry has the size of a Message; every length is bounded by its field's.
    unsafe {
        let layout = &config().python;
        let head = &raw mut (*message).head;
        let at = |offset: u32| code + u64::from(offset);
        (*head).kind = record::CODE;
        (*head).code = code;
        (*head).first_line = read::<i32>(at(layout.code_firstlineno)).unwrap_or(0);
        (*head).first_traceable = if layout.code_firsttraceable == ABSENT {
            0
        } else {
            read::<i32>(at(layout.code_firsttraceable)).unwrap_or(0)
        };
        (*head).instructions = if layout.code_instructions == ABSENT { 0 } else { at(layout.code_instructions) };
        (*head).line_encoding = layout.line_encoding as u8;
        let filename = text(at(layout.code_filename), (&raw mut (*message).filename).cast());
        let qualname = text(at(layout.code_qualname), (&raw mut (*message).qualname).cast());
        (*head).filename_bytes = filename as u16;
        (*head).qualname_bytes = qualname as u16;
        (*head).text_kinds = ((filename >> 16) | ((qualname >> 16) << 4)) as u8;
        let table = Target.word(at(layout.code_linetable)).unwrap_or(0);
        let len = Target.word(table + u64::from(layout.bytes_size)).unwrap_or(0);
        (*head).linetable = table + u64::from(layout.bytes_data);
        (*head).linetable_len = len as u32;
        let copied = if len > CODE_BYTES as u64 { CODE_BYTES as u32 } else { len as u32 };
        let copied =
            if read_into((&raw mut (*message).linetable).cast(), copied, (*head).linetable) { copied } else { 0 };
        (*head).linetable_bytes = copied as u16;
    }
    entry.submit(0);
    if let Some(tag) = tag_word(code) {
        // SAFETY: points into a map value.
        unsafe { *tag |= 1 };
    }
    1
}

/// The position of a frame in its code object's own instructions, where threads run copies of them (free-threaded builds from
/// 3.14: `co_tlbc`, CPython `Include/internal/pycore_code.h`; copy 0 is the code object's own).
#[inline(always)]
pub fn in_own_instructions(frame: RawFrame) -> u64 {
    let layout = &config().python;
    let (copy, instr) = (frame.instr >> COPY_SHIFT, frame.instr & ((1 << COPY_SHIFT) - 1));
    if copy == 0 {
        return instr;
    }
    let entry = |table: u64| Target.word(table + u64::from(layout.copies_entries) + copy * 8);
    match Target.word(frame.code + u64::from(layout.code_copies)).and_then(entry) {
        Some(start) => instr - start + frame.code + u64::from(layout.code_instructions),
        None => instr,
    }
}

/// Copies the characters of the string that `slot` points at. Low half of the result: bytes copied; above: the kind.
#[inline(always)]
fn text(slot: u64, to: *mut u8) -> u32 {
    let layout = &config().python;
    let Some(string) = Target.word(slot) else { return 0 };
    let Some(length) = Target.word(string + u64::from(layout.unicode_length)) else { return 0 };
    let Some(state) = read::<u32>(string + u64::from(layout.unicode_state)) else { return 0 };
    let kind = (state >> layout.unicode_kind_bit) & 7;
    let data = if (state >> layout.unicode_ascii_bit) & 1 != 0 {
        layout.unicode_ascii_data
    } else {
        layout.unicode_compact_data
    };
    let bytes = length.wrapping_mul(u64::from(kind));
    let bytes = if bytes > CODE_NAME_BYTES as u64 { CODE_NAME_BYTES as u32 } else { bytes as u32 };
    if read_into(to.cast(), bytes, string + u64::from(data)) { bytes | kind << 16 } else { 0 }
}
