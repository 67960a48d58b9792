//! The objects that the first garbage collection will examine, and how many of them were made since the attach.

use std::collections::HashMap;

use crate::cpython::discover::Interpreter;
use crate::cpython::gc::{self, GcState};
use crate::cpython::{gc_lists, threads};
use crate::target::Memory;

/// Most young objects that are read, in some 2 ms: with CPython's own thresholds (700 to 2000) there are seldom more.
const MOST: usize = 2500;
/// How often they are read anew because the target has changed them meanwhile.
const TRIES: usize = 4;

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

impl Young {
    /// `None` where they cannot be read, where they are very many, while they are being examined, where the collector is off, and where
    /// there are interpreters with collectors of their own.
    pub(super) fn read(memory: &dyn Memory, interpreter: &Interpreter, main: u64) -> Option<Self> {
        let (offsets, runtime) = (&interpreter.offsets, interpreter.runtime);
        if !offsets.has_gc_heads() || threads::interpreters(memory, offsets, runtime).ok()?.len() != 1 {
            return None;
        }
        let collections = || {
            let state = GcState::read(memory, offsets, runtime, main).ok()?;
            (state.enabled && !state.collecting).then(|| state.collections())
        };
        let before = collections()?;
        let [young, .., permanent] = gc::list_heads(offsets, runtime, main);
        let objects = (0..TRIES).find_map(|_| gc_lists::members(memory, offsets, young, MOST))?;
        let frozen = gc_lists::last(memory, offsets, permanent)?;
        let count = GcState::read(memory, offsets, runtime, main).ok()?.generations[0].count;
        (collections()? == before).then_some(Self { collections: before, count, objects, frozen })
    }
}

/// Those at the attach, until a collection has examined them; `None`: they are not known.
#[derive(Debug)]
pub(super) struct SinceAttach(Option<Young>);

impl SinceAttach {
    pub(super) fn new(at_attach: Option<Young>) -> Self {
        Self(at_attach)
    }

    /// How many containers were made since the attach and not freed, by what there is `now`, which is not asked for in vain. `None` where
    /// it is not known.
    pub(super) fn made(&mut self, now: impl FnOnce() -> Option<Young>) -> Option<u64> {
        let before = self.0.as_mut()?;
        let now = now()?;
        if (now.collections, now.frozen) != (before.collections, before.frozen) {
            self.0 = None;
            return None;
        }
        // What is made comes to the end of the list, often at the address of one that was freed: so those that are left of the older ones
        // are at the front, in their order, and what is not is new.
        let place: HashMap<u64, usize> =
            before.objects.iter().enumerate().map(|(place, object)| (*object, place)).collect();
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

    fn young(count: i32, objects: &[u64]) -> Young {
        Young { collections: 3, count, objects: objects.to_vec(), frozen: 9 }
    }

    #[test]
    fn what_was_made_is_at_the_end_of_the_list_whatever_its_address() {
        let mut since = SinceAttach::new(Some(young(0, &[1, 2, 3, 4])));
        let mut made = |objects: &[u64]| since.made(|| Some(young(0, objects))).unwrap();
        assert_eq!((made(&[1, 2, 3, 4]), made(&[1, 2, 3, 4, 5, 6]), made(&[1, 3, 4])), (0, 2, 0));
        assert_eq!(made(&[1, 3, 4, 2]), 1, "2 had gone");
        assert_eq!(made(&[1, 4, 3]), 1, "3 was made where an older one had been, between two looks");
        assert_eq!(made(&[4, 1]), 1, "4 is older, 1 was made anew");
        assert_eq!((made(&[4, 3, 2, 1]), made(&[]), made(&[4])), (3, 0, 1));
    }

    #[test]
    fn what_is_not_in_the_list_may_be_counted() {
        let mut since = SinceAttach::new(Some(young(100, &[1])));
        let mut made = |count: i32| since.made(|| Some(young(count, &[1, 2]))).unwrap();
        assert_eq!(
            [made(150), made(100), made(90), made(120), made(i32::MIN), made(i32::MAX)],
            [50, 1, 1, 30, 1, i32::MAX as u64]
        );
    }

    #[test]
    fn after_a_collection_nothing_is_known() {
        let after = |now: Option<Young>| {
            let mut since = SinceAttach::new(Some(young(0, &[1])));
            (since.made(|| now), since.made(|| Some(young(0, &[1]))))
        };
        assert_eq!(after(None), (None, Some(0)), "it could not be read that time");
        assert_eq!(after(Some(Young { collections: 4, ..young(0, &[]) })), (None, None));
        assert_eq!(after(Some(Young { frozen: 7, ..young(0, &[]) })), (None, None));
        assert_eq!(SinceAttach::new(None).made(|| unreachable!()), None);
    }
}
