//! The thread that drains the rings, so that a long pass over the table never lets them overflow.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{native::NativeNames, symbols::Symbols};
use crate::{target::ProcessMemory, tracer::Rings};

/// How long a look waits for the records that came before it. What comes later than this is told by the next one.
const PATIENCE: Duration = Duration::from_secs(1);

/// A running drain. Stop it with [`Self::stop`]; dropping it stops it too.
#[derive(Debug)]
pub struct Drain {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    symbols: Mutex<Symbols>,
    /// Wakes the thread.
    wake: OwnedFd,
    stop: AtomicBool,
    /// Drains that were asked for, and of these those that were done.
    asked: AtomicU64,
    done: AtomicU64,
    settled: Condvar,
}

impl Shared {
    fn symbols(&self) -> MutexGuard<'_, Symbols> {
        self.symbols.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // An eventfd with room takes the write at once; if it fails the thread has ended.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl Drain {
    /// Starts to drain `rings`. `flush_log` is called each time the thread wakes up.
    pub fn start(
        rings: Rings,
        memory: ProcessMemory,
        native: NativeNames,
        flush_log: Box<dyn FnMut() + Send>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            symbols: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            stop: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            done: AtomicU64::new(0),
            settled: Condvar::new(),
        });
        let worker = Worker { rings, memory, native, shared: Arc::clone(&shared), flush_log };
        let thread = std::thread::Builder::new().name("ring".into()).spawn(move || worker.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What has been drained so far.
    pub fn symbols(&self) -> MutexGuard<'_, Symbols> {
        self.shared.symbols()
    }

    /// What was in the rings before this call is drained when it returns.
    pub fn settle(&self) -> MutexGuard<'_, Symbols> {
        let shared = &*self.shared;
        let ours = shared.asked.fetch_add(1, Ordering::SeqCst) + 1;
        shared.wake();
        let pending = |_: &mut Symbols| self.thread.is_some() && shared.done.load(Ordering::SeqCst) < ours;
        let waited = shared.settled.wait_timeout_while(shared.symbols(), PATIENCE, pending);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Drains what is left and ends the thread.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake();
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
    rings: Rings,
    memory: ProcessMemory,
    native: NativeNames,
    shared: Arc<Shared>,
    flush_log: Box<dyn FnMut() + Send>,
}

impl Worker {
    fn run(mut self) {
        while self.wait().is_ok() {
            // Asked for before the rings are looked at, so that they hold whatever the asker means.
            let (asked, stop) = (self.shared.asked.load(Ordering::SeqCst), self.shared.stop.load(Ordering::SeqCst));
            self.drain(asked);
            (self.flush_log)();
            if stop {
                return;
            }
        }
    }

    /// Waits for records or to be woken.
    fn wait(&self) -> rustix::io::Result<()> {
        // SAFETY: the rings live as long as this borrow.
        let [all, collections] =
            self.rings.each_ref().map(|ring| unsafe { std::os::fd::BorrowedFd::borrow_raw(ring.as_raw_fd()) });
        let mut fds = [
            PollFd::new(&self.shared.wake, PollFlags::IN),
            PollFd::new(&all, PollFlags::IN),
            PollFd::new(&collections, PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        if !fds[0].revents().is_empty() {
            rustix::io::read(&self.shared.wake, &mut [0; 8])?;
        }
        Ok(())
    }

    /// Takes what is in the rings, and says that the drains `asked` for are done.
    fn drain(&mut self, asked: u64) {
        let mut symbols = self.shared.symbols();
        for ring in &mut self.rings {
            while let Some(record) = ring.next() {
                symbols.apply(&record, &self.memory, &mut self.native);
            }
        }
        // Under the lock, or who is about to wait would miss it.
        self.shared.done.store(asked, Ordering::SeqCst);
        self.shared.settled.notify_all();
    }
}
