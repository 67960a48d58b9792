//! The garbage collector: how it is set, how it does, and what it could not free.

use leaktrace_common::walk::ABSENT;
use serde::Serialize;

use crate::cpython::gc::{self, GENERATIONS, GcState};
use crate::cpython::{gc_lists, threads};
use crate::target::MemoryError;

use super::Subject;
use super::listing::Listing;
use super::object::{self, HEAD};
use super::types::Types;
use super::watched::{Counters, Watched};
use crate::target::words::u64_at;

/// Name and version of the schema.
pub const SCHEMA: &str = "leaktrace.gc/1";
/// Objects of `gc.garbage` that are shown.
const MAX_GARBAGE: u64 = 1000;
/// Bytes of a text that are shown.
const PREVIEW: u64 = 60;

/// The collectors of a process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Collector {
    pub schema: &'static str,
    pub pid: u32,
    pub python: String,
    /// The main interpreter's last, as the runtime lists them.
    pub interpreters: Vec<InterpreterCollector>,
    /// With `--interval` or `--duration`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watched: Option<Watched>,
}

/// The collector of one interpreter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InterpreterCollector {
    pub id: i64,
    pub enabled: bool,
    /// A collection was running: the sizes may be off.
    pub collecting: bool,
    /// `gc.get_debug()`.
    pub debug: u32,
    /// The youngest first.
    pub generations: Vec<Generation>,
    /// `gc.get_freeze_count()`; `None` where it is not known.
    pub frozen: Option<u64>,
    /// Objects that survived the last full collection, and those that came to the oldest generation since. A full
    /// collection waits until there are a quarter as many new ones (`Modules/gcmodule.c`, `gc_collect_generations`). `None` where the
    /// oldest generation is collected by and by (3.14 to 3.14.4).
    pub long_lived_total: Option<u64>,
    pub long_lived_pending: Option<u64>,
    pub garbage: Garbage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Generation {
    pub generation: usize,
    pub threshold: i32,
    pub count: i32,
    /// Tracked objects in it, frozen ones apart; `None` where it is not known. Without the GIL all are of the first generation.
    pub objects: Option<u64>,
    /// Whether all of them were seen.
    pub whole: bool,
    pub collections: u64,
    pub collected: u64,
    pub uncollectable: u64,
}

/// `gc.garbage`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Garbage {
    pub count: u64,
    /// The first of them.
    pub objects: Vec<GarbageObject>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GarbageObject {
    #[serde(rename = "type")]
    pub name: String,
    pub address: u64,
    /// As `object.__repr__` shows it; for text its beginning. No code of the process is run.
    pub repr: String,
}

/// Looks at all interpreters of a process.
pub fn look(subject: &Subject<'_>) -> Result<Collector, MemoryError> {
    let interpreters = threads::interpreters(subject.memory, subject.offsets, subject.runtime)?;
    let heads = subject.offsets.has_gc_heads();
    let unlisted = if heads { Members::default() } else { unlisted(subject, interpreters.len()) };
    let interpreters = interpreters.iter().map(|it| one(subject, it.id, it.address, &unlisted));
    Ok(Collector {
        schema: SCHEMA,
        pid: subject.pid,
        python: subject.python.to_owned(),
        interpreters: interpreters.collect::<Result<_, _>>()?,
        watched: None,
    })
}

/// The counters of the main interpreter's collector, quickly.
pub fn counters(subject: &Subject<'_>) -> Result<Counters, MemoryError> {
    let Subject { memory, offsets, runtime, .. } = *subject;
    let main = threads::main_interpreter(memory, offsets, runtime)?;
    let state = GcState::read(memory, offsets, runtime, main)?;
    let old = if offsets.gc.long_lived_total == ABSENT { offsets.gc.heap_size } else { offsets.gc.long_lived_total };
    let old = gc::state_address(offsets, runtime, main).wrapping_add(old.into());
    Ok(Counters {
        enabled: state.enabled,
        collections: state.generations.map(|generation| generation.collections),
        uncollectable: state.generations.iter().map(|generation| generation.uncollectable).sum(),
        old_objects: memory.u64(old)?,
    })
}

/// Tracked objects of one interpreter, where they are known: of each generation, and whether it was seen whole; frozen ones.
#[derive(Debug, Clone, Copy, Default)]
struct Members {
    generations: [Option<(u64, bool)>; GENERATIONS],
    frozen: Option<u64>,
}

