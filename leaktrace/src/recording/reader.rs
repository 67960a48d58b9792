//! From a recording back to the ledger and the facts, and so to the report.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use leaktrace_common::site::domain;
use rusqlite::{OptionalExtension as _, Row};
use serde::de::DeserializeOwned;

use super::RecordingError;
use super::check::{Damage, number, refuse};
use super::open::{Opened, open};
use super::value::{Cohort, Origin, State, document};
use crate::census::growth::Growth;
use crate::model::stacks::{FrameKind, Node, PackedFrame};
use crate::model::timeline::REFERENCES;
use crate::model::trail::{Cell, seconds};
use crate::model::{Criteria, GcLog, Ledger, Site, Stacks, Tally, Timeline, Trail};
use crate::report::{Facts, Report, Selection};

/// Most sites that are read: the ledger knows no more either.
const MAX_SITES: usize = 1 << 24;

/// A recording, read.
#[derive(Debug)]
pub struct Recording {
    pub(super) path: PathBuf,
    pub(super) opened: Opened,
    pub(super) origin: Origin,
    ledger: Ledger,
    facts: Facts,
    heap: Option<Growth>,
}

impl Recording {
    /// Reads a recording: one that is finished, one that is being written, or what a killed collector left. What of a
    /// damaged one can be read is read, and a note of the report says what is missing.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let opened = open(path)?;
        let mut damage = Damage::default();
        let damaged = |what: String| RecordingError::Damaged { path: path.to_owned(), what };
        // Without these there is nothing to show.
        let empty = || RecordingError::Empty { path: path.to_owned() };
        let state: State = document(&opened, document::STATE).map_err(damaged)?.ok_or_else(empty)?;
        let mut facts: Facts = document(&opened, document::FACTS).map_err(damaged)?.ok_or_else(empty)?;
        let origin: Origin = document(&opened, document::ORIGIN).map_err(damaged)?.unwrap_or_default();
        if !state.timeline.is_sound() {
            return Err(damaged("its times are not in order".to_owned()));
        }
        let gc: Option<GcLog> = optional(&opened, document::COLLECTOR, &mut damage);
        let heap = optional(&opened, document::HEAP, &mut damage);
        let stacks = stacks(&opened, &mut damage);
        let mut sites = sites(&opened, &stacks, &state.timeline, &mut damage);
        let rss = levels(&opened, &state.timeline, &origin, &mut sites, &mut damage);
        let ledger = Ledger::restore(stacks, sites, state.timeline, gc.unwrap_or_default(), rss, state.contradictions);
        if facts.sampling.as_ref().is_some_and(|sampling| !sampling.is_sound(&ledger)) {
            damage.note("what was seen in windows cannot be extended to all");
            facts.sampling = None;
        }
        let notes = damage.into_notes();
        facts.notes.extend(
            notes.into_iter().map(|what| format!("the recording is damaged, what could be read is shown: {what}")),
        );
        Ok(Self { path: path.to_owned(), opened, origin, ledger, facts, heap })
    }

    /// The report, as the live view built it from the same numbers.
    pub fn report(&self, selection: &Selection) -> Report {
        let mut report = Report::of_selection(&self.ledger, &self.facts, &Criteria::default(), selection);
        report.heap.clone_from(&self.heap);
        report
    }

    /// From the attach to the last scan.
    pub fn seconds(&self) -> f64 {
        let timeline = self.ledger.timeline();
        seconds(timeline.now_ns() - timeline.start_ns())
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ledger as of the last scan that was recorded.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }
}

/// A document, if it is there; what is wrong with it otherwise.
fn document<T: DeserializeOwned>(opened: &Opened, name: &str) -> Result<Option<T>, String> {
    let query = "SELECT json FROM document WHERE name = ?";
    let text = opened.connection.query_row(query, [name], |row| row.get::<_, String>(0)).optional();
    let Some(text) = text.map_err(|error| format!("{name}: {error}"))? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| format!("{name}: {error}"))
}

/// A document that can be done without.
fn optional<T: DeserializeOwned>(opened: &Opened, name: &str, damage: &mut Damage) -> Option<T> {
    document(opened, name).unwrap_or_else(|what| {
        damage.note(what);
        None
    })
}

fn stacks(opened: &Opened, damage: &mut Damage) -> Stacks {
    let (mut texts, mut frames, mut nodes) = (Vec::<Arc<str>>::new(), Vec::new(), Vec::new());
    let from = &opened.connection;
    damage.rows(from, "text", "SELECT id, text FROM text ORDER BY id", |row| {
        in_order(row, texts.len())?;
        texts.push(row.get_ref("text")?.as_str()?.into());
        Ok(())
    });
    damage.rows(from, "frame", "SELECT id, kind, function, file, line FROM frame ORDER BY id", |row| {
        in_order(row, frames.len())?;
        let kind = if row.get_ref("kind")?.as_str()? == "python" { FrameKind::Python } else { FrameKind::Native };
        frames.push(PackedFrame {
            kind,
            function: row.get("function")?,
            file: row.get("file")?,
            line: row.get("line")?,
        });
        Ok(())
    });
    damage.rows(from, "stack", "SELECT id, parent, frame FROM stack ORDER BY id", |row| {
        in_order(row, nodes.len() + crate::model::stacks::ROOTS as usize)?;
        nodes.push(Node { parent: row.get("parent")?, frame: row.get("frame")? });
        Ok(())
    });
    Stacks::restore(texts, frames, nodes).unwrap_or_else(|| {
        damage.note("stack: some point to what is not there; none is shown");
        Stacks::default()
    })
}

/// Numbers have no gaps: what points to a row points to its place.
fn in_order(row: &Row<'_>, expected: usize) -> rusqlite::Result<()> {
    if row.get::<_, u64>("id")? == expected as u64 { Ok(()) } else { Err(refuse("a row is missing")) }
}

