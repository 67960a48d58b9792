//! A short piece of memory that is read at once: for structures of which many fields are asked for, as they were at nearly one moment.

use super::memory::{Memory, MemoryError};

/// A view of another memory. What lies in the piece is as it was when this was made; the rest, and a piece that cannot be read, is as it is.
pub struct Piece<'a> {
    memory: &'a dyn Memory,
    base: u64,
    bytes: Vec<u8>,
}

impl<'a> Piece<'a> {
    /// Reads `len` bytes from `base`.
    pub fn new(memory: &'a dyn Memory, base: u64, len: usize) -> Self {
        Self { memory, base, bytes: memory.bytes(base, len).unwrap_or_default() }
    }
}

impl Memory for Piece<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let held = usize::try_from(address.wrapping_sub(self.base)).ok();
        let held = held.and_then(|at| self.bytes.get(at..at.checked_add(buffer.len())?));
        match held {
            Some(held) => buffer.copy_from_slice(held),
            None => self.memory.read(address, buffer)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::ImageMemory;

    #[test]
    fn what_is_in_the_piece_stays_and_the_rest_is_read() {
        let mut image = ImageMemory::new();
        image.insert(64, (0..32).collect());
        let (inside, unreadable) = (Piece::new(&image, 72, 8), Piece::new(&image, 90, 8));
        let read = |memory: &Piece, address| memory.u32(address).map(|word| word.to_le_bytes()[0]);
        assert_eq!([72, 76, 77, 71, 64].map(|address| read(&inside, address)), [Ok(8), Ok(12), Ok(13), Ok(7), Ok(0)]);
        assert_eq!(
            (read(&unreadable, 90), read(&inside, u64::MAX).is_ok(), read(&inside, 95).is_ok()),
            (Ok(26), false, false)
        );
        let mut later = ImageMemory::new();
        later.insert(64, vec![9; 32]);
        let moved = Piece { memory: &later, ..inside };
        assert_eq!([72, 77].map(|address| read(&moved, address)), [Ok(8), Ok(9)], "one that sticks out is read anew");
    }
}
