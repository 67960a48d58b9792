//! The references of one object.

use leaktrace_common::walk::ABSENT;

use super::layout::{Layout, Special, TEE_COUNT, TEE_VALUES};
use super::slot::Slot;
use crate::census::object::{BEFORE, HEAD, count_of, dict_keys, entry_of, measure};
use crate::census::words::{i64_at, u64_at};
use crate::census::{AddressMap, Shape, Type};
use crate::cpython::Offsets;
use crate::cpython::offsets::InstanceValues;
use crate::target::{CachedMemory, Memory};

/// Words read at once of what is long.
const CHUNK: u64 = 1 << 13;
/// Longest container that is believed, items.
const MAX_ITEMS: u64 = 1 << 32;
/// Most keys that the instances of a type share (`SHARED_KEYS_MAX_SIZE`, Include/internal/pycore_dict.h).
const MAX_SHARED: u64 = 64;
/// Most local variables, and most values on its stack, of a frame that is believed.
const MAX_LOCALS: u64 = 1 << 16;
/// Most values of a `teedataobject` (`LINKCELLS`, Modules/itertoolsmodule.c).
const MAX_TEE: u32 = 57;
/// Largest state of a module that is believed, bytes.
const MAX_STATE: u64 = 1 << 20;
/// Most links of an `lru_cache` that are followed.
const MAX_LINKS: u64 = 1 << 26;
/// Items in a block of a deque (`BLOCKLEN`, Modules/_collectionsmodule.c).
const DEQUE_ITEMS: u64 = 64;

/// Items from which on a container's table is read as it is now, and looked at again afterwards: it may be replaced meanwhile,
/// and all that it holds be missed.
const LONG: u64 = 32;

/// What is called with each reference.
pub(super) type Each<'e> = &'e mut dyn FnMut(Slot, u64);

/// Reads objects and tells what they hold.
pub(super) struct Visitor<'a> {
    pub(super) memory: CachedMemory<'a>,
    pub(super) offsets: &'a Offsets,
    /// By number of the type.
    layouts: Vec<Layout>,
    types: &'a [Type],
    by_address: AddressMap<u16>,
    head: Vec<u8>,
    chunk: Vec<u8>,
}

/// What a look at an object said besides its references.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// `sys.getsizeof`.
    pub(super) bytes: u64,
    pub(super) length: Option<u64>,
    pub(super) refcount: u64,
    /// The table of its items was replaced while it was read: visit it again.
    pub(super) moved: bool,
}

impl<'a> Visitor<'a> {
    pub(super) fn new(memory: &'a dyn Memory, offsets: &'a Offsets, types: &'a [Type]) -> Self {
        let layouts = types.iter().map(|of| Layout::read(memory, offsets, of)).collect();
        let by_address = types.iter().enumerate().map(|(number, of)| (of.address, number as u16)).collect();
        let memory = CachedMemory::new(memory);
        Self { memory, offsets, layouts, types, by_address, head: Vec::new(), chunk: Vec::new() }
    }

    /// The type at an address.
    pub(super) fn type_at(&self, address: u64) -> Option<&Type> {
        self.types.get(usize::from(*self.by_address.get(&address)?))
    }

    pub(super) fn layout(&self, number: u16) -> &Layout {
        &self.layouts[usize::from(number)]
    }

    pub(super) fn type_(&self, number: u16) -> &Type {
        &self.types[usize::from(number)]
    }

    /// Calls `each` with all references of the object at an address, which was found to be of a type. `None`: it is of another
    /// by now, or cannot be read.
    pub(super) fn visit(&mut self, address: u64, number: u16, each: Each<'_>) -> Option<Seen> {
        let layout = self.layouts.get(usize::from(number))?.clone();
        let (seen, head) = self.look(address, number, &layout)?;
        let table = self.table(layout.shape);
        if seen.length.is_some_and(|length| length >= LONG) && table[0] != ABSENT {
            self.head = head;
            self.memory.bypass(true);
            let seen = self.visit_long(address, number, &layout, table, each);
            self.memory.bypass(false);
            return seen;
        }
        if !layout.is_leaf() {
            self.references(address, &layout, &head, each);
        }
        self.head = head;
        Some(seen)
    }

