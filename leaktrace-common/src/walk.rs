//! The walk over a thread's Python frames, from the interpreter's own structures.
//!
//! The layout comes from a table of offsets (`leaktrace/offsets/*.toml`), so another version is another row.

use crate::wire::{MAX_FRAMES, RawFrame, STACK_BROKEN, STACK_TRUNCATED};
#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An offset that this version does not have.
pub const ABSENT: u32 = u32::MAX;

/// Offsets in bytes that the walk and the copy of code objects need.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct PythonLayout {
    /// Address in the target of the pointer to the PyThreadState that holds the GIL; 0: there is none (3.12 and later).
    pub tstate_current: u64,
    /// Where each thread keeps the pointer to its PyThreadState while that is attached (3.12 and later), relative to its
    /// thread pointer; 0: not known.
    pub tstate_tls: i64,
    /// Address in the target of the pointer to the first interpreter state.
    pub interpreters_head: u64,
    /// PyInterpreterState: first thread state.
    pub interp_threads_head: u32,
    /// PyThreadState: next thread state of the interpreter.
    pub tstate_next: u32,
    /// PyThreadState: `thread_id`, which is `pthread_self()`.
    pub tstate_thread_id: u32,
    /// PyThreadState: `cframe` (3.11, 3.12) or the innermost frame itself.
    pub tstate_frame: u32,
    /// _PyCFrame: `current_frame`; [`ABSENT`] when `tstate_frame` is the frame itself.
    pub cframe_frame: u32,
    /// Start and length in bytes of the window of a frame that is read at once; the next three are offsets in it.
    pub frame_window: u32,
    /// At most 128.
    pub frame_window_len: u32,
    pub frame_code: u32,
    /// Low bits of that word that are not of the address: tags of references (3.14 and later).
    pub frame_code_tags: u32,
    pub frame_previous: u32,
    /// The word that holds the position, and the bit in it where that begins.
    pub frame_instr: u32,
    pub frame_instr_shift: u32,
    /// Not 0: the position is a 32-bit offset (to 3.10), else an address in the code object. Frames with offsets are objects
    /// of their own, others lie one behind the other.
    pub instr_is_offset: u32,
    /// The word that holds `owner`, and the bit in it where that begins; [`ABSENT`] before 3.12.
    pub frame_owner: u32,
    pub frame_owner_shift: u32,
    /// The word that holds the index of the thread's copy of the instructions, and the bit in it where that begins; [`ABSENT`]
    /// but in free-threaded builds from 3.14.
    pub frame_copy: u32,
    pub frame_copy_shift: u32,
    pub code_filename: u32,
    pub code_qualname: u32,
    pub code_linetable: u32,
    pub code_firstlineno: u32,
    /// [`ABSENT`] before 3.11.
    pub code_firsttraceable: u32,
    /// Offset of the first instruction in the code object (`co_code_adaptive`); [`ABSENT`] before 3.11.
    pub code_instructions: u32,
    /// Pointer to the table of the threads' copies of the instructions, and where its first entry is; [`ABSENT`] as above.
    pub code_copies: u32,
    pub copies_entries: u32,
    /// One of [`crate::wire::line_encoding`].
    pub line_encoding: u32,
    /// PyBytesObject: `ob_size`, `ob_sval`.
    pub bytes_size: u32,
    pub bytes_data: u32,
    /// PyASCIIObject: `length`, `state`; where the characters of compact ASCII and other compact strings begin.
    pub unicode_length: u32,
    pub unicode_state: u32,
    /// Bits of `state`: where the kind begins (3 bits), and whether the string is ASCII.
    pub unicode_kind_bit: u32,
    pub unicode_ascii_bit: u32,
    pub unicode_ascii_data: u32,
    pub unicode_compact_data: u32,
}

/// Where the number of a thread's copy of the instructions is kept in [`RawFrame::instr`] until the stack is sent: addresses of
/// user space leave these bits free.
pub const COPY_SHIFT: u32 = 48;

/// Values of a frame's `owner` from this one on mark frames that are the interpreter's own, without Python code
/// (`FRAME_OWNED_BY_CSTACK` in 3.12 and 3.13, `FRAME_OWNED_BY_INTERPRETER` later: `pycore_frame.h`).
const OWNED_BY_INTERPRETER: u8 = 3;

impl PythonLayout {
    /// All zero.
    pub const ZERO: Self = Self {
        tstate_current: 0,
        tstate_tls: 0,
        interpreters_head: 0,
        interp_threads_head: 0,
        tstate_next: 0,
        tstate_thread_id: 0,
        tstate_frame: 0,
        cframe_frame: 0,
        frame_window: 0,
        frame_window_len: 0,
        frame_code: 0,
        frame_code_tags: 0,
        frame_previous: 0,
        frame_instr: 0,
        frame_instr_shift: 0,
        instr_is_offset: 0,
        frame_owner: 0,
        frame_owner_shift: 0,
        frame_copy: 0,
        frame_copy_shift: 0,
        code_filename: 0,
        code_qualname: 0,
        code_linetable: 0,
        code_firstlineno: 0,
        code_firsttraceable: 0,
        code_instructions: 0,
        code_copies: 0,
        copies_entries: 0,
        line_encoding: 0,
        bytes_size: 0,
        bytes_data: 0,
        unicode_length: 0,
        unicode_state: 0,
        unicode_kind_bit: 0,
        unicode_ascii_bit: 0,
        unicode_ascii_data: 0,
        unicode_compact_data: 0,
    };
}

