//! What is going on, told on a terminal while it takes longer than a second.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nobody needs to be told of less.
const PATIENCE: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_millis(500);

/// Something that may take long. Dropping it removes what was shown.
pub(crate) struct Progress(Option<(Sender<()>, JoinHandle<()>)>);

impl Progress {
    /// `what`: "reading a.leaktrace".
    pub(crate) fn start(what: impl Into<String>) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let what = what.into();
        let (end, ended) = channel();
        let begun = Instant::now();
        let show = move || {
            let mut wait = PATIENCE;
            while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = INTERVAL;
                let _ = write!(io::stderr(), "\r\x1b[Kleaktrace: {what}, {} s", begun.elapsed().as_secs());
            }
            if wait == INTERVAL {
                let _ = write!(io::stderr(), "\r\x1b[K");
            }
        };
        // Without a thread nothing is told; the work goes on.
        Self(std::thread::Builder::new().name("progress".to_owned()).spawn(show).ok().map(|thread| (end, thread)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.0.take() {
            drop(end);
            let _ = thread.join();
        }
    }
}
