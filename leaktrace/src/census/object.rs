//! How large an object is and which other blocks belong to it, from its first bytes.
//!
//! Sizes are those of `sys.getsizeof`: the object, what is before it, and the blocks that its own `__sizeof__` counts.

use leaktrace_common::walk::ABSENT;

use crate::cpython::offsets::{InstanceValues, Offsets};

use super::types::{Shape, Type, unicode_kind};
use crate::target::words::{i64_at, u32_at, u64_at};

/// `Py_TPFLAGS_HEAPTYPE` (Include/object.h).
pub const HEAP_TYPE: u64 = 1 << 9;
/// Largest size that is believed.
pub(super) const MAX_BYTES: u64 = 1 << 42;
/// Items in a block of a deque (`BLOCKLEN`, Modules/_collectionsmodule.c).
const DEQUE_ITEMS: u64 = 64;
/// Bytes before the first that is looked at: the GC head and the words before it.
pub const BEFORE: usize = 32;
/// Bytes of an object from its address on that decide about its size; all shapes end before.
pub const HEAD: usize = 96;

/// What a block that belongs to an object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PartKind {
    DictKeys,
    /// Values of a dict with shared keys, or of an instance's attributes.
    Values,
    ListItems,
    SetTable,
    Text,
    ByteArray,
    DequeBlock,
    /// What an array, a buffer or a number keeps elsewhere.
    Content,
}

impl PartKind {
    /// All of them, by their number.
    pub const ALL: [Self; 8] = [
        Self::DictKeys,
        Self::Values,
        Self::ListItems,
        Self::SetTable,
        Self::Text,
        Self::ByteArray,
        Self::DequeBlock,
        Self::Content,
    ];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DictKeys => "dict keys",
            Self::Values => "attribute values",
            Self::ListItems => "list items",
            Self::SetTable => "set tables",
            Self::Text => "text",
            Self::ByteArray => "bytearray content",
            Self::DequeBlock => "deque blocks",
            Self::Content => "content of arrays and buffers",
        }
    }
}

/// A block that belongs to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub kind: PartKind,
    /// An address in the block, not always its first.
    pub address: u64,
    /// From the address on.
    pub bytes: u64,
}

/// What an object's first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Object {
    /// Bytes from the object's address on, in its own block.
    pub own: u64,
    /// `sys.getsizeof`, but for `keys`.
    pub shallow: u64,
    /// `len()`, where it has one that is a field.
    pub length: Option<u64>,
    pub part: Option<Part>,
    /// An address in the block of the values of a dict with shared keys, or of an instance's attributes where they are a
    /// block of their own; 0 without. Their size is not known here: the block tells.
    pub values: u64,
    /// Address of the keys of a dict, or of those that a type keeps for its instances; 0 without.
    pub keys: u64,
    /// Whether the size of the keys counts although other dicts share them.
    pub keys_always: bool,
}

/// The keys of a dict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysSize {
    pub bytes: u64,
    /// Where the entries begin, from the start of the keys.
    pub entries_at: u64,
    /// Room for entries.
    pub entries: u64,
    /// Only one dict uses them.
    pub unshared: bool,
}

/// The size of the keys object of a dict from its header (`Objects/dictobject.c`: `new_keys_object`, `_PyDict_KeysSize`).
pub fn dict_keys(offsets: &Offsets, header: &[u8]) -> Option<KeysSize> {
    let of = &offsets.dict_keys;
    let byte = |offset: u32| header.get(offset as usize).copied();
    let (slots, index_bytes) = match (u64_at(header, of.slots), byte(of.log2_slots), byte(of.log2_index_bytes)) {
        (_, Some(slots), Some(bytes)) if slots < 40 && bytes < 44 => (1u64 << slots, 1u64 << bytes),
        (Some(slots), ..) if slots.is_power_of_two() && slots < 1 << 40 => {
            let index = match slots {
                0..=0xff => 1,
                0x100..=0xffff => 2,
                0x1_0000..=0xffff_ffff => 4,
                _ => 8,
            };
            (slots, slots * index)
        }
        _ => return None,
    };
    // `USABLE_FRACTION`.
    let entries = slots * 2 / 3;
    let entries_at = u64::from(of.indices) + index_bytes;
    let (entry, ..) = entry_of(offsets, header);
    let unshared = i64_at(header, of.refcount)? == 1;
    Some(KeysSize { bytes: entries_at + entries * entry, entries_at, entries, unshared })
}

