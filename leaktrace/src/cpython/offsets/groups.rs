//! The groups of a table of offsets: one for each struct of CPython, a field for each member.

use leaktrace_common::walk::ABSENT;
use leaktrace_common::wire::line_encoding;
use serde::Deserialize;

macro_rules! group {
    ($(#[$doc:meta])* $name:ident { $($field:ident),* $(,)? }) => {
        $(#[$doc])*
        ///
        /// A member that the version does not have is [`ABSENT`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $(pub $field: u32),* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: ABSENT),* }
            }
        }
    };
}

group!(
    /// `_PyRuntimeState`. `gc` is 3.8's, `tstate_current` that of 3.8 to 3.11.
    Runtime { interpreters_head, interpreters_main, tstate_current, gc }
);
group!(
    /// `PyInterpreterState`. `dict_keys_free_list`: the array of dict keys that are kept for the next dict, 3.10 and later. `modules`: `sys.modules`.
    InterpreterState { next, id, threads_head, gc, dict_keys_free_list, size, modules }
);
group!(
    /// `PyThreadState`. `frame` is the innermost frame, or the cframe that points at it.
    ThreadState { next, interpreter, thread_id, native_thread_id, frame, size, dict }
);
group!(
    /// `_PyCFrame` (3.11, 3.12).
    CFrame { current_frame }
);
group!(
    /// `_PyInterpreterFrame`, before 3.11 `PyFrameObject`. `stack_pointer` is the address behind the value stack's top (to 3.9, and
    /// from 3.14 on), `stack_depth` its depth as an int (3.10; from 3.11 to 3.13 counted from `localsplus` on). `copy`: which
    /// copy of the instructions it runs, in free-threaded builds from 3.14.
    Frame { code, previous, instr, owner, localsplus, function, locals, object, stack_pointer, stack_depth, copy }
);
group!(
    /// `PyCodeObject`. `varnames`, `cellvars` and `freevars` are those of 3.8 to 3.10; from 3.11 `localsplusnames` has them all.
    /// `unique_id` is set in free-threaded builds only.
    Code {
        filename,
        qualname,
        linetable,
        firstlineno,
        firsttraceable,
        instructions,
        stacksize,
        nlocalsplus,
        localsplusnames,
        varnames,
        cellvars,
        freevars,
        copies,
        unique_id,
    }
);
group!(
    /// `_PyCodeArray`: the copies of a code object's instructions.
    CodeCopies { entries }
);
group!(
    /// `PyBytesObject`.
    Bytes { size, data }
);
group!(
    /// `PyASCIIObject`; the `_bit`s are bit numbers in `state`, `ascii_data` is where compact ASCII characters begin.
    Unicode { length, state, kind_bit, compact_bit, ascii_bit, ascii_data }
);
group!(
    /// `PyCompactUnicodeObject`: where other compact characters begin.
    CompactUnicode { data }
);
group!(
    /// `PyTypeObject`.
    TypeObject {
        name,
        basicsize,
        itemsize,
        flags,
        base,
        dict,
        members,
        dictoffset,
        weaklistoffset,
        bases,
        mro,
        cache,
    }
);
group!(
    /// `struct _gc_runtime_state`. `heap_size`, `visited_space`: of the incremental collector (3.14 to 3.14.4), without `long_lived_total`.
    Gc {
        size,
        enabled,
        collecting,
        generations,
        generation_stats,
        permanent,
        garbage,
        debug,
        long_lived_total,
        long_lived_pending,
        heap_size,
        visited_space,
    }
);
group!(
    /// `struct gc_generation`.
    GcGeneration { size, threshold, count }
);
group!(
    /// `struct gc_generation_stats`.
    GcStats { size, collections, collected, uncollectable }
);
group!(
    /// `struct gc_stats` (3.15): rings of statistics, one for each generation.
    GcRing { young, old }
);
group!(
    /// `struct gc_young_stats_buffer` and `struct gc_old_stats_buffer` (3.15); `index` is the item that is up to date.
    StatsRing { size, items, index }
);
group!(
    /// States of a generator's frame (3.11 and later): from `cleared` on it holds nothing.
    FrameState { cleared }
);
group!(
    /// Low bits of the references in a frame that are not of the address.
    References { tags }
);
group!(
    /// `struct pool_header`; its size is where the first block begins.
    Pool { size, used, freeblock, nextpool, arenaindex, szidx, nextoffset, maxnextoffset }
);
group!(
    /// `struct arena_object`.
    Arena { size, address, pool_address }
);
group!(
    /// `struct _obmalloc_state` (3.12 and later): before, these are variables of their own.
    Obmalloc { used, arenas, maxarenas, raw_allocated_blocks }
);
group!(
    /// Constants of pymalloc, bytes; `class_shift` is log2 of the spacing of size classes.
    Pymalloc { class_shift, small_max, pool_size, arena_size }
);

