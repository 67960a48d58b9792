//! The tables of field offsets, one file per CPython minor version, embedded.

use std::collections::BTreeMap;

use leaktrace_common::walk::{ABSENT, PythonLayout};
use serde::Deserialize;

mod groups;

pub use self::groups::*;
use super::version::Version;
use crate::target::{Memory, MemoryError};

/// A table of a minor version.
struct Table {
    major: u8,
    minor: u8,
    /// Of the build without the GIL.
    free_threaded: bool,
    text: &'static str,
}

const fn table(minor: u8, free_threaded: bool, text: &'static str) -> Table {
    Table { major: 3, minor, free_threaded, text }
}

const TABLES: &[Table] = &[
    table(8, false, include_str!("../../offsets/3.8.toml")),
    table(9, false, include_str!("../../offsets/3.9.toml")),
    table(10, false, include_str!("../../offsets/3.10.toml")),
    table(11, false, include_str!("../../offsets/3.11.toml")),
    table(12, false, include_str!("../../offsets/3.12.toml")),
    table(13, false, include_str!("../../offsets/3.13.toml")),
    table(14, false, include_str!("../../offsets/3.14.toml")),
    table(15, false, include_str!("../../offsets/3.15.toml")),
    table(13, true, include_str!("../../offsets/3.13t.toml")),
    table(14, true, include_str!("../../offsets/3.14t.toml")),
    table(15, true, include_str!("../../offsets/3.15t.toml")),
];

/// What differs in releases of a minor version whose collector keeps another state: its bytes, which the target tells.
struct OtherCollector {
    minor: u8,
    size: u32,
    text: &'static str,
}

const COLLECTORS: &[OtherCollector] =
    &[OtherCollector { minor: 14, size: 240, text: include_str!("../../offsets/3.14-240.toml") }];

/// The tables of mimalloc: of 2.1.2, which is in 3.13, in 3.14 to 3.14.9 and in 3.15 to 3.15.1, and of 2.5.2.
const MIMALLOC: [&str; 2] =
    [include_str!("../../offsets/mimalloc-212.toml"), include_str!("../../offsets/mimalloc-20502.toml")];

/// Offsets in bytes of one CPython release. Made by [`super::dwarf`]; each group names its C struct there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offsets {
    /// First point release that the row holds for.
    pub first_patch: u8,
    /// Built without the GIL (PEP 703).
    #[serde(default)]
    pub free_threaded: bool,
    pub runtime: Runtime,
    pub interpreter: InterpreterState,
    pub thread: ThreadState,
    #[serde(default)]
    pub cframe: CFrame,
    pub frame: Frame,
    pub code: Code,
    #[serde(default)]
    pub code_copies: CodeCopies,
    pub bytes: Bytes,
    pub unicode: Unicode,
    pub compact_unicode: CompactUnicode,
    pub object: ObjectHeader,
    #[serde(rename = "type")]
    pub type_object: TypeObject,
    pub gc: Gc,
    pub gc_generation: GcGeneration,
    pub gc_stats: GcStats,
    #[serde(default)]
    pub gc_ring: GcRing,
    #[serde(default)]
    pub gc_young_ring: StatsRing,
    #[serde(default)]
    pub gc_old_ring: StatsRing,
    pub pool: Pool,
    pub arena: Arena,
    #[serde(default)]
    pub obmalloc: Obmalloc,
    pub pymalloc: Pymalloc,
    pub lines: Lines,
    pub collector: Collector,
    pub gc_head: GcHead,
    pub var_object: VarObject,
    pub list: List,
    pub tuple: Tuple,
    pub dict: Dict,
    pub dict_keys: DictKeys,
    pub dict_entry: DictEntry,
    #[serde(default)]
    pub dict_unicode_entry: DictUnicodeEntry,
    #[serde(default)]
    pub dict_values: DictValues,
    pub set: Set,
    pub set_entry: SetEntry,
    pub long: Long,
    pub bytearray: ByteArray,
    pub unicode_object: UnicodeObject,
    pub heap_type: HeapType,
    #[serde(default)]
    pub deque: Deque,
    #[serde(default)]
    pub deque_block: DequeBlock,
    pub module: Module,
    pub module_definition: ModuleDefinition,
    pub function: Function,
    pub cell: Cell,
    pub exception: Exception,
    pub traceback: Traceback,
    pub weakref: WeakReference,
    pub generator: Generator,
    pub frame_object: FrameObject,
    pub instance: Instance,
    pub references: References,
    pub frame_state: FrameState,
    /// Where the target's `_Py_DebugOffsets` tells a field itself (3.13 and later), by group and key.
    #[serde(default)]
    pub debug: BTreeMap<String, BTreeMap<String, u32>>,
}

