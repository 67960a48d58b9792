//! Which collections the ledger was told of: those that probes saw, and by the interpreter's counters the others.

use leaktrace_common::wire::GcRecord;

use super::Session;
use super::young::Young;
use crate::cpython::gc::GcState;
use crate::model::gc::{Collection, GcLog};

/// Generations of CPython's collector that are logged.
const OLDEST_GENERATION: u32 = 2;

/// What is known of the main interpreter's collector.
#[derive(Debug, Default)]
pub(super) struct Collections {
    /// Its counters at the attach; `None`: they could not be read.
    start: Option<GcState>,
    /// By generation: collections before the attach and those that were logged.
    logged: [u64; 3],
}

impl Collections {
    pub(super) fn since(start: Option<GcState>) -> Self {
        let logged = start.as_ref().map(|state| state.generations.map(|g| g.collections)).unwrap_or_default();
        Self { start, logged }
    }

    /// Logs what probes saw since the last call, then what only the counters tell of the time since `start_ns`. The counters are
    /// to be read first: then each collection that they count has come from its probe. `None`: there are none to read. `made` is
    /// how many young containers were made since the attach, if that is known.
    pub(super) fn log(
        &mut self,
        timed: &[GcRecord],
        counters: Option<&GcState>,
        made: Option<u64>,
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
        log.set_state(Some(state.enabled), Some(made.map_or(state.patience, |made| state.waiting(made))));
    }
}

impl Session {
    /// Collections from the probes where there are any, else from the interpreter's counters, unless it is gone.
    pub(super) fn log_collections(&mut self, execed: bool) {
        // The counters first, so that the ring holds each collection that they count.
        let state = if execed { None } else { self.collector_state() };
        let timed = self.drain.settle().take_collections();
        let now = || Young::read(&self.target.memory(), &self.interpreter, self.main_interpreter);
        let made = state.as_ref().and_then(|_| self.young.made(now));
        self.collector.log(&timed, state.as_ref(), made, self.start_ns, self.ledger.gc_mut());
    }

    /// What the interpreter says of its collector.
    pub(super) fn collector_state(&self) -> Option<GcState> {
        let (offsets, runtime) = (&self.interpreter.offsets, self.interpreter.runtime);
        GcState::read(&self.target.memory(), offsets, runtime, self.main_interpreter).ok()
    }
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
        let (mut collections, mut log) = (Collections::since(Some(counters(100, false))), GcLog::default());
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
    fn no_more_waits_for_a_collection_than_young_containers_keep() {
        let state = GcState { patience: 700, ..counters(1, false) };
        let (mut collections, mut log) = (Collections::since(Some(state)), GcLog::default());
        let mut patience = |made| {
            collections.log(&[], Some(&state), made, 1, &mut log);
            log.patience()
        };
        assert_eq!([None, Some(0), Some(2), Some(100), Some(u64::MAX)].map(&mut patience), [700, 160, 192, 700, 700]);
    }
}
