//! Reading another process's memory.

use std::collections::BTreeMap;
use std::ops::Range;

/// Most pieces that one `process_vm_readv` takes (`UIO_MAXIOV` of Linux).
const MAX_PIECES: usize = 1024;
const PAGE: u64 = 4096;

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
        if piece == 0 {
            return vec![true; addresses.len()];
        }
        addresses.iter().zip(out.chunks_exact_mut(piece)).map(|(&a, b)| self.read(a, b).is_ok()).collect()
    }

    /// Fills `buffer` with what can be read of a long range and zeroes the rest, page by page. Returns the addresses
    /// that could not be read, in rising order.
    fn read_sparse(&self, address: u64, buffer: &mut [u8]) -> Vec<Range<u64>> {
        let mut holes = Vec::new();
        let mut at = 0;
        while at < buffer.len() {
            let start = address.wrapping_add(at as u64);
            let len = ((PAGE - start % PAGE) as usize).min(buffer.len() - at);
            let page = &mut buffer[at..at + len];
            if self.read(start, page).is_err() {
                page.fill(0);
                add_hole(&mut holes, start, len);
            }
            at += len;
        }
        holes
    }

    /// Reads `len` bytes. The caller bounds `len`.
    fn bytes(&self, address: u64, len: usize) -> Result<Vec<u8>, MemoryError> {
        let mut buffer = vec![0; len];
        self.read(address, &mut buffer)?;
        Ok(buffer)
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

fn add_hole(holes: &mut Vec<Range<u64>>, start: u64, len: usize) {
    let end = start.saturating_add(len as u64);
    match holes.last_mut() {
        Some(last) if last.end == start => last.end = end,
        _ => holes.push(start..end),
    }
}

/// The memory of a live process, by `process_vm_readv`: nothing is stopped, nothing is written.
///
/// It goes by pid: whoever holds it for long asks `Target::still_same` now and then.
#[derive(Debug, Clone, Copy)]
pub struct ProcessMemory {
    pid: libc::pid_t,
}

impl ProcessMemory {
    pub fn new(pid: u32) -> Self {
        Self { pid: pid as libc::pid_t }
    }

    /// Bytes read into `buffer` from the `remote` pieces taken as one stream; stops at the first that faults.
    fn read_stream(&self, remote: &[libc::iovec], buffer: &mut [u8]) -> usize {
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: `local` is one buffer that is borrowed exclusively for the call, and the kernel writes at most its
        // length; `remote` is only read, and its addresses are those of the other process, which the kernel checks.
        let n = unsafe {
            libc::process_vm_readv(self.pid, &raw const local, 1, remote.as_ptr(), remote.len() as libc::c_ulong, 0)
        };
        usize::try_from(n).unwrap_or(0)
    }
}

fn remote(address: u64, len: usize) -> libc::iovec {
    libc::iovec { iov_base: std::ptr::without_provenance_mut(address as usize), iov_len: len }
}

impl Memory for ProcessMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let mut done = 0;
        while done < buffer.len() {
            // A long read may be cut short without a fault (MAX_RW_COUNT, a signal): go on from there.
            let len = buffer.len();
            match self.read_stream(&[remote(address.wrapping_add(done as u64), len - done)], &mut buffer[done..]) {
                0 => return Err(MemoryError { address, len }),
                n => done += n,
            }
        }
        Ok(())
    }

    fn read_many(&self, addresses: &[u64], piece: usize, out: &mut Vec<u8>) -> Vec<bool> {
        out.clear();
        out.resize(addresses.len() * piece, 0);
        let mut ok = vec![true; addresses.len()];
        if piece == 0 {
            return ok;
        }
        let mut at = 0;
        let mut pieces = Vec::with_capacity(MAX_PIECES);
        while at < addresses.len() {
            let batch = &addresses[at..addresses.len().min(at + MAX_PIECES)];
            pieces.clear();
            pieces.extend(batch.iter().map(|&address| remote(address, piece)));
            let end = at + batch.len();
            let read = self.read_stream(&pieces, &mut out[at * piece..end * piece]) / piece;
            at += read;
            if at < end {
                // The stream stopped in this piece: it alone decides about itself, then the rest goes on.
                let buffer = &mut out[at * piece..(at + 1) * piece];
                if self.read(addresses[at], buffer).is_err() {
                    buffer.fill(0);
                    ok[at] = false;
                }
                at += 1;
            }
        }
        ok
    }

    fn read_sparse(&self, address: u64, buffer: &mut [u8]) -> Vec<Range<u64>> {
        let mut holes = Vec::new();
        let mut at = 0;
        while at < buffer.len() {
            let start = address.wrapping_add(at as u64);
            let left = buffer.len() - at;
            let n = self.read_stream(&[remote(start, left)], &mut buffer[at..]);
            if n > 0 {
                at += n;
                continue;
            }
            let len = ((PAGE - start % PAGE) as usize).min(left);
            buffer[at..at + len].fill(0);
            add_hole(&mut holes, start, len);
            at += len;
        }
        holes
    }
}

