//! Which addresses are types, proved by walking `ob_type` up to `type` itself.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use crate::cpython::offsets::Offsets;
use crate::cpython::text::{c_string, string};
use crate::target::Memory;

use super::regions::{AddressHasher, AddressMap, Region, Regions};
use super::sizeof::{self, Layout};
use crate::target::words::{i64_at, u32_at, u64_at};

/// Most types that are kept: their numbers must fit the labels of blocks.
const MAX_TYPES: usize = 60_000;
/// Most addresses that are remembered as being no types.
const MAX_REFUSED: usize = 1 << 18;
/// Types that are found at once: the entries of a table in which each address has one place.
const QUICK: usize = 4096;
/// Longest chain of metatypes, and of bases.
const MAX_CHAIN: usize = 64;
/// Longest name of a type or module, bytes.
const MAX_NAME: usize = 512;
/// Most entries of a type's dict that are looked through for `__module__`.
const MAX_ENTRIES: u64 = 4096;

/// `tp_flags` (`Include/object.h`, the same from 3.8 to 3.13).
mod flag {
    pub(super) use crate::census::object::HEAP_TYPE;
    pub(super) const HAVE_GC: u64 = 1 << 14;
    pub(super) const LONG: u64 = 1 << 24;
    pub(super) const LIST: u64 = 1 << 25;
    pub(super) const TUPLE: u64 = 1 << 26;
    pub(super) const BYTES: u64 = 1 << 27;
    pub(super) const UNICODE: u64 = 1 << 28;
    pub(super) const DICT: u64 = 1 << 29;
    pub(super) const TYPE: u64 = 1 << 31;
}

/// The built-in layout that instances of a type have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `tp_basicsize` and, where `tp_itemsize` is not 0, as many items as `ob_size` says.
    Plain,
    /// The same, but what is at the place of `ob_size` is not a number of items.
    Frame,
    Int,
    Str,
    Bytes,
    ByteArray,
    List,
    Tuple,
    Dict,
    Set,
    Deque,
    Type,
}

/// A type of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    pub address: u64,
    /// `__module__`, "builtins" for those without.
    pub module: String,
    /// `__qualname__`, for static types `__name__`.
    pub name: String,
    pub shape: Shape,
    /// Whether instances are tracked by the collector.
    pub gc: bool,
    /// Whether it was made by a class statement or `PyType_FromSpec`.
    pub heap: bool,
    pub basicsize: u64,
    pub itemsize: u64,
    /// Bytes before an instance: the GC head, and from 3.11 two more words.
    pub preheader: u64,
    /// Whether the values of an instance's attributes lie right behind it.
    pub inline_values: bool,
    /// Whether its instances have a pointer to their dict or values before the GC head.
    pub managed: bool,
    /// How its instances say what memory they have besides.
    pub(super) extent: Option<&'static Layout>,
}

impl Type {
    /// `collections.deque`, but `int`.
    pub fn qualified(&self) -> String {
        if self.module == "builtins" { self.name.clone() } else { format!("{}.{}", self.module, self.name) }
    }
}

/// The types found so far.
pub struct Types<'a> {
    memory: &'a dyn Memory,
    offsets: &'a Offsets,
    all: Vec<Type>,
    known: AddressMap<u16>,
    /// The first known address at each place of a table, and its number. Most words are no types, and an empty place says so
    /// at once; most that are types are here.
    quick: Box<[(u64, u16)]>,
    refused: HashSet<u64, BuildHasherDefault<AddressHasher>>,
    /// Address of `type`, 0 before the first proof.
    root: u64,
}

impl<'a> Types<'a> {
    pub fn new(memory: &'a dyn Memory, offsets: &'a Offsets) -> Self {
        let (known, refused) = (AddressMap::default(), HashSet::default());
        Self { memory, offsets, all: Vec::new(), known, quick: vec![(0, 0); QUICK].into(), refused, root: 0 }
    }

    pub fn all(&self) -> &[Type] {
        &self.all
    }

    pub fn get(&self, number: u16) -> Option<&Type> {
        self.all.get(usize::from(number))
    }

    /// The number of the type at an address, if it is known to be one.
    pub fn find(&self, address: u64) -> Option<u16> {
        match self.quick[place(address)] {
            (0, _) => None,
            (known, number) if known == address => Some(number),
            _ => self.known.get(&address).copied(),
        }
    }

    /// Whether an address that is not known might turn out to be a type. Types are larger than what pymalloc serves; mimalloc
    /// serves all.
    pub fn may_be(&self, address: u64, regions: &Regions) -> bool {
        let place = match regions.of(address) {
            Region::Native | Region::Static => true,
            Region::Arena => self.offsets.free_threaded,
            Region::Elsewhere => false,
        };
        place && address.is_multiple_of(8) && !self.refused.contains(&address)
    }