/// Reads the target's memory: the kernel's `bpf_probe_read_user`, or an image in a test.
pub trait ReadTarget {
    fn word(&self, address: u64) -> Option<u64>;
}

/// Reads the frames of one stack. Frames lie close together, so a reader may fetch many at once.
pub trait ReadFrames: ReadTarget {
    fn frame(&mut self, layout: &PythonLayout, address: u64) -> Option<FrameWords>;
}

/// The words of a frame that the walk needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameWords {
    pub code: u64,
    pub previous: u64,
    pub instr: u64,
    /// 0 in versions that do not have it.
    pub owner: u8,
}

impl FrameWords {
    /// From the 8-byte words of a frame at offsets in its window.
    #[inline(always)]
    pub fn new(layout: &PythonLayout, word: impl Fn(u32) -> u64) -> Self {
        let mut instr = word(layout.frame_instr) >> layout.frame_instr_shift;
        if layout.frame_copy != ABSENT {
            instr |= (word(layout.frame_copy) >> layout.frame_copy_shift) << COPY_SHIFT;
        }
        Self {
            code: word(layout.frame_code) & !u64::from(layout.frame_code_tags),
            previous: word(layout.frame_previous),
            instr: if layout.instr_is_offset == 0 { instr } else { instr & 0xffff_ffff },
            owner: if layout.frame_owner == ABSENT {
                0
            } else {
                (word(layout.frame_owner) >> layout.frame_owner_shift) as u8
            },
        }
    }

    #[inline(always)]
    const fn is_interpreters_own(&self) -> bool {
        self.owner >= OWNED_BY_INTERPRETER
    }

    /// What tells two frames apart: an address lies in its code object, so it stands for both.
    #[inline(always)]
    pub const fn identity(layout: &PythonLayout, code: u64, instr: u64) -> u64 {
        if layout.instr_is_offset == 0 { instr } else { instr ^ code.rotate_left(20) }
    }
}

/// What a walk found; the frames themselves are in the caller's array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    pub frames: u32,
    /// [`crate::wire::STACK_TRUNCATED`], [`crate::wire::STACK_BROKEN`].
    pub flags: u8,
    /// Identifies the frames: equal stacks have equal hashes.
    pub hash: u64,
}

/// Start value of the hash of a stack.
pub const HASH_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Folds a word into the hash of a stack: xor, multiply, and shift the high bits down, so that no bit is lost.
#[inline(always)]
pub const fn mix(hash: u64, word: u64) -> u64 {
    let h = (hash ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93);
    h ^ (h >> 32)
}

/// The innermost frame of a thread state, 0 when it runs no Python.
#[inline(always)]
pub fn innermost_frame<R: ReadTarget>(reader: &R, layout: &PythonLayout, tstate: u64) -> Option<u64> {
    let frame = reader.word(tstate + u64::from(layout.tstate_frame))?;
    if layout.cframe_frame == ABSENT {
        return Some(frame);
    }
    reader.word(frame + u64::from(layout.cframe_frame))
}

/// Follows the frames outwards from `frame` and writes them into `out`, innermost first. `tag` distinguishes code
/// objects that lived at one address one after the other.
#[inline(always)]
pub fn walk<R: ReadFrames>(
    reader: &mut R,
    layout: &PythonLayout,
    mut frame: u64,
    out: &mut [RawFrame; MAX_FRAMES],
    tag: impl Fn(u64) -> u64,
) -> Walked {
    let mut walked = Walked { frames: 0, flags: 0, hash: HASH_SEED };
    let mut index = 0;
    while index < MAX_FRAMES {
        if frame == 0 {
            return walked;
        }
        let Some(mut words) = reader.frame(layout, frame) else {
            walked.flags = STACK_BROKEN;
            return walked;
        };
        // Where C code called the interpreter stands a frame of its own; behind it is a caller's, or the end.
        if words.is_interpreters_own() {
            frame = words.previous;
            if frame == 0 {
                return walked;
            }
            let Some(callers) = reader.frame(layout, frame) else {
                walked.flags = STACK_BROKEN;
                return walked;
            };
            if callers.is_interpreters_own() {
                walked.flags = if callers.previous == 0 { 0 } else { STACK_BROKEN };
                return walked;
            }
            words = callers;
        }
        out[index] = RawFrame { code: words.code, instr: words.instr };
        walked.hash = mix(walked.hash, FrameWords::identity(layout, words.code, words.instr) ^ tag(words.code));
        frame = words.previous;
        index += 1;
        walked.frames = index as u32;
    }
    if frame != 0 {
        walked.flags = STACK_TRUNCATED;
    }
    walked
}
