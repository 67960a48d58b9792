//! The heap census beside the trace: what grows by type, next to who allocates it.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use leaktrace::census::growth::{Growth, Watch};
use leaktrace::census::{self, Census, ProcessMemoryUse, Subject};
use leaktrace::cpython::PymallocState;
use leaktrace::cpython::offsets::Offsets;
use leaktrace::session::Session;
use leaktrace::target::process::Target;

/// A census rests for this many times as long as it took, so that it stays a small part of the collector's work.
const REST: u32 = 100;

/// Censuses while a run goes on, each on a thread of its own: the trace does not wait for them.
pub(super) struct HeapWatch {
    watch: Watch,
    taken: u64,
    /// Not yet recorded.
    new: Vec<Census>,
    keep: bool,
    running: Option<JoinHandle<Option<Census>>>,
    started: Instant,
    not_before: Instant,
}

/// What a census needs of a session.
struct Job {
    pid: u32,
    process_start: u64,
    python: String,
    offsets: Offsets,
    runtime: u64,
    pymalloc: Option<PymallocState>,
}

impl HeapWatch {
    /// `keep`: censuses wait for [`Self::take_new`].
    pub(super) fn new(keep: bool) -> Self {
        let now = Instant::now();
        Self { watch: Watch::default(), taken: 0, new: Vec::new(), keep, running: None, started: now, not_before: now }
    }

    /// Takes what is done, and starts the next census when it is due.
    pub(super) fn tick(&mut self, session: &Session) {
        if self.running.as_ref().is_some_and(JoinHandle::is_finished) {
            self.join();
        }
        if self.running.is_none() && Instant::now() >= self.not_before {
            let job = Job::of(session);
            self.started = Instant::now();
            let run = move || job.run();
            // Without a thread there is no census; the trace goes on.
            self.running = std::thread::Builder::new().name("census".to_owned()).spawn(run).ok();
        }
    }

    /// The last census, right now.
    pub(super) fn finish(&mut self, session: &Session) {
        self.join();
        if let Some(census) = Job::of(session).run() {
            self.add(census);
        }
    }

    /// The censuses that came since the last call.
    pub(super) fn take_new(&mut self) -> Vec<Census> {
        std::mem::take(&mut self.new)
    }

    fn join(&mut self) {
        let Some(running) = self.running.take() else { return };
        self.not_before = Instant::now() + (self.started.elapsed() * REST).min(Duration::from_mins(10));
        // A census that failed, as of a target that has ended, says nothing.
        if let Ok(Some(census)) = running.join() {
            self.add(census);
        }
    }

    fn add(&mut self, census: Census) {
        self.watch.add(&census);
        self.taken += 1;
        if self.keep {
            self.new.push(census);
        }
    }

    /// What grew, once there are two to compare.
    pub(super) fn growth(&self) -> Option<Growth> {
        (self.taken > 1).then(|| self.watch.growth())
    }
}

impl Job {
    fn of(session: &Session) -> Self {
        let (target, interpreter) = (session.target(), session.interpreter());
        Self {
            pid: target.pid(),
            process_start: target.start_time(),
            python: interpreter.facts.version_text.clone(),
            offsets: interpreter.offsets.clone(),
            runtime: interpreter.runtime,
            pymalloc: interpreter.facts.pymalloc,
        }
    }

    fn run(self) -> Option<Census> {
        let target = Target::open(self.pid).ok().filter(|target| target.start_time() == self.process_start)?;
        let (maps, memory) = (target.maps().ok()?, target.memory());
        let subject = Subject {
            pid: self.pid,
            process_start: self.process_start,
            python: &self.python,
            memory: &memory,
            maps: &maps,
            offsets: &self.offsets,
            runtime: self.runtime,
            pymalloc: self.pymalloc,
        };
        let mut census = census::take(&subject).ok()?;
        census.memory = ProcessMemoryUse::parse(&target.memory_rollup().ok()?);
        target.still_same().then_some(census)
    }
}