    /// Finds out which of some addresses are types.
    pub fn resolve(&mut self, addresses: &mut Vec<u64>) {
        addresses.sort_unstable();
        addresses.dedup();
        let size = self.object_bytes();
        let mut buffer = Vec::new();
        for batch in addresses.chunks(1024) {
            let read = self.memory.read_many(batch, size, &mut buffer);
            for ((&address, bytes), read) in batch.iter().zip(buffer.chunks_exact(size)).zip(read) {
                if self.known.contains_key(&address) {
                    continue;
                }
                if !read || self.all.len() >= MAX_TYPES || !self.is_type(bytes, address) || !self.add(address, bytes) {
                    if self.refused.len() >= MAX_REFUSED {
                        self.refused.clear();
                    }
                    self.refused.insert(address);
                }
            }
        }
        addresses.clear();
    }

    /// Bytes of a type object that are looked at.
    fn object_bytes(&self) -> usize {
        let t = &self.offsets.type_object;
        [t.name, t.basicsize, t.itemsize, t.flags, t.base, t.dict].into_iter().max().unwrap_or(0) as usize + 8
    }

    /// Whether the `ob_type` of the object leads to `type`.
    fn is_type(&mut self, bytes: &[u8], address: u64) -> bool {
        let of = self.offsets.object.type_;
        let Some(mut meta) = u64_at(bytes, of) else { return false };
        let Some(flags) = self.flags(bytes) else { return false };
        // A type is ready before its first instance: Py_TPFLAGS_READY.
        if flags & (1 << 12) == 0 {
            return false;
        }
        if self.root != 0 {
            // Its metatype is `type` or derived from it; to be one it has to be proved itself, which ends at the root.
            return meta == self.root
                || self.find(meta).is_some_and(|number| self.all[usize::from(number)].shape == Shape::Type)
                || self.proved_metatype(meta);
        }
        // The first: `type` is the object that is of its own type and says so.
        if meta == address {
            return self.is_root(address);
        }
        for _ in 0..4 {
            let Ok(next) = self.memory.u64(meta.wrapping_add(of.into())) else { return false };
            if next == meta {
                return self.is_root(meta);
            }
            meta = next;
        }
        false
    }

    fn is_root(&mut self, address: u64) -> bool {
        let Ok(bytes) = self.memory.bytes(address, self.object_bytes()) else { return false };
        let name = u64_at(&bytes, self.offsets.type_object.name).and_then(|name| c_string(self.memory, name, 8));
        let right = name.as_deref() == Some("type") && self.flags(&bytes).is_some_and(|f| f & flag::TYPE != 0);
        if right {
            self.root = address;
        }
        right
    }

    /// A metatype whose own chain of `ob_type` ends at `type`.
    fn proved_metatype(&mut self, meta: u64) -> bool {
        let mut at = meta;
        for _ in 0..4 {
            let Ok(bytes) = self.memory.bytes(at, self.object_bytes()) else { return false };
            if self.flags(&bytes).is_none_or(|f| f & flag::TYPE == 0) {
                return false;
            }
            match u64_at(&bytes, self.offsets.object.type_) {
                Some(next) if next == self.root => return true,
                Some(next) if next != at => at = next,
                _ => return false,
            }
        }
        false
    }

    /// `tp_flags`, where the other fields are those of a type too.
    fn flags(&self, bytes: &[u8]) -> Option<u64> {
        let t = &self.offsets.type_object;
        let sizes = [i64_at(bytes, t.basicsize)?, i64_at(bytes, t.itemsize)?];
        sizes.iter().all(|size| (0..1 << 40).contains(size)).then(|| u64_at(bytes, t.flags))?
    }

    fn add(&mut self, address: u64, bytes: &[u8]) -> bool {
        let Some(found) = self.read(address, bytes) else { return false };
        self.known.insert(address, self.all.len() as u16);
        let quick = &mut self.quick[place(address)];
        if quick.0 == 0 {
            *quick = (address, self.all.len() as u16);
        }
        self.all.push(found);
        true
    }

    fn read(&self, address: u64, bytes: &[u8]) -> Option<Type> {
        let t = &self.offsets.type_object;
        let flags = self.flags(bytes)?;
        let text = c_string(self.memory, u64_at(bytes, t.name)?, MAX_NAME)?;
        let heap = flags & flag::HEAP_TYPE != 0;
        let qualname = || {
            let at = self.memory.u64(address.wrapping_add(self.offsets.heap_type.qualname.into())).ok()?;
            string(self.memory, self.offsets, at, MAX_NAME)
        };
        // A static type's name is "module.name", or only "name" for those of builtins (`type_module`, Objects/typeobject.c).
        let (module, name) = text.rsplit_once('.').unwrap_or(("builtins", &text));
        let (module, name) = if heap {
            let of_dict = self.module(u64_at(bytes, t.dict)?);
            (of_dict.unwrap_or_else(|| module.to_owned()), qualname().unwrap_or_else(|| name.to_owned()))
        } else {
            (module.to_owned(), name.to_owned())
        };
        let gc = flags & flag::HAVE_GC != 0;
        let instance = &self.offsets.instance;
        let managed = flags & u64::from(instance.preheader_flags) != 0;
        let head = if self.offsets.has_gc_heads() { u64::from(self.offsets.gc_head.size) } else { 0 };
        let base = u64_at(bytes, t.base)?;
        Some(Type {
            address,
            shape: self.shape(flags, base, &text),
            extent: self.extent(base, &module, &name),
            module,
            name,
            gc,
            heap,
            basicsize: u64_at(bytes, t.basicsize)?,
            itemsize: u64_at(bytes, t.itemsize)?,
            preheader: if gc { head } else { 0 } + if managed { 16 } else { 0 },
            inline_values: flags & u64::from(instance.inline_flag) != 0,
            managed,
        })
    }

