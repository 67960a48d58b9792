//! The walk over a thread's Python frames, from the interpreter's own structures.
//!
//! The layout comes from a table of offsets (`leaktrace/offsets/*.toml`), so another version is another row.



#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An offset that this version does not have.
pub const ABSENT: u32 = u32::MAX;

/// Offsets in bytes that the walk and the copy of code objects need.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct PythonLayout {
    /// Address in the target of the pointer to the PyThreadState that holds the GIL.
    pub tstate_current: u64,
    /// Address in the target of the pointer to the first interpreter state.
    pub interpreters_head: u64,
    /// PyInterpreterState: first thread state.
    pub interp_threads_head: u32,
    /// PyThreadState: next thread state of the interpreter.
    pub tstate_next: u32,
    /// PyThreadState: `thread_id`, which is `pthread_self()`.
    pub tstate_thread_id: u32,
    /// PyThreadState: `cframe` (3.11, 3.12) or the current frame itself.
    pub tstate_frame: u32,
    /// _PyCFrame: `current_frame`; [`ABSENT`] when `tstate_frame` is the frame itself.
    pub cframe_frame: u32,
    /// Start of the window of a frame that is read at once; the next three are relative to it, each below 56.
    pub frame_window: u32,
    pub frame_code: u32,
    pub frame_previous: u32,
    pub frame_instr: u32,
    pub code_filename: u32,
    pub code_qualname: u32,
    pub code_linetable: u32,
    pub code_firstlineno: u32,
    /// [`ABSENT`] before 3.11.
    pub code_firsttraceable: u32,
    /// Offset of the first instruction in the code object (3.11: `co_code_adaptive`).
    pub code_instructions: u32,
    /// PyBytesObject: `ob_size`, `ob_sval`.
    pub bytes_size: u32,
    pub bytes_data: u32,
    /// PyASCIIObject: `length`, `state`; where the characters of compact ASCII and other compact strings begin.
    pub unicode_length: u32,
    pub unicode_state: u32,
    pub unicode_ascii_data: u32,
    pub unicode_compact_data: u32,
    pub pad: u32,
}
