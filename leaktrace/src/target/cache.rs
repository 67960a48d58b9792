//! Memory read in lines and kept: for walks that come back to the same pages.

use std::cell::{Cell, RefCell};

use super::memory::{Memory, MemoryError};

/// Bytes of a line.
const LINE: u64 = 1 << 14;
/// Lines that are kept: 32 MiB.
const LINES: usize = 1 << 11;

/// Its number and its bytes, once it has been read.
type Line = Option<(u64, Box<[u8]>)>;

/// A view of another memory, as it was when each line was first read. Make a new one for a new look.
pub struct CachedMemory<'a> {
    memory: &'a dyn Memory,
    /// By the line's number modulo their count.
    lines: RefCell<Vec<Line>>,
    /// Reads go to the memory itself.
    bypassed: Cell<bool>,
}

impl<'a> CachedMemory<'a> {
    pub fn new(memory: &'a dyn Memory) -> Self {
        let lines = std::iter::repeat_with(|| None).take(LINES).collect();
        Self { memory, lines: RefCell::new(lines), bypassed: Cell::new(false) }
    }

    /// Whether to read the memory as it is now: what is kept stays, and is not added to.
    pub fn bypass(&self, bypassed: bool) {
        self.bypassed.set(bypassed);
    }
}

impl Memory for CachedMemory<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let (number, into) = (address / LINE, (address % LINE) as usize);
        if self.bypassed.get() || into + buffer.len() > LINE as usize {
            return self.memory.read(address, buffer);
        }
        let mut lines = self.lines.borrow_mut();
        let line = &mut lines[number as usize % LINES];
        if line.as_ref().is_none_or(|(held, _)| *held != number) {
            let mut bytes = line.take().map_or_else(|| vec![0; LINE as usize].into(), |(_, bytes)| bytes);
            if self.memory.read(number * LINE, &mut bytes).is_err() {
                // Part of it is not mapped.
                return self.memory.read(address, buffer);
            }
            *line = Some((number, bytes));
        }
        let Some((_, bytes)) = line else { return Err(MemoryError { address, len: buffer.len() }) };
        buffer.copy_from_slice(&bytes[into..into + buffer.len()]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::ImageMemory;

    #[test]
    fn reads_are_those_of_the_memory() {
        let bytes: Vec<u8> = (0..3 * LINE).map(|i| (i / 7) as u8).collect();
        let mut image = ImageMemory::new();
        image.insert(LINE, bytes.clone());
        let cached = CachedMemory::new(&image);
        for address in [LINE, LINE + 5, 2 * LINE - 4, 4 * LINE - 8, 2 * LINE - 8] {
            for _ in 0..2 {
                let at = (address - LINE) as usize;
                assert_eq!(cached.bytes(address, 8).unwrap(), bytes[at..at + 8]);
            }
        }
        assert!(cached.u64(4 * LINE - 4).is_err() && cached.u64(0).is_err() && cached.u64(u64::MAX - 7).is_err());
    }
}