group!(
    /// `PyGC_Head`, which lies right before a collected object.
    GcHead { size, next, prev }
);
group!(
    /// `PyVarObject`.
    VarObject { size }
);
group!(
    /// `PyListObject`.
    List { items, allocated }
);
group!(
    /// `PyTupleObject`.
    Tuple { items }
);
group!(
    /// `PyDictObject`.
    Dict { used, keys, values }
);
group!(
    /// `PyDictKeysObject`. `slots` is that of 3.8 to 3.10; from 3.11 there are `log2_slots`, `log2_index_bytes` and `kind`.
    DictKeys { refcount, slots, log2_slots, log2_index_bytes, kind, entries, indices }
);
group!(
    /// `PyDictKeyEntry`.
    DictEntry { size, key, value }
);
group!(
    /// `PyDictUnicodeEntry` (3.11 and later): of dicts whose keys are all strings.
    DictUnicodeEntry { key, value }
);
group!(
    /// `PyDictValues`; all but `values` is there from 3.13.
    DictValues { capacity, values, embedded, valid }
);
group!(
    /// `PySetObject`.
    Set { used, mask, table, smalltable }
);
group!(
    /// `setentry`.
    SetEntry { size, key }
);
group!(
    /// `PyLongObject`; digits have 4 bytes.
    Long { size, digits }
);
group!(
    /// `PyByteArrayObject`. From 3.15 on its bytes are those of a bytes object of its own.
    ByteArray { alloc, bytes, bytes_object }
);
group!(
    /// `PyUnicodeObject`: a string whose characters are elsewhere.
    UnicodeObject { size, data }
);
group!(
    /// `PyHeapTypeObject`.
    HeapType { size, qualname, cached_keys, name, slots, module }
);
group!(
    /// `dequeobject` of `Modules/_collectionsmodule.c`.
    Deque { leftblock, leftindex }
);
group!(
    /// `BLOCK` of a deque.
    DequeBlock { right }
);
group!(
    /// `PyModuleObject`. The size of its state is here (3.15), or in the definition.
    Module { dict, state, definition, state_size }
);
group!(
    /// `PyModuleDef`.
    ModuleDefinition { size }
);
group!(
    /// `PyFunctionObject`.
    Function { code, globals, defaults, kwdefaults, closure, annotations, builtins }
);
group!(
    /// `PyCellObject`.
    Cell { contents }
);
group!(
    /// `PyBaseExceptionObject`.
    Exception { args, traceback, context, cause, notes }
);
group!(
    /// `PyTracebackObject`.
    Traceback { next, frame }
);
group!(
    /// `PyWeakReference`.
    WeakReference { object, callback, previous, next }
);
group!(
    /// `PyGenObject`. `frame` is a pointer to the frame to 3.10, and the frame itself from 3.11 on, when there is a `state`.
    Generator { frame, state, code }
);
group!(
    /// `PyFrameObject`. From 3.11 on `frame` points at the interpreter's frame, which may be in the object, at `data`;
    /// before, `generator` is a borrowed reference.
    FrameObject { back, frame, data, code, generator }
);

group!(
    /// `mi_segment_t` (`Include/internal/mimalloc/mimalloc/types.h`); `slices` is where its pages are described.
    MimallocSegment { purge_mask, used, cookie, segment_slices, info_slices, kind, slice_entries, slices }
);
group!(
    /// `mi_page_t`. `tag_bit`: at which bit of it the number of its heap begins, which has 4 bits; `start`: the address of its first
    /// block, where it is told.
    MimallocPage {
        size,
        slice_count,
        slice_offset,
        tag_bit,
        capacity,
        used,
        block_size,
        start,
        free,
        local_free,
        thread_free,
        heap,
    }
);
group!(
    /// `mi_heap_t`.
    MimallocHeap { delayed_free }
);

