//! Where the instances of a type hold their references.
//!
//! The interpreter knows this as code (`tp_traverse`), which cannot be run from outside. What is known of a type instead: the
//! built-in layout at its beginning, where its dict and its list of weak references are, and that every other word which is
//! exactly the address of an object is a reference to it. Words that look so and are none (borrowed ones, links between weak
//! references) are told by the type's name.

use std::ops::Range;

use leaktrace_common::walk::ABSENT;

use crate::census::{Shape, Type};
use crate::cpython::Offsets;
use crate::cpython::text::c_string;
use crate::target::Memory;

/// Largest instance whose words are looked at one by one, bytes.
const MAX_WORDS: u64 = 1 << 16;
/// Longest chain of bases that is followed.
const MAX_BASES: usize = 64;
/// Where in `teedataobject` the values begin, and how many of them there are (`Modules/itertoolsmodule.c`).
/// (from the end of the header on).
pub(super) const TEE_VALUES: u32 = 24;
pub(super) const TEE_COUNT: u32 = 8;

/// What else is to be known of a built-in type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Special {
    None,
    /// Holds nothing that counts, whatever its words say.
    Leaf,
    Weakref,
    /// Generators, coroutines and asynchronous generators: from 3.11 on the frame is in them.
    Generator,
    Frame,
    /// `functools.lru_cache` of C.
    LruCache,
    Cell,
    Function,
    /// The C side of `threading.local`.
    ThreadLocal,
    Module,
    /// `functools.partial`.
    Partial,
    /// What the branches of `itertools.tee` share.
    TeeData,
    ContextVar,
    Code,
}

/// The layout of one type's instances.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) address: u64,
    pub(super) shape: Shape,
    pub(super) special: Special,
    /// Offsets of the words that are looked at.
    pub(super) words: Range<u32>,
    /// Offsets among them that are no references.
    pub(super) skip: [u32; 5],
    /// Items of 8 bytes behind the fixed part.
    pub(super) items: bool,
    pub(super) basicsize: u32,
    pub(super) itemsize: u32,
    /// Offset of the pointer to the instance's dict; negative from the end of the instance.
    pub(super) dict: i32,
    /// Whether the pointer to dict or values lies before the object, and whether values lie behind it.
    pub(super) managed: bool,
    pub(super) inline_values: bool,
    /// Whether instances hold a reference to their type.
    pub(super) heap: bool,
    pub(super) gc: bool,
}

