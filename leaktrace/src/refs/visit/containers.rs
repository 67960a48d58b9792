//! What built-in containers hold.

use leaktrace_common::walk::ABSENT;

use super::{Each, MAX_ITEMS, MAX_SHARED, Visitor};
use crate::census::Shape;
use crate::census::object::{dict_keys, entry_of};
use crate::refs::slot::Slot;
use crate::target::words::u64_at;
use crate::target::{CachedMemory, Memory};

/// Words read at once of what is long.
const CHUNK: u64 = 1 << 13;
/// Most links of an `lru_cache` that are followed.
const MAX_LINKS: u64 = 1 << 26;
/// Items in a block of a deque (`BLOCKLEN`, Modules/_collectionsmodule.c).
const DEQUE_ITEMS: u64 = 64;

impl Visitor<'_> {
    /// Offsets of what says where a container's items are, if that is not in itself.
    pub(in crate::refs) fn table(&self, shape: Shape) -> [u32; 2] {
        let of = self.offsets;
        match shape {
            Shape::List => [of.list.items, ABSENT],
            Shape::Dict => [of.dict.keys, of.dict.values],
            Shape::Set => [of.set.table, of.set.mask],
            Shape::Deque => [of.deque.leftblock, ABSENT],
            _ => [ABSENT; 2],
        }
    }

    /// Calls with each word that is not 0 and its index.
    pub(in crate::refs) fn words(&mut self, start: u64, count: u64, each: &mut dyn FnMut(u64, u64)) {
        let mut chunk = std::mem::take(&mut self.chunk);
        let mut at = 0;
        while at < count {
            let piece = (count - at).min(CHUNK);
            chunk.resize(8 * piece as usize, 0);
            if self.memory.read(start.wrapping_add(8 * at), &mut chunk).is_err() {
                // It was given back meanwhile, or never was that long.
                break;
            }
            for (index, word) in chunk.as_chunks().0.iter().enumerate() {
                let word = u64::from_le_bytes(*word);
                if word != 0 {
                    each(at + index as u64, word);
                }
            }
            at += piece;
        }
        self.chunk = chunk;
    }

    pub(in crate::refs) fn items(&mut self, start: u64, count: u64, each: Each<'_>) {
        self.words(start, count, &mut |index, word| each(Slot::Item(index), word));
    }

    /// Keys and values of a dict; `values` is not 0 where dicts share the keys.
    pub(in crate::refs) fn dict(&mut self, keys: u64, values: u64, each: Each<'_>) {
        let of = self.offsets.dict_keys;
        let mut header = [0; 64];
        let header = &mut header[..(of.indices as usize).min(64)];
        if keys == 0 || self.memory.read(keys, header).is_err() {
            return;
        }
        let Some(size) = dict_keys(self.offsets, header) else { return };
        let count = u64_at(header, of.entries).unwrap_or(0).min(size.entries).min(MAX_ITEMS);
        let (entry, key_at, value_at) = entry_of(self.offsets, header);
        let start = keys.wrapping_add(size.entries_at);
        let of_values = &self.offsets.dict_values;
        // Values that lie in an instance are the instance's (`dict_traverse`, Objects/dictobject.c of 3.13).
        let embedded = values != 0
            && of_values.embedded != ABSENT
            && self.memory.bytes(values.wrapping_add(of_values.embedded.into()), 1).is_ok_and(|byte| byte[0] != 0);
        let values = if embedded || values == 0 || of_values.values == ABSENT {
            values
        } else {
            values.wrapping_add(of_values.values.into())
        };
        let mut chunk = std::mem::take(&mut self.chunk);
        let mut shared = Vec::new();
        let mut at = 0;
        while at < count {
            let piece = (count - at).min(CHUNK / 4);
            chunk.resize((entry * piece) as usize, 0);
            if self.memory.read(start.wrapping_add(entry * at), &mut chunk).is_err() {
                break;
            }
            if values != 0 {
                shared.resize(8 * piece as usize, 0);
                if self.memory.read(values.wrapping_add(8 * at), &mut shared).is_err() {
                    break;
                }
            }
            for (index, bytes) in chunk.chunks_exact(entry as usize).enumerate() {
                let key = u64_at(bytes, key_at).unwrap_or(0);
                let value =
                    if values == 0 { u64_at(bytes, value_at) } else { u64_at(&shared, 8 * index as u32) }.unwrap_or(0);
                if key != 0 && values == 0 {
                    each(Slot::Key, key);
                }
                if value != 0 && !embedded {
                    each(Slot::Value(key), value);
                }
            }
            at += piece;
        }
        self.chunk = chunk;
        if values != 0 {
            // The keys that dicts share are held once; each of them reaches them.
            self.shared_key_objects(start, count, entry, key_at, each);
        }
    }

    pub(in crate::refs) fn shared_key_objects(
        &mut self,
        start: u64,
        count: u64,
        entry: u64,
        key_at: u32,
        each: Each<'_>,
    ) {
        let len = (count.min(MAX_SHARED) * entry) as usize;
        if let Ok(bytes) = self.memory.bytes(start, len) {
            for key in bytes.chunks_exact(entry as usize).filter_map(|bytes| u64_at(bytes, key_at)) {
                if key != 0 {
                    each(Slot::Key, key);
                }
            }
        }
    }

    pub(in crate::refs) fn set(&mut self, address: u64, object: &[u8], each: Each<'_>) {
        let of = self.offsets.set;
        let slots = u64_at(object, of.mask).unwrap_or(0).wrapping_add(1);
        if !slots.is_power_of_two() || slots > MAX_ITEMS {
            return;
        }
        let table =
            if slots <= 8 { address.wrapping_add(of.smalltable.into()) } else { u64_at(object, of.table).unwrap_or(0) };
        let (size, key) = (u64::from(self.offsets.set_entry.size), u64::from(self.offsets.set_entry.key));
        let stride = size / 8;
        self.words(table, slots * stride, &mut |index, word| {
            if (index % stride) * 8 == key {
                each(Slot::Member, word);
            }
        });
    }

    pub(in crate::refs) fn deque(&mut self, object: &[u8], length: u64, each: Each<'_>) {
        let (of, link) = (self.offsets.deque, self.offsets.deque_block.right);
        if of.leftblock == ABSENT || link == ABSENT {
            return;
        }
        let mut block = u64_at(object, of.leftblock).unwrap_or(0);
        let mut at = u64_at(object, of.leftindex).unwrap_or(0);
        // The items of a block come after its link to the left.
        let mut done = 0;
        while done < length && block != 0 && at < DEQUE_ITEMS {
            let here = (DEQUE_ITEMS - at).min(length - done);
            let first = done;
            self.words(block.wrapping_add(8 + 8 * at), here, &mut |index, word| {
                each(Slot::Item(first + index), word);
            });
            done += here;
            at = 0;
            block = self.memory.u64(block.wrapping_add(link.into())).unwrap_or(0);
        }
    }

    /// The links of a bounded cache, from its root (`Modules/_functoolsmodule.c`).
    pub(in crate::refs) fn lru_cache(&mut self, address: u64, each: Each<'_>) {
        let word = |memory: &CachedMemory<'_>, at: u64| memory.u64(at).unwrap_or(0);
        // `struct lru_list_elem`: header, prev, next, hash, key, result.
        let [next, key, result] = [8, 24, 32].map(|field| u64::from(self.offsets.header()) + field);
        let mut link = word(&self.memory, address.wrapping_add(next));
        for _ in 0..MAX_LINKS {
            if link == 0 || link == address {
                break;
            }
            for field in [key, result] {
                let held = word(&self.memory, link.wrapping_add(field));
                if held != 0 {
                    each(Slot::Cached, held);
                }
            }
            link = word(&self.memory, link.wrapping_add(next));
        }
    }
}