    fn shape(&self, flags: u64, base: u64, name: &str) -> Shape {
        let by_flag = [
            (flag::LONG, Shape::Int),
            (flag::UNICODE, Shape::Str),
            (flag::BYTES, Shape::Bytes),
            (flag::LIST, Shape::List),
            (flag::TUPLE, Shape::Tuple),
            (flag::DICT, Shape::Dict),
            (flag::TYPE, Shape::Type),
        ];
        let by_flag = by_flag.into_iter().find(|(flag, _)| flags & flag != 0).map(|(_, shape)| shape);
        // Types without a flag of their own are told by the name of a static base.
        let mut found = by_flag.or_else(|| named(flags, name));
        let mut base = base;
        for _ in 0..MAX_CHAIN {
            if found.is_some() || base == 0 {
                break;
            }
            let Ok(bytes) = self.memory.bytes(base, self.object_bytes()) else { break };
            let t = &self.offsets.type_object;
            let name = u64_at(&bytes, t.name).and_then(|name| c_string(self.memory, name, 32));
            found = self.flags(&bytes).zip(name).and_then(|(flags, name)| named(flags, &name));
            base = u64_at(&bytes, t.base).unwrap_or(0);
        }
        found.unwrap_or(Shape::Plain)
    }

    /// The layout of a type or of the nearest of its bases that has one.
    fn extent(&self, mut base: u64, module: &str, name: &str) -> Option<&'static Layout> {
        let mut found = sizeof::layout(&format!("{module}.{name}"));
        for _ in 0..MAX_CHAIN {
            if found.is_some() || base == 0 {
                break;
            }
            // Types of C have their module in their name.
            let name = self.memory.u64(base.wrapping_add(self.offsets.type_object.name.into())).ok()?;
            found = c_string(self.memory, name, 64).and_then(|name| sizeof::layout(&name));
            base = self.memory.u64(base.wrapping_add(self.offsets.type_object.base.into())).ok()?;
        }
        found
    }

    /// `__module__` of the dict of a heap type.
    fn module(&self, dict: u64) -> Option<String> {
        let (of, layout) = (&self.offsets.dict, &self.offsets.dict_keys);
        let keys = self.memory.u64(dict.wrapping_add(of.keys.into())).ok()?;
        let header = self.memory.bytes(keys, layout.indices as usize).ok()?;
        let size = super::object::dict_keys(self.offsets, &header)?;
        let (entry, key, value) = super::object::entry_of(self.offsets, &header);
        let count = u64_at(&header, layout.entries)?.min(MAX_ENTRIES).min(size.entries);
        let start = keys.checked_add(size.entries_at)?;
        let entries = self.memory.bytes(start, (count * entry) as usize).ok()?;
        entries.chunks_exact(entry as usize).find_map(|bytes| {
            let name = string(self.memory, self.offsets, u64_at(bytes, key)?, 16)?;
            (name == "__module__").then(|| string(self.memory, self.offsets, u64_at(bytes, value)?, MAX_NAME))?
        })
    }
}

/// Place of an address in the quick table.
fn place(address: u64) -> usize {
    (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize % QUICK
}

fn named(flags: u64, name: &str) -> Option<Shape> {
    // A class of the program may have any name; only static types and `_collections`' are told so.
    match name {
        "collections.deque" => Some(Shape::Deque),
        _ if flags & flag::HEAP_TYPE != 0 => None,
        "set" | "frozenset" => Some(Shape::Set),
        "bytearray" => Some(Shape::ByteArray),
        "frame" | "generator" | "coroutine" | "async_generator" => Some(Shape::Frame),
        _ => None,
    }
}

/// The subset of a state word that says how a string is stored.
pub(super) fn unicode_kind(offsets: &Offsets, bytes: &[u8]) -> Option<(u64, bool, bool)> {
    let state = u32_at(bytes, offsets.unicode.state)?;
    let bit = |bit: u32| state.checked_shr(bit).unwrap_or(0) & 1 != 0;
    let kind = u64::from(state.checked_shr(offsets.unicode.kind_bit).unwrap_or(0) & 7);
    Some((kind, bit(offsets.unicode.compact_bit), bit(offsets.unicode.ascii_bit)))
}