/// Why a target's own tables cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    #[error("the table of offsets is malformed: {0}")]
    Table(toml::de::Error),
    #[error("its table of offsets (_Py_DebugOffsets) is not where it should be")]
    NoCookie,
    #[error("its table of offsets is of version {hex:#x}")]
    OtherVersion { hex: u64 },
    #[error("the state of its collector has {size} bytes, {known} are known")]
    OtherCollector { size: u32, known: u32 },
    #[error("it is built free-threaded in a way that no table tells of")]
    FreeThreaded,
    #[error("its table of offsets says {value:#x} for {key}")]
    Insane { key: String, value: u64 },
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// First bytes of `_Py_DebugOffsets`, with which `_PyRuntime` begins (3.13 and later).
const COOKIE: [u8; 8] = *b"xdebugpy";
/// No structure of the interpreter is larger: the interpreter state is some hundred KiB.
const MAX_OFFSET: u64 = 16 << 20;

/// Checks cookie and version of the target's `_Py_DebugOffsets`; whether it is of a build without the GIL.
fn check_header(memory: &dyn Memory, runtime: u64, version: Version) -> Result<bool, OffsetsError> {
    if memory.u64(runtime)? != u64::from_le_bytes(COOKIE) {
        return Err(OffsetsError::NoCookie);
    }
    let hex = memory.u64(runtime.wrapping_add(8))?;
    let told = u32::try_from(hex).ok().and_then(Version::from_hex);
    if told.is_none_or(|told| (told.major, told.minor) != (version.major, version.minor)) {
        return Err(OffsetsError::OtherVersion { hex });
    }
    Ok(memory.u64(runtime.wrapping_add(16))? != 0)
}

/// The text of a minor version's table.
fn text(major: u8, minor: u8, free_threaded: bool) -> Option<&'static str> {
    let table = TABLES.iter().find(|t| (t.major, t.minor, t.free_threaded) == (major, minor, free_threaded))?;
    Some(table.text)
}

/// The row for a point release in the text of a table.
fn row(text: &str, patch: u8) -> Result<toml::Table, toml::de::Error> {
    let rows = text.parse::<toml::Table>()?.remove("release").unwrap_or(toml::Value::Array(Vec::new()));
    let rows: Vec<toml::Table> = rows.try_into()?;
    let first = |row: &toml::Table| row.get("first_patch").and_then(toml::Value::as_integer).unwrap_or(0);
    let fitting = rows.into_iter().filter(|row| first(row) <= i64::from(patch));
    let row = fitting.max_by_key(first);
    row.ok_or_else(|| serde::de::Error::custom(format!("no row for point release {patch}")))
}

/// Puts what `text` has into the groups of a row, and takes out what it says is absent.
fn overlay(row: &mut toml::Table, text: &str) -> Result<(), toml::de::Error> {
    let mut other: toml::Table = text.parse()?;
    let absent: Vec<String> = other.remove("absent").map_or(Ok(Vec::new()), toml::Value::try_into)?;
    for (group, key) in absent.iter().filter_map(|name| name.split_once('.')) {
        row.get_mut(group).and_then(toml::Value::as_table_mut).and_then(|group| group.remove(key));
    }
    for (name, keys) in other {
        let keys: toml::Table = keys.try_into()?;
        match row.get_mut(&name).and_then(toml::Value::as_table_mut) {
            Some(group) => group.extend(keys),
            None => drop(row.insert(name, toml::Value::Table(keys))),
        }
    }
    Ok(())
}

