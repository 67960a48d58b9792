//! The thread that drains the ring, so that a long pass over the table never lets it overflow.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use aya::maps::{MapData, RingBuf};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{native::NativeNames, symbols::Symbols};
use crate::target::ProcessMemory;

/// A running drain. Stop it with [`Self::stop`]; dropping it stops it too.
#[derive(Debug)]
pub struct Drain {
    symbols: Arc<Mutex<Symbols>>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drain {
    /// Starts to drain `ring`. `flush_log` is called each time the thread wakes up.
    pub fn start(
        ring: RingBuf<MapData>,
        memory: ProcessMemory,
        native: NativeNames,
        flush_log: Box<dyn FnMut() + Send>,
    ) -> io::Result<Self> {
        let symbols = Arc::new(Mutex::new(Symbols::default()));
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let worker = Worker { ring, memory, native, symbols: Arc::clone(&symbols), stop: Arc::clone(&stop), flush_log };
        let thread = std::thread::Builder::new().name("ring".into()).spawn(move || worker.run())?;
        Ok(Self { symbols, stop, thread: Some(thread) })
    }

    /// What has been drained so far.
    pub fn symbols(&self) -> MutexGuard<'_, Symbols> {
        self.symbols.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drains what is left and ends the thread.
    pub fn stop(&mut self) {
        // An eventfd with room takes the write at once; if it fails the thread has ended.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Worker {
    ring: RingBuf<MapData>,
    memory: ProcessMemory,
    native: NativeNames,
    symbols: Arc<Mutex<Symbols>>,
    stop: Arc<OwnedFd>,
    flush_log: Box<dyn FnMut() + Send>,
}

impl Worker {
    fn run(mut self) {
        loop {
            let stopped = self.wait();
            self.drain();
            (self.flush_log)();
            if stopped {
                return;
            }
        }
    }

    /// Waits for records; `true` when told to stop.
    fn wait(&self) -> bool {
        // SAFETY: the ring lives as long as this borrow.
        let ring = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        let mut fds = [PollFd::new(&ring, PollFlags::IN), PollFd::new(&*self.stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => !fds[1].revents().is_empty(),
            Err(_) => true,
        }
    }

    fn drain(&mut self) {
        let mut symbols = self.symbols.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(record) = self.ring.next() {
            symbols.apply(&record, &self.memory, &mut self.native);
        }
    }
}