    fn visit_long(
        &mut self,
        address: u64,
        number: u16,
        layout: &Layout,
        table: [u32; 2],
        each: Each<'_>,
    ) -> Option<Seen> {
        let (mut seen, head) = self.look(address, number, layout)?;
        self.references(address, layout, &head, each);
        let is_as_before = |&offset: &u32| {
            offset == ABSENT
                || self.memory.u64(address.wrapping_add(offset.into())).ok() == u64_at(&head[BEFORE..], offset)
        };
        seen.moved = !table.iter().all(is_as_before);
        self.head = head;
        Some(seen)
    }

    /// Offsets of what says where a container's items are, if that is not in itself.
    fn table(&self, shape: Shape) -> [u32; 2] {
        let of = self.offsets;
        match shape {
            Shape::List => [of.list.items, ABSENT],
            Shape::Dict => [of.dict.keys, of.dict.values],
            Shape::Set => [of.set.table, of.set.mask],
            Shape::Deque => [of.deque.leftblock, ABSENT],
            _ => [ABSENT; 2],
        }
    }

    /// Addresses in the blocks that belong to an object.
    pub(super) fn parts(&mut self, address: u64, number: u16, each: &mut dyn FnMut(u64)) {
        let Some(layout) = self.layouts.get(usize::from(number)).cloned() else { return };
        if layout.is_leaf() && layout.shape == Shape::Int {
            return;
        }
        let Some((_, head)) = self.look(address, number, &layout) else { return };
        if let Some(object) = measure(self.offsets, &self.types[usize::from(number)], &head, BEFORE) {
            let part = object.part.map_or(0, |part| part.address);
            [part, object.values, object.keys].into_iter().filter(|&part| part != 0).for_each(each);
        }
        self.head = head;
    }

    /// `len()` of a container.
    pub(super) fn length(&self, address: u64, number: u16) -> Option<u64> {
        let offset = match self.layouts.get(usize::from(number))?.shape {
            Shape::List | Shape::Deque | Shape::Tuple => self.offsets.var_object.size,
            Shape::Dict => self.offsets.dict.used,
            Shape::Set => self.offsets.set.used,
            _ => return None,
        };
        self.memory.u64(address.wrapping_add(offset.into())).ok().filter(|&length| length <= MAX_ITEMS)
    }

    /// The object's first bytes, with [`BEFORE`] before it, and what they say.
    fn look(&mut self, address: u64, number: u16, layout: &Layout) -> Option<(Seen, Vec<u8>)> {
        let mut head = std::mem::take(&mut self.head);
        head.resize(BEFORE + HEAD.max(layout.basicsize as usize), 0);
        let start = address.wrapping_sub(BEFORE as u64);
        if self.memory.read(start, &mut head).is_err() {
            self.memory.read_sparse(start, &mut head);
        }
        let object = &head[BEFORE..];
        let of = &self.types[usize::from(number)];
        let is_static_type = of.shape == Shape::Type;
        if u64_at(object, self.offsets.object.type_) != Some(of.address) && !is_static_type {
            self.head = head;
            return None;
        }
        let mut seen = Seen { refcount: count_of(self.offsets, object).into(), ..Seen::default() };
        if let Some(object) = measure(self.offsets, of, &head, BEFORE) {
            seen.bytes = object.shallow;
            seen.length = object.length;
            if object.keys != 0
                && let Some(size) = self.keys_bytes(object.keys, object.keys_always)
            {
                seen.bytes += size;
            }
        }
        Some((seen, head))
    }

    /// The bytes of a dict's keys, 0 when others share them.
    fn keys_bytes(&self, keys: u64, always: bool) -> Option<u64> {
        let mut header = [0; 64];
        let header = &mut header[..(self.offsets.dict_keys.indices as usize).min(64)];
        self.memory.read(keys, header).ok()?;
        let size = dict_keys(self.offsets, header)?;
        Some(if size.unshared || always { size.bytes } else { 0 })
    }

