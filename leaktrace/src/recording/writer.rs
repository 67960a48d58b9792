//! Writes a recording while the trace goes on.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use leaktrace_common::site::domain;
use rusqlite::{Connection, Transaction, params};
use serde::Serialize;

use super::retention::Retention;
use super::value::{Cohort, Origin, State, document};
use super::{APPLICATION_ID, RecordingError, VERSION};
use crate::census::Census;
use crate::census::growth::Growth;
use crate::census::memory::Shares;
use crate::model::stacks::{FrameKind, ROOTS};
use crate::model::{Ledger, Site, Tally};
use crate::report::Facts;

const SCHEMA: &str = include_str!("schema.sql");
/// Collections that are kept one by one, full ones apart.
const MAX_COLLECTIONS: u64 = 20_000;

/// What was written of a site: while it is the same, nothing about the site has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Written {
    live: Tally,
    allocated: Tally,
    lost: u64,
    oldest_ns: Option<u64>,
}

impl Written {
    fn of(site: &Site) -> Self {
        let trail = &site.trail;
        Self { live: trail.live, allocated: trail.allocated, lost: trail.lost_blocks, oldest_ns: trail.oldest_ns }
    }
}

/// Writes one recording. Dropping it leaves what was written so far, readable; [`Self::finish`] makes it one plain file.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    connection: Connection,
    progress: Progress,
}

/// What is in the file already.
#[derive(Debug, Default)]
struct Progress {
    started_at: f64,
    texts: usize,
    frames: usize,
    nodes: usize,
    sites: Vec<Written>,
    /// Newest reference scan that the written sites know.
    reference: u64,
    scans: Retention,
    collections: u64,
    censuses: Retention,
    last_census: u64,
    /// Number, objects and bytes of each type.
    types: HashMap<String, (u64, u64, u64)>,
}

impl Recorder {
    /// Makes the file of a recording. An existing one is replaced only when `replace` says so.
    pub fn create(path: &Path, replace: bool) -> Result<Self, RecordingError> {
        let create = |source| RecordingError::Create { path: path.to_owned(), source };
        if replace && path.is_file() {
            // Another file with the name, so that who still reads the old one is not disturbed.
            fs::remove_file(path).map_err(create)?;
            Self::discard(path);
        }
        OpenOptions::new().write(true).create_new(true).open(path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => RecordingError::Exists { path: path.to_owned() },
            _ => create(source),
        })?;
        let write = |source| RecordingError::Write { path: path.to_owned(), source };
        let connection = Connection::open(path).and_then(|c| begin(&c).map(|()| c)).map_err(write)?;
        let progress = Progress { nodes: ROOTS as usize, ..Progress::default() };
        Ok(Self { path: path.to_owned(), connection, progress })
    }

    /// Says where the trace began. To be called before anything else is recorded.
    pub fn begin(&mut self, origin: &Origin) -> Result<(), RecordingError> {
        self.write(|progress, to| {
            progress.started_at = origin.started_at;
            put_document(to, document::ORIGIN, origin)
        })
    }

    /// Removes a recording and what SQLite keeps beside it.
    pub fn discard(path: &Path) {
        for rest in ["", "-wal", "-shm", "-journal"] {
            let mut name = path.as_os_str().to_owned();
            name.push(rest);
            // What is not there need not be removed.
            let _ = fs::remove_file(name);
        }
    }

    /// Adds the ledger's last scan. When this returns it is in the file. Before the first one it makes the recording one that
    /// can be read: of no time at all.
    pub fn record(&mut self, ledger: &Ledger, facts: &Facts, heap: Option<&Growth>) -> Result<(), RecordingError> {
        self.write(|progress, to| progress.scan(to, ledger, facts, heap, false))
    }

    /// Adds a census.
    pub fn census(&mut self, census: &Census) -> Result<(), RecordingError> {
        self.write(|progress, to| progress.census(to, census))
    }

    /// Adds a line of the target's source.
    pub fn source(&mut self, file: &str, line: u32, text: &str) -> Result<(), RecordingError> {
        self.write(|_, to| {
            let mut statement = to.prepare_cached("INSERT OR REPLACE INTO source VALUES (?, ?, ?)")?;
            statement.execute(params![file, line, text]).map(drop)
        })
    }

    /// Writes every site once more, and makes the recording one file without a journal beside it.
    pub fn finish(mut self, ledger: &Ledger, facts: &Facts, heap: Option<&Growth>) -> Result<(), RecordingError> {
        self.write(|progress, to| progress.scan(to, ledger, facts, heap, true))?;
        let Self { path, connection, .. } = self;
        let closed = connection.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()));
        closed
            .and_then(|()| connection.close().map_err(|(_, e)| e))
            .map_err(|source| RecordingError::Write { path, source })
    }

    fn write(
        &mut self,
        change: impl FnOnce(&mut Progress, &Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), RecordingError> {
        let Self { path, connection, progress } = self;
        let written = connection.transaction().and_then(|to| change(progress, &to).and_then(|()| to.commit()));
        written.map_err(|source| RecordingError::Write { path: path.clone(), source })
    }
}