/// Size of an entry of keys, and where in it key and value are.
pub fn entry_of(offsets: &Offsets, header: &[u8]) -> (u64, u32, u32) {
    // `DICT_KEYS_GENERAL` is 0; the other kinds hold only strings and no hashes (Include/internal/pycore_dict.h of 3.11).
    let general = header.get(offsets.dict_keys.kind as usize).is_none_or(|&kind| kind == 0);
    if general {
        (offsets.dict_entry.size.into(), offsets.dict_entry.key, offsets.dict_entry.value)
    } else {
        (
            u64::from(offsets.dict_unicode_entry.value) + 8,
            offsets.dict_unicode_entry.key,
            offsets.dict_unicode_entry.value,
        )
    }
}

/// Measures the object at offset `at` of `bytes`. `None`: its fields contradict each other.
pub fn measure(offsets: &Offsets, of: &Type, bytes: &[u8], at: usize) -> Option<Object> {
    let mut found = Object::default();
    measure_into(offsets, of, bytes, at, &mut found)?;
    Some(found)
}

/// The same, in the place of `found`: it is large, and to hand it on took a tenth of a census.
#[inline]
pub(super) fn measure_into(offsets: &Offsets, of: &Type, bytes: &[u8], at: usize, found: &mut Object) -> Option<()> {
    *found = Object::default();
    let object = bytes.get(at..)?;
    let word = |offset: u32| u64_at(object, offset);
    let ob_size = || i64_at(object, offsets.var_object.size);
    let count = |offset: u32| word(offset).filter(|&n| n < MAX_BYTES);
    let plain = || -> Option<u64> {
        if of.itemsize == 0 {
            return Some(of.basicsize);
        }
        let items = ob_size()?.unsigned_abs();
        items.checked_mul(of.itemsize)?.checked_add(of.basicsize).filter(|&size| size < MAX_BYTES)
    };
    match of.shape {
        Shape::Plain => found.own = plain()?,
        Shape::Frame => found.own = plain().unwrap_or(of.basicsize),
        Shape::Int => {
            let size = word(offsets.long.size)?;
            let shift = offsets.instance.long_size_shift;
            let digits = if shift == 0 { (size as i64).unsigned_abs() } else { size >> shift };
            let least = u64::from(shift != 0);
            found.own = u64::from(offsets.long.digits) + 4 * digits.min(MAX_BYTES).max(least);
            found.own = found.own.max(if of.heap { of.basicsize } else { 0 });
        }
        Shape::Bytes => {
            let length = count(offsets.bytes.size)?;
            found.length = Some(length);
            found.own = (u64::from(offsets.bytes.data) + length + 1).max(plain()?);
        }
        Shape::Str => text(offsets, of, object, found)?,
        Shape::ByteArray => {
            let alloc = count(offsets.bytearray.alloc)?;
            found.length = Some(count(offsets.var_object.size)?);
            found.own = of.basicsize;
            found.part = part(PartKind::ByteArray, word(offsets.bytearray.bytes)?, alloc);
            // A bytes object with its header and its last 0 (`bytearray_sizeof_impl`, Objects/bytearrayobject.c of 3.15).
            let header = word(offsets.bytearray.bytes_object).map_or(0, |_| u64::from(offsets.bytes.data) + 1);
            found.shallow = alloc + if alloc > 0 { header } else { 0 };
        }
        Shape::List => {
            let (length, allocated) = (count(offsets.var_object.size)?, count(offsets.list.allocated)?);
            if length > allocated {
                return None;
            }
            found.length = Some(length);
            found.own = of.basicsize;
            found.part = part(PartKind::ListItems, word(offsets.list.items)?, 8 * allocated);
            found.shallow = 8 * allocated;
        }
        Shape::Tuple => {
            found.length = Some(count(offsets.var_object.size)?);
            found.own = plain()?;
        }
        Shape::Dict => {
            found.length = Some(count(offsets.dict.used)?);
            found.own = of.basicsize;
            found.keys = word(offsets.dict.keys)?;
            found.values = word(offsets.dict.values)?;
        }
        Shape::Set => {
            let slots = count(offsets.set.mask)?.checked_add(1).filter(|slots| slots.is_power_of_two())?;
            found.length = Some(count(offsets.set.used)?);
            found.own = of.basicsize;
            if slots > 8 {
                let size = slots * u64::from(offsets.set_entry.size);
                found.part = part(PartKind::SetTable, word(offsets.set.table)?, size);
                found.shallow = size;
            }
        }
        Shape::Deque => {
            let length = count(offsets.var_object.size)?;
            found.length = Some(length);
            found.own = of.basicsize;
            if let (Some(first), Some(index)) = (word(offsets.deque.leftblock), count(offsets.deque.leftindex)) {
                let block = u64::from(offsets.deque_block.right) + 8;
                // There is a block also when there is no item.
                let blocks = (index.min(DEQUE_ITEMS) + length).div_ceil(DEQUE_ITEMS).max(1);
                found.part = part(PartKind::DequeBlock, first, blocks * block);
                found.shallow = blocks * block;
            }
        }
        Shape::Type => {
            // Static types are no part of the heap, and have no GC head (`type_is_gc`, Objects/typeobject.c).
            if word(offsets.type_object.flags)? & HEAP_TYPE == 0 {
                return None;
            }
            found.own = u64::from(offsets.heap_type.size).max(of.basicsize);
            found.keys = u64_at(object, offsets.heap_type.cached_keys).unwrap_or(0);
            found.keys_always = true;
        }
    }
    found.shallow += found.own + of.preheader;
    if of.managed {
        found.values = if found.values == 0 { managed_values(offsets, bytes, at) } else { found.values };
    }
    Some(())
}

