//! Reading another process's memory.

/// A read that failed. The target's memory moves under us, so callers expect this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {len} bytes at {address:#x} of the target")]
pub struct MemoryError {
    pub address: u64,
    pub len: usize,
}

/// A source of the target's memory: the live process, or an image in a test.
pub trait Memory {
    /// Fills `buffer` from `address`, wholly or not at all.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError>;

    /// Reads many equally long pieces at once; pieces that cannot be read are `false` in the result and zeroed.
    fn read_many(&self, addresses: &[u64], piece: usize, out: &mut Vec<u8>) -> Vec<bool> {
        out.clear();
        out.resize(addresses.len() * piece, 0);
        addresses.iter().zip(out.chunks_exact_mut(piece)).map(|(&a, b)| self.read(a, b).is_ok()).collect()
    }

    fn u64(&self, address: u64) -> Result<u64, MemoryError> {
        let mut b = [0; 8];
        self.read(address, &mut b)?;
        Ok(u64::from_le_bytes(b))
    }

    fn u32(&self, address: u64) -> Result<u32, MemoryError> {
        let mut b = [0; 4];
        self.read(address, &mut b)?;
        Ok(u32::from_le_bytes(b))
    }
}