/// Memory made of given segments, for tests and recorded images.
#[derive(Debug, Clone, Default)]
pub struct ImageMemory {
    segments: BTreeMap<u64, Vec<u8>>,
}

impl ImageMemory {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a segment. Segments must not overlap; a read does not cross from one into the next.
    pub fn insert(&mut self, address: u64, bytes: Vec<u8>) {
        self.segments.insert(address, bytes);
    }
}

impl Memory for ImageMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let error = MemoryError { address, len: buffer.len() };
        let (start, bytes) = self.segments.range(..=address).next_back().ok_or(error)?;
        let from = usize::try_from(address - start).map_err(|_| error)?;
        let to = from.checked_add(buffer.len()).ok_or(error)?;
        buffer.copy_from_slice(bytes.get(from..to).ok_or(error)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three pages of our own, the middle one without access.
    fn with_hole(test: impl FnOnce(u64, &ProcessMemory)) {
        use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
        let page = PAGE as usize;
        // SAFETY: fresh private memory that nothing else refers to; it is written before the protection changes and
        // unmapped after its last use.
        unsafe {
            let base =
                mmap_anonymous(std::ptr::null_mut(), 3 * page, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
                    .unwrap();
            base.cast::<u8>().write_bytes(7, 3 * page);
            mprotect(base.byte_add(page), page, MprotectFlags::empty()).unwrap();
            test(base as u64, &ProcessMemory::new(std::process::id()));
            munmap(base, 3 * page).unwrap();
        }
    }

    #[test]
    fn reads_are_whole_or_fail() {
        with_hole(|base, memory| {
            assert_eq!(memory.u64(base + PAGE - 8), Ok(0x0707070707070707));
            assert_eq!(memory.u64(base + PAGE - 4), Err(MemoryError { address: base + PAGE - 4, len: 8 }));
            assert!(memory.read(0, &mut [0; 8]).is_err());
            assert!(memory.read(u64::MAX - 3, &mut [0; 8]).is_err());
            assert!(memory.read(base + PAGE, &mut []).is_ok());
        });
    }

    #[test]
    fn holes_do_not_stop_long_reads() {
        with_hole(|base, memory| {
            let mut buffer = vec![1; 3 * PAGE as usize];
            let hole = |start, end| vec![Range { start, end }];
            assert_eq!(memory.read_sparse(base, &mut buffer), hole(base + PAGE, base + 2 * PAGE));
            let expected: Vec<u8> = [7, 0, 7].iter().flat_map(|&b| [b; PAGE as usize]).collect();
            assert!(buffer == expected);
            assert_eq!(memory.read_sparse(base + 10, &mut buffer[..100]), []);
            assert_eq!(memory.read_sparse(0, &mut buffer[..5000]), hole(0, 5000));
        });
    }

    #[test]
    fn many_pieces_at_once_with_bad_ones_between() {
        with_hole(|base, memory| {
            let addresses: Vec<u64> = (0..3000)
                .map(|i| match i % 7 {
                    3 => 0,
                    5 => base + PAGE - 4,
                    _ => base + i,
                })
                .collect();
            let mut out = Vec::new();
            let ok = memory.read_many(&addresses, 8, &mut out);
            for (i, good) in ok.iter().enumerate() {
                assert_eq!(*good, i % 7 != 3 && i % 7 != 5, "piece {i}");
                assert_eq!(out[i * 8..i * 8 + 8], [if *good { 7 } else { 0 }; 8], "piece {i}");
            }
            assert_eq!(memory.read_many(&[0, base], 0, &mut out), [true, true]);
        });
    }

    #[test]
    fn an_image_reads_like_memory() {
        let mut image = ImageMemory::new();
        image.insert(100, vec![1, 2, 3, 4, 5, 6, 7, 8]);
        image.insert(200, vec![9; 4]);
        assert_eq!(image.u32(104), Ok(0x08070605));
        assert_eq!(image.u32(200), Ok(0x09090909));
        for bad in [0, 99, 105, 201, u64::MAX] {
            assert!(image.u32(bad).is_err(), "{bad}");
        }
    }
}