fn part(kind: PartKind, address: u64, bytes: u64) -> Option<Part> {
    (address != 0 && bytes != 0).then_some(Part { kind, address, bytes })
}

/// The block of values that a pointer before the object names, or 0.
fn managed_values(offsets: &Offsets, bytes: &[u8], at: usize) -> u64 {
    let before = |words: usize| at.checked_sub(8 * words).and_then(|at| u64_at(bytes, u32::try_from(at).ok()?));
    let found = match offsets.instance.values {
        // The byte before them is the length of what is before them: an address in the block is enough here.
        InstanceValues::Pointer => before(4),
        InstanceValues::Tagged => before(3).filter(|word| word & 1 == 1).and_then(|word| word.checked_add(1)),
        InstanceValues::Dict | InstanceValues::Inline => None,
    };
    found.unwrap_or(0)
}

fn text(offsets: &Offsets, of: &Type, object: &[u8], found: &mut Object) -> Option<()> {
    let length = u64_at(object, offsets.unicode.length).filter(|&n| n < MAX_BYTES)?;
    let (kind, compact, ascii) = unicode_kind(offsets, object)?;
    let characters = (length + 1) * kind;
    if !matches!(kind, 0 | 1 | 2 | 4) {
        return None;
    }
    found.length = Some(length);
    if compact {
        let before = if ascii { offsets.unicode.ascii_data } else { offsets.compact_unicode.data };
        found.own = u64::from(before) + characters;
    } else {
        found.own = of.basicsize.max(offsets.unicode_object.size.into());
        let data = u64_at(object, offsets.unicode_object.data)?;
        found.part = part(PartKind::Text, data, characters);
        found.shallow = characters;
    }
    Some(())
}

/// Where the characters of a compact string or the bytes of a bytes object are, from the object's address on.
pub fn content(offsets: &Offsets, of: &Type, object: &[u8]) -> Option<(u64, u64)> {
    match of.shape {
        Shape::Bytes => Some((offsets.bytes.data.into(), u64_at(object, offsets.bytes.size)?)),
        Shape::Str => {
            let (kind, compact, ascii) = unicode_kind(offsets, object)?;
            let at = if ascii { offsets.unicode.ascii_data } else { offsets.compact_unicode.data };
            compact.then_some((at.into(), u64_at(object, offsets.unicode.length)?.checked_mul(kind)?))
        }
        _ => None,
    }
}

/// The reference count, if it can be one: 0 of an object that waits in a free list, [`u32::MAX`] of one that is immortal.
/// `is_address` tells addresses, which are none.
#[inline]
pub fn refcount(offsets: &Offsets, object: &[u8], is_address: impl Fn(u64) -> bool) -> Option<u64> {
    if offsets.object.shared != ABSENT {
        return split_refcount(offsets, object);
    }
    let count = u64_at(object, offsets.object.refcount)?;
    // Immortal objects of 3.12 and later have 2^32 - 1 (Include/object.h).
    let possible = u32::try_from(count).is_ok() && !(count > 1 << 16 && count % 8 == 0 && is_address(count));
    possible.then_some(count)
}

/// The reference count of what is known to be an object; 0 where it cannot be told.
pub fn count_of(offsets: &Offsets, object: &[u8]) -> u32 {
    let count = if offsets.object.shared == ABSENT {
        u64_at(object, offsets.object.refcount).map(|count| count & u64::from(u32::MAX))
    } else {
        split_refcount(offsets, object)
    };
    count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
}

