//! For how long each size class was seen, and when.

use std::collections::HashMap;

use leaktrace_common::wire::size_bucket;

use super::classes::LARGE;
use crate::model::Timeline;

/// When a window was open, or several of one cohort were.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exposure {
    /// In the clock of the wire.
    pub begin_ns: u64,
    pub end_ns: u64,
    /// For how long what was handed out in it counts.
    pub seconds: f64,
}

/// A class as a window sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sight {
    pub class: u32,
    /// Units that may serve the class and are not armed, in order: an address that one of them hands out again passes for a block
    /// of whoever had it before. Where there is none, whose a block is is known.
    pub left_out: Vec<usize>,
    /// Units of which only the addresses that they hand out are noted, not who asks for them, in order.
    pub witnesses: Vec<usize>,
}

impl Sight {
    pub fn new(class: u32, left_out: Vec<usize>, witnesses: &[usize]) -> Self {
        Self { class, left_out, witnesses: witnesses.to_vec() }
    }
}

/// Windows that must have seen a class since a block was born, for it to count. What lies in memory of the C allocator may be
/// written anew each time, and look the same: more of them have to see that its address is not handed out.
const TESTS: usize = 1;
/// Windows that are kept apart.
const LAST: usize = 4;
const TESTS_OF_LARGE: usize = 2;
/// Windows that a unit without blocks was armed in before it is quiet.
const ENOUGH_WINDOWS: usize = 3;
/// Bytes by which requests differ at the least that cannot get chunks of the same size (glibc `malloc/malloc.c`, `MINSIZE`).
const CHUNKS_DIFFER: u64 = 32;

/// Births of the blocks that are followed, by size class and unit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Living(HashMap<(u32, usize), Vec<u64>>);

impl Living {
    /// Of blocks: class, unit and birth of each.
    pub fn of(blocks: impl Iterator<Item = (u32, Option<usize>, u64)>) -> Self {
        let mut living = Self::default();
        for (class, unit, birth) in blocks {
            if let Some(unit) = unit {
                living.0.entry((class, unit)).or_default().push(birth);
            }
        }
        living
    }

    /// Those of a class.
    pub(super) fn births(&self, class: u32) -> impl Iterator<Item = &u64> {
        self.0.iter().filter(move |((of, _), _)| *of == class).flat_map(|(_, births)| births)
    }

    pub(super) fn count(&self, class: u32, unit: usize, since: u64, until: u64) -> usize {
        let births = self.0.get(&(class, unit)).into_iter().flatten();
        births.filter(|&&birth| (since..until).contains(&birth)).count()
    }
}

/// A window that saw a class.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    pub exposure: Exposure,
    pub left_out: Vec<usize>,
    pub witnesses: Vec<usize>,
}

impl Window {
    /// Whether it tells of what a unit hands out who asked for it.
    pub(super) fn traces(&self, unit: Option<usize>) -> bool {
        unit.is_none_or(|unit| !is_in(&self.left_out, unit) && !is_in(&self.witnesses, unit))
    }
}

/// Windows by the class that they saw, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exposures {
    pub(super) classes: HashMap<u32, Vec<Window>>,
}

impl Exposures {
    /// Enters a window that saw a class.
    pub fn enter(&mut self, sight: &Sight, window: Exposure) {
        let Sight { class, left_out, witnesses } = sight.clone();
        self.classes.entry(class).or_default().push(Window { exposure: window, left_out, witnesses });
    }

