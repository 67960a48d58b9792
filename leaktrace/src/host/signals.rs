//! The signals that end a run cleanly.

use std::io;

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

/// From its making on, none of these signals kills the process.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    /// Needs a tokio runtime. Make it before anything is armed.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
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
        let mut signals = StopSignals::new().unwrap();
        for (number, stop) in
            [(libc::SIGHUP, Stop::Hangup), (libc::SIGTERM, Stop::Terminate), (libc::SIGINT, Stop::Interrupt)]
        {
            // SAFETY: raise has no preconditions; the handlers are installed.
            assert_eq!(unsafe { libc::raise(number) }, 0);
            assert_eq!(signals.recv().await, stop);
        }
    }
}
