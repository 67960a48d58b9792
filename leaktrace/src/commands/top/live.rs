//! The view of a trace that goes on. It has a thread of its own: neither waits for the other.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use leaktrace::host::signals::{StopSignals, reader_is_gone};
use leaktrace::report::Report;
use leaktrace::top::{App, Picture};
use rustix::process::{Signal, getpid, kill_process};

use super::terminal::stop_asked;
use super::ui::{self, News};

/// The view as the trace knows it. Dropping it gives the terminal back.
pub(crate) struct LiveTop {
    /// `None` once there is no more to come.
    looks: Option<Sender<Arc<Report>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl LiveTop {
    pub(crate) fn start(pid: u32) -> io::Result<Self> {
        let (looks, receiver) = channel();
        let mut app = App::new(super::theme(), format!("pid {pid}"), true);
        let thread = std::thread::Builder::new().name("top".to_owned()).spawn(move || {
            let mut quit = Quit { wanted: true };
            let shown = ui::run(&mut app, || {
                let news = news(&receiver);
                quit.wanted &= !matches!(news, News::End);
                news
            });
            drop(quit);
            shown
        })?;
        Ok(Self { looks: Some(looks), thread: Some(thread) })
    }

    /// Shows a look.
    pub(crate) fn show(&self, report: Report) {
        if let Some(looks) = &self.looks {
            // A view that ended has asked for the end of the trace.
            let _ = looks.send(Arc::new(report));
        }
    }

    /// Gives the terminal back; says what went wrong with it.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.looks = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        match thread.join() {
            Ok(Err(error)) if reader_is_gone(&error) => Ok(()),
            Ok(shown) => shown,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for LiveTop {
    fn drop(&mut self) {
        self.looks = None;
        if let Some(thread) = self.thread.take() {
            // What went wrong was told, or something worse is on its way.
            let _ = thread.join();
        }
    }
}

/// Dropped at the end of the view, however it ends: the trace ends too, as by Ctrl-C, unless it did before.
struct Quit {
    wanted: bool,
}

impl Drop for Quit {
    fn drop(&mut self) {
        if self.wanted && !StopSignals::came() && !stop_asked() {
            let _ = kill_process(getpid(), Signal::INT);
        }
    }
}

/// The newest look; older ones that were not shown are left out.
fn news(looks: &Receiver<Arc<Report>>) -> News {
    let mut newest = None;
    loop {
        match looks.try_recv() {
            Ok(report) => newest = Some(report),
            Err(TryRecvError::Disconnected) => return News::End,
            Err(TryRecvError::Empty) => break,
        }
    }
    newest.map_or(News::Nothing, |report| {
        let names = names(&report);
        News::Look(Picture { report, names, collections: Vec::new() })
    })
}

/// The names of the threads that the report knows and that are still there.
fn names(report: &Report) -> BTreeMap<u32, String> {
    let pid = report.target.pid;
    let threads: BTreeSet<u32> = report.sites.iter().flat_map(|site| site.threads.iter().copied()).collect();
    let name = |tid: u32| std::fs::read(format!("/proc/{pid}/task/{tid}/comm")).ok();
    threads
        .into_iter()
        .filter_map(|tid| Some((tid, String::from_utf8_lossy(&name(tid)?).trim_end().to_owned())))
        .collect()
}