    /// Forgets that a class was seen: not all of it was armed.
    pub fn forget(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    /// What a unit handed out of a class before this time, in the clock of the wire, was seen again, often enough: later windows had
    /// the unit armed. An address that it hands out again and again passes for a survivor until then.
    pub fn tested_until(&self, class: u32, unit: Option<usize>) -> u64 {
        let windows: Vec<&Window> = self.armed(class, unit).collect();
        let first = windows.len().checked_sub(tests(class)).and_then(|first| windows.get(first));
        first.map_or(0, |first| first.exposure.begin_ns)
    }

    /// Whether a unit was seen in windows and has no blocks of a class. What it is from then on asked for does not have to be told
    /// from each other, until it has one.
    pub fn is_quiet(&self, class: u32, unit: usize, living: &Living) -> bool {
        self.armed(class, Some(unit)).nth(ENOUGH_WINDOWS - 1).is_some() && living.count(class, unit, 0, u64::MAX) == 0
    }

    /// The same of sizes of the C allocator's blocks, all of which come from one unit: bit n is that of [`size_bucket`] n. `living`: the
    /// sizes of its blocks that are followed. `None`: it was hardly seen.
    pub fn quiet_sizes(&self, unit: Option<usize>, living: impl Iterator<Item = u64>) -> Option<u64> {
        self.armed(LARGE, unit).nth(ENOUGH_WINDOWS - 1)?;
        // What is nearly as long may have a chunk of the same size.
        let alike = |size: u64| [size.saturating_sub(CHUNKS_DIFFER), size, size.saturating_add(CHUNKS_DIFFER)];
        Some(living.flat_map(alike).fold(u64::MAX, |quiet, size| quiet & !(1 << size_bucket(size))))
    }

    /// Seconds for which the class was seen with a unit armed, be it as a witness.
    pub fn seconds_armed(&self, class: u32, unit: usize) -> f64 {
        self.armed(class, Some(unit)).map(|window| window.exposure.seconds).sum()
    }

    /// Seconds for which it was seen for whom a unit hands out blocks of the class, without the last times: what was born then is not
    /// tested yet.
    pub fn seconds(&self, class: u32, unit: Option<usize>) -> f64 {
        self.traced(class, unit).map(|exposure| exposure.seconds).sum()
    }

    /// The same by cohort.
    pub fn by_cohort(&self, class: u32, unit: Option<usize>, timeline: &Timeline) -> Vec<f64> {
        let mut cohorts = vec![0.0; timeline.cohorts()];
        if !cohorts.is_empty() {
            for exposure in self.traced(class, unit) {
                cohorts[timeline.cohort_of(exposure.begin_ns)] += exposure.seconds;
            }
        }
        cohorts
    }

    fn traced(&self, class: u32, unit: Option<usize>) -> impl Iterator<Item = &Exposure> {
        self.tested(class, unit).filter(move |window| window.traces(unit)).map(|window| &window.exposure)
    }

    pub(super) fn tested(&self, class: u32, unit: Option<usize>) -> impl Iterator<Item = &Window> {
        let tested = self.armed(class, unit).count().saturating_sub(tests(class));
        self.armed(class, unit).take(tested)
    }

    fn armed(&self, class: u32, unit: Option<usize>) -> impl Iterator<Item = &Window> {
        let armed = move |window: &&Window| unit.is_none_or(|unit| !is_in(&window.left_out, unit));
        self.classes.get(&class).into_iter().flatten().filter(armed)
    }

    /// Joins windows of one cohort that are alike, but for the last ones: cohorts only ever merge, so this loses nothing, and the
    /// lists stay short.
    pub fn coalesce(&mut self, timeline: &Timeline) {
        for seen in self.classes.values_mut() {
            let last = seen.split_off(seen.len().saturating_sub(LAST));
            seen.dedup_by(|later, earlier| {
                let cohort = |window: &Window| timeline.cohort_of(window.exposure.begin_ns);
                let same = cohort(later) == cohort(earlier)
                    && later.left_out == earlier.left_out
                    && later.witnesses == earlier.witnesses;
                if same {
                    earlier.exposure.end_ns = later.exposure.end_ns;
                    earlier.exposure.seconds += later.exposure.seconds;
                }
                same
            });
            seen.extend(last);
        }
    }
}

/// Whether a unit is one of some, in order.
pub(super) fn is_in(units: &[usize], unit: usize) -> bool {
    units.binary_search(&unit).is_ok()
}

fn tests(class: u32) -> usize {
    if class == LARGE { TESTS_OF_LARGE } else { TESTS }
}

/// Keeps what is in all of the lists, each in order, that it was called with.
pub(super) fn meet<'a>(common: &'a mut Option<Vec<usize>>, with: &[usize]) -> &'a [usize] {
    match common {
        None => *common = Some(with.to_vec()),
        Some(common) => common.retain(|unit| with.binary_search(unit).is_ok()),
    }
    common.as_deref().unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn window(begin_ns: u64, seconds: f64) -> Exposure {
        Exposure { begin_ns, end_ns: begin_ns + 1, seconds }
    }

    pub(in super::super) fn whole(class: u32) -> Sight {
        without(class, &[])
    }

    pub(in super::super) fn without(class: u32, left_out: &[usize]) -> Sight {
        Sight { class, left_out: left_out.to_vec(), witnesses: Vec::new() }
    }

    #[test]
    fn sizes_of_which_nothing_lives_on_are_quiet() {
        let mut exposures = Exposures::default();
        for begin in [1, 2] {
            exposures.enter(&whole(LARGE), window(begin, 0.1));
            assert_eq!(exposures.quiet_sizes(Some(0), [].into_iter()), None, "hardly anything was seen");
        }
        exposures.enter(&whole(LARGE), window(3, 0.1));
        assert_eq!(exposures.quiet_sizes(Some(0), [].into_iter()), Some(u64::MAX));
        let quiet = exposures.quiet_sizes(Some(0), [1000, 1_100_000_000].into_iter()).unwrap();
        let is_quiet = |size| quiet >> size_bucket(size) & 1 != 0;
        assert!(!is_quiet(1000) && !is_quiet(900) && !is_quiet(u64::MAX) && is_quiet(1280) && is_quiet(0));
        assert!(!is_quiet(1024), "its chunk may be as long");
        assert_eq!((size_bucket(1), size_bucket(40), size_bucket(64), size_bucket(u64::MAX)), (0, 1, 4, 63));
    }

    #[test]
    fn the_last_window_tests_those_before() {
        let mut exposures = Exposures::default();
        exposures.enter(&whole(0), window(6, 0.1));
        exposures.enter(&whole(2), window(6, 0.1));
        assert!(exposures.tested_until(0, None) == 6 && exposures.seconds(0, None) == 0.0);
        exposures.enter(&whole(0), window(16, 0.2));
        assert_eq!((exposures.tested_until(0, Some(7)), exposures.tested_until(2, Some(7))), (16, 6));
        assert!((exposures.seconds(0, Some(7)) - 0.1).abs() < 1e-9);
        exposures.forget(0);
        assert!(exposures.tested_until(0, None) == 0 && exposures.seconds(0, None) == 0.0);
    }

    #[test]
    fn memory_of_the_c_allocator_is_tested_more_often() {
        let mut exposures = Exposures::default();
        exposures.enter(&whole(LARGE), window(10, 0.1));
        assert!(exposures.tested_until(LARGE, None) == 0);
        for begin in 2..=3 {
            exposures.enter(&whole(LARGE), window(10 * begin, 0.1));
        }
        assert_eq!(exposures.tested_until(LARGE, None), 20);
        assert!((exposures.seconds(LARGE, None) - 0.1).abs() < 1e-9);
    }

    #[test]
    fn what_a_unit_handed_out_is_tested_by_windows_that_armed_it() {
        let mut exposures = Exposures::default();
        exposures.enter(&without(0, &[4]), window(10, 0.1));
        exposures.enter(&without(0, &[5]), window(20, 0.2));
        exposures.enter(&without(0, &[4]), window(30, 0.4));
        let tested = |unit| exposures.tested_until(0, Some(unit));
        assert_eq!((tested(4), tested(5), tested(6)), (20, 30, 30));
        let seconds = |unit| exposures.seconds(0, Some(unit));
        assert!(seconds(4) == 0.0 && (seconds(5) - 0.1).abs() < 1e-9 && (seconds(6) - 0.3).abs() < 1e-9);
    }

    #[test]
    fn who_was_seen_and_has_none_is_quiet() {
        let mut exposures = Exposures::default();
        let is_quiet = |exposures: &Exposures, unit, living: &Living| exposures.is_quiet(0, unit, living);
        for begin in [10, 20] {
            exposures.enter(&without(0, &[5]), window(begin, 0.1));
        }
        assert!(!is_quiet(&exposures, 4, &Living::default()), "not seen enough");
        exposures.enter(&whole(0), window(30, 0.1));
        assert!(is_quiet(&exposures, 4, &Living::default()) && !is_quiet(&exposures, 5, &Living::default()));
        assert!(!is_quiet(&exposures, 4, &Living::of([(0, Some(4), 31)].into_iter())), "it has one");
    }

    #[test]
    fn windows_of_one_cohort_become_one() {
        let mut timeline = Timeline::new(0);
        timeline.push(10);
        let mut exposures = Exposures::default();
        for (begin, seconds) in [(6, 0.1), (8, 0.2), (14, 0.4), (15, 0.8), (16, 1.6), (17, 3.2)] {
            exposures.enter(&whole(1), window(begin, seconds));
        }
        timeline.push(20);
        exposures.coalesce(&timeline);
        assert_eq!(exposures.classes[&1].len(), 1 + LAST);
        let by_cohort = exposures.by_cohort(1, None, &timeline);
        assert!((by_cohort[0] - 0.3).abs() < 1e-9 && (by_cohort[1] - 2.8).abs() < 1e-9, "{by_cohort:?}");
    }
}
