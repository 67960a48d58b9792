//! Makes a table of offsets (`leaktrace/offsets/*.toml`) from the DWARF of a CPython built with debug information.
//!
//! This runs when a table is made (`cargo xtask offsets`), never on a target.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;

use gimli::{AttributeValue, DebuggingInformationEntry, EndianSlice, LittleEndian, UnitOffset};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use super::version::Version;

type Reader<'a> = EndianSlice<'a, LittleEndian>;
type Unit<'a> = gimli::Unit<Reader<'a>>;
type Entry<'a, 'u> = DebuggingInformationEntry<'u, 'u, Reader<'a>>;

/// Why no table could be made.
#[derive(Debug, thiserror::Error)]
pub enum DwarfError {
    #[error("the file cannot be parsed as ELF: {0}")]
    Elf(#[from] object::Error),
    #[error("the debug information cannot be parsed: {0}")]
    Dwarf(#[from] gimli::Error),
    #[error("the file does not tell its version, as that of a CPython before 3.11: say which it is")]
    NoVersion,
    #[error("the debug information does not have {0}")]
    Missing(String),
}

/// What is asked of a member. Paths go through nested structs; of alternatives (`|`) the first that is there counts,
/// since versions name one thing differently.
#[derive(Clone, Copy)]
enum Ask {
    /// Offset in bytes from the start of the struct.
    Offset(&'static str),
    /// The same, of a member that not every version has.
    Maybe(&'static str),
    /// The same, of a member that is of use from this minor version on.
    Since(u8, &'static str),
    /// Offset in bits of a bit field from the start of the member that holds it.
    Bit(&'static str),
    /// Size of the struct in bytes.
    Size,
    /// The same, of a struct that not every version has.
    MaybeSize,
}
use Ask::{Bit, Maybe, MaybeSize, Offset, Since, Size};

/// Table of the file, structs in C of which the first that is there counts, and the keys in it.
type Group = (&'static str, &'static [&'static str], &'static [(&'static str, Ask)]);

/// In the order and by the names of [`super::offsets::Offsets`]. A group whose keys may all be absent may be absent.
const GROUPS: &[Group] = &[
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
        ],
    ),
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
    ("object", &["_object"], &[("refcount", Offset("ob_refcnt")), ("type", Offset("ob_type"))]),
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
        ],
    ),
    (
        "gc",
        &["_gc_runtime_state"],
        &[
            ("size", Size),
            ("enabled", Offset("enabled")),
            ("collecting", Offset("collecting")),
            ("generations", Offset("generations")),
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
    ("dict_values", &["_dictvalues"], &[("capacity", Maybe("capacity")), ("values", Maybe("values"))]),
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
    ("bytearray", &["PyByteArrayObject"], &[("alloc", Offset("ob_alloc")), ("bytes", Offset("ob_bytes"))]),
    ("unicode_object", &["PyUnicodeObject"], &[("size", Size), ("data", Offset("data"))]),
    (
        "heap_type",
        &["_heaptypeobject"],
        &[("size", Size), ("qualname", Offset("ht_qualname")), ("cached_keys", Offset("ht_cached_keys"))],
    ),
    ("deque", &["dequeobject"], &[("leftblock", Maybe("leftblock")), ("leftindex", Maybe("leftindex"))]),
    ("deque_block", &["BLOCK"], &[("right", Maybe("rightlink"))]),
];

/// Where `_Py_DebugOffsets` (3.13 and later, `Include/internal/pycore_debug_offsets.h`) holds the offset of a field: group and key
/// here, path there. What a target says there of itself goes before the table.
const DEBUG_OFFSETS: &[(&str, &[(&str, &str)])] = &[
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
fn constants(minor: u8) -> String {
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
    format!(
        "\n# Objects/obmalloc.c\n[release.pymalloc]\nclass_shift = 4\nsmall_max = 512\npool_size = {pool}\narena_size = {arena}\n\n\
         # Objects/codeobject.c\n[release.lines]\nencoding = \"{encoding}\"\n\n\
         # Modules/gcmodule.c, from 3.13 Python/gc.c\n[release.collector]\ngeneration_told = {}\n\n\
         # Include/internal/pycore_object.h, Include/cpython/longintrepr.h\n[release.instance]\n\
         preheader_flags = {preheader_flags}\ninline_flag = {inline_flag}\nvalues = \"{values}\"\n\
         long_size_shift = {long_size_shift}\n\n\
         # Include/internal/pycore_stackref.h\n[release.references]\ntags = {tags}\n",
        minor < 13
    )
}

/// The table for the CPython in `elf` (an executable or libpython with DWARF): its version, and the TOML text.
/// `told` is the version of a file that does not tell its own.
///
/// Fails if the file is no CPython, or if its debug information lacks one of the structs.
pub fn offsets_toml(elf: &[u8], told: Option<Version>) -> Result<(Version, String), DwarfError> {
    let file = object::File::parse(elf)?;
    let version = file_version(&file).or(told).ok_or(DwarfError::NoVersion)?;
    let dwarf = gimli::DwarfSections::load(|id| -> Result<Cow<'_, [u8]>, object::Error> {
        file.section_by_name(id.name()).map_or(Ok(Cow::Borrowed(&[][..])), |s| s.uncompressed_data())
    })?;
    let dwarf = dwarf.borrow(|section| EndianSlice::new(section, LittleEndian));
    let mut found: Vec<Option<(usize, Vec<Option<u64>>)>> = vec![None; GROUPS.len()];
    let mut units = dwarf.units();
    while found.iter().any(|group| group.as_ref().is_none_or(|(rank, _)| *rank > 0))
        && let Some(header) = units.next()?
    {
        let structs = Structs::of(&dwarf, dwarf.unit(header)?)?;
        for ((_, names, keys), found) in GROUPS.iter().zip(&mut found) {
            let rank = names.iter().position(|name| structs.by_name.contains_key(*name));
            if let Some(rank) = rank.filter(|&rank| found.as_ref().is_none_or(|(known, _)| rank < *known)) {
                let offset = structs.by_name[names[rank]];
                let values = keys.iter().map(|(_, ask)| structs.answer(offset, names[rank], *ask, version.minor));
                *found = Some((rank, values.collect::<Result<_, _>>()?));
            }
        }
    }
    let mut toml = format!(
        "# Offsets in bytes of the fields that leaktrace reads of CPython {}.{}, x86-64. Made by\n\
         #     cargo xtask offsets LIBPYTHON\n\
         # from the DWARF of {version}; not to be edited. A row holds from `first_patch` up to the next row.\n\n\
         [[release]]\nfirst_patch = 0\n",
        version.major, version.minor
    );
    for ((group, names, keys), found) in GROUPS.iter().zip(found) {
        let Some((rank, values)) = found else {
            if keys.iter().all(|(_, ask)| matches!(ask, Maybe(_) | MaybeSize)) {
                continue;
            }
            return Err(DwarfError::Missing(format!("struct {}", names[0])));
        };
        let _ = write!(toml, "\n# {}\n[release.{group}]\n", names[rank]);
        for ((key, _), value) in keys.iter().zip(values) {
            if let Some(value) = value {
                let _ = writeln!(toml, "{key} = {value}");
            }
        }
    }
    toml.push_str(&constants(version.minor));
    toml.push_str(&debug_offsets(&dwarf)?);
    Ok((version, toml))
}

/// Where the file's `_Py_DebugOffsets` holds what; nothing in versions that do not have it.
fn debug_offsets(dwarf: &gimli::Dwarf<Reader<'_>>) -> Result<String, DwarfError> {
    let mut toml = String::new();
    let mut units = dwarf.units();
    while let Some(header) = units.next()? {
        let structs = Structs::of(dwarf, dwarf.unit(header)?)?;
        let Some(&offset) = structs.by_name.get("_Py_DebugOffsets") else { continue };
        for (group, keys) in DEBUG_OFFSETS {
            let _ = write!(toml, "\n# _Py_DebugOffsets\n[release.debug.{group}]\n");
            for (key, path) in *keys {
                let (at, _) = structs.member(offset, path)?.ok_or_else(|| DwarfError::Missing((*path).to_owned()))?;
                let _ = writeln!(toml, "{key} = {at}");
            }
        }
        break;
    }
    Ok(toml)
}

/// `Py_Version` as the file holds it (3.11 and later).
fn file_version(file: &object::File<'_>) -> Option<Version> {
    let symbol = file.dynamic_symbols().chain(file.symbols()).find(|s| s.name() == Ok("Py_Version"))?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let bytes = section.data_range(symbol.address(), 4).ok()??;
    Version::from_hex(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The structs that one compilation unit defines.
struct Structs<'a, 'd> {
    dwarf: &'d gimli::Dwarf<Reader<'a>>,
    unit: Unit<'a>,
    /// Structs by tag, and by the typedef that names them.
    by_name: HashMap<String, UnitOffset>,
}

impl<'a, 'd> Structs<'a, 'd> {
    fn of(dwarf: &'d gimli::Dwarf<Reader<'a>>, unit: Unit<'a>) -> Result<Self, gimli::Error> {
        let mut this = Self { dwarf, unit, by_name: HashMap::new() };
        let mut by_name = HashMap::new();
        let mut tree = this.unit.entries_tree(None)?;
        let mut children = tree.root()?.children();
        while let Some(child) = children.next()? {
            let entry = child.entry();
            let target = match entry.tag() {
                gimli::DW_TAG_structure_type => Some(entry.offset()),
                gimli::DW_TAG_typedef => this.type_of(entry)?,
                _ => None,
            };
            if let (Some(name), Some(target)) = (this.name(entry)?, target)
                && this.size(target)?.is_some()
            {
                by_name.entry(name).or_insert(target);
            }
        }
        this.by_name = by_name;
        Ok(this)
    }

    /// `None`: this version does not have the member, and need not.
    fn answer(&self, offset: UnitOffset, name: &str, ask: Ask, minor: u8) -> Result<Option<u64>, DwarfError> {
        let first = |paths: &str| paths.split('|').find_map(|path| self.member(offset, path).transpose()).transpose();
        let answer = match ask {
            Size | MaybeSize => self.size(offset)?,
            Since(from, _) if minor < from => None,
            Offset(paths) | Maybe(paths) | Since(_, paths) => first(paths)?.map(|(bytes, _)| bytes),
            Bit(paths) => first(paths)?.and_then(|(_, bit)| bit),
        };
        match (answer, ask) {
            (None, Size) => Err(DwarfError::Missing(format!("the size of {name}"))),
            (None, Offset(paths) | Bit(paths)) => Err(DwarfError::Missing(format!("{name}.{paths}"))),
            (answer, _) => Ok(answer),
        }
    }

    /// Offset in bytes of a member by its path through nested structs, and in bits if it is a bit field.
    fn member(&self, struct_: UnitOffset, path: &str) -> Result<Option<(u64, Option<u64>)>, gimli::Error> {
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let mut tree = self.unit.entries_tree(Some(struct_))?;
        let mut children = tree.root()?.children();
        while let Some(child) = children.next()? {
            let entry = child.entry();
            if entry.tag() != gimli::DW_TAG_member {
                continue;
            }
            let name = self.name(entry)?;
            if name.is_none() {
                // The members of an unnamed struct or union are those of the one that it is in.
                let here =
                    entry.attr_value(gimli::DW_AT_data_member_location)?.and_then(|v| v.udata_value()).unwrap_or(0);
                if let Some(inner) = self.type_of(entry)?
                    && let Some((bytes, bit)) = self.member(inner, path)?
                {
                    return Ok(Some((here + bytes, bit)));
                }
            }
            if name.as_deref() != Some(first) {
                continue;
            }
            let number = |at| entry.attr_value(at).map(|value| value.and_then(|v| v.udata_value()));
            let here = number(gimli::DW_AT_data_member_location)?.unwrap_or(0);
            let Some(rest) = rest else { return Ok(Some((here, number(gimli::DW_AT_data_bit_offset)?))) };
            let Some(inner) = self.type_of(entry)? else { return Ok(None) };
            return Ok(self.member(inner, rest)?.map(|(bytes, bit)| (here + bytes, bit)));
        }
        Ok(None)
    }

    fn name(&self, entry: &Entry<'a, '_>) -> Result<Option<String>, gimli::Error> {
        let Some(value) = entry.attr_value(gimli::DW_AT_name)? else { return Ok(None) };
        Ok(Some(self.dwarf.attr_string(&self.unit, value)?.to_string_lossy().into_owned()))
    }

    fn size(&self, offset: UnitOffset) -> Result<Option<u64>, gimli::Error> {
        let entry = self.unit.entry(offset)?;
        Ok(entry.attr_value(gimli::DW_AT_byte_size)?.and_then(|v| v.udata_value()))
    }

    /// The struct behind an entry's type, through typedefs and qualifiers.
    fn type_of(&self, entry: &Entry<'a, '_>) -> Result<Option<UnitOffset>, gimli::Error> {
        let mut value = entry.attr_value(gimli::DW_AT_type)?;
        while let Some(AttributeValue::UnitRef(offset)) = value {
            let entry = self.unit.entry(offset)?;
            match entry.tag() {
                gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type => return Ok(Some(offset)),
                gimli::DW_TAG_typedef | gimli::DW_TAG_const_type | gimli::DW_TAG_volatile_type => {
                    value = entry.attr_value(gimli::DW_AT_type)?;
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use crate::cpython::offsets::Offsets;
    use crate::cpython::testing;

    #[test]
    fn the_embedded_table_is_what_the_debug_information_says() {
        let with_dwarf = testing::libpythons_with_dwarf();
        for path in &with_dwarf {
            let python = path.parent().unwrap().with_file_name("bin").join("python3");
            let told = testing::version_of(&python);
            let (version, toml) = super::offsets_toml(&std::fs::read(path).unwrap(), Some(told)).unwrap();
            assert_eq!(version, told);
            let row = Offsets::parse(&toml, version.patch).unwrap();
            let known = Offsets::of(version.major, version.minor, version.patch);
            assert_eq!(Some(row), known, "{}", path.display());
        }
        if with_dwarf.is_empty() {
            eprintln!("skipped: no CPython with debug information here");
        }
        assert!(super::offsets_toml(b"no elf", None).is_err());
    }
}
