//! Code objects: what function a frame runs, and which line an instruction is of.

use leaktrace_common::walk::ABSENT;
use leaktrace_common::wire::{CODE_BYTES, CODE_NAME_BYTES, CodeRecord, record};
use zerocopy::FromBytes as _;

use crate::target::{Memory, MemoryError};

use super::linetable::{LineTable, Location};
use super::lnotab::{line_by_lnotab, line_by_ranges};
use super::offsets::{LineEncoding, Offsets};

/// Bytes of a code unit (`_Py_CODEUNIT`).
const UNIT: u64 = 2;
/// Longest name that is read, characters.
const MAX_NAME: u64 = 1 << 14;
/// Longest line table that is read, bytes.
const MAX_TABLE: u64 = 1 << 24;

/// Why a code object could not be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    #[error("the record of a code object is malformed")]
    Record,
    #[error("no code object is at {address:#x}")]
    NotCode { address: u64 },
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// A code object, copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeInfo {
    /// Address of the code object.
    pub address: u64,
    /// `co_filename` and `co_qualname` (before 3.11 `co_name`); what cannot be UTF-8 (lone surrogates) is replaced.
    pub filename: String,
    pub qualname: String,
    /// `co_firstlineno`.
    pub first_line: i32,
    /// `co_linetable`, before 3.10 `co_lnotab`.
    pub line_table: Vec<u8>,
    pub encoding: LineEncoding,
    /// Address of the first instruction; 0 before 3.11, where frames keep offsets.
    pub instructions: u64,
    /// `_co_firsttraceable`: code units before the instruction that completes a frame (`RESUME`); 0 before 3.11.
    pub first_traceable: i32,
}

impl CodeInfo {
    /// From a [`CodeRecord`] as the ring carries it: the head, then a room of fixed size for each of file name, qualified
    /// name and line table, filled to the lengths given.
    ///
    /// What of a long line table did not fit is read from `memory`. The code object may have died since: then the lines
    /// that the rest would have told are unknown.
    pub fn from_record(bytes: &[u8], memory: Option<&dyn Memory>) -> Result<Self, CodeError> {
        let (head, rooms) = CodeRecord::read_from_prefix(bytes).map_err(|_| CodeError::Record)?;
        let room = |start: usize, size: usize, filled: u16| {
            let filled = usize::from(filled);
            (filled <= size).then(|| rooms.get(start..start + filled)).flatten().ok_or(CodeError::Record)
        };
        if head.kind != record::CODE {
            return Err(CodeError::Record);
        }
        let filename = room(0, CODE_NAME_BYTES, head.filename_bytes)?;
        let qualname = room(CODE_NAME_BYTES, CODE_NAME_BYTES, head.qualname_bytes)?;
        let mut line_table = room(2 * CODE_NAME_BYTES, CODE_BYTES, head.linetable_bytes)?.to_vec();
        let missing = u64::from(head.linetable_len).min(MAX_TABLE).saturating_sub(line_table.len() as u64);
        if missing > 0
            && let Some(memory) = memory
            && let Ok(rest) = memory.bytes(head.linetable.wrapping_add(line_table.len() as u64), missing as usize)
        {
            line_table.extend(rest);
        }
        Ok(Self {
            address: head.code,
            filename: decode(filename, head.text_kinds & 15).ok_or(CodeError::Record)?,
            qualname: decode(qualname, head.text_kinds >> 4).ok_or(CodeError::Record)?,
            first_line: head.first_line,
            line_table,
            encoding: LineEncoding::from_wire(head.line_encoding).ok_or(CodeError::Record)?,
            instructions: head.instructions,
            first_traceable: head.first_traceable,
        })
    }

    /// Reads the code object at `address`, which a frame should be running: else it may be anything.
    pub fn read(memory: &dyn Memory, offsets: &Offsets, address: u64) -> Result<Self, CodeError> {
        let at = |offset: u32| address.wrapping_add(u64::from(offset));
        let code = &offsets.code;
        let text = |field: u32| read_text(memory, offsets, memory.u64(at(field))?, address);
        let table = memory.u64(at(code.linetable))?;
        let len = memory.u64(table.wrapping_add(u64::from(offsets.bytes.size)))?;
        if len > MAX_TABLE {
            return Err(CodeError::NotCode { address });
        }
        Ok(Self {
            address,
            filename: text(code.filename)?,
            qualname: text(code.qualname)?,
            first_line: memory.u32(at(code.firstlineno))? as i32,
            line_table: memory.bytes(table.wrapping_add(u64::from(offsets.bytes.data)), len as usize)?,
            encoding: offsets.lines.encoding,
            instructions: if code.instructions == ABSENT { 0 } else { at(code.instructions) },
            first_traceable: match code.firsttraceable {
                ABSENT => 0,
                field => memory.u32(at(field))? as i32,
            },
        })
    }

