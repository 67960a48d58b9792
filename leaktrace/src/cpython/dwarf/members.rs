//! Which members of which structs a table of offsets is made of, by version where they differ.

/// What is asked of a member. Paths go through nested structs; of alternatives (`|`) the first that is there counts,
/// since versions name one thing differently.
#[derive(Clone, Copy)]
pub(super) enum Ask {
    /// Offset in bytes from the start of the struct.
    Offset(&'static str),
    /// The same, of a member that not every version has.
    Maybe(&'static str),
    /// The same, of a member that is of use from this minor version on.
    Since(u8, &'static str),
    /// Offset in bits of a bit field from the start of the member that holds it.
    Bit(&'static str),
    /// Offset in bits of a member of the struct itself, be it a bit field or not.
    AnyBit(&'static str),
    /// Size of the struct in bytes.
    Size,
    /// The same, of a struct that not every version has.
    MaybeSize,
}
use Ask::{AnyBit, Bit, Maybe, MaybeSize, Offset, Since, Size};

/// Table of the file, structs in C of which the first that is there counts, and the keys in it.
pub(super) type Group = (&'static str, &'static [&'static str], &'static [(&'static str, Ask)]);

/// In the order and by the names of [`crate::cpython::offsets::Offsets`]. A group whose keys may all be absent may be absent.
pub(super) const GROUPS: &[Group] = &[
    (
        "runtime",
        &["pyruntimestate"],
        &[
            ("interpreters_head", Offset("interpreters.head")),
            ("interpreters_main", Offset("interpreters.main")),
            ("tstate_current", Maybe("gilstate.tstate_current")),
            ("gc", Maybe("gc")),
        ],
    ),
    (
        "interpreter",
        &["_is"],
        &[
            ("next", Offset("next")),
            ("id", Offset("id")),
            ("threads_head", Offset("threads.head|tstate_head")),
            ("gc", Maybe("gc")),
            ("dict_keys_free_list", Maybe("dict_state.keys_free_list|object_state.freelists.dictkeys.items")),
            ("size", Size),
            ("modules", Offset("modules|imports.modules")),
        ],
    ),
    (
        "thread",
        &["_ts"],
        &[
            ("next", Offset("next")),
            ("interpreter", Offset("interp")),
            ("thread_id", Offset("thread_id")),
            ("native_thread_id", Maybe("native_thread_id")),
            ("frame", Offset("current_frame|frame|cframe")),
            ("size", Size),
            ("dict", Offset("dict")),
        ],
    ),
    ("cframe", &["_PyCFrame"], &[("current_frame", Maybe("current_frame"))]),
    (
        "frame",
        &["_PyInterpreterFrame", "_frame"],
        &[
            ("code", Offset("f_executable|f_code")),
            ("previous", Offset("previous|f_back")),
            ("instr", Offset("instr_ptr|prev_instr|f_lasti")),
            ("owner", Since(12, "owner")),
            ("localsplus", Offset("localsplus|f_localsplus")),
            ("function", Maybe("f_funcobj|f_func")),
            ("locals", Offset("f_locals")),
            ("object", Maybe("frame_obj")),
            ("stack_pointer", Maybe("stackpointer|f_stacktop")),
            ("stack_depth", Maybe("stacktop|f_stackdepth")),
            ("copy", Maybe("tlbc_index")),
        ],
    ),
    (
        "code",
        &["PyCodeObject"],
        &[
            ("filename", Offset("co_filename")),
            ("qualname", Offset("co_qualname|co_name")),
            ("linetable", Offset("co_linetable|co_lnotab")),
            ("firstlineno", Offset("co_firstlineno")),
            ("firsttraceable", Maybe("_co_firsttraceable")),
            ("instructions", Maybe("co_code_adaptive")),
            ("stacksize", Offset("co_stacksize")),
            ("nlocalsplus", Maybe("co_nlocalsplus")),
            ("localsplusnames", Maybe("co_localsplusnames")),
            ("varnames", Maybe("co_varnames")),
            ("cellvars", Maybe("co_cellvars")),
            ("freevars", Maybe("co_freevars")),
            ("copies", Maybe("co_tlbc")),
            ("unique_id", Maybe("_co_unique_id")),
        ],
    ),
    ("code_copies", &["_PyCodeArray"], &[("entries", Maybe("entries"))]),
    ("bytes", &["PyBytesObject"], &[("size", Offset("ob_base.ob_size")), ("data", Offset("ob_sval"))]),
    (
        "unicode",
        &["PyASCIIObject"],
        &[
            ("length", Offset("length")),
            ("state", Offset("state")),
            ("kind_bit", Bit("state.kind")),
            ("compact_bit", Bit("state.compact")),
            ("ascii_bit", Bit("state.ascii")),
            ("ascii_data", Size),
        ],
    ),
    ("compact_unicode", &["PyCompactUnicodeObject"], &[("data", Size)]),
    (
        "object",
        &["_object"],
        &[
            ("refcount", Offset("ob_refcnt|ob_ref_local")),
            ("type", Offset("ob_type")),
            ("shared", Maybe("ob_ref_shared")),
            ("gc_bits", Maybe("ob_gc_bits")),
        ],
    ),
    (
        "type",
        &["_typeobject"],
        &[
            ("name", Offset("tp_name")),
            ("basicsize", Offset("tp_basicsize")),
            ("itemsize", Offset("tp_itemsize")),
            ("flags", Offset("tp_flags")),
            ("base", Offset("tp_base")),
            ("dict", Offset("tp_dict")),
            ("members", Offset("tp_members")),
            ("dictoffset", Offset("tp_dictoffset")),
            ("weaklistoffset", Offset("tp_weaklistoffset")),
            ("bases", Offset("tp_bases")),
            ("mro", Offset("tp_mro")),
            ("cache", Offset("tp_cache")),
        ],
    ),
    (
        "gc",
        &["_gc_runtime_state"],
        &[
            ("size", Size),
            ("enabled", Offset("enabled")),
            ("collecting", Offset("collecting")),
            ("generations", Offset("generations|young")),
            ("generation_stats", Offset("generation_stats")),
            ("permanent", Offset("permanent_generation")),
            ("garbage", Offset("garbage")),
            ("debug", Offset("debug")),
            ("long_lived_total", Offset("long_lived_total")),
            ("long_lived_pending", Offset("long_lived_pending")),
        ],
    ),
    ("gc_ring", &["gc_stats"], &[("young", Maybe("young")), ("old", Maybe("old"))]),
    (
        "gc_young_ring",
        &["gc_young_stats_buffer"],
        &[("size", MaybeSize), ("items", Maybe("items")), ("index", Maybe("index"))],
    ),
    (
        "gc_old_ring",
        &["gc_old_stats_buffer"],
        &[("size", MaybeSize), ("items", Maybe("items")), ("index", Maybe("index"))],
    ),
    (
        "gc_generation",
        &["gc_generation"],
        &[("size", Size), ("threshold", Offset("threshold")), ("count", Offset("count"))],
    ),
    (
        "gc_stats",
        &["gc_generation_stats"],
        &[
            ("size", Size),
            ("collections", Offset("collections")),
            ("collected", Offset("collected")),
            ("uncollectable", Offset("uncollectable")),
        ],
    ),
    (
        "pool",
        &["pool_header"],
        &[
            ("size", Size),
            ("used", Offset("ref")),
            ("freeblock", Offset("freeblock")),
            ("nextpool", Offset("nextpool")),
            ("arenaindex", Offset("arenaindex")),
            ("szidx", Offset("szidx")),
            ("nextoffset", Offset("nextoffset")),
            ("maxnextoffset", Offset("maxnextoffset")),
        ],
    ),
    (
        "arena",
        &["arena_object"],
        &[("size", Size), ("address", Offset("address")), ("pool_address", Offset("pool_address"))],
    ),
    (
        "obmalloc",
        &["_obmalloc_state"],
        &[
            ("used", Maybe("pools.used")),
            ("arenas", Maybe("mgmt.arenas")),
            ("maxarenas", Maybe("mgmt.maxarenas")),
            ("raw_allocated_blocks", Maybe("mgmt.raw_allocated_blocks")),
        ],
    ),
    ("gc_head", &["PyGC_Head"], &[("size", Size), ("next", Offset("_gc_next")), ("prev", Offset("_gc_prev"))]),
    ("var_object", &["PyVarObject"], &[("size", Offset("ob_size"))]),
    ("list", &["PyListObject"], &[("items", Offset("ob_item")), ("allocated", Offset("allocated"))]),
    ("tuple", &["PyTupleObject"], &[("items", Offset("ob_item"))]),
    (
        "dict",
        &["PyDictObject"],
        &[("used", Offset("ma_used")), ("keys", Offset("ma_keys")), ("values", Offset("ma_values"))],
    ),
    (
        "dict_keys",
        &["_dictkeysobject"],
        &[
            ("refcount", Offset("dk_refcnt")),
            ("slots", Maybe("dk_size")),
            ("log2_slots", Maybe("dk_log2_size")),
            ("log2_index_bytes", Maybe("dk_log2_index_bytes")),
            ("kind", Maybe("dk_kind")),
            ("entries", Offset("dk_nentries")),
            ("indices", Offset("dk_indices")),
        ],
    ),
    ("dict_entry", &["PyDictKeyEntry"], &[("size", Size), ("key", Offset("me_key")), ("value", Offset("me_value"))]),
    ("dict_unicode_entry", &["PyDictUnicodeEntry"], &[("key", Maybe("me_key")), ("value", Maybe("me_value"))]),
    (
        "dict_values",
        &["_dictvalues"],
        &[
            ("capacity", Maybe("capacity")),
            ("values", Maybe("values")),
            ("embedded", Maybe("embedded")),
            ("valid", Maybe("valid")),
        ],
    ),
    (
        "set",
        &["PySetObject"],
        &[
            ("used", Offset("used")),
            ("mask", Offset("mask")),
            ("table", Offset("table")),
            ("smalltable", Offset("smalltable")),
        ],
    ),
    ("set_entry", &["setentry"], &[("size", Size), ("key", Offset("key"))]),
    (
        "long",
        &["_longobject"],
        &[("size", Offset("long_value.lv_tag|ob_base.ob_size")), ("digits", Offset("long_value.ob_digit|ob_digit"))],
    ),
    (
        "bytearray",
        &["PyByteArrayObject"],
        &[("alloc", Offset("ob_alloc")), ("bytes", Offset("ob_bytes")), ("bytes_object", Maybe("ob_bytes_object"))],
    ),
    ("unicode_object", &["PyUnicodeObject"], &[("size", Size), ("data", Offset("data"))]),
    (
        "heap_type",
        &["_heaptypeobject"],
        &[
            ("size", Size),
            ("qualname", Offset("ht_qualname")),
            ("cached_keys", Offset("ht_cached_keys")),
            ("name", Offset("ht_name")),
            ("slots", Offset("ht_slots")),
            ("module", Maybe("ht_module")),
        ],
    ),
    ("deque", &["dequeobject"], &[("leftblock", Maybe("leftblock")), ("leftindex", Maybe("leftindex"))]),
    ("deque_block", &["BLOCK"], &[("right", Maybe("rightlink"))]),
    (
        "module",
        &["PyModuleObject"],
        &[
            ("dict", Offset("md_dict")),
            ("state", Offset("md_state")),
            ("definition", Maybe("md_def")),
            ("state_size", Maybe("md_state_size")),
        ],
    ),
    ("module_definition", &["PyModuleDef"], &[("size", Offset("m_size"))]),
    (
        "function",
        &["PyFunctionObject"],
        &[
            ("code", Offset("func_code")),
            ("globals", Offset("func_globals")),
            ("defaults", Offset("func_defaults")),
            ("kwdefaults", Offset("func_kwdefaults")),
            ("closure", Offset("func_closure")),
            ("annotations", Offset("func_annotations")),
            ("builtins", Maybe("func_builtins")),
        ],
    ),
    ("cell", &["PyCellObject"], &[("contents", Offset("ob_ref"))]),
    (
        "exception",
        &["PyBaseExceptionObject"],
        &[
            ("args", Offset("args")),
            ("traceback", Offset("traceback")),
            ("context", Offset("context")),
            ("cause", Offset("cause")),
            ("notes", Maybe("notes")),
        ],
    ),
    ("traceback", &["_traceback"], &[("next", Offset("tb_next")), ("frame", Offset("tb_frame"))]),
    (
        "weakref",
        &["_PyWeakReference"],
        &[
            ("object", Offset("wr_object")),
            ("callback", Offset("wr_callback")),
            ("previous", Offset("wr_prev")),
            ("next", Offset("wr_next")),
        ],
    ),
    (
        "generator",
        &["PyGenObject"],
        &[("frame", Offset("gi_iframe|gi_frame")), ("state", Maybe("gi_frame_state")), ("code", Maybe("gi_code"))],
    ),
    (
        "frame_object",
        &["_frame"],
        &[
            ("back", Offset("f_back")),
            ("frame", Maybe("f_frame")),
            ("data", Maybe("_f_frame_data")),
            ("code", Maybe("f_code")),
            ("generator", Maybe("f_gen")),
        ],
    ),
];

/// The structs of mimalloc, which serves the heap of builds without the GIL (`Include/internal/mimalloc/mimalloc/types.h`); by the
/// names of [`crate::cpython::offsets::Mimalloc`].
pub(super) const MIMALLOC_GROUPS: &[Group] = &[
    (
        "segment",
        &["mi_segment_s"],
        &[
            ("purge_mask", Offset("purge_mask")),
            ("used", Offset("used")),
            ("cookie", Offset("cookie")),
            ("segment_slices", Offset("segment_slices")),
            ("info_slices", Offset("segment_info_slices")),
            ("kind", Offset("kind")),
            ("slice_entries", Offset("slice_entries")),
            ("slices", Offset("slices")),
        ],
    ),
    (
        "page",
        &["mi_page_s"],
        &[
            ("size", Size),
            ("slice_count", Offset("slice_count")),
            ("slice_offset", Offset("slice_offset")),
            ("tag_bit", AnyBit("heap_tag|tag")),
            ("capacity", Offset("capacity")),
            ("used", Offset("used")),
            ("block_size", Offset("block_size|xblock_size")),
            ("start", Maybe("page_start")),
            ("free", Offset("free")),
            ("local_free", Offset("local_free")),
            ("thread_free", Offset("xthread_free")),
            ("heap", Offset("xheap")),
        ],
    ),
    ("heap", &["mi_heap_s"], &[("delayed_free", Offset("thread_delayed_free"))]),
];

/// Where `_Py_DebugOffsets` (3.13 and later, `Include/internal/pycore_debug_offsets.h`) holds the offset of a field: group and key
/// here, path there. What a target says there of itself goes before the table.
pub(super) const DEBUG_OFFSETS: &[(&str, &[(&str, &str)])] = &[
    ("runtime", &[("interpreters_head", "runtime_state.interpreters_head")]),
    (
        "interpreter",
        &[
            ("next", "interpreter_state.next"),
            ("id", "interpreter_state.id"),
            ("threads_head", "interpreter_state.threads_head"),
            ("gc", "interpreter_state.gc"),
        ],
    ),
    (
        "thread",
        &[
            ("next", "thread_state.next"),
            ("interpreter", "thread_state.interp"),
            ("thread_id", "thread_state.thread_id"),
            ("native_thread_id", "thread_state.native_thread_id"),
            ("frame", "thread_state.current_frame"),
        ],
    ),
    (
        "frame",
        &[
            ("code", "interpreter_frame.executable"),
            ("previous", "interpreter_frame.previous"),
            ("instr", "interpreter_frame.instr_ptr"),
            ("owner", "interpreter_frame.owner"),
        ],
    ),
    (
        "code",
        &[
            ("filename", "code_object.filename"),
            ("qualname", "code_object.qualname"),
            ("linetable", "code_object.linetable"),
            ("firstlineno", "code_object.firstlineno"),
            ("instructions", "code_object.co_code_adaptive"),
        ],
    ),
    ("bytes", &[("size", "bytes_object.ob_size"), ("data", "bytes_object.ob_sval")]),
    (
        "unicode",
        &[
            ("length", "unicode_object.length"),
            ("state", "unicode_object.state"),
            ("ascii_data", "unicode_object.asciiobject_size"),
        ],
    ),
    ("object", &[("type", "pyobject.ob_type")]),
    ("type", &[("name", "type_object.tp_name"), ("flags", "type_object.tp_flags")]),
    ("gc", &[("size", "gc.size"), ("collecting", "gc.collecting")]),
];

/// What debug information does not hold: macros, and how the interpreter writes a frame's position and a code object's lines.
pub(super) fn constants(minor: u8, free_threaded: bool) -> String {
    // `ALIGNMENT_SHIFT`, `SMALL_REQUEST_THRESHOLD`, `POOL_BITS` and `ARENA_BITS` of `Objects/obmalloc.c`; those of 3.10 and later
    // are with `WITH_PYMALLOC_RADIX_TREE`, which 64-bit builds have.
    let (pool, arena) = if minor < 10 { (1 << 12, 1 << 18) } else { (1 << 14, 1 << 20) };
    // `Py_TAG_BITS` of `Include/internal/pycore_stackref.h`; objects are aligned to more.
    let tags = if minor < 14 { 0 } else { 7 };
    // `Objects/lnotab_notes.txt` and `Objects/locations.md` of each version.
    let encoding = match minor {
        ..10 => "lnotab",
        10 => "ranges",
        _ => "locations",
    };
    // `_PyType_PreHeaderSize` and `Objects/dictobject.c`: where the values of an instance's attributes are.
    let (preheader_flags, inline_flag, values) = match minor {
        ..11 => (0, 0, "dict"),
        11 => (1 << 4, 0, "pointer"),
        12 => (1 << 3 | 1 << 4, 0, "tagged"),
        _ => (1 << 3 | 1 << 4, 1 << 2, "inline"),
    };
    // `Include/cpython/longintrepr.h`: from 3.12 the number of digits is above the sign and two flags.
    let long_size_shift = if minor < 12 { 0 } else { 3 };
    // `FRAME_CLEARED` of `Include/internal/pycore_frame.h`.
    let cleared = if minor < 15 { 4 } else { 5 };
    // `_PyGC_BITS_TRACKED` and `_PyGC_BITS_FROZEN` of `Include/internal/pycore_gc.h`.
    let bits = if free_threaded { "tracked_bit = 1\nfrozen_bit = 8\nwaits_for_quarter = true\n" } else { "" };
    // `gc_should_collect_mem_usage` of `Python/gc_free_threading.c`.
    let deferrals = if free_threaded && minor >= 14 { "deferrals = 40\n" } else { "" };
    // `MANAGED_DICT_OFFSET` of `Include/internal/pycore_object.h`.
    let managed_dict = if free_threaded { "managed_dict = 8\n" } else { "" };
    format!(
        "\n# Objects/obmalloc.c\n[release.pymalloc]\nclass_shift = 4\nsmall_max = 512\npool_size = {pool}\narena_size = {arena}\n\n\
         # Objects/codeobject.c\n[release.lines]\nencoding = \"{encoding}\"\n\n\
         # Modules/gcmodule.c, from 3.13 Python/gc.c\n[release.collector]\ngeneration_told = {}\n{bits}{deferrals}\n\
         # Include/internal/pycore_object.h, Include/cpython/longintrepr.h\n[release.instance]\n\
         preheader_flags = {preheader_flags}\ninline_flag = {inline_flag}\nvalues = \"{values}\"\n\
         long_size_shift = {long_size_shift}\n{managed_dict}\n\
         # Include/internal/pycore_stackref.h\n[release.references]\ntags = {tags}\n\n\
         # Include/internal/pycore_frame.h\n[release.frame_state]\ncleared = {cleared}\n",
        minor < 13
    )
}

/// `MI_SEGMENT_SIZE` and `MI_SEGMENT_SLICE_SIZE` of `Include/internal/mimalloc/mimalloc/types.h`, and the numbers of heaps of
/// `Include/internal/pycore_mimalloc.h`: the same in 3.13 to 3.15.
pub(super) const MIMALLOC_CONSTANTS: &str = "\
    segment_size = 33554432\nslice_size = 65536\nobject_heap = 1\ngc_heap = 2\ngc_pre_heap = 3\n";
