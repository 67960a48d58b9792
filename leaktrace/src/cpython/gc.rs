//! The state of the cyclic garbage collector, from the interpreter state.

use leaktrace_common::walk::ABSENT;

use crate::target::{Memory, MemoryError};

use super::offsets::Offsets;

pub use leaktrace_common::wire::GENERATIONS;

/// One generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Generation {
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
    pub generations: [Generation; GENERATIONS],
}

/// Addresses of the collector's state: of the interpreter state at `interpreter`; 3.8 has one for all in the runtime.
pub(crate) fn state_address(offsets: &Offsets, runtime: u64, interpreter: u64) -> u64 {
    match offsets.interpreter.gc {
        ABSENT => runtime.wrapping_add(u64::from(offsets.runtime.gc)),
        offset => interpreter.wrapping_add(u64::from(offset)),
    }
}

/// Where the youngest generation's count of collections is, in versions whose collector decides itself what it collects
/// (3.13 and later).
pub fn counters(offsets: &Offsets, runtime: u64, interpreter: u64) -> Option<u64> {
    let gc = state_address(offsets, runtime, interpreter);
    let stats = offsets.gc.generation_stats + offsets.gc_stats.collections;
    (!offsets.collector.generation_told).then(|| gc.wrapping_add(u64::from(stats)))
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

impl GcState {
    /// Reads the collector's state of the interpreter state at `interpreter`.
    pub fn read(memory: &dyn Memory, offsets: &Offsets, runtime: u64, interpreter: u64) -> Result<Self, MemoryError> {
        let gc = state_address(offsets, runtime, interpreter);
        let at = |offset: u32| gc.wrapping_add(u64::from(offset));
        let mut state = Self {
            enabled: memory.u32(at(offsets.gc.enabled))? != 0,
            collecting: memory.u32(at(offsets.gc.collecting))? != 0,
            ..Self::default()
        };
        for (index, generation) in state.generations.iter_mut().enumerate() {
            let young = offsets.gc.generations + index as u32 * offsets.gc_generation.size;
            let stats = offsets.gc.generation_stats + index as u32 * offsets.gc_stats.size;
            *generation = Generation {
                threshold: memory.u32(at(young + offsets.gc_generation.threshold))? as i32,
                count: memory.u32(at(young + offsets.gc_generation.count))? as i32,
                collections: memory.u64(at(stats + offsets.gc_stats.collections))?,
                collected: memory.u64(at(stats + offsets.gc_stats.collected))?,
                uncollectable: memory.u64(at(stats + offsets.gc_stats.uncollectable))?,
            };
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpython::testing::{Script, pythons};
    use crate::cpython::threads::main_interpreter;

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
                assert_eq!(read, said.split_off(0), "{} turn {turn}", python.display());
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