    /// The line of a frame's position: see [`leaktrace_common::wire::line_encoding`].
    ///
    /// From 3.11 that is the address of the code unit that is being executed (an inline cache of it, while it calls). Before
    /// the first instruction it is the function's line, as `PyCode_Addr2Line` has it (`Objects/codeobject.c`). `None`: the
    /// instruction has no line.
    pub fn line_of(&self, instr: u64) -> Option<u32> {
        let first = u32::try_from(self.first_line).ok();
        // -1 where nothing has run yet.
        let lasti = u32::try_from(instr).ok().filter(|&lasti| i32::try_from(lasti).is_ok());
        match self.encoding {
            LineEncoding::Lnotab => lasti.map_or(first, |at| line_by_lnotab(&self.line_table, self.first_line, at)),
            LineEncoding::Ranges => {
                lasti.map_or(first, |at| line_by_ranges(&self.line_table, self.first_line, at * UNIT as u32))
            }
            LineEncoding::Locations if instr < self.instructions => first,
            LineEncoding::Locations => self.location_of(instr)?.line,
        }
    }

    /// Lines and columns of the instruction at an address (3.11 and later).
    pub fn location_of(&self, instr: u64) -> Option<Location> {
        let unit = u32::try_from(instr.checked_sub(self.instructions)? / UNIT).ok()?;
        LineTable::new(&self.line_table, self.first_line).at(unit)
    }

    /// Whether a frame with this position is still being set up (`_PyFrame_IsIncomplete`,
    /// `Include/internal/pycore_frame.h`). Python's own stacks leave such frames out.
    pub fn is_incomplete(&self, instr: u64) -> bool {
        if self.encoding != LineEncoding::Locations {
            return false;
        }
        let units = u64::try_from(self.first_traceable).unwrap_or(0);
        instr < self.instructions.saturating_add(units * UNIT)
    }
}

/// The characters of a compact string.
fn read_text(memory: &dyn Memory, offsets: &Offsets, string: u64, code: u64) -> Result<String, CodeError> {
    let at = |offset: u32| string.wrapping_add(u64::from(offset));
    let unicode = &offsets.unicode;
    let length = memory.u64(at(unicode.length))?;
    let state = memory.u32(at(unicode.state))?;
    let bit = |number: u32| state.checked_shr(number).unwrap_or(0) & 1 == 1;
    let kind = (state.checked_shr(unicode.kind_bit).unwrap_or(0) & 7) as u8;
    if !bit(unicode.compact_bit) || length > MAX_NAME {
        return Err(CodeError::NotCode { address: code });
    }
    let data = if bit(unicode.ascii_bit) { unicode.ascii_data } else { offsets.compact_unicode.data };
    let bytes = memory.bytes(at(data), length as usize * usize::from(kind))?;
    decode(&bytes, kind).ok_or(CodeError::NotCode { address: code })
}

