//! The recording of a run. That it cannot be written ends the recording, not the run.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use leaktrace::model::Verdict;
use leaktrace::recording::{Origin, Recorder, RecordingError};
use leaktrace::report::{Facts, Report, SourceReader, text};
use leaktrace::session::Session;

use super::heap::HeapWatch;

/// Lines of source that are kept before and after one that grows.
const CONTEXT: u32 = 3;

/// Where a run is recorded.
pub(super) struct Tape {
    path: PathBuf,
    /// `None` once it has failed.
    recorder: Option<Recorder>,
    failed: Option<RecordingError>,
    begun: bool,
    /// Lines whose source was looked for.
    sources: HashSet<(Arc<str>, u32)>,
}

impl Tape {
    /// Makes the file, before anything is attached.
    pub(super) fn create(path: &Path, replace: bool) -> Result<Self, RecordingError> {
        let recorder = Some(Recorder::create(path, replace)?);
        Ok(Self { path: path.to_owned(), recorder, failed: None, begun: false, sources: HashSet::new() })
    }

    /// The session has begun.
    pub(super) fn begin(&mut self, session: &Session) {
        self.begun = true;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let monotonic = monotonic.tv_sec as f64 + monotonic.tv_nsec as f64 * 1e-9;
        let origin = Origin {
            leaktrace: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: now - (monotonic - session.start_ns() as f64 * 1e-9),
            start_ns: session.start_ns(),
            rss_bytes: session.rss_start(),
        };
        self.attempt(|recorder| recorder.begin(&origin));
    }

    /// Adds the last scan, and what is new beside it.
    pub(super) fn record(&mut self, session: &Session, facts: &Facts, heap: &mut HeapWatch, report: &Report) {
        self.beside(session, heap, report);
        self.attempt(|recorder| recorder.record(session.ledger(), facts, report.heap.as_ref()));
    }

    /// Ends it with what the run's report shows.
    pub(super) fn finish(
        mut self,
        session: &Session,
        facts: &Facts,
        heap: &mut HeapWatch,
        report: &Report,
    ) -> Result<(), RecordingError> {
        self.beside(session, heap, report);
        if let Some(recorder) = self.recorder.take() {
            recorder.finish(session.ledger(), facts, report.heap.as_ref())?;
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    fn beside(&mut self, session: &Session, heap: &mut HeapWatch, report: &Report) {
        for census in heap.take_new() {
            self.attempt(|recorder| recorder.census(&census));
        }
        let mut source = SourceReader::new(session.target().proc_path("root"));
        for (file, line) in shown(report) {
            if self.sources.insert((file.clone(), line))
                && let Some(text) = source.indented(&file, line)
            {
                self.attempt(|recorder| recorder.source(&file, line, text));
            }
        }
    }

    fn attempt(&mut self, write: impl FnOnce(&mut Recorder) -> Result<(), RecordingError>) {
        let Some(recorder) = &mut self.recorder else { return };
        if let Err(error) = write(recorder) {
            // A closed stderr is no reason to stop.
            let _ = writeln!(std::io::stderr(), "leaktrace: recording ended, tracing goes on: {error}");
            self.failed = Some(error);
            self.recorder = None;
        }
    }
}

/// Lines of source that views of the report show: around those that grow, and of their callers.
fn shown(report: &Report) -> impl Iterator<Item = (Arc<str>, u32)> {
    let growing = report.lines.iter().filter(|line| line.verdict == Verdict::Growing);
    growing.flat_map(|line| {
        let near = line.line.saturating_sub(CONTEXT)..=line.line.saturating_add(CONTEXT);
        let near = near.filter(|_| line.line > 0).map(|number| (line.file.clone(), number));
        let stacks = line.sites.iter().take(text::STACKS).map(|&site| &report.sites[site].stack);
        let callers = stacks.flat_map(|stack| stack.frames().take(text::FRAMES)).map(|frame| (frame.file, frame.line));
        near.chain(callers)
    })
}

impl Drop for Tape {
    fn drop(&mut self) {
        // Where nothing was traced nothing is left.
        if !self.begun && self.recorder.take().is_some() {
            Recorder::discard(&self.path);
        }
    }
}