/// A version of mimalloc: sizes in bytes, the numbers of the heaps that hold objects, and its structs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mimalloc {
    pub segment: MimallocSegment,
    pub page: MimallocPage,
    pub heap: MimallocHeap,
    /// Segments are aligned to their size.
    pub segment_size: u32,
    pub slice_size: u32,
    /// Objects that the collector does not know, and other memory that is asked for as objects are.
    pub object_heap: u8,
    /// Objects that the collector knows.
    pub gc_heap: u8,
    /// The same, with two words before them.
    pub gc_pre_heap: u8,
}

/// How instances are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// `tp_flags` of which any puts two words before the GC head; 0 where no type has them.
    pub preheader_flags: u32,
    /// The one of `tp_flags` that puts the values right behind the object; 0 where no type has it.
    pub inline_flag: u32,
    pub values: InstanceValues,
    /// Bits below the number of digits in [`Long::size`].
    pub long_size_shift: u32,
    /// Where the pointer to an instance's dict is from 3.11 on: so many bytes before the instance.
    #[serde(default = "before_the_gc_head")]
    pub managed_dict: u32,
}

fn before_the_gc_head() -> u32 {
    24
}

/// Where the values of an instance's attributes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceValues {
    /// In its dict (to 3.10).
    Dict,
    /// Four words before the object a pointer to them, three words before it one to the dict (3.11).
    Pointer,
    /// Three words before the object a pointer to the dict, or with its lowest bit set one to the byte before the values (3.12).
    Tagged,
    /// Behind the object; before it a pointer to the dict (3.13 and later).
    Inline,
}

/// `PyObject`. In builds without the GIL `refcount` is what the owning thread counts, `shared` what all others do, and
/// `gc_bits` the collector's; else these two are [`ABSENT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectHeader {
    pub refcount: u32,
    #[serde(rename = "type")]
    pub type_: u32,
    #[serde(default = "absent")]
    pub shared: u32,
    #[serde(default = "absent")]
    pub gc_bits: u32,
}

fn absent() -> u32 {
    ABSENT
}

/// How code objects tell lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lines {
    pub encoding: LineEncoding,
}

/// How the collector works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collector {
    /// Whether its function is told which generation to collect (to 3.12), or may decide itself.
    pub generation_told: bool,
    /// The one of the bits in an object's header that says it is tracked; 0 where tracked objects have a head before them and are
    /// linked in lists.
    #[serde(default)]
    pub tracked_bit: u8,
    /// The one that says it is frozen (`gc.freeze()`).
    #[serde(default)]
    pub frozen_bit: u8,
    /// Without the GIL a collection waits until there are a quarter as many new containers as survived the last one
    /// (`gc_should_collect`, Python/gc_free_threading.c from 3.13 on).
    #[serde(default)]
    pub waits_for_quarter: bool,
    /// Thresholds of containers for which it is put off while the process does not grow (`gc_should_collect_mem_usage`, from 3.14), or
    /// in which it only marks (`gc_collect_increment`, 3.14 to 3.14.4).
    #[serde(default)]
    pub deferrals: u32,
}

/// The format of a code object's line table. With it goes what a frame keeps of its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum LineEncoding {
    /// `co_lnotab` (3.8, 3.9); the position is an offset in bytes.
    Lnotab = line_encoding::LNOTAB,
    /// `co_linetable` of 3.10 (PEP 626); the position is an index of code units.
    Ranges = line_encoding::RANGES,
    /// `co_linetable` from 3.11 (PEP 657); the position is an address.
    Locations = line_encoding::LOCATIONS,
}

impl LineEncoding {
    /// From the number on the wire.
    pub fn from_wire(number: u8) -> Option<Self> {
        [Self::Lnotab, Self::Ranges, Self::Locations].into_iter().find(|encoding| *encoding as u8 == number)
    }
}
