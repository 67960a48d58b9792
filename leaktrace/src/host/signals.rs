//! The signals that end a run cleanly, and at once when they are repeated.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Who wants the run to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP: the terminal is gone, so nothing can be shown any more.
    Hangup,
}

/// A signal that comes again within this time is the same request: `timeout` sends each twice, to its child and to the group.
const ONE_REQUEST: Duration = Duration::from_millis(500);

/// When SIGINT or SIGTERM came first, CLOCK_MONOTONIC in nanoseconds; 0: not yet.
static FIRST_NS: AtomicU64 = AtomicU64::new(0);

/// From its making on, the first of these signals does not kill the process. A second SIGINT or SIGTERM ends it at once,
/// whatever it is at, with 128 and the signal's number as the shell has it.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    /// Needs a tokio runtime. Make it before anything is armed. `farewell` goes to stderr when a second signal ends the
    /// process.
    pub fn new(farewell: &'static str) -> io::Result<Self> {
        for number in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: the action only does what a signal handler may: atomics, clock_gettime, write and _exit.
            unsafe { signal_hook_registry::register(number, move || end_if_repeated(number, farewell))? };
        }
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Whether SIGINT or SIGTERM has come.
    pub fn came() -> bool {
        FIRST_NS.load(Ordering::Relaxed) != 0
    }

    /// Waits for the next one. Cancelling loses none.
    pub async fn recv(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Interrupt,
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.hangup.recv() => Stop::Hangup,
        }
    }
}

fn end_if_repeated(number: libc::c_int, farewell: &str) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    let first = FIRST_NS.compare_exchange(0, now_ns, Ordering::Relaxed, Ordering::Relaxed);
    if first.is_err_and(|first_ns| now_ns - first_ns > ONE_REQUEST.as_nanos() as u64) {
        // SAFETY: the text is as long as it says; _exit does not return.
        unsafe {
            libc::write(libc::STDERR_FILENO, farewell.as_ptr().cast(), farewell.len());
            libc::_exit(128 + number);
        }
    }
}

/// Whether a write failed because its reader is gone (`leaktrace ... | head`, or a closed terminal): no reason to fail.
pub fn reader_is_gone(error: &io::Error) -> bool {
    // A terminal that hung up answers EIO (tty_ioctl(4)).
    error.kind() == io::ErrorKind::BrokenPipe || error.raw_os_error() == Some(libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_signal_is_told() {
        let mut signals = StopSignals::new("").unwrap();
        for (number, stop) in
            [(libc::SIGHUP, Stop::Hangup), (libc::SIGTERM, Stop::Terminate), (libc::SIGINT, Stop::Interrupt)]
        {
            // SAFETY: raise has no preconditions; the handlers are installed.
            assert_eq!(unsafe { libc::raise(number) }, 0);
            assert_eq!(signals.recv().await, stop);
        }
        assert!(StopSignals::came());
    }
}