impl Progress {
    fn scan(
        &mut self,
        to: &Transaction<'_>,
        ledger: &Ledger,
        facts: &Facts,
        heap: Option<&Growth>,
        whole: bool,
    ) -> rusqlite::Result<()> {
        let state = State { timeline: ledger.timeline().clone(), contradictions: ledger.contradictions() };
        put_document(to, document::STATE, &state)?;
        put_document(to, document::FACTS, facts)?;
        put_document(to, document::COLLECTOR, ledger.gc())?;
        if let Some(heap) = heap {
            put_document(to, document::HEAP, heap)?;
        }
        let timeline = ledger.timeline();
        let scan = timeline.scans();
        if scan == 0 {
            return Ok(());
        }
        self.stacks(to, ledger)?;
        let (live, allocated) = self.changed_sites(to, ledger, facts, whole)?;
        to.prepare_cached("INSERT OR REPLACE INTO scan VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?.execute(
            params![
                scan,
                timeline.now_ns(),
                ledger.rss().last().copied().unwrap_or_default(),
                live.blocks,
                live.bytes,
                allocated.blocks,
                allocated.bytes,
                facts.lost.total(),
                facts.coverage.ratio,
                facts.cost.probe_seconds,
                facts.cost.collector_cpu_seconds,
                facts.cost.collector_rss_bytes,
            ],
        )?;
        self.collector(to, ledger, scan)?;
        for dropped in self.scans.add(scan) {
            to.prepare_cached("UPDATE OR IGNORE sample SET scan = ?2 WHERE scan = ?1")?
                .execute([dropped.scan, dropped.next])?;
            for table in [
                "DELETE FROM sample WHERE scan = ?",
                "DELETE FROM gc_sample WHERE scan = ?",
                "DELETE FROM scan WHERE id = ?",
            ] {
                to.prepare_cached(table)?.execute([dropped.scan])?;
            }
        }
        Ok(())
    }

    /// Texts, frames and stacks that are new.
    fn stacks(&mut self, to: &Transaction<'_>, ledger: &Ledger) -> rusqlite::Result<()> {
        let stacks = ledger.stacks();
        let mut insert = to.prepare_cached("INSERT OR REPLACE INTO text VALUES (?, ?)")?;
        for (id, text) in stacks.texts().iter().enumerate().skip(self.texts) {
            insert.execute(params![id, &**text])?;
        }
        let mut insert = to.prepare_cached("INSERT OR REPLACE INTO frame VALUES (?, ?, ?, ?, ?)")?;
        for (id, frame) in stacks.packed_frames().iter().enumerate().skip(self.frames) {
            let kind = match frame.kind {
                FrameKind::Python => "python",
                FrameKind::Native => "native",
            };
            insert.execute(params![id, kind, frame.function, frame.file, frame.line])?;
        }
        let mut insert = to.prepare_cached("INSERT OR REPLACE INTO stack VALUES (?, ?, ?)")?;
        for (id, node) in stacks.nodes().iter().enumerate().skip(self.nodes) {
            insert.execute(params![id, node.parent, node.frame])?;
        }
        (self.texts, self.frames, self.nodes) =
            (stacks.texts().len(), stacks.packed_frames().len(), stacks.nodes().len());
        Ok(())
    }

    /// Sites that changed, or all; what all of them hold and allocated.
    fn changed_sites(
        &mut self,
        to: &Transaction<'_>,
        ledger: &Ledger,
        facts: &Facts,
        whole: bool,
    ) -> rusqlite::Result<(Tally, Tally)> {
        let timeline = ledger.timeline();
        let scan = timeline.scans();
        let reference = timeline.references()[0];
        // Every site's counts at the reference scans have moved.
        let moved = std::mem::replace(&mut self.reference, reference) != reference;
        let mut insert = to.prepare_cached("INSERT OR REPLACE INTO sample VALUES (?, ?, ?, ?, ?, ?)")?;
        let (mut live, mut allocated) = (Tally::default(), Tally::default());
        let known = self.sites.len();
        self.sites.resize(ledger.sites().len(), Written::default());
        for (id, (site, written)) in ledger.sites().iter().zip(&mut self.sites).enumerate() {
            let now = Written::of(site);
            live.add(facts.all_of(id, now.live));
            allocated.add(facts.all_of(id, now.allocated));
            let before = std::mem::replace(written, now);
            if (now.live, now.allocated) != (before.live, before.allocated) {
                let (live, allocated) = (now.live, now.allocated);
                insert.execute(params![scan, id, live.blocks, live.bytes, allocated.blocks, allocated.bytes])?;
            }
            let lived = !site.trail.cells().is_empty();
            if now != before || id >= known || whole || (moved && lived) {
                put_site(to, id, site, ledger)?;
            }
        }
        Ok((live, allocated))
    }