/// The sum of what the owning thread counts and all others do (Include/object.h and Include/refcount.h of builds without the GIL).
/// What threads count for themselves and merge later, as for types, is not in it: such an object has 1 at least.
fn split_refcount(offsets: &Offsets, object: &[u8]) -> Option<u64> {
    /// `_Py_REF_DEFERRED`, which is added where references from stacks do not count (Include/internal/pycore_gc.h).
    const DEFERRED: i64 = i64::MAX / 8;
    /// `_Py_REF_SHARED_SHIFT`: below are flags.
    const SHIFT: u32 = 2;
    let (local, shared) = (u32_at(object, offsets.object.refcount)?, i64_at(object, offsets.object.shared)? >> SHIFT);
    if local == u32::MAX {
        return Some(local.into());
    }
    let deferred = shared > DEFERRED / 2;
    let count = i64::from(local) + shared - if deferred { DEFERRED } else { 0 };
    let count = if deferred { count.max(1) } else { count };
    u64::try_from(count).ok().filter(|&count| count < u64::from(u32::MAX))
}

/// The link words of a GC head; `None` if they cannot be any. An object that is not tracked has 0 for the first.
#[inline]
pub fn gc_links(offsets: &Offsets, head: &[u8]) -> Option<(u64, u64)> {
    // The low bits are flags while a collection runs (Include/internal/pycore_gc.h).
    let (next, prev) = (u64_at(head, offsets.gc_head.next)? & !3, u64_at(head, offsets.gc_head.prev)? & !3);
    // Only heads in a collector's state that is packed lie at other addresses (`gc::generations_offset`).
    let aligned = next.is_multiple_of(8) || !offsets.gc.generations.is_multiple_of(8);
    (aligned && next < 1 << 47).then_some((next, prev))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_keys_are_those_of_the_source() {
        let offsets = Offsets::of(3, 11, 0).unwrap();
        // Eight slots of one byte, five entries of strings.
        let mut header = vec![0; 32];
        header[0] = 1;
        (header[8], header[9], header[10]) = (3, 3, 1);
        let size = dict_keys(&offsets, &header).unwrap();
        assert_eq!((size.bytes, size.entries, size.unshared), (32 + 8 + 5 * 16, 5, true));
        header[10] = 0;
        assert_eq!(dict_keys(&offsets, &header).unwrap().bytes, 32 + 8 + 5 * 24);
        header[8] = 200;
        assert_eq!(dict_keys(&offsets, &header), None);
        let offsets = Offsets::of(3, 8, 0).unwrap();
        let mut header = vec![0; 40];
        header[8] = 8;
        assert_eq!(dict_keys(&offsets, &header).unwrap().bytes, 40 + 8 + 5 * 24);
    }

    #[test]
    fn addresses_are_no_reference_counts() {
        let offsets = Offsets::of(3, 11, 0).unwrap();
        let count = |n: u64| refcount(&offsets, &n.to_le_bytes(), |a| a == 0x95_a9c0);
        assert_eq!((count(1), count(0), count(0x95_a9c0), count(1 << 33)), (Some(1), Some(0), None, None));
        assert_eq!(count(0xffff_ffff), Some(0xffff_ffff));
    }

    #[test]
    fn counts_of_the_owner_and_of_others_are_one() {
        let offsets = Offsets::parse(include_str!("../../offsets/3.14t.toml"), 0).unwrap();
        let count = |local: u32, shared: i64| {
            let mut header = [0; 32];
            header[offsets.object.refcount as usize..][..4].copy_from_slice(&local.to_le_bytes());
            header[offsets.object.shared as usize..][..8].copy_from_slice(&shared.to_le_bytes());
            (refcount(&offsets, &header, |_| true), count_of(&offsets, &header))
        };
        let deferred = i64::MAX / 8 * 4;
        assert_eq!(count(2, 4 * 5 + 3), (Some(7), 7));
        assert_eq!(count(3, -4), (Some(2), 2));
        assert_eq!(count(0, 3), (Some(0), 0));
        assert_eq!(count(1, -4 * 5), (None, 0));
        assert_eq!(count(u32::MAX, 0), (Some(u32::MAX.into()), u32::MAX));
        assert_eq!(count(1, deferred + 4), (Some(2), 2));
        assert_eq!(count(0, deferred - 8), (Some(1), 1), "threads count for themselves");
        assert_eq!(count(7, i64::MIN), (None, 0));
        assert_eq!(count(7, 1 << 50), (None, 0));
    }
}
