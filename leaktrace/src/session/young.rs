//! The objects that the first garbage collection will examine, and how many of them were made since the attach.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::cpython::discover::Interpreter;
use crate::cpython::gc::{self, GcState};
use crate::cpython::gc_lists::{self, Unlisted};
use crate::cpython::threads;
use crate::target::Memory;

/// Most young objects that are read, in some 2 ms: with CPython's own thresholds (700 to 2000) there are seldom more.
const MOST: usize = 2500;
/// For how long they are read anew because the target has changed them meanwhile.
const PATIENCE: Duration = Duration::from_millis(2);

/// What the collector had to examine at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Young {
    /// Collections so far.
    collections: u64,
    /// What generation 0 has counted since the last: containers that were made, less those that were freed; of free lists none.
    count: i32,
    /// In the order in which they were made.
    objects: Vec<u64>,
    /// What was exempted last from all collections (`gc.freeze()`).
    frozen: u64,
}

/// Why it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// They change too fast, are being examined, or the collector is off.
    Now,
    /// There are too many, or interpreters with collectors of their own, or no list.
    ForGood,
}

impl Young {
    pub(super) fn read(memory: &dyn Memory, interpreter: &Interpreter, main: u64) -> Result<Self, Unread> {
        let (offsets, runtime) = (&interpreter.offsets, interpreter.runtime);
        let interpreters = threads::states(memory, offsets, runtime).map_err(|_| Unread::Now)?;
        if !offsets.has_gc_heads() || interpreters.len() != 1 {
            return Err(Unread::ForGood);
        }
        let state = || {
            let state = GcState::read(memory, offsets, runtime, main).ok();
            state.filter(|state| state.enabled && !state.collecting).ok_or(Unread::Now)
        };
        let collections = state()?.collections();
        let [young, .., permanent] = gc::list_heads(offsets, runtime, main);
        let begin = Instant::now();
        let objects = loop {
            match gc_lists::members(memory, offsets, young, MOST) {
                Ok(objects) => break objects,
                Err(Unlisted::TooMany) => return Err(Unread::ForGood),
                Err(Unlisted::Changed) if begin.elapsed() > PATIENCE => return Err(Unread::Now),
                Err(Unlisted::Changed) => {}
            }
        };
        let frozen = gc_lists::last(memory, offsets, permanent).ok_or(Unread::Now)?;
        let after = state()?;
        let count = after.generations[0].count;
        (after.collections() == collections).then_some(Self { collections, count, objects, frozen }).ok_or(Unread::Now)
    }
}

/// Those at the attach, until a collection has examined them; `None`: they are not known.
#[derive(Debug)]
pub(super) struct SinceAttach(Option<Young>);

impl SinceAttach {
    pub(super) fn new(at_attach: Result<Young, Unread>) -> Self {
        if let Err(why) = at_attach {
            log::debug!("what may wait for a first garbage collection is told by its threshold: {why:?}");
        }
        Self(at_attach.ok())
    }

