//! Takes a census.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::cpython::offsets::Offsets;
use crate::cpython::threads::{self, InterpreterThreads};
use crate::cpython::{Interpreter, PymallocState, gc};
use crate::target::{Maps, Memory, Target};

use super::labels::{LabelTotals, Labels};
use super::object::{self, PartKind};
use super::scan::Scan;
use super::value::{
    Arenas, Census, Consistency, Container, DuplicateGroup, Duplicates, Kinds, PartCount, SCHEMA, SizeClass, Totals,
    TypeCount,
};
use super::{CHeap, CensusError, ProcessMemoryUse, Region};

/// Groups of equal contents that are kept.
const DUPLICATE_GROUPS: usize = 50;
/// Bytes of content that a preview shows.
const PREVIEW: u64 = 60;

/// What a census is taken of.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub pid: u32,
    /// Start time of the process, clock ticks since boot.
    pub process_start: u64,
    /// "3.11.2".
    pub python: &'a str,
    pub memory: &'a dyn Memory,
    pub maps: &'a Maps,
    pub offsets: &'a Offsets,
    /// Address of `_PyRuntime`.
    pub runtime: u64,
    pub pymalloc: Option<PymallocState>,
}

impl<'a> Subject<'a> {
    /// The interpreter of a process, whose maps and memory are given.
    pub fn of(target: &Target, interpreter: &'a Interpreter, maps: &'a Maps, memory: &'a dyn Memory) -> Self {
        Self {
            pid: target.pid(),
            process_start: target.start_time(),
            python: &interpreter.facts.version_text,
            memory,
            maps,
            offsets: &interpreter.offsets,
            runtime: interpreter.runtime,
            pymalloc: interpreter.facts.pymalloc,
        }
    }
}

/// Reads the whole heap. The target runs on, unless the caller stopped it: what changed meanwhile is told by
/// [`Consistency`]. The process's memory use is the caller's to add.
pub fn take(subject: &Subject<'_>) -> Result<Census, CensusError> {
    let begun = Instant::now();
    let (mut scan, interpreters, collecting) = scan(subject)?;
    let threads = interpreters.iter().map(|interpreter| interpreter.threads.len() as u64).sum();
    let taken_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    let mut census = build(subject, &mut scan);
    census.kinds.threads = threads;
    census.consistency.collecting = collecting;
    census.taken_at = taken_at;
    census.seconds = begun.elapsed().as_secs_f64();
    Ok(census)
}

/// Every block of the arenas labelled and the large objects found; the interpreters, and whether one is collecting.
pub(super) fn scan<'a>(subject: &Subject<'a>) -> Result<(Scan<'a>, Vec<InterpreterThreads>, bool), CensusError> {
    let pid = subject.pid;
    let mut scan = Scan::new(subject)?;
    scan.read();
    let interpreters = threads::interpreters(subject.memory, subject.offsets, subject.runtime)?;
    let mut collecting = false;
    for interpreter in &interpreters {
        let state = gc::GcState::read(subject.memory, subject.offsets, subject.runtime, interpreter.address);
        collecting |= state.is_ok_and(|state| state.collecting);
        if !subject.offsets.has_gc_heads() {
            continue;
        }
        for head in gc::list_heads(subject.offsets, subject.runtime, interpreter.address) {
            if let Ok(next) = subject.memory.u64(head + u64::from(subject.offsets.gc_head.next)) {
                scan.links.add(head, next & !3);
                // An object that is alone in its list has no neighbour that would name it.
                let first = (next & !3).wrapping_add(subject.offsets.gc_head.size.into());
                if scan.regions.of(first) == Region::Native {
                    scan.native.candidate(first);
                }
            }
        }
    }
    scan.large_objects();
    if scan.types.all().is_empty() {
        return Err(CensusError::NoTypes { pid });
    }
    Ok((scan, interpreters, collecting))
}

