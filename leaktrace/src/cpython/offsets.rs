//! The tables of field offsets, one file per CPython minor version, embedded.

use leaktrace_common::walk::PythonLayout;
use serde::Deserialize;

/// The tables by (major, minor).
const TABLES: &[(u8, u8, &str)] = &[(3, 11, include_str!("../../offsets/3.11.toml"))];

/// Offsets in bytes of one CPython release. Made by [`super::dwarf`]; each group names its C struct there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offsets {
    /// First point release that the row holds for.
    pub first_patch: u8,
    pub runtime: Runtime,
    pub interpreter: InterpreterState,
    pub thread: ThreadState,
    pub cframe: CFrame,
    pub frame: Frame,
    pub code: Code,
    pub bytes: Bytes,
    pub unicode: Unicode,
    pub compact_unicode: CompactUnicode,
    pub object: ObjectHeader,
    #[serde(rename = "type")]
    pub type_object: TypeObject,
    pub gc: Gc,
    pub gc_generation: GcGeneration,
    pub gc_stats: GcStats,
    pub pool: Pool,
    pub arena: Arena,
    pub pymalloc: Pymalloc,
}

macro_rules! group {
    ($(#[$doc:meta])* $name:ident { $($field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $(pub $field: u32),* }
    };
}

group!(
    /// `_PyRuntimeState`.
    Runtime { interpreters_head, interpreters_main, tstate_current }
);
group!(
    /// `PyInterpreterState`.
    InterpreterState { next, id, threads_head, gc }
);
group!(
    /// `PyThreadState`.
    ThreadState { next, interpreter, thread_id, native_thread_id, cframe }
);
group!(
    /// `_PyCFrame` (3.11, 3.12).
    CFrame { current_frame }
);
group!(
    /// `_PyInterpreterFrame`.
    Frame { code, previous, instr }
);
group!(
    /// `PyCodeObject`.
    Code { filename, qualname, linetable, firstlineno, firsttraceable, instructions }
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
    TypeObject { name, basicsize, itemsize, flags }
);
group!(
    /// `struct _gc_runtime_state`.
    Gc { enabled, collecting, generations, generation_stats }
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
    /// `struct pool_header`; its size is where the first block begins.
    Pool { size, used, freeblock, nextpool, arenaindex, szidx, nextoffset, maxnextoffset }
);
group!(
    /// `struct arena_object`.
    Arena { size, address, pool_address }
);
group!(
    /// Constants of pymalloc, bytes; `class_shift` is log2 of the spacing of size classes.
    Pymalloc { class_shift, small_max, pool_size, arena_size }
);

/// `PyObject`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectHeader {
    pub refcount: u32,
    #[serde(rename = "type")]
    pub type_: u32,
}

#[derive(Deserialize)]
struct Table {
    release: Vec<Offsets>,
}

impl Offsets {
    /// The row for a version; `None` when there is no table for its minor version.
    pub fn of(major: u8, minor: u8, patch: u8) -> Option<Self> {
        let (_, _, text) = TABLES.iter().find(|t| (t.0, t.1) == (major, minor))?;
        Self::parse(text, patch).ok()
    }

    /// The row for a point release in the text of a table.
    pub fn parse(text: &str, patch: u8) -> Result<Self, toml::de::Error> {
        let rows = toml::from_str::<Table>(text)?.release;
        let row = rows.into_iter().filter(|row| row.first_patch <= patch).max_by_key(|row| row.first_patch);
        row.ok_or_else(|| serde::de::Error::custom(format!("no row for point release {patch}")))
    }

    /// Minor versions that have a table, "3.11".
    pub fn supported() -> Vec<String> {
        TABLES.iter().map(|(major, minor, _)| format!("{major}.{minor}")).collect()
    }

    /// What the frame walk needs, for an interpreter whose `_PyRuntime` is at `runtime` in the target.
    pub fn layout(&self, runtime: u64) -> PythonLayout {
        let fields = [self.frame.code, self.frame.previous, self.frame.instr];
        let window = fields.into_iter().fold(u32::MAX, u32::min);
        let end = fields.into_iter().fold(0, u32::max) + 8;
        PythonLayout {
            tstate_current: runtime + u64::from(self.runtime.tstate_current),
            interpreters_head: runtime + u64::from(self.runtime.interpreters_head),
            interp_threads_head: self.interpreter.threads_head,
            tstate_next: self.thread.next,
            tstate_thread_id: self.thread.thread_id,
            tstate_frame: self.thread.cframe,
            cframe_frame: self.cframe.current_frame,
            frame_window: window,
            frame_window_len: end - window,
            frame_code: self.frame.code - window,
            frame_previous: self.frame.previous - window,
            frame_instr: self.frame.instr - window,
            code_filename: self.code.filename,
            code_qualname: self.code.qualname,
            code_linetable: self.code.linetable,
            code_firstlineno: self.code.firstlineno,
            code_firsttraceable: self.code.firsttraceable,
            code_instructions: self.code.instructions,
            bytes_size: self.bytes.size,
            bytes_data: self.bytes.data,
            unicode_length: self.unicode.length,
            unicode_state: self.unicode.state,
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
        for &(major, minor, text) in TABLES {
            assert!(text.starts_with(&format!(
                "# Offsets in bytes of the fields that leaktrace reads of CPython {major}.{minor}"
            )));
            for patch in [0, 1, 255] {
                let row = Offsets::of(major, minor, patch).unwrap();
                let layout = row.layout(0);
                assert!(layout.frame_window_len <= 64);
                assert!(row.pymalloc.pool_size.is_power_of_two());
            }
        }
        assert_eq!(Offsets::of(3, 10, 0), None);
        assert!(Offsets::parse("release = []", 0).is_err());
    }
}
