//! The state of the cyclic garbage collector, from the interpreter state.

use leaktrace_common::walk::ABSENT;

use crate::target::{Memory, MemoryError, Piece};

use super::offsets::{Offsets, StatsRing};

pub use leaktrace_common::wire::GENERATIONS;
use leaktrace_common::wire::GcCounts;

/// One generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Generation {
    /// As it is kept. That of the oldest generation is not used from 3.14.0 to 3.14.4, whose `gc.get_threshold()` says 0 whatever it was
    /// set to (`Modules/gcmodule.c`).
    pub threshold: i32,
    /// Allocations (generation 0) or collections of the younger generation since the last collection.
    pub count: i32,
    /// Collections since the start of the interpreter; likewise the rest.
    pub collections: u64,
    pub collected: u64,
    pub uncollectable: u64,
}

/// What `gc.isenabled()`, `gc.get_threshold()`, `gc.get_count()` and `gc.get_stats()` say inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcState {
    pub enabled: bool,
    /// A collection is running.
    pub collecting: bool,
    /// Containers that may be made after a collection before the next must come, if collections are not put off by hand.
    pub patience: u64,
    pub generations: [Generation; GENERATIONS],
}

/// Addresses of the collector's state: of the interpreter state at `interpreter`; 3.8 has one for all in the runtime.
pub(crate) fn state_address(offsets: &Offsets, runtime: u64, interpreter: u64) -> u64 {
    match offsets.interpreter.gc {
        ABSENT => runtime.wrapping_add(u64::from(offsets.runtime.gc)),
        offset => interpreter.wrapping_add(u64::from(offset)),
    }
}

/// Where a generation's counters are, from the start of the statistics of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counters {
    /// Offset of the first of the generation's statistics.
    items: u64,
    /// Offset of the byte that says which of them is up to date (3.15 keeps some of the past ones); `None`: there is but one.
    index: Option<u64>,
}

impl Counters {
    /// Of each generation.
    fn all(offsets: &Offsets) -> [Self; GENERATIONS] {
        let size = u64::from(offsets.gc_stats.size);
        if offsets.gc_ring.young == ABSENT {
            return std::array::from_fn(|i| Self { items: i as u64 * size, index: None });
        }
        let of = |ring: &StatsRing, at: u64| {
            let [items, index] = [ring.items, ring.index].map(|field| at.wrapping_add(u64::from(field)));
            Self { items, index: Some(index) }
        };
        let old = u64::from(offsets.gc_ring.old);
        std::array::from_fn(|i| match i.checked_sub(1) {
            None => of(&offsets.gc_young_ring, u64::from(offsets.gc_ring.young)),
            Some(i) => of(&offsets.gc_old_ring, old + i as u64 * u64::from(offsets.gc_old_ring.size)),
        })
    }

    /// Address of the statistics that are up to date, of those of all at `stats`.
    fn current(&self, memory: &dyn Memory, stats: u64, size: u32) -> Result<u64, MemoryError> {
        let mut index = [0];
        if let Some(at) = self.index {
            memory.read(stats.wrapping_add(at), &mut index)?;
        }
        Ok(stats.wrapping_add(self.items).wrapping_add(u64::from(index[0]) * u64::from(size)))
    }
}

/// Address of the statistics of all generations, for the collector's state at `gc`: in it, or where it points (3.15).
fn statistics(memory: &dyn Memory, offsets: &Offsets, gc: u64) -> Result<u64, MemoryError> {
    let stats = gc.wrapping_add(u64::from(offsets.gc.generation_stats));
    if offsets.gc_ring.young == ABSENT { Ok(stats) } else { memory.u64(stats) }
}

/// For the BPF side: whose collections are the `main` interpreter's, and where each interpreter's counts of collections are, in
/// versions whose collector decides itself what it collects (3.13 and later).
pub fn counts(offsets: &Offsets, main: u64) -> GcCounts {
    let of_interpreter = offsets.interpreter.gc;
    // 3.8 has one collector for all interpreters.
    let main = if of_interpreter == ABSENT { 0 } else { main };
    if offsets.collector.generation_told || of_interpreter == ABSENT {
        return GcCounts { main, ..GcCounts::ZERO };
    }
    let (counters, collections) = (Counters::all(offsets), u64::from(offsets.gc_stats.collections));
    GcCounts {
        main,
        stats: of_interpreter.wrapping_add(offsets.gc.generation_stats),
        is_pointer: u32::from(offsets.gc_ring.young != ABSENT),
        items: counters.map(|counter| counter.items.wrapping_add(collections)),
        index: counters.map(|counter| counter.index.unwrap_or(GcCounts::ONE)),
        size: offsets.gc_stats.size.into(),
    }
}