    /// How many containers were made since the attach and not freed, by what there is `now`, which is not asked for in vain. `None` where
    /// it is not known.
    ///
    /// Of several that are freed between two looks, the last ones first, as lists free what they hold, and made anew where they were, the
    /// list cannot tell that they are others: then too few are told, at most as many as there were at the attach.
    pub(super) fn made(&mut self, now: impl FnOnce() -> Result<Young, Unread>) -> Option<u64> {
        let before = self.0.as_mut()?;
        let now = match now() {
            Ok(now) if (now.collections, now.frozen) == (before.collections, before.frozen) => now,
            Err(Unread::Now) => return None,
            Ok(_) | Err(Unread::ForGood) => {
                self.0 = None;
                return None;
            }
        };
        // What is made comes to the end of the list, often at the address of one that was freed: so those that are left of the older ones
        // are at the front, in their order, and what is not is new.
        let places = before.objects.iter().enumerate();
        let place: HashMap<u64, usize> = places.map(|(place, object)| (*object, place)).collect();
        let mut next = 0;
        let is_older = |object: &&u64| match place.get(object) {
            Some(&place) if place >= next => {
                next = place + 1;
                true
            }
            _ => false,
        };
        let older = now.objects.iter().take_while(is_older).count();
        before.objects = now.objects[..older].to_vec();
        before.count = before.count.min(now.count);
        // The list has none that holds no containers (up to 3.13), the count none from free lists.
        let counted = u64::try_from(now.count.saturating_sub(before.count)).unwrap_or(0);
        Some(counted.max((now.objects.len() - older) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpython::testing::{Script, pythons};
    use crate::cpython::threads::main_interpreter;

    fn young(count: i32, objects: &[u64]) -> Young {
        Young { collections: 3, count, objects: objects.to_vec(), frozen: 9 }
    }

    #[test]
    fn what_was_made_is_at_the_end_of_the_list_whatever_its_address() {
        let mut since = SinceAttach::new(Ok(young(0, &[1, 2, 3, 4])));
        let mut made = |objects: &[u64]| since.made(|| Ok(young(0, objects))).unwrap();
        assert_eq!((made(&[1, 2, 3, 4]), made(&[1, 2, 3, 4, 5, 6]), made(&[1, 3, 4])), (0, 2, 0));
        assert_eq!(made(&[1, 3, 4, 2]), 1, "2 had gone");
        assert_eq!(made(&[1, 4, 3]), 1, "3 was made where an older one had been, between two looks");
        assert_eq!(made(&[4, 1]), 1, "4 is older, 1 was made anew");
        assert_eq!((made(&[4, 3, 2, 1]), made(&[]), made(&[4])), (3, 0, 1));
    }

    #[test]
    fn what_is_not_in_the_list_may_be_counted() {
        let mut since = SinceAttach::new(Ok(young(100, &[1])));
        let mut made = |count: i32| since.made(|| Ok(young(count, &[1, 2]))).unwrap();
        assert_eq!(
            [made(150), made(100), made(90), made(120), made(i32::MIN), made(i32::MAX)],
            [50, 1, 1, 30, 1, i32::MAX as u64]
        );
    }

    #[test]
    fn after_a_collection_nothing_is_known() {
        let after = |now: Result<Young, Unread>| {
            let mut since = SinceAttach::new(Ok(young(0, &[1])));
            (since.made(|| now), since.made(|| Ok(young(0, &[1]))))
        };
        assert_eq!(after(Err(Unread::Now)), (None, Some(0)), "it could not be read that time");
        assert_eq!(after(Err(Unread::ForGood)), (None, None));
        assert_eq!(after(Ok(Young { collections: 4, ..young(0, &[]) })), (None, None));
        assert_eq!(after(Ok(Young { frozen: 7, ..young(0, &[]) })), (None, None));
        assert_eq!(SinceAttach::new(Err(Unread::Now)).made(|| unreachable!()), None);
    }

    /// What a real collector has, by what the process itself says that it made.
    #[test]
    fn what_an_interpreter_made() {
        let code = "import gc, os\n\
            def say(*words): os.write(1, (' '.join(map(str, words)) + '\\n').encode()); os.read(0, 1)\n\
            gc.collect(); gc.set_threshold(100000)\n\
            older = [[] for _ in range(100)]\n\
            say('older')\n\
            flat = [{n: n} for n in range(300)]\n\
            say('flat')\n\
            older.clear(); more = [[[]] for _ in range(400)]\n\
            say('more')\n\
            gc.freeze()\n\
            say('frozen')\n\
            many = [[] for _ in range(3000)]\n\
            say('many')";
        for python in pythons() {
            let mut script = Script::start(&python, code);
            let mut look = |word: &str| {
                assert_eq!(script.line(), word);
                let (target, found) = script.interpreter();
                let main = main_interpreter(&target.memory(), &found.offsets, found.runtime).unwrap();
                let young = Young::read(&target.memory(), &found, main);
                script.go();
                (young, found.offsets.has_gc_heads())
            };
            let (older, has_heads) = look("older");
            let mut since = SinceAttach::new(older);
            // Dicts of numbers are not tracked up to 3.13, and were counted.
            let flat = since.made(|| look("flat").0);
            let more = since.made(|| look("more").0);
            let within =
                |made: Option<u64>, most: u64| made.is_some_and(|made| (most - 20..=most + 20).contains(&made));
            if has_heads {
                assert!(within(flat, 300), "{}: {flat:?}", python.display());
                // Those that came from a free list, in the place of older ones, are in the list only.
                assert!(more.is_some_and(|more| (800..=1120).contains(&more)), "{}: {more:?}", python.display());
            } else {
                assert_eq!((flat, more), (None, None), "{}", python.display());
            }
            assert_eq!(since.made(|| look("frozen").0), None);
            assert!(since.0.is_none());
            if has_heads {
                assert_eq!(look("many").0, Err(Unread::ForGood), "{}", python.display());
            }
        }
    }
}