/// Decodes the characters of a `PyUnicode` of a kind (bytes a character); a cut last character is dropped.
pub(super) fn decode(bytes: &[u8], kind: u8) -> Option<String> {
    let point = |point: u32| char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER);
    match kind {
        _ if bytes.is_empty() => Some(String::new()),
        1 => Some(bytes.iter().map(|&b| char::from(b)).collect()),
        2 => Some(bytes.as_chunks().0.iter().map(|&c| point(u16::from_le_bytes(c).into())).collect()),
        4 => Some(bytes.as_chunks().0.iter().map(|&c| point(u32::from_le_bytes(c))).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use leaktrace_common::walk::{self, FrameWords, PythonLayout, ReadFrames, ReadTarget};
    use leaktrace_common::wire::{MAX_FRAMES, RawFrame};
    use zerocopy::IntoBytes as _;

    use super::*;
    use crate::cpython::testing::{Script, pythons};
    use crate::cpython::threads::interpreters;
    use crate::target::{ImageMemory, ProcessMemory};

    struct Live(ProcessMemory);

    impl ReadTarget for Live {
        fn word(&self, address: u64) -> Option<u64> {
            self.0.u64(address).ok()
        }
    }

    impl ReadFrames for Live {
        fn frame(&mut self, layout: &PythonLayout, address: u64) -> Option<FrameWords> {
            let at = address + u64::from(layout.frame_window);
            let bytes = self.0.bytes(at, layout.frame_window_len as usize).ok()?;
            Some(FrameWords::new(layout, |offset| {
                u64::from_le_bytes(*bytes[offset as usize..].first_chunk().expect("in the window"))
            }))
        }
    }

    /// Stacks of all kinds of frames, which wait in `os.read` while they are read from outside.
    const STACKS: &str = r#"
import os, sys, traceback
names = ("f", "café", "имя", "𝔣")
def show():
    stack = [(f.f_code.co_filename, getattr(f.f_code, 'co_qualname', f.f_code.co_name), n) for f, n in traceback.walk_stack(sys._getframe(0))]
    text = ''.join('%s\t%s\t%d\n' % s for s in stack) + 'end\n'
    os.write(1, text.encode()); os.read(0, 1)
class C:
    def method(self):
        return [
            self.inner(x)
            for x in (1,)]
    def inner(self, x):
        return (lambda: gen(
            x))()
def gen(x):
    def g():
        yield deeper()
        yield x
    return list(
        g())
def deeper():
    namespace = {"show": show, "names": names}
    for n in names:
        source = f"def {n}(n):\n\n    if n: return {n}(n - 1)\n    return sorted([1],\n        key=lambda _: show() or 1)\n{n}(3)"
        exec(compile(source, f"<{n}>", "exec"), namespace)
async def coroutine():
    C().method()
try: coroutine().send(None)
except StopIteration: pass
"#;

    #[test]
    fn stacks_are_those_that_traceback_shows() {
        for python in pythons() {
            let mut script = Script::start(&python, STACKS);
            for _ in 0..4 {
                let mut said: Vec<String> =
                    std::iter::repeat_with(|| script.line()).take_while(|line| line != "end").collect();
                let (target, found) = script.interpreter();
                while target.state().unwrap() == 'R' {
                    std::thread::yield_now();
                }
                let memory = target.memory();
                let thread = interpreters(&memory, &found.offsets, found.runtime).unwrap()[0].threads[0];
                let mut frames = [RawFrame::default(); MAX_FRAMES];
                let walked = walk::walk(&mut Live(memory), &found.facts.layout, thread.frame, &mut frames, |_| 0);
                assert_eq!(walked.flags, 0);
                let mut read = Vec::new();
                for frame in &frames[..walked.frames as usize] {
                    let code = CodeInfo::read(&memory, &found.offsets, frame.code).unwrap();
                    assert!(!code.is_incomplete(frame.instr));
                    let line = code.line_of(frame.instr).unwrap();
                    read.push(format!("{}\t{}\t{line}", code.filename, code.qualname));
                }
                // The innermost frame has gone on from the line that took the stack to the one that waits.
                assert!(said[0].ends_with("show\t5") && read[0].ends_with("show\t7"), "{} {}", said[0], read[0]);
                said[0].clone_from(&read[0]);
                assert_eq!(read, said, "{}", python.display());
                assert!(read.len() > 12);
                script.go();
            }
        }
    }

    fn sample() -> CodeInfo {
        CodeInfo {
            address: 0x1000,
            filename: "a.py".into(),
            qualname: "имя".into(),
            first_line: 7,
            // Two units on line 7, two on line 9 (kind 13), one without a line.
            line_table: vec![0x80 | 13 << 3 | 1, 0, 0x80 | 13 << 3 | 1, 4, 0x80 | 15 << 3],
            encoding: LineEncoding::Locations,
            instructions: 0x10b8,
            first_traceable: 1,
        }
    }

    fn record_of(code: &CodeInfo, cut: usize) -> Vec<u8> {
        let qualname: Vec<u8> = code.qualname.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let head = CodeRecord {
            kind: record::CODE,
            first_line: code.first_line,
            code: code.address,
            instructions: code.instructions,
            linetable: 0x2000,
            linetable_len: code.line_table.len() as u32,
            first_traceable: code.first_traceable,
            filename_bytes: code.filename.len() as u16,
            qualname_bytes: qualname.len() as u16,
            linetable_bytes: cut as u16,
            text_kinds: 1 | 2 << 4,
            line_encoding: code.encoding as u8,
        };
        let mut bytes = head.as_bytes().to_vec();
        for (content, size) in [
            (code.filename.as_bytes(), CODE_NAME_BYTES),
            (&qualname, CODE_NAME_BYTES),
            (&code.line_table[..cut], CODE_BYTES),
        ] {
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len() + size - content.len(), 0xee);
        }
        bytes
    }

    #[test]
    fn a_record_carries_a_code_object() {
        let code = sample();
        assert_eq!(CodeInfo::from_record(&record_of(&code, 5), None).as_ref(), Ok(&code));
        let mut memory = ImageMemory::new();
        memory.insert(0x2000, code.line_table.clone());
        assert_eq!(CodeInfo::from_record(&record_of(&code, 2), Some(&memory)).as_ref(), Ok(&code));
        let cut = CodeInfo::from_record(&record_of(&code, 2), None).unwrap();
        assert_eq!((cut.line_of(0x10b8), cut.line_of(0x10bc)), (Some(7), None));
        assert_eq!(CodeInfo::from_record(b"", None), Err(CodeError::Record));
        assert_eq!(CodeInfo::from_record(&record_of(&code, 5)[..100], None), Err(CodeError::Record));
    }

    #[test]
    fn lines_by_instruction() {
        let code = sample();
        let lines: Vec<_> = (0..7).map(|unit| code.line_of(code.instructions - 2 + 2 * unit)).collect();
        assert_eq!(lines, [Some(7), Some(7), Some(7), Some(9), Some(9), None, None]);
        assert!(code.is_incomplete(0x10b6) && code.is_incomplete(0x10b8) && !code.is_incomplete(0x10ba));
        assert_eq!((code.line_of(0), code.line_of(u64::MAX)), (Some(7), None));
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 48..6000), kind in 0u32..3) {
            bytes[..4].copy_from_slice(&kind.to_le_bytes());
            if let Ok(code) = CodeInfo::from_record(&bytes, None) {
                let _ = (code.line_of(code.instructions), code.is_incomplete(u64::MAX));
            }
        }
    }
}