/// Addresses of the heads of the lists of tracked objects: the generations, the youngest first, and the permanent one.
pub fn list_heads(offsets: &Offsets, runtime: u64, interpreter: u64) -> [u64; GENERATIONS + 1] {
    let gc = state_address(offsets, runtime, interpreter);
    std::array::from_fn(|index| {
        let offset = if index < GENERATIONS {
            offsets.gc.generations + index as u32 * offsets.gc_generation.size
        } else {
            offsets.gc.permanent
        };
        gc.wrapping_add(u64::from(offset))
    })
}

/// Which of the generations in the collector's state has the count of each.
///
/// An incremental collector has two old ones that take turns: the count of generation 1 is of the one whose objects were visited
/// in this round (`gc_get_count_impl`, Modules/gcmodule.c of 3.14.0).
fn counted(memory: &dyn Memory, offsets: &Offsets, gc: u64) -> Result<[u32; GENERATIONS], MemoryError> {
    if !offsets.is_incremental() {
        return Ok([0, 1, 2]);
    }
    let visited = memory.u32(gc.wrapping_add(offsets.gc.visited_space.into()))? & 1;
    Ok([0, 1 + visited, 2 - visited])
}

/// Where the array of generations is in the collector's state of the interpreter at `interpreter`.
///
/// Debian builds its 3.13 with a `PyGC_Head` that is aligned to 4 bytes only (its patch for gh-127545): the array follows
/// right behind `debug` there. The lists tell: each head is the previous of its next.
pub(crate) fn generations_offset(memory: &dyn Memory, offsets: &Offsets, runtime: u64, interpreter: u64) -> u32 {
    let gc = state_address(offsets, runtime, interpreter);
    let are_lists = |at: u32| {
        (0..GENERATIONS as u32).all(|index| {
            let head = gc.wrapping_add(u64::from(at + index * offsets.gc_generation.size));
            let next = memory.u64(head.wrapping_add(offsets.gc_head.next.into())).map_or(0, |next| next & !3);
            memory.u64(next.wrapping_add(offsets.gc_head.prev.into())).is_ok_and(|prev| prev & !3 == head)
        })
    };
    let (known, packed) = (offsets.gc.generations, offsets.gc.debug.wrapping_add(4));
    if packed < known && !are_lists(known) && are_lists(packed) { packed } else { known }
}

/// Bytes that hold what is asked for of the collector's state (`struct _gc_runtime_state`, 3.8 to 3.15): an interpreter's state, or the
/// runtime's, goes on behind it.
const STATE_BYTES: usize = 512;
/// Without the GIL a thread adds the containers that it made to the count of generation 0 when they are so many
/// (`LOCAL_ALLOC_COUNT_THRESHOLD`, CPython `Python/gc_free_threading.c`, 3.13 to 3.15).
const UNCOUNTED: u64 = 512;
/// Blocks that a container in a garbage cycle is taken to keep, its own and those of what it alone holds, where the collector's count tells
/// how many there are: without the GIL, where a collection may be far off.
const BLOCKS_OF_CONTAINER: u64 = 4;
/// The same of a young container where the collector's list tells how many of these were made, which is less; and how many there may be
/// beside those that are known. Both are estimates: nothing bounds what a container keeps, or what one from before the attach took since.
const BLOCKS_OF_YOUNG: u64 = 16;
const UNKNOWN_YOUNG: u64 = 10;

impl GcState {
    /// Blocks that are taken to wait for the next collection in garbage cycles, at most, where `made` of the young containers were not there
    /// before the blocks were.
    pub fn waiting(&self, made: u64) -> u64 {
        self.patience.min(BLOCKS_OF_YOUNG.saturating_mul(made.saturating_add(UNKNOWN_YOUNG)))
    }

    /// All collections since the start of the interpreter.
    pub fn collections(&self) -> u64 {
        // Of a target that has just replaced its program it may be any number.
        self.generations.iter().fold(0, |sum, generation| sum.saturating_add(generation.collections))
    }