impl Layout {
    pub(super) fn read(memory: &dyn Memory, offsets: &Offsets, of: &Type) -> Self {
        let t = &offsets.type_object;
        let word = |offset: u32| memory.u64(of.address.wrapping_add(offset.into())).unwrap_or(0);
        let (static_name, static_size) = static_base(memory, offsets, of.address);
        let special = special(&static_name);
        let header = offsets.header();
        let start = match of.shape {
            Shape::Plain | Shape::Frame => header,
            // What a metatype adds.
            Shape::Type => offsets.heap_type.size,
            _ => u32::try_from(static_size).unwrap_or(header),
        };
        // Beyond the fixed part of a tuple its items begin.
        let end = u32::try_from(of.basicsize.min(MAX_WORDS)).unwrap_or(0);
        let weak = i32::try_from(word(t.weaklistoffset) as i64).unwrap_or(0);
        let dict = i32::try_from(word(t.dictoffset) as i64).unwrap_or(0);
        let mut skip = [ABSENT; 5];
        skip[0] = u32::try_from(weak).ok().filter(|&at| at > 0).unwrap_or(ABSENT);
        skip[1] = u32::try_from(dict).ok().filter(|&at| at > 0).unwrap_or(ABSENT);
        let (weakref, frame) = (&offsets.weakref, &offsets.frame_object);
        let more = match special {
            Special::Weakref => [weakref.object, weakref.previous, weakref.next],
            Special::Frame => [frame.generator, frame.frame, ABSENT],
            // `root.prev` and `root.next`, which nothing counts (`Modules/_functoolsmodule.c`).
            Special::LruCache => [header, header + 8, ABSENT],
            // The placeholder of 3.14, which the module's state has (`Modules/_functoolsmodule.c`).
            Special::Partial => [skip[0].saturating_add(8), ABSENT, ABSENT],
            // `var_cached` is borrowed from the context (Include/internal/pycore_context.h).
            Special::ContextVar => [header + 16, ABSENT, ABSENT],
            // `gi_running` is a byte; what is beside it is left from before.
            Special::Generator if offsets.generator.state == ABSENT => [offsets.generator.frame + 8, ABSENT, ABSENT],
            // Builds with the GIL leave there what was in the memory before.
            Special::Code => [offsets.code.unique_id, ABSENT, ABSENT],
            _ => [ABSENT; 3],
        };
        skip[2..].copy_from_slice(&more);
        let leaf = special == Special::Leaf;
        let frame_at = match (special, offsets.generator.state) {
            (Special::Generator, state) if state != ABSENT => offsets.generator.frame,
            // Up to `f_trace`: behind it are numbers, and the block stack with what was there before.
            (Special::Frame, _) if offsets.frame_object.data == ABSENT => {
                offsets.frame.locals + if offsets.frame.stack_pointer == ABSENT { 24 } else { 32 }
            }
            (Special::TeeData, _) => header + TEE_VALUES,
            (Special::Frame, _) => offsets.frame_object.data,
            _ => end,
        };
        Self {
            address: of.address,
            shape: of.shape,
            special,
            words: if leaf { 0..0 } else { start..end.min(frame_at).max(start) },
            skip,
            items: of.shape == Shape::Plain && of.itemsize == 8,
            basicsize: end,
            itemsize: of.itemsize as u32,
            dict: if leaf || of.shape == Shape::Type { 0 } else { dict },
            managed: of.managed,
            inline_values: of.inline_values,
            heap: of.heap,
            gc: of.gc,
        }
    }

    /// Whether no instance can hold a reference.
    pub(super) fn is_leaf(&self) -> bool {
        let text = matches!(self.shape, Shape::Int | Shape::Str | Shape::Bytes | Shape::ByteArray);
        self.special == Special::Leaf || text && !self.heap && !self.gc
    }
}

/// `tp_name` and `tp_basicsize` of the first base, or the type itself, that no class statement made: `object` apart.
fn static_base(memory: &dyn Memory, offsets: &Offsets, address: u64) -> (String, u64) {
    let t = &offsets.type_object;
    let mut at = address;
    let mut last = (String::new(), 0);
    for _ in 0..MAX_BASES {
        let word = |offset: u32| memory.u64(at.wrapping_add(offset.into())).unwrap_or(0);
        let name = c_string(memory, word(t.name), 64).unwrap_or_default();
        // Types that an extension makes at run time are named with their module, as its static ones are.
        // A class statement's name has no dot.
        let heap = word(t.flags) & crate::census::object::HEAP_TYPE != 0;
        let made_in_c = !heap || name.contains('.');
        if made_in_c {
            last = (name, word(t.basicsize));
            break;
        }
        at = word(t.base);
        if at == 0 {
            break;
        }
    }
    last
}

fn special(name: &str) -> Special {
    match name {
        "weakref"
        | "weakref.ReferenceType"
        | "weakproxy"
        | "weakref.ProxyType"
        | "weakcallableproxy"
        | "weakref.CallableProxyType" => Special::Weakref,
        "generator" | "coroutine" | "async_generator" => Special::Generator,
        "frame" => Special::Frame,
        "code" => Special::Code,
        "cell" => Special::Cell,
        "function" => Special::Function,
        "functools._lru_cache_wrapper" => Special::LruCache,
        "_thread._local" => Special::ThreadLocal,
        "module" => Special::Module,
        "functools.partial" => Special::Partial,
        "itertools._tee_dataobject" => Special::TeeData,
        "ContextVar" | "_contextvars.ContextVar" => Special::ContextVar,
        // Its reference to the dict of the thread is borrowed (`Modules/_threadmodule.c`); the links of an `lru_cache` are
        // followed from the cache.
        "_thread._localdummy" | "functools._lru_list_elem" => Special::Leaf,
        _ => Special::None,
    }
}