impl Offsets {
    /// The row for a version with the GIL; `None` when there is no table for its minor version.
    pub fn of(major: u8, minor: u8, patch: u8) -> Option<Self> {
        Self::parse(text(major, minor, false)?, patch).ok()
    }

    /// The row for a point release in the text of a table.
    pub fn parse(text: &str, patch: u8) -> Result<Self, toml::de::Error> {
        row(text, patch)?.try_into()
    }

    /// The row for a version, and before it what the target's own tables say: those of the interpreter whose `_PyRuntime` is at
    /// `runtime`. `None` when there is no table for its minor version.
    pub fn read(memory: &dyn Memory, runtime: u64, version: Version) -> Result<Option<Self>, OffsetsError> {
        let Some(with_gil) = text(version.major, version.minor, false) else { return Ok(None) };
        let parse = |text| row(text, version.patch).map_err(OffsetsError::Table);
        let mut table = parse(with_gil)?;
        let mut own: Self = table.clone().try_into().map_err(OffsetsError::Table)?;
        if own.debug.is_empty() {
            return Ok(Some(own));
        }
        if check_header(memory, runtime, version)? {
            table = parse(text(version.major, version.minor, true).ok_or(OffsetsError::FreeThreaded)?)?;
            own = table.clone().try_into().map_err(OffsetsError::Table)?;
        }
        for (group, keys) in &own.debug {
            for (key, at) in keys {
                let value = memory.u64(runtime.wrapping_add(u64::from(*at)))?;
                if value > MAX_OFFSET {
                    return Err(OffsetsError::Insane { key: format!("{group}.{key}"), value });
                }
                let group = table.get_mut(group).and_then(toml::Value::as_table_mut);
                if let Some(group) = group {
                    group.insert(key.clone(), toml::Value::Integer(value as i64));
                }
            }
        }
        let mut told: Self = table.clone().try_into().map_err(OffsetsError::Table)?;
        // Of the collector's state it tells the size alone: another one has the other fields elsewhere.
        if told.gc.size != own.gc.size {
            let size = told.gc.size;
            let is_it = |other: &&OtherCollector| {
                (other.minor, other.size) == (version.minor, size) && version.major == 3 && !own.free_threaded
            };
            let unknown = OffsetsError::OtherCollector { size, known: own.gc.size };
            let other = COLLECTORS.iter().find(is_it).ok_or(unknown)?;
            overlay(&mut table, other.text).map_err(OffsetsError::Table)?;
            told = table.try_into().map_err(OffsetsError::Table)?;
        }
        // `main` comes right after `head` in `struct pyinterpreters`.
        let moved = told.runtime.interpreters_head.wrapping_sub(own.runtime.interpreters_head);
        told.runtime.interpreters_main = own.runtime.interpreters_main.wrapping_add(moved);
        Ok(Some(told))
    }

    /// Minor versions that have a table, "3.11"; those of builds without the GIL as "3.13t".
    pub fn supported() -> Vec<String> {
        TABLES.iter().map(|t| format!("{}.{}{}", t.major, t.minor, if t.free_threaded { "t" } else { "" })).collect()
    }

    /// Whether tracked objects have a head before them by which they are linked in lists; else a bit tells them.
    pub fn has_gc_heads(&self) -> bool {
        self.collector.tracked_bit == 0
    }

    /// Whether the collector works by increments: a young generation, and two lists of old objects that take turns.
    pub fn is_incremental(&self) -> bool {
        self.gc.visited_space != ABSENT
    }

    /// The versions of mimalloc that may serve the heap: none with the GIL, where pymalloc does. Point releases of one minor version
    /// differ in it: what is in memory tells which it is.
    pub fn mimalloc(&self) -> Vec<Mimalloc> {
        let tables: &[&str] = if self.free_threaded { &MIMALLOC } else { &[] };
        // The texts are part of the program; a test parses them.
        tables.iter().filter_map(|text| toml::from_str(text).ok()).collect()
    }

    /// Bytes of `PyObject`, which ends with its type.
    pub fn header(&self) -> u32 {
        self.object.type_ + 8
    }

    /// How much later than in builds with the GIL the fields of an object begin that no table has, bytes.
    pub fn shift(&self) -> u32 {
        self.header().saturating_sub(16)
    }