    /// Reads the collector's state of the interpreter state at `interpreter`.
    pub fn read(memory: &dyn Memory, offsets: &Offsets, runtime: u64, interpreter: u64) -> Result<Self, MemoryError> {
        let gc = state_address(offsets, runtime, interpreter);
        let memory = &Piece::new(memory, gc, STATE_BYTES);
        let at = |offset: u32| gc.wrapping_add(u64::from(offset));
        let mut state = Self {
            enabled: memory.u32(at(offsets.gc.enabled))? != 0,
            collecting: memory.u32(at(offsets.gc.collecting))? != 0,
            ..Self::default()
        };
        let (counters, statistics) = (Counters::all(offsets), statistics(memory, offsets, gc)?);
        let counted = counted(memory, offsets, gc)?;
        for (index, generation) in state.generations.iter_mut().enumerate() {
            let of = |index: u32| offsets.gc.generations + index * offsets.gc_generation.size;
            let current = counters[index].current(memory, statistics, offsets.gc_stats.size)?;
            let stats = |field: u32| memory.u64(current.wrapping_add(u64::from(field)));
            *generation = Generation {
                threshold: memory.u32(at(of(index as u32) + offsets.gc_generation.threshold))? as i32,
                count: memory.u32(at(of(counted[index]) + offsets.gc_generation.count))? as i32,
                collections: stats(offsets.gc_stats.collections)?,
                collected: stats(offsets.gc_stats.collected)?,
                uncollectable: stats(offsets.gc_stats.uncollectable)?,
            };
        }
        let threshold = u64::try_from(state.generations[0].threshold).unwrap_or(0);
        state.patience = threshold.saturating_mul(1 + u64::from(offsets.collector.deferrals));
        if offsets.collector.waits_for_quarter {
            let long_lived = memory.u64(at(offsets.gc.long_lived_total))?;
            // A collection may be far off. But none waits for it that was not counted.
            let counted = u64::try_from(state.generations[0].count).unwrap_or(0) + UNCOUNTED;
            state.patience = state.patience.max(long_lived / 4).min(threshold.max(BLOCKS_OF_CONTAINER * counted));
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpython::testing::{Script, pythons};
    use crate::cpython::threads::main_interpreter;
    use crate::target::ImageMemory;

    #[test]
    fn the_old_generations_of_an_incremental_collector_take_turns() {
        let mut offsets = Offsets::of(3, 14, 0).unwrap();
        let mut image = ImageMemory::new();
        assert_eq!(counted(&image, &offsets, 4096).unwrap(), [0, 1, 2]);
        offsets.gc.visited_space = 232;
        assert!(counted(&image, &offsets, 4096).is_err());
        for (base, visited, order) in [(4096, 0_u32, [0, 1, 2]), (8192, 1, [0, 2, 1]), (12288, u32::MAX, [0, 2, 1])] {
            image.insert(base + 232, visited.to_le_bytes().to_vec());
            assert_eq!(counted(&image, &offsets, base).unwrap(), order);
        }
    }

    #[test]
    fn counters_equal_those_of_the_gc_module() {
        // The numbers are taken between two reads of one byte, with nothing that the collector tracks allocated after.
        let code = "import gc, os\n\
            class C: pass\n\
            for i in range(30000):\n c = C(); c.self = c\n\
            gc.collect(1); gc.collect(); gc.set_threshold(701, 11, 9); gc.disable()\n\
            keep = [[] for _ in range(50)]\n\
            for turn in range(2):\n \
                stats = [(s['collections'], s['collected'], s['uncollectable']) for s in gc.get_stats()]\n \
                text = '%d %s %s' % (gc.isenabled(), gc.get_threshold(), stats)\n \
                print(text.replace(',', '').replace('(', '').replace(')', '').replace('[', '').replace(']', ''))\n \
                os.write(1, ('%d %d %d\\n' % gc.get_count()).encode())\n \
                os.read(0, 1)\n \
                gc.enable(); gc.collect()";
        for python in pythons() {
            let mut script = Script::start(&python, code);
            for turn in 0..2 {
                let numbers = |line: String| line.split(' ').map(|n| n.parse::<i64>().unwrap()).collect::<Vec<_>>();
                let mut said = numbers(script.line());
                let counts = numbers(script.line());
                let (target, found) = script.interpreter();
                let main = main_interpreter(&target.memory(), &found.offsets, found.runtime).unwrap();
                let state = GcState::read(&target.memory(), &found.offsets, found.runtime, main).unwrap();
                let mut read = vec![i64::from(state.enabled)];
                read.extend(state.generations.iter().map(|g| i64::from(g.threshold)));
                for g in &state.generations {
                    read.extend([g.collections as i64, g.collected as i64, g.uncollectable as i64]);
                }
                if found.version.minor == 14 && found.version.patch < 5 {
                    assert_eq!(said[3], 0, "{}", python.display());
                    said[3] = 9;
                }
                assert_eq!(read, said, "{} turn {turn}", python.display());
                assert!(!state.collecting && state.generations[2].collections > 0);
                // The count of generation 0 goes on with each tracked object, so it may have moved by a few.
                for (g, count) in state.generations.iter().zip(&counts) {
                    assert!((i64::from(g.count) - count).abs() <= 4, "{:?} {counts:?}", state.generations);
                }
                script.go();
            }
        }
    }
}