fn build(subject: &Subject<'_>, scan: &mut Scan<'_>) -> Census {
    let labels = scan.labels.totals();
    let duplicates = duplicates(subject, scan);
    let scan = &*scan;
    let name = |number: u16| scan.types.get(number).map_or_else(String::new, super::Type::qualified);
    let tally = &scan.tally;
    // Two classes may have one name, as those that a function makes.
    let mut by_name: BTreeMap<String, TypeCount> = BTreeMap::new();
    let mut kinds = Kinds::default();
    let mut totals = Totals {
        large_objects: tally.large_objects,
        large_bytes: tally.large_bytes,
        read_bytes: tally.read_bytes,
        ..Totals::default()
    };
    for (number, count) in tally.types.iter().enumerate().filter(|(_, t)| t.count > 0 || t.waiting > 0) {
        let Some(of) = scan.types.get(number as u16) else { continue };
        let name = of.qualified();
        totals.objects += count.count;
        totals.bytes += count.bytes;
        totals.tracked += count.tracked;
        let kind = match name.as_str() {
            "module" => Some(&mut kinds.modules),
            "function" => Some(&mut kinds.functions),
            "frame" => Some(&mut kinds.frames),
            "generator" | "async_generator" => Some(&mut kinds.generators),
            "coroutine" => Some(&mut kinds.coroutines),
            "_asyncio.Task" | "asyncio.tasks.Task" => Some(&mut kinds.tasks),
            _ if of.shape == super::Shape::Type => Some(&mut kinds.classes),
            _ => None,
        };
        if let Some(kind) = kind {
            *kind += count.count;
        }
        let entry =
            by_name.entry(name.clone()).or_insert(TypeCount { name, count: 0, bytes: 0, tracked: 0, free_listed: 0 });
        entry.count += count.count;
        entry.bytes += count.bytes;
        entry.tracked += count.tracked;
        entry.free_listed += count.waiting;
    }
    let mut types: Vec<TypeCount> = by_name.into_values().collect();
    types.sort_by_key(|t| Reverse(t.bytes));
    let containers = tally.longest().into_iter();
    let containers = containers.map(|(length, address, number)| Container { name: name(number), address, length });
    let parts = PartKind::ALL.map(|kind| {
        let ((blocks, bytes), (large_blocks, large_bytes)) =
            (labels.parts[kind as usize], scan.native.parts[kind as usize]);
        PartCount { kind: kind.name().to_owned(), blocks, bytes, large_blocks, large_bytes }
    });
    let of_python: Vec<_> = scan.labels.arenas.iter().map(Labels::range).collect();
    let c_allocator = CHeap::look(subject.memory, subject.maps, &of_python);
    let arenas = arenas(&labels, of_python.len() as u64);
    let size_classes = labels.classes.iter().map(|blocks| SizeClass {
        size: blocks.size,
        pools: blocks.pools,
        objects: blocks.objects,
        parts: blocks.parts,
        free_listed: blocks.waiting,
        unknown: blocks.unknown,
        free: blocks.free,
    });
    Census {
        schema: SCHEMA.to_owned(),
        pid: subject.pid,
        process_start: subject.process_start,
        python: subject.python.to_owned(),
        taken_at: 0.0,
        seconds: 0.0,
        pause_seconds: None,
        totals,
        consistency: Consistency {
            lists_closed: subject.offsets.has_gc_heads().then(|| scan.links.are_closed()),
            collecting: false,
            unsettled_bytes: arenas.unsettled,
            unreadable_bytes: tally.unreadable_bytes,
        },
        kinds,
        types,
        containers: containers.collect(),
        duplicates,
        parts: parts.to_vec(),
        size_classes: size_classes.collect(),
        arenas,
        memory: ProcessMemoryUse::default(),
        c_allocator,
    }
}

fn arenas(labels: &LabelTotals, count: u64) -> Arenas {
    let mut arenas = Arenas {
        count,
        bytes: labels.arena_bytes,
        free_pools: labels.empty_bytes + labels.unused_bytes,
        unsettled: labels.unsettled_bytes,
        overhead: labels.overhead_bytes,
        sparse: labels.sparse_arenas,
        ..Arenas::default()
    };
    for blocks in &labels.classes {
        let size = blocks.size;
        arenas.objects += blocks.objects * size;
        arenas.parts += blocks.parts * size;
        arenas.free_listed += blocks.waiting * size;
        arenas.unknown += blocks.unknown * size;
        arenas.free_blocks += blocks.free * size;
        let all = blocks.objects + blocks.parts + blocks.waiting + blocks.unknown + blocks.free;
        arenas.overhead += blocks.bytes - all * size;
    }
    arenas
}

fn duplicates(subject: &Subject<'_>, scan: &mut Scan<'_>) -> Duplicates {
    let (groups, (objects, bytes)) = scan.duplicates.worst(DUPLICATE_GROUPS);
    let groups = groups.into_iter().filter_map(|group| {
        let of = scan.types.get(group.number)?;
        let head = subject.memory.bytes(group.address, object::HEAD).ok();
        let content = head.and_then(|head| object::content(subject.offsets, of, &head));
        let content =
            content.and_then(|(at, len)| subject.memory.bytes(group.address + at, len.min(PREVIEW) as usize).ok());
        let preview: String = String::from_utf8_lossy(&content.unwrap_or_default())
            .chars()
            .map(|c| if c.is_control() { '\u{b7}' } else { c })
            .collect();
        Some(DuplicateGroup { name: of.qualified(), count: group.count, bytes: group.bytes, preview })
    });
    Duplicates { objects, bytes, groups: groups.collect() }
}
