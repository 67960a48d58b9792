//! Which collections the ledger was told of: those that probes saw, and by the interpreter's counters the others; and how much may wait
//! for the next.

use std::collections::HashSet;

use leaktrace_common::wire::GcRecord;

use super::Session;
use crate::cpython::discover::Interpreter;
use crate::cpython::gc::{self, GcState};
use crate::cpython::{gc_lists, threads};
use crate::model::gc::{Collection, GcLog};
use crate::target::{Memory, Unhurried};

/// Generations of CPython's collector that are logged.
const OLDEST_GENERATION: u32 = 2;
/// Most young objects that are read: with CPython's own thresholds (700 to 2000) there are seldom more.
const MOST_YOUNG: usize = 10_000;

/// What is known of the main interpreter's collector.
#[derive(Debug, Default)]
pub(super) struct Collections {
    /// Its counters at the attach; `None`: they could not be read.
    start: Option<GcState>,
    /// By generation: collections before the attach and those that were logged.
    logged: [u64; 3],
    /// Collections so far when the counters were read last.
    last: u64,
    /// Young objects that were there at the attach, until a collection has made them old; `None`: they could not be read.
    older: Option<HashSet<u64>>,
}

impl Collections {
    /// With the collector's counters and its young objects at the attach.
    pub(super) fn since(start: Option<GcState>, young: Option<Vec<u64>>) -> Self {
        let logged = start.as_ref().map(|state| state.generations.map(|g| g.collections)).unwrap_or_default();
        let last = start.as_ref().map(GcState::collections).unwrap_or_default();
        Self { start, logged, last, older: young.map(HashSet::from_iter) }
    }

    /// Whether there was no collection since the last call: only then it is asked what waits for one.
    pub(super) fn is_idle(&self, counters: &GcState) -> bool {
        self.last == counters.collections() && !counters.collecting
    }

    /// Logs what probes saw since the last call, then what only the counters tell of the time since `start_ns`. The counters are
    /// to be read first: then each collection that they count has come from its probe. `None`: there are none to read. `young` are the
    /// young objects of then, if they are known.
    pub(super) fn log(
        &mut self,
        timed: &[GcRecord],
        counters: Option<&GcState>,
        young: Option<&[u64]>,
        start_ns: u64,
        log: &mut GcLog,
    ) {
        for record in timed {
            let pause_ns = record.end_ns.saturating_sub(record.start_ns);
            if record.other != 0 {
                log.record_other(pause_ns);
                continue;
            }
            let generation = record.generation.min(OLDEST_GENERATION);
            log.record(Collection {
                generation: generation as u8,
                full: generation == OLDEST_GENERATION,
                start_ns: record.start_ns,
                pause_ns: Some(pause_ns),
            });
            self.logged[generation as usize] += 1;
        }
        let (Some(state), Some(start)) = (counters, &self.start) else { return };
        for (generation, (now, start)) in state.generations.iter().zip(&start.generations).enumerate() {
            // What no probe told (it cannot be set, or the collection began before the attach). One that is under way may
            // be counted and not be told yet.
            let untold = now.collections.saturating_sub(self.logged[generation]);
            if untold > 0 && !state.collecting {
                log.record_untimed(generation as u8, generation as u32 == OLDEST_GENERATION, start_ns, untold);
                self.logged[generation] = now.collections;
            }
            log.set_collected(
                generation as u8,
                now.collected.saturating_sub(start.collected),
                now.uncollectable.saturating_sub(start.uncollectable),
            );
        }
        if self.last != state.collections() {
            (self.last, self.older) = (state.collections(), Some(HashSet::new()));
        }
        let made = young.and_then(|young| self.made(young));
        log.set_state(Some(state.enabled), Some(made.map_or(state.patience, |made| state.waiting(made))));
    }

    /// How many young objects were made since the attach or the last collection.
    fn made(&mut self, young: &[u64]) -> Option<u64> {
        let older = self.older.as_mut()?;
        // What is gone does not come back: another object may take its place.
        *older = young.iter().copied().filter(|object| older.contains(object)).collect();
        Some((young.len() - older.len()) as u64)
    }
}