    /// Offset in `PyInterpreterState` of the array of dict keys kept for the next dict; `None` before 3.10.
    pub fn dict_keys_free_list(&self) -> Option<u32> {
        Some(self.interpreter.dict_keys_free_list).filter(|&offset| offset != ABSENT)
    }

    /// What the frame walk needs, for an interpreter whose `_PyRuntime` is at `runtime` in the target.
    pub fn layout(&self, runtime: u64) -> PythonLayout {
        let frame = &self.frame;
        let fields = [frame.code, frame.previous, frame.instr, frame.owner, frame.copy]
            .map(|offset| (offset != ABSENT).then_some(offset & !7));
        let fields = fields.into_iter().flatten();
        let (window, end) = (fields.clone().min().unwrap_or(0), fields.max().unwrap_or(0) + 8);
        let shift = |offset: u32| (offset & 7) * 8;
        PythonLayout {
            tstate_current: if self.runtime.tstate_current == ABSENT {
                0
            } else {
                runtime + u64::from(self.runtime.tstate_current)
            },
            tstate_tls: 0,
            interpreters_head: runtime + u64::from(self.runtime.interpreters_head),
            interp_threads_head: self.interpreter.threads_head,
            tstate_next: self.thread.next,
            tstate_thread_id: self.thread.thread_id,
            tstate_frame: self.thread.frame,
            cframe_frame: self.cframe.current_frame,
            frame_window: window,
            frame_window_len: end - window,
            frame_code: frame.code - window,
            frame_code_tags: self.references.tags,
            frame_previous: frame.previous - window,
            frame_instr: (frame.instr & !7) - window,
            frame_instr_shift: shift(frame.instr),
            instr_is_offset: u32::from(self.lines.encoding != LineEncoding::Locations),
            frame_owner: if frame.owner == ABSENT { ABSENT } else { (frame.owner & !7) - window },
            frame_owner_shift: shift(frame.owner),
            frame_copy: if frame.copy == ABSENT { ABSENT } else { (frame.copy & !7) - window },
            frame_copy_shift: shift(frame.copy),
            line_encoding: self.lines.encoding as u32,
            code_filename: self.code.filename,
            code_qualname: self.code.qualname,
            code_linetable: self.code.linetable,
            code_firstlineno: self.code.firstlineno,
            code_firsttraceable: self.code.firsttraceable,
            code_instructions: self.code.instructions,
            code_copies: self.code.copies,
            copies_entries: self.code_copies.entries,
            bytes_size: self.bytes.size,
            bytes_data: self.bytes.data,
            unicode_length: self.unicode.length,
            unicode_state: self.unicode.state,
            unicode_kind_bit: self.unicode.kind_bit,
            unicode_ascii_bit: self.unicode.ascii_bit,
            unicode_ascii_data: self.unicode.ascii_data,
            unicode_compact_data: self.compact_unicode.data,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_parses_and_is_of_its_version() {
        for (Table { free_threaded, text, .. }, name) in TABLES.iter().zip(Offsets::supported()) {
            assert!(
                text.starts_with(&format!("# Offsets in bytes of the fields that leaktrace reads of CPython {name}, "))
            );
            for patch in [0, 1, 255] {
                let row = Offsets::parse(text, patch).unwrap();
                assert_eq!(row.free_threaded, *free_threaded);
                let layout = row.layout(0);
                assert!(layout.frame_window_len <= 128);
                assert!(row.pymalloc.pool_size.is_power_of_two());
            }
        }
        for other in COLLECTORS {
            let mut table = row(text(3, other.minor, false).unwrap(), 0).unwrap();
            let usual: Offsets = table.clone().try_into().unwrap();
            overlay(&mut table, other.text).unwrap();
            let other: Offsets = table.try_into().unwrap();
            assert_ne!(other.gc, usual.gc);
        }
        let free_threaded = Offsets::parse(text(3, 14, true).unwrap(), 0).unwrap();
        assert_eq!(free_threaded.mimalloc().len(), MIMALLOC.len());
        assert_eq!(Offsets::of(3, 7, 0), None);
        assert!(Offsets::parse("release = []", 0).is_err());
    }
}