/// Those in the collector's lists.
fn listed(subject: &Subject<'_>, interpreter: u64) -> Members {
    let heads = gc::list_heads(subject.offsets, subject.runtime, interpreter);
    let walks = heads.map(|head| gc_lists::walk(subject.memory, subject.offsets, head, |_| ()));
    let [young, mut middle, mut oldest, frozen] = walks.map(|walk| (walk.objects, walk.closed));
    if subject.offsets.is_incremental() {
        // All of both lists of old objects are of generation 2, none of generation 1 (`_PyGC_GetObjects`, Python/gc.c of 3.14.0).
        oldest = (middle.0 + oldest.0, middle.1 && oldest.1);
        middle = (0, true);
    }
    Members { generations: [young, middle, oldest].map(Some), frozen: Some(frozen.0) }
}

/// Where there are no lists, objects say themselves that they are tracked or frozen, and the whole heap has to be read. There are no
/// generations then (Python/gc_free_threading.c), and all of them are shown with the first. Objects do not say of which
/// interpreter they are: of several, and where the heap cannot be read, it stays unknown.
fn unlisted(subject: &Subject<'_>, interpreters: usize) -> Members {
    let listing = if interpreters == 1 { Listing::take(subject).ok() } else { None };
    listing.map_or_else(Members::default, |listing| {
        let (tracked, frozen) = listing.tracked_and_frozen();
        Members { generations: [Some((tracked.saturating_sub(frozen), true)), None, None], frozen: Some(frozen) }
    })
}

fn one(subject: &Subject<'_>, id: i64, address: u64, unlisted: &Members) -> Result<InterpreterCollector, MemoryError> {
    let Subject { memory, offsets, runtime, .. } = *subject;
    let state = GcState::read(memory, offsets, runtime, address)?;
    let members = if offsets.has_gc_heads() { listed(subject, address) } else { *unlisted };
    let at = |offset: u32| gc::state_address(offsets, runtime, address).wrapping_add(offset.into());
    let generations =
        state.generations.iter().zip(&members.generations).enumerate().map(|(number, (generation, of))| Generation {
            generation: number,
            threshold: generation.threshold,
            count: generation.count,
            objects: of.map(|of| of.0),
            whole: of.is_some_and(|of| of.1),
            collections: generation.collections,
            collected: generation.collected,
            uncollectable: generation.uncollectable,
        });
    let told = |offset| if offset == ABSENT { Ok(None) } else { memory.u64(at(offset)).map(Some) };
    Ok(InterpreterCollector {
        id,
        enabled: state.enabled,
        collecting: state.collecting,
        debug: memory.u32(at(offsets.gc.debug))?,
        generations: generations.collect(),
        frozen: members.frozen,
        long_lived_total: told(offsets.gc.long_lived_total)?,
        long_lived_pending: told(offsets.gc.long_lived_pending)?,
        garbage: garbage(subject, memory.u64(at(offsets.gc.garbage))?),
    })
}

/// The list at an address; empty where it cannot be read.
fn garbage(subject: &Subject<'_>, list: u64) -> Garbage {
    let Subject { memory, offsets, .. } = *subject;
    if list == 0 {
        return Garbage::default();
    }
    let word = |offset: u32| memory.u64(list.wrapping_add(offset.into())).ok();
    let (Some(count), Some(items)) = (word(offsets.var_object.size), word(offsets.list.items)) else {
        return Garbage::default();
    };
    let shown = count.min(MAX_GARBAGE) as usize;
    let Ok(items) = memory.bytes(items, 8 * shown) else { return Garbage::default() };
    let mut types = Types::new(memory, offsets);
    let objects = items.as_chunks().0.iter().map(|item| {
        let address = u64::from_le_bytes(*item);
        let (name, repr) = describe(subject, &mut types, address);
        GarbageObject { name, address, repr }
    });
    Garbage { count, objects: objects.collect() }
}

fn describe(subject: &Subject<'_>, types: &mut Types<'_>, address: u64) -> (String, String) {
    let unknown = || ("unknown".to_owned(), format!("<object at {address:#x}>"));
    let Ok(head) = subject.memory.bytes(address, HEAD) else { return unknown() };
    let Some(type_) = u64_at(&head, subject.offsets.object.type_) else { return unknown() };
    types.resolve(&mut vec![type_]);
    let Some(of) = types.find(type_).and_then(|number| types.get(number)) else { return unknown() };
    let name = of.qualified();
    let content = object::content(subject.offsets, of, &head);
    let content = content.and_then(|(at, len)| {
        let bytes = subject.memory.bytes(address.checked_add(at)?, len.min(PREVIEW) as usize).ok()?;
        Some(format!("{:?}", String::from_utf8_lossy(&bytes)))
    });
    let length = object::measure(subject.offsets, of, &head, 0).and_then(|object| object.length);
    let length = length.map_or_else(String::new, |length| format!(" of length {length}"));
    let repr = content.unwrap_or_else(|| format!("<{name} object{length} at {address:#x}>"));
    (name, repr)
}