impl Session {
    /// Collections from the probes where there are any, else from the interpreter's counters, unless it is gone.
    pub(super) fn log_collections(&mut self, execed: bool) {
        // The counters first, so that the ring holds each collection that they count.
        let state = if execed { None } else { self.collector_state() };
        let young = state.as_ref().filter(|state| self.collector.is_idle(state)).and_then(|state| {
            let memory = Unhurried::new(self.target.memory());
            let young = young_objects(&memory, &self.interpreter, self.main_interpreter);
            young.filter(|_| self.collector_state().is_some_and(|now| now.collections() == state.collections()))
        });
        let timed = self.drain.settle().take_collections();
        self.collector.log(&timed, state.as_ref(), young.as_deref(), self.start_ns, self.ledger.gc_mut());
    }

    /// What the interpreter says of its collector.
    pub(super) fn collector_state(&self) -> Option<GcState> {
        let (offsets, runtime) = (&self.interpreter.offsets, self.interpreter.runtime);
        GcState::read(&self.target.memory(), offsets, runtime, self.main_interpreter).ok()
    }
}

/// Addresses of the objects that the next collection examines first. `None` where they cannot be read, where they are very many, and where
/// there are interpreters with collectors of their own.
pub(super) fn young_objects(memory: &dyn Memory, interpreter: &Interpreter, main: u64) -> Option<Vec<u64>> {
    let (offsets, runtime) = (&interpreter.offsets, interpreter.runtime);
    let only_one = threads::interpreters(memory, offsets, runtime).is_ok_and(|interpreters| interpreters.len() == 1);
    if !only_one || !offsets.has_gc_heads() {
        return None;
    }
    let [young, ..] = gc::list_heads(offsets, runtime, main);
    gc_lists::members(memory, offsets, young, MOST_YOUNG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(youngest: u64, collecting: bool) -> GcState {
        let mut state = GcState { enabled: true, collecting, ..GcState::default() };
        state.generations[0].collections = youngest;
        state.generations[0].collected = 10 * youngest;
        state
    }

    #[test]
    fn what_no_probe_told_is_known_from_the_counters_once() {
        let timed = GcRecord { start_ns: 5, end_ns: 7, ..GcRecord::default() };
        let other = GcRecord { other: 1, ..timed };
        let (mut collections, mut log) = (Collections::since(Some(counters(100, false)), None), GcLog::default());
        let counted = |log: &GcLog| (log.generations()[0].collections, log.generations()[0].collected);
        // One is under way: it is counted, and its probe has not told yet.
        collections.log(&[timed, other], Some(&counters(102, true)), None, 1, &mut log);
        assert_eq!((counted(&log), log.pauses_known()), ((1, 20), true));
        assert_eq!(log.others().collections, 1);
        // The probe of that one tells, and there was one more that it did not see.
        collections.log(&[timed], Some(&counters(103, false)), None, 1, &mut log);
        assert_eq!((counted(&log), log.pauses_known()), ((3, 30), false));
        // Without counters what probes tell is counted all the same.
        collections.log(&[timed], None, None, 1, &mut log);
        assert_eq!(counted(&log), (4, 30));
        collections.log(&[], Some(&counters(104, false)), None, 1, &mut log);
        assert_eq!(counted(&log), (4, 40));
    }

    #[test]
    fn no_more_waits_for_a_collection_than_young_objects_that_were_made_hold() {
        let state = |collections| GcState { patience: 700, ..counters(collections, false) };
        let (mut collections, mut log) = (Collections::since(Some(state(1)), Some(vec![1, 2, 3])), GcLog::default());
        let mut patience = |collected, young: Option<&[u64]>| {
            assert_eq!(collections.is_idle(&state(collected)), collected == 1);
            collections.log(&[], Some(&state(collected)), young, 1, &mut log);
            log.patience()
        };
        assert_eq!(patience(1, Some(&[1, 2, 3])), 40);
        assert_eq!(patience(1, Some(&[1, 3, 7])), 44);
        assert_eq!(patience(1, Some(&[1, 3, 7, 2])), 48, "another object where one was");
        assert_eq!(patience(1, None), 700);
        assert_eq!(patience(1, Some(&(1..1000).collect::<Vec<_>>())), 700);
        assert_eq!(patience(2, None), 700);
        assert_eq!(Collections::since(Some(state(1)), None).made(&[]), None);
        assert_eq!(collections.made(&[1, 2, 3]), Some(3), "after a collection all of them are new");
    }
}