    fn references(&mut self, address: u64, layout: &Layout, head: &[u8], each: Each<'_>) {
        let object = &head[BEFORE..];
        if layout.heap && layout.shape != Shape::Type {
            each(Slot::Class, layout.address);
        }
        let word = |offset: u32| u64_at(object, offset).unwrap_or(0);
        let length = || i64_at(object, self.offsets.var_object.size).unwrap_or(0).unsigned_abs().min(MAX_ITEMS);
        match layout.shape {
            Shape::List => self.items(word(self.offsets.list.items), length(), each),
            Shape::Tuple => self.items(address.wrapping_add(self.offsets.tuple.items.into()), length(), each),
            Shape::Dict => self.dict(word(self.offsets.dict.keys), word(self.offsets.dict.values), each),
            Shape::Set => self.set(address, object, each),
            Shape::Deque => self.deque(object, length(), each),
            Shape::Type => {
                self.class(object, each);
                if word(self.offsets.type_object.flags) & crate::census::object::HEAP_TYPE == 0 {
                    return;
                }
            }
            _ => {}
        }
        for offset in layout.words.clone().step_by(8) {
            let word = word(offset);
            if word != 0 && !layout.skip.contains(&offset) {
                each(Slot::Field(offset), word);
            }
        }
        if layout.items {
            // Built-in types with items let nobody have them by number.
            let start = layout.basicsize;
            self.words(address.wrapping_add(start.into()), length(), &mut |index, word| {
                each(Slot::Field(start.saturating_add((8 * index).min(u64::from(u32::MAX)) as u32)), word);
            });
        }
        self.namespace(address, layout, head, each);
        match layout.special {
            Special::Weakref => {
                let callback = word(self.offsets.weakref.callback);
                if callback != 0 && !layout.words.contains(&self.offsets.weakref.callback) {
                    each(Slot::Field(self.offsets.weakref.callback), callback);
                }
            }
            Special::Generator if self.offsets.generator.state != ABSENT => {
                let state = object.get(self.offsets.generator.state as usize).map_or(0, |&state| state as i8);
                if i32::from(state) < self.offsets.frame_state.cleared as i32 {
                    self.frame(address.wrapping_add(self.offsets.generator.frame.into()), each);
                }
            }
            Special::Frame => {
                let inline = self.offsets.frame_object.data;
                if inline == ABSENT {
                    self.locals(address, each);
                } else if word(self.offsets.frame_object.frame) == address.wrapping_add(inline.into()) {
                    self.frame(address.wrapping_add(inline.into()), each);
                }
            }
            Special::LruCache => self.lru_cache(address, each),
            Special::TeeData => {
                let header = self.offsets.header();
                let count = word(header + TEE_COUNT) & u64::from(u32::MAX);
                if count <= u64::from(MAX_TEE) {
                    self.items(address.wrapping_add((header + TEE_VALUES).into()), count, each);
                }
            }
            Special::Module => self.module_state(object, each),
            _ => {}
        }
    }

