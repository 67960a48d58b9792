//! The references of one object.

mod containers;
mod frames;

use leaktrace_common::walk::ABSENT;

use super::layout::{Layout, Special, TEE_COUNT, TEE_VALUES};
use super::slot::Slot;
use crate::census::object::{BEFORE, HEAD, count_of, dict_keys, measure};
use crate::census::{AddressMap, Shape, Type};
use crate::cpython::Offsets;
use crate::cpython::offsets::InstanceValues;
use crate::target::words::{i64_at, u64_at};
use crate::target::{CachedMemory, Memory};

/// Longest container that is believed, items.
const MAX_ITEMS: u64 = 1 << 32;
/// Most keys that the instances of a type share (`SHARED_KEYS_MAX_SIZE`, Include/internal/pycore_dict.h).
const MAX_SHARED: u64 = 64;
/// Most values of a `teedataobject` (`LINKCELLS`, Modules/itertoolsmodule.c).
const MAX_TEE: u32 = 57;
/// Largest state of a module that is believed, bytes.
const MAX_STATE: u64 = 1 << 20;

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
}