    fn collector(&mut self, to: &Transaction<'_>, ledger: &Ledger, scan: u64) -> rusqlite::Result<()> {
        let log = ledger.gc();
        let mut insert = to.prepare_cached("INSERT OR REPLACE INTO gc_sample VALUES (?, ?, ?, ?, ?, ?)")?;
        for (generation, sums) in log.generations().iter().enumerate() {
            insert.execute(params![
                scan,
                generation,
                sums.collections,
                sums.collected,
                sums.uncollectable,
                sums.pause_total_ns
            ])?;
        }
        let before = self.collections;
        let (recorded, new) = log.since(before);
        let new: Vec<_> = new.collect();
        let first = recorded - new.len() as u64;
        let mut insert = to.prepare_cached("INSERT OR REPLACE INTO collection VALUES (?, ?, ?, ?, ?)")?;
        for (id, collection) in (first..).zip(&new) {
            insert.execute(params![
                id,
                collection.generation,
                collection.full,
                collection.start_ns,
                collection.pause_ns
            ])?;
        }
        self.collections = recorded;
        let kept_from = |now: u64| now.saturating_sub(MAX_COLLECTIONS);
        to.prepare_cached("DELETE FROM collection WHERE id >= ? AND id < ? AND NOT full")?
            .execute([kept_from(before), kept_from(recorded)])?;
        Ok(())
    }

    fn census(&mut self, to: &Transaction<'_>, census: &Census) -> rusqlite::Result<()> {
        self.last_census += 1;
        let id = self.last_census;
        let shares = Shares::of(census);
        to.prepare_cached("INSERT INTO census VALUES (?, ?, ?, ?, ?, ?, ?, ?)")?.execute(params![
            id,
            census.taken_at - self.started_at,
            census.live_bytes(),
            census.memory.rss,
            shares.objects,
            shares.fragmentation,
            shares.native,
            shares.file,
        ])?;
        let mut name = to.prepare_cached("INSERT INTO type VALUES (?, ?)")?;
        let mut sample = to.prepare_cached("INSERT OR REPLACE INTO type_sample VALUES (?, ?, ?, ?)")?;
        let mut gone: HashMap<&str, u64> =
            self.types.iter().filter(|(_, t)| t.1 > 0).map(|(name, t)| (name.as_str(), t.0)).collect();
        let mut seen = Vec::new();
        for count in &census.types {
            gone.remove(count.name.as_str());
            let known = self.types.get(&count.name).copied();
            if known.is_some_and(|(_, objects, bytes)| (objects, bytes) == (count.count, count.bytes)) {
                continue;
            }
            let type_ = known.map_or((self.types.len() + seen.len()) as u64, |(type_, ..)| type_);
            if known.is_none() {
                name.execute(params![type_, count.name])?;
            }
            sample.execute(params![id, type_, count.count, count.bytes])?;
            seen.push((count.name.clone(), (type_, count.count, count.bytes)));
        }
        for type_ in gone.values() {
            sample.execute(params![id, type_, 0, 0])?;
        }
        let gone: Vec<String> = gone.into_keys().map(str::to_owned).collect();
        for name in gone {
            if let Some((_, objects, bytes)) = self.types.get_mut(&name) {
                (*objects, *bytes) = (0, 0);
            }
        }
        self.types.extend(seen);
        for dropped in self.censuses.add(id) {
            to.prepare_cached("UPDATE OR IGNORE type_sample SET census = ?2 WHERE census = ?1")?
                .execute([dropped.scan, dropped.next])?;
            to.prepare_cached("DELETE FROM type_sample WHERE census = ?")?.execute([dropped.scan])?;
            to.prepare_cached("DELETE FROM census WHERE id = ?")?.execute([dropped.scan])?;
        }
        Ok(())
    }
}

fn begin(connection: &Connection) -> rusqlite::Result<()> {
    // A commit is in the page cache when it returns, which outlives the process; only a crash of the machine can cost
    // the last ones.
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;"))?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "user_version", VERSION)
}

fn put_document(to: &Connection, name: &str, value: &impl Serialize) -> rusqlite::Result<()> {
    to.prepare_cached("INSERT OR REPLACE INTO document VALUES (?, ?)")?.execute(params![name, json(value)?]).map(drop)
}

fn put_site(to: &Connection, id: usize, site: &Site, ledger: &Ledger) -> rusqlite::Result<()> {
    let trail = &site.trail;
    let timeline = ledger.timeline();
    let cohorts: Vec<Cohort> = (trail.cells().iter().enumerate())
        .filter(|(_, cell)| cell.live > 0 || cell.references.iter().any(|count| *count > 0))
        .map(|(index, cell)| {
            Cohort(timeline.cohort_end(index) - timeline.start_ns(), cell.live_bytes, cell.live, cell.references)
        })
        .collect();
    let (threads, more_threads) = site.threads();
    to.prepare_cached("INSERT OR REPLACE INTO site VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?
        .execute(params![
            id,
            site.stack.number(),
            domain::NAMES.get(usize::from(site.domain)).copied().unwrap_or("unknown"),
            trail.live.blocks,
            trail.live.bytes,
            trail.allocated.blocks,
            trail.allocated.bytes,
            trail.lost_blocks,
            trail.first_ns,
            trail.oldest_ns,
            !trail.cells().is_empty(),
            json(&cohorts)?,
            json(&trail.lost_references)?,
            json(&threads)?,
            more_threads,
        ])
        .map(drop)
}

fn json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}
