//! Large objects: those that the C allocator holds.
//!
//! There is no list of them. Those that the collector tracks are neighbours in its lists; all others are found because
//! something points at them. Every word of every container is looked at, and what lies there must prove to be an object.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use super::look::{Found, Look};
use super::object::{BEFORE, Part, PartKind};
use super::regions::{AddressHasher, Region};
use super::scan::{Scan, is_leaf};
use crate::target::words::u64_at;

/// Bytes of a candidate that are read with its head.
const BODY: usize = 1024;
/// Candidates read at once.
const BATCH: usize = 256;
/// Bytes of a long block read at once.
const CHUNK: usize = 1 << 18;
/// Most addresses that are looked at.
const MAX_SEEN: usize = 1 << 26;
/// Longest content that is compared with others'.
const MAX_CONTENT: u64 = 1 << 16;

/// What is still to be looked at.
#[derive(Debug, Default)]
pub(super) struct Native {
    seen: HashSet<u64, BuildHasherDefault<AddressHasher>>,
    candidates: Vec<u64>,
    /// Address, length.
    blocks: Vec<(u64, u64)>,
    /// Address of a deque's block, and the bytes of it and those that follow.
    deque_blocks: Vec<(u64, u64)>,
    /// Blocks and bytes by kind of part.
    pub(super) parts: [(u64, u64); PartKind::ALL.len()],
}

impl Native {
    /// An address where an object may be.
    pub(super) fn candidate(&mut self, address: u64) {
        if self.seen.len() < MAX_SEEN && self.seen.insert(address) {
            self.candidates.push(address);
        }
    }

    /// A block that belongs to an object. Dicts share keys: each block counts once.
    pub(super) fn part(&mut self, part: Part) {
        // The lowest bit tells it from a candidate, which may have been there before.
        if self.seen.len() >= MAX_SEEN || !self.seen.insert(part.address | 1) {
            return;
        }
        let (blocks, bytes) = &mut self.parts[part.kind as usize];
        *blocks += 1;
        *bytes += part.bytes;
        match part.kind {
            PartKind::DequeBlock => self.deque_blocks.push((part.address, part.bytes)),
            PartKind::Text | PartKind::ByteArray | PartKind::Content => {}
            _ => self.blocks.push((part.address, part.bytes)),
        }
    }

    /// A further block of a deque, whose bytes have been counted with the first.
    fn deque_block(&mut self, address: u64, bytes: u64) {
        if self.seen.len() < MAX_SEEN && self.seen.insert(address | 1) {
            self.parts[PartKind::DequeBlock as usize].0 += 1;
            self.deque_blocks.push((address, bytes));
        }
    }
}

impl Scan<'_> {
    /// Follows the candidates until nothing new turns up.
    pub(super) fn large_objects(&mut self) {
        let mut buffer = Vec::new();
        loop {
            if let Some((address, len)) = self.native.blocks.pop() {
                self.walk_block(address, len, &mut buffer);
            } else if let Some((address, bytes)) = self.native.deque_blocks.pop() {
                self.walk_deque(address, bytes, &mut buffer);
            } else if !self.native.candidates.is_empty() {
                let from = self.native.candidates.len().saturating_sub(BATCH);
                let batch = self.native.candidates.split_off(from);
                self.walk_candidates(&batch, &mut buffer);
            } else {
                self.finish_parts();
                if self.native.blocks.is_empty() && self.native.deque_blocks.is_empty() {
                    break;
                }
            }
        }
    }

    fn walk_candidates(&mut self, batch: &[u64], buffer: &mut Vec<u8>) {
        let starts: Vec<u64> = batch.iter().map(|address| address.saturating_sub(BEFORE as u64)).collect();
        let piece = BEFORE + BODY;
        let read = self.memory.read_many(&starts, piece, buffer);
        for ((&start, bytes), read) in starts.iter().zip(buffer.chunks_exact_mut(piece)).zip(read) {
            if !read {
                // Near the end of its region, or gone.
                self.memory.read_sparse(start, bytes);
            }
        }
        let type_at = BEFORE as u32 + self.offsets.object.type_;
        let words = buffer.chunks_exact(piece).filter_map(|bytes| u64_at(bytes, type_at));
        let mut missing: Vec<u64> = words
            .filter(|&word| word != 0 && self.types.find(word).is_none() && self.types.may_be(word, &self.regions))
            .collect();
        self.resolve(&mut missing);
        for (&address, bytes) in batch.iter().zip(buffer.chunks_exact(piece)) {
            self.large_object(address, bytes);
        }
    }

    fn large_object(&mut self, address: u64, bytes: &[u8]) {
        let Some(number) =
            u64_at(bytes, BEFORE as u32 + self.offsets.object.type_).and_then(|word| self.types.find(word))
        else {
            return;
        };
        let of = &self.types.all()[usize::from(number)];
        let mut found = Found::default();
        if self.is_object((number, of), bytes, BEFORE, None, &mut found) != Some(Look::Object) {
            return;
        }
        let object = found.object;
        // What pymalloc would have served is static data of an extension or a copy, unless the collector knows it.
        let large = self.largest_small().is_some_and(|small| of.preheader + object.own > small);
        if !large && !found.tracked || object.own > self.regions.native_after(address) {
            return;
        }
        let leaf = is_leaf(of);
        let content = super::object::content(self.offsets, of, &bytes[BEFORE..]);
        self.tally.large_objects += 1;
        self.large.push((address, number));
        self.tally.large_bytes += of.preheader + object.own;
        self.object(address, &found);
        self.extent(number, address, &bytes[BEFORE..], &object);
        if let Some((at, len)) = content.filter(|(_, len)| *len <= MAX_CONTENT)
            && let Ok(content) = self.memory.bytes(address + at, len as usize)
        {
            self.duplicates.add(number, address, &content, object.shallow);
        }
        if leaf {
            return;
        }
        let inside = (object.own as usize).min(BODY);
        self.references(&bytes[BEFORE..BEFORE + inside]);
        if object.own > BODY as u64 {
            self.native.blocks.push((address + BODY as u64, object.own - BODY as u64));
        }
    }

    /// Looks at every word of a block.
    fn walk_block(&mut self, address: u64, len: u64, buffer: &mut Vec<u8>) {
        let len = len.min(self.regions.native_after(address));
        let mut at = 0;
        while at < len {
            let piece = (len - at).min(CHUNK as u64) as usize;
            buffer.resize(piece, 0);
            self.memory.read_sparse(address + at, buffer);
            self.tally.read_bytes += piece as u64;
            self.references(buffer);
            at += piece as u64;
        }
    }

    /// A block of a deque, and the one after it. The link of the last is whatever was in that memory: the length of the deque says
    /// how many there are.
    fn walk_deque(&mut self, address: u64, bytes: u64, buffer: &mut Vec<u8>) {
        let right = self.offsets.deque_block.right;
        let len = u64::from(right) + 8;
        self.walk_block(address, len, buffer);
        let next = u64_at(buffer, right).filter(|&next| next != 0 && self.regions.of(next) == Region::Native);
        if let (Some(next), Some(rest)) = (next, bytes.checked_sub(len).filter(|&rest| rest > 0)) {
            self.native.deque_block(next, rest);
        }
    }
}