fn sites(opened: &Opened, stacks: &Stacks, timeline: &Timeline, damage: &mut Damage) -> Vec<Site> {
    let mut sites = Vec::new();
    let mut allocated = Tally::default();
    damage.rows(&opened.connection, "site", "SELECT * FROM site ORDER BY id", |row| {
        in_order(row, sites.len())?;
        let site = site(row, stacks, timeline)?;
        let sum = |a: u64, b: u64| a.checked_add(b).ok_or_else(|| refuse("the sum is too large to be true"));
        allocated = Tally {
            blocks: sum(allocated.blocks, site.trail.allocated.blocks)?,
            bytes: sum(allocated.bytes, site.trail.allocated.bytes)?,
        };
        if sites.len() >= MAX_SITES {
            return Err(refuse("too many sites"));
        }
        sites.push(site);
        Ok(())
    });
    sites
}

fn site(row: &Row<'_>, stacks: &Stacks, timeline: &Timeline) -> rusqlite::Result<Site> {
    let domain = row.get_ref("domain")?.as_str()?;
    let domain = domain::NAMES.iter().position(|name| *name == domain).ok_or_else(|| refuse("unknown domain"))? as u8;
    let live = Tally { blocks: number(row, "live_blocks")?, bytes: number(row, "live_bytes")? };
    let allocated = Tally { blocks: number(row, "allocated_blocks")?, bytes: number(row, "allocated_bytes")? };
    if live.blocks > allocated.blocks || live.bytes > allocated.bytes {
        return Err(refuse("more lives than was allocated"));
    }
    let within = |ns: u64| ns.clamp(timeline.start_ns(), timeline.now_ns());
    let first_ns: u64 = row.get("first_ns")?;
    let oldest_ns: Option<u64> = row.get("oldest_ns")?;
    let lost_references: [u64; REFERENCES] = list(row, "lost_references")?;
    let cells =
        if row.get("lived")? { cells(&list::<Vec<Cohort>>(row, "cohorts")?, live, timeline)? } else { Vec::new() };
    // A stack that was not read is a lost one.
    let stack = stacks.id(row.get("stack")?).unwrap_or(crate::model::StackId::LOST);
    Ok(Site {
        stack,
        domain,
        trail: Trail {
            allocated,
            live,
            lost_blocks: number(row, "lost_blocks")?,
            lost_references,
            first_ns: if first_ns == 0 { 0 } else { within(first_ns) },
            oldest_ns: oldest_ns.map(within),
            cells,
            series: Vec::new(),
        },
        threads: list(row, "threads")?,
        threads_overflow: row.get("more_threads")?,
    })
}

/// Each cohort goes into that of the timeline that it was joined with.
fn cells(cohorts: &[Cohort], live: Tally, timeline: &Timeline) -> rusqlite::Result<Vec<Cell>> {
    let mut cells = vec![Cell::default(); timeline.cohorts()];
    if cells.is_empty() {
        return Ok(cells);
    }
    let mut bytes = 0u64;
    for Cohort(end, live_bytes, live, references) in cohorts {
        bytes = bytes.saturating_add(*live_bytes);
        let index = timeline.cohort_of(timeline.start_ns().saturating_add(*end));
        if bytes <= u64::MAX / 2 {
            cells[index].add(&Cell { live_bytes: *live_bytes, live: *live, references: *references });
        }
    }
    if bytes == live.bytes { Ok(cells) } else { Err(refuse("its cohorts are not what lives of it")) }
}

fn list<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|_| refuse("a list cannot be read"))
}

/// Gives the sites their levels at the timeline's samples; the resident set at these is the result.
fn levels(opened: &Opened, timeline: &Timeline, origin: &Origin, sites: &mut [Site], damage: &mut Damage) -> Vec<u64> {
    let samples = timeline.samples();
    let from = &opened.connection;
    let mut rss = vec![origin.rss_bytes];
    // Scans at which the timeline has a sample, oldest first; the first sample is the start, before any scan.
    let mut scans = Vec::with_capacity(samples.len());
    damage.rows(from, "scan", "SELECT id, time_ns, rss_bytes FROM scan ORDER BY id", |row| {
        if samples.get(scans.len() + 1) == Some(&row.get("time_ns")?) {
            scans.push(row.get::<_, u64>("id")?);
            rss.push(number(row, "rss_bytes")?);
        }
        Ok(())
    });
    if scans.len() + 1 != samples.len() {
        damage.note("scan: samples are missing");
        rss.resize(samples.len(), rss.last().copied().unwrap_or_default());
        return rss;
    }
    for site in sites.iter_mut().filter(|site| !site.trail.cells.is_empty()) {
        site.trail.series.reserve_exact(samples.len());
        site.trail.series.push(Tally::default());
    }
    let mut current = vec![Tally::default(); sites.len()];
    let mut next = 0;
    let mut close = |current: &[Tally], upto: u64, next: &mut usize| {
        while *next < scans.len() && scans[*next] < upto {
            for (site, level) in sites.iter_mut().zip(current).filter(|(site, _)| !site.trail.cells.is_empty()) {
                site.trail.series.push(*level);
            }
            *next += 1;
        }
    };
    damage.rows(from, "sample", "SELECT scan, site, live_blocks, live_bytes FROM sample ORDER BY scan, site", |row| {
        close(&current, row.get(0)?, &mut next);
        let site = row.get::<_, u64>(1)? as usize;
        let level = current.get_mut(site).ok_or_else(|| refuse("of a site that is not there"))?;
        *level = Tally { blocks: number(row, "live_blocks")?, bytes: number(row, "live_bytes")? };
        Ok(())
    });
    close(&current, u64::MAX, &mut next);
    rss
}