    /// `__dict__`, or the values that stand for it.
    fn namespace(&mut self, address: u64, layout: &Layout, head: &[u8], each: Each<'_>) {
        let word = |at: usize| u64_at(head, at as u32).unwrap_or(0);
        if layout.dict > 0 {
            let dict = word(BEFORE + layout.dict as usize);
            if dict != 0 {
                each(Slot::Dict, dict);
            }
        } else if layout.dict < 0 && layout.itemsize > 0 && !layout.managed {
            // `_PyObject_GetDictPtr` (Objects/object.c): from the end, rounded up to words.
            let items = i64_at(&head[BEFORE..], self.offsets.var_object.size).unwrap_or(0).unsigned_abs();
            let size = items.min(MAX_ITEMS) * u64::from(layout.itemsize) + u64::from(layout.basicsize);
            let at = size.next_multiple_of(8).wrapping_add_signed(layout.dict.into());
            if let Ok(dict) = self.memory.u64(address.wrapping_add(at))
                && dict != 0
            {
                each(Slot::Dict, dict);
            }
        }
        if !layout.managed {
            return;
        }
        let of = &self.offsets.dict_values;
        let offset = if of.values == ABSENT { 0 } else { u64::from(of.values) };
        let dict = word(BEFORE.saturating_sub(self.offsets.instance.managed_dict as usize));
        let values = match self.offsets.instance.values {
            InstanceValues::Dict => return,
            InstanceValues::Pointer => {
                if dict != 0 {
                    each(Slot::Dict, dict);
                }
                word(BEFORE - 32)
            }
            InstanceValues::Tagged if dict & 1 == 1 => dict.wrapping_add(1),
            InstanceValues::Tagged => {
                if dict != 0 {
                    each(Slot::Dict, dict);
                }
                0
            }
            InstanceValues::Inline => {
                if dict != 0 {
                    each(Slot::Dict, dict);
                }
                let values = address.wrapping_add(layout.basicsize.into());
                let valid = layout.inline_values
                    && self.memory.bytes(values.wrapping_add(of.valid.into()), 1).is_ok_and(|valid| valid[0] != 0);
                if valid { values } else { 0 }
            }
        };
        if values != 0
            && let Some(count) = self.shared_keys(layout.address)
        {
            let count = match self.memory.bytes(values.wrapping_add(of.capacity.into()), 1) {
                Ok(capacity) if of.capacity != ABSENT => count.min(capacity[0].into()),
                _ => count,
            };
            self.words(values.wrapping_add(offset), count.min(MAX_SHARED), &mut |index, word| {
                each(Slot::Attribute(index as u32), word);
            });
        }
    }

    /// How many keys the instances of a type share.
    fn shared_keys(&self, type_: u64) -> Option<u64> {
        let keys = self.memory.u64(type_.wrapping_add(self.offsets.heap_type.cached_keys.into())).ok()?;
        self.memory.u64(keys.wrapping_add(self.offsets.dict_keys.entries.into())).ok().filter(|_| keys != 0)
    }

