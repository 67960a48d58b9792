//! Reading much of another process's memory a little at a time.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use super::memory::{Memory, MemoryError};

/// Pieces and bytes that are read at once: some 50 µs of the kernel's time.
const PIECES: usize = 64;
const BYTES: usize = 1 << 16;
/// How long it is read without a rest, and how long one is.
///
/// A service and its load keep all processors of a small machine busy, and a kernel may give a reader that wakes up milliseconds of one of
/// them: requests then wait. With a loaded aiohttp service on two cores, three of five readings of 2.8 ms made some requests late, and of
/// 1 ms still some (Linux 6.18, 12,000 requests a second, of which one in a hundred takes 0.2 ms longer than half of them;
/// `docs/watch-measured.md`).
const SLICE: Duration = Duration::from_micros(100);
const REST: Duration = Duration::from_micros(400);
/// The same once it has rested for so long: who waits for a processor after each rest would never get to the end of a large heap.
const LONG: Duration = Duration::from_secs(1);
const LONG_SLICE: Duration = Duration::from_millis(1);
const LONG_REST: Duration = Duration::from_millis(4);

/// Memory that is read with rests in between, by a thread that has time.
#[derive(Debug)]
pub struct Unhurried<M> {
    memory: M,
    since: Cell<Instant>,
    rested: Cell<Duration>,
}

impl<M: Memory> Unhurried<M> {
    pub fn new(memory: M) -> Self {
        Self { memory, since: Cell::new(Instant::now()), rested: Cell::default() }
    }

    /// For how long it has rested so far.
    pub fn rested(&self) -> Duration {
        self.rested.get()
    }

    fn rest_if_due(&self) {
        let now = Instant::now();
        let (slice, rest) = if self.rested.get() < LONG { (SLICE, REST) } else { (LONG_SLICE, LONG_REST) };
        if now.duration_since(self.since.get()) >= slice {
            thread::sleep(rest);
            self.since.set(Instant::now());
            self.rested.set(self.rested.get() + now.elapsed());
        }
    }
}

impl<M: Memory> Memory for Unhurried<M> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.rest_if_due();
        self.memory.read(address, buffer)
    }

    fn read_many(&self, addresses: &[u64], piece: usize, out: &mut Vec<u8>) -> Vec<bool> {
        let at_once = (BYTES / piece.max(1)).clamp(1, PIECES);
        let (mut all, mut read) = (Vec::with_capacity(addresses.len() * piece), Vec::with_capacity(addresses.len()));
        for some in addresses.chunks(at_once) {
            self.rest_if_due();
            read.extend(self.memory.read_many(some, piece, out));
            all.extend_from_slice(out);
        }
        *out = all;
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::ProcessMemory;

    #[test]
    fn what_is_read_with_rests_is_what_is_read_without() {
        let words: Vec<u64> = (0..100_000).collect();
        let of = |index: usize| std::ptr::from_ref(&words[index]) as u64;
        let memory = ProcessMemory::new(std::process::id());
        let unhurried = Unhurried::new(memory);
        let addresses: Vec<u64> = (0..20_000).map(|n| if n % 777 == 5 { 0 } else { of(n * 5) }).collect();
        let (mut at_once, mut slowly) = (Vec::new(), vec![1, 2, 3]);
        let all_read = memory.read_many(&addresses, 8, &mut at_once);
        assert_eq!(unhurried.read_many(&addresses, 8, &mut slowly), all_read);
        assert!(at_once == slowly && all_read.iter().any(|read| !read) && !unhurried.rested().is_zero());
        assert_eq!(unhurried.u64(of(99_999)), Ok(99_999));
        assert!(unhurried.read_many(&[], 8, &mut slowly).is_empty() && slowly.is_empty());
        assert_eq!(unhurried.read_many(&[of(1)], 0, &mut slowly), [true]);
    }
}