    /// Calls with each word that is not 0 and its index.
    fn words(&mut self, start: u64, count: u64, each: &mut dyn FnMut(u64, u64)) {
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

    fn items(&mut self, start: u64, count: u64, each: Each<'_>) {
        self.words(start, count, &mut |index, word| each(Slot::Item(index), word));
    }

    /// Keys and values of a dict; `values` is not 0 where dicts share the keys.
    pub(super) fn dict(&mut self, keys: u64, values: u64, each: Each<'_>) {
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

    fn shared_key_objects(&mut self, start: u64, count: u64, entry: u64, key_at: u32, each: Each<'_>) {
        let len = (count.min(MAX_SHARED) * entry) as usize;
        if let Ok(bytes) = self.memory.bytes(start, len) {
            for key in bytes.chunks_exact(entry as usize).filter_map(|bytes| u64_at(bytes, key_at)) {
                if key != 0 {
                    each(Slot::Key, key);
                }
            }
        }
    }

    fn set(&mut self, address: u64, object: &[u8], each: Each<'_>) {
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

    fn deque(&mut self, object: &[u8], length: u64, each: Each<'_>) {
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

    /// What `type_traverse` visits (Objects/typeobject.c), and the strings that it need not.
    fn class(&mut self, object: &[u8], each: Each<'_>) {
        let (t, heap) = (self.offsets.type_object, self.offsets.heap_type);
        let word = |offset: u32| if offset == ABSENT { 0 } else { u64_at(object, offset).unwrap_or(0) };
        let is_heap = word(t.flags) & crate::census::object::HEAP_TYPE != 0;
        if is_heap {
            each(Slot::Class, word(self.offsets.object.type_));
        }
        if word(t.dict) != 0 {
            each(Slot::Dict, word(t.dict));
        }
        let of_heap = [heap.module, heap.name, heap.qualname, heap.slots];
        let of_heap = of_heap.into_iter().filter(|_| is_heap);
        for offset in [t.base, t.bases, t.mro, t.cache].into_iter().chain(of_heap) {
            if word(offset) != 0 {
                each(Slot::Field(offset), word(offset));
            }
        }
    }

    /// A frame of 3.11 and later: what it holds besides local variables, and those.
    pub(super) fn frame(&mut self, base: u64, each: Each<'_>) {
        let of = self.offsets.frame;
        for offset in [of.function, of.locals, of.object, of.code] {
            if offset != ABSENT
                && let Ok(word) = self.memory.u64(base.wrapping_add(offset.into()))
                && self.untagged(word) != 0
            {
                each(Slot::Frame(offset), self.untagged(word));
            }
        }
        self.locals(base, each);
    }

    /// The reference without the bits that say how it is counted.
    fn untagged(&self, word: u64) -> u64 {
        word & !u64::from(self.offsets.references.tags)
    }

    /// Address of the code object of a frame.
    pub(super) fn code_of(&self, base: u64) -> u64 {
        let code = self.memory.u64(base.wrapping_add(self.offsets.frame.code.into())).unwrap_or(0);
        self.untagged(code)
    }

    /// How many local variables, cells and free variables a function has.
    pub(super) fn local_count(&self, code: u64) -> u64 {
        let of = self.offsets.code;
        let int = |offset: u32| self.memory.u32(code.wrapping_add(offset.into())).map_or(0, u64::from);
        let count = if of.nlocalsplus == ABSENT {
            let tuple = |offset: u32| {
                let tuple = self.memory.u64(code.wrapping_add(offset.into())).unwrap_or(0);
                self.memory.u64(tuple.wrapping_add(self.offsets.var_object.size.into())).unwrap_or(0).min(MAX_LOCALS)
            };
            tuple(of.varnames) + tuple(of.cellvars) + tuple(of.freevars)
        } else {
            int(of.nlocalsplus)
        };
        count.min(MAX_LOCALS)
    }

    /// Local variables and the value stack, as far as its depth is known: not of the function that is just running.
    pub(super) fn locals(&mut self, base: u64, each: Each<'_>) {
        let of = self.offsets.frame;
        let count = self.local_count(self.code_of(base));
        let start = base.wrapping_add(of.localsplus.into());
        let tags = !u64::from(self.offsets.references.tags);
        self.words(start, count, &mut |index, word| each(Slot::Local(index as u32), word & tags));
        let depth = self.stack_depth(base, start, count);
        self.words(start.wrapping_add(8 * count), depth, &mut |index, word| {
            each(Slot::Stack(index as u32), word & tags);
        });
    }

    fn stack_depth(&self, base: u64, start: u64, count: u64) -> u64 {
        let of = self.offsets.frame;
        let depth = if of.stack_pointer != ABSENT {
            let pointer = self.memory.u64(base.wrapping_add(of.stack_pointer.into())).unwrap_or(0);
            (pointer.wrapping_sub(start) / 8).wrapping_sub(count)
        } else if of.stack_depth != ABSENT {
            let depth = self.memory.u32(base.wrapping_add(of.stack_depth.into())).unwrap_or(0);
            // From 3.11 on it counts the local variables too.
            let before = if of.function == ABSENT { 0 } else { count };
            (i64::from(depth as i32) as u64).wrapping_sub(before)
        } else {
            0
        };
        if depth < MAX_LOCALS { depth } else { 0 }
    }

    /// What C code keeps for its module: each word of it that is exactly the address of an object.
    fn module_state(&mut self, module: &[u8], each: Each<'_>) {
        let of = self.offsets.module;
        let word = |offset: u32| if offset == ABSENT { 0 } else { u64_at(module, offset).unwrap_or(0) };
        let size = if of.state_size == ABSENT {
            let at = word(of.definition).wrapping_add(self.offsets.module_definition.size.into());
            self.memory.u64(at).unwrap_or(0)
        } else {
            word(of.state_size)
        };
        let state = word(of.state);
        if state != 0 && size <= MAX_STATE {
            self.words(state, size / 8, &mut |_, word| each(Slot::State, word));
        }
    }

    /// The links of a bounded cache, from its root (`Modules/_functoolsmodule.c`).
    fn lru_cache(&mut self, address: u64, each: Each<'_>) {
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
