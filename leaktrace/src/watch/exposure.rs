//! For how long each size class was seen, and when.

use std::collections::{BTreeSet, HashMap};

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
/// Share of a stack's usual number of survivors below which a window does not count as one that has them.
const FEW: f64 = 1.0 / 3.0;
/// So many it has to have in a window that left out a part: one may have been in the middle of a request, unless it is older now than
/// a sixth of the time.
const FEWEST: u32 = 2;
const OLD: u64 = 6;
/// So many windows that should have shown so many blocks, and show less than this part of them: then they are not the stack's.
const MANY_WINDOWS: u32 = 3;
const MANY: f64 = 12.0;
const NEXT_TO_NONE: f64 = 0.1;
/// Windows that a unit without blocks was armed in before it is quiet.
const ENOUGH_WINDOWS: usize = 3;
/// So many are expected where none speaks against it.
const ANYTHING: f64 = 4.0;

/// Whose the blocks are that seem to be a stack's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    Stack,
    /// One of these units', or the stack's.
    Doubtful(Vec<usize>),
    /// Some unit's that windows left out: the stack has none where that was armed.
    Another,
}

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

    fn count(&self, class: u32, unit: usize, since: u64, until: u64) -> usize {
        let births = self.0.get(&(class, unit)).into_iter().flatten();
        births.filter(|&&birth| (since..until).contains(&birth)).count()
    }
}

/// A unit that some windows left out, and what those show that armed it.
struct Rival {
    unit: usize,
    windows: u32,
    count: u32,
    seconds: f64,
    is_old: bool,
}

impl Rival {
    fn new(unit: usize) -> Self {
        Self { unit, windows: 0, count: 0, seconds: 0.0, is_old: false }
    }

    fn enter(&mut self, count: u32, seconds: f64, is_old: bool) {
        self.windows += 1;
        self.count += count;
        self.seconds += seconds;
        self.is_old |= count > 0 && is_old;
    }
}

/// A window that saw a class.
#[derive(Debug, Clone, PartialEq)]
struct Window {
    exposure: Exposure,
    left_out: Vec<usize>,
    witnesses: Vec<usize>,
}

impl Window {
    /// Whether it tells of what a unit hands out who asked for it.
    fn traces(&self, unit: Option<usize>) -> bool {
        unit.is_none_or(|unit| !is_in(&self.left_out, unit) && !is_in(&self.witnesses, unit))
    }
}

/// Windows by the class that they saw, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exposures {
    classes: HashMap<u32, Vec<Window>>,
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

    /// Whose the blocks are that were handed out to one stack by `unit`, and born at these times. They may be those of a unit that some
    /// windows left out, at addresses that the stack had before, unless others that armed it have such blocks too, one of them or all
    /// together; or unless that unit has hardly any in the windows that armed it: who leaks them would. `living`: of all stacks.
    pub fn owner(&self, class: u32, unit: Option<usize>, births: &[u64], living: &Living) -> Owner {
        let Some(seen) = self.classes.get(&class) else { return Owner::Doubtful(Vec::new()) };
        let left_out: BTreeSet<usize> = seen.iter().flat_map(|window| window.left_out.iter().copied()).collect();
        let mut rivals: Vec<Rival> = left_out.into_iter().map(Rival::new).collect();
        if rivals.is_empty() {
            return Owner::Stack;
        }
        let mut counts = vec![0_u32; seen.len()];
        for birth in births {
            let after = seen.partition_point(|window| window.exposure.begin_ns <= *birth);
            if let Some(count) = after.checked_sub(1).and_then(|index| counts.get_mut(index)) {
                *count += 1;
            }
        }
        let rate = births.len() as f64 / self.seconds(class, unit).max(1e-3);
        let has_them = |count: u32, seconds: f64| f64::from(count) >= FEW * rate * seconds;
        // What has grown old since was not in the middle of a request.
        let (first, last) =
            (seen.first().map_or(0, |seen| seen.exposure.begin_ns), seen.last().map_or(0, |seen| seen.exposure.end_ns));
        let old = last - last.saturating_sub(first) / OLD;
        for (Window { exposure: window, left_out, witnesses }, count) in seen.iter().zip(counts) {
            if unit.is_some_and(|unit| is_in(left_out, unit)) {
                continue;
            }
            // Of a witness it is known how many there are, not whose: where there are next to none, the stack has none.
            if let Some(unit) = unit.filter(|&unit| is_in(witnesses, unit)) {
                let all = living.count(class, unit, window.begin_ns, window.end_ns);
                if all as f64 >= NEXT_TO_NONE * rate * window.seconds {
                    continue;
                }
            }
            let fewest = if left_out.is_empty() { 1 } else { FEWEST };
            let shows_all = count >= fewest && has_them(count, window.seconds);
            let mut out = left_out.iter().peekable();
            rivals.retain_mut(|rival| {
                while out.next_if(|unit| **unit < rival.unit).is_some() {}
                let armed = out.peek().is_none_or(|unit| **unit != rival.unit);
                if armed {
                    rival.enter(count, window.seconds, window.end_ns < old);
                }
                !(armed && shows_all)
            });
        }
        let is_the_rivals = |rival: &Rival| {
            let expected = rate * rival.seconds;
            rival.windows >= MANY_WINDOWS && expected >= MANY && f64::from(rival.count) < NEXT_TO_NONE * expected
        };
        if rivals.iter().any(is_the_rivals) {
            return Owner::Another;
        }
        rivals.retain(|rival| !(rival.count >= FEWEST || rival.is_old) || !has_them(rival.count, rival.seconds));
        let since = births.iter().copied().min().unwrap_or(u64::MAX);
        rivals.retain(|rival| {
            let expected = rate * rival.seconds;
            let speaks_against = expected >= ANYTHING && f64::from(rival.count) < NEXT_TO_NONE * expected;
            speaks_against || !self.has_none(class, rival.unit, rate, since, living)
        });
        if rivals.is_empty() { Owner::Stack } else { Owner::Doubtful(rivals.iter().map(|rival| rival.unit).collect()) }
    }

    /// Whether `unit` itself has next to none of the blocks that become `rate` more in each second `since` a time, in windows that
    /// should have shown many of them.
    fn has_none(&self, class: u32, unit: usize, rate: f64, since: u64, living: &Living) -> bool {
        let windows = self.tested(class, Some(unit)).map(|window| window.exposure).filter(|of| of.begin_ns >= since);
        let expected = rate * windows.map(|of| of.seconds).sum::<f64>();
        let own = living.count(class, unit, since, self.tested_until(class, Some(unit)));
        expected >= MANY && (own as f64) < NEXT_TO_NONE * expected
    }

    /// Whether a unit was seen in windows and has no blocks of a class. What it is from then on asked for does not have to be told
    /// from each other, until it has one.
    pub fn is_quiet(&self, class: u32, unit: usize, living: &Living) -> bool {
        self.armed(class, Some(unit)).nth(ENOUGH_WINDOWS - 1).is_some() && living.count(class, unit, 0, u64::MAX) == 0
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

    fn tested(&self, class: u32, unit: Option<usize>) -> impl Iterator<Item = &Window> {
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

fn is_in(left_out: &[usize], unit: usize) -> bool {
    left_out.binary_search(&unit).is_ok()
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
mod tests {
    use super::*;

    fn window(begin_ns: u64, seconds: f64) -> Exposure {
        Exposure { begin_ns, end_ns: begin_ns + 1, seconds }
    }

    fn whole(class: u32) -> Sight {
        without(class, &[])
    }

    fn without(class: u32, left_out: &[usize]) -> Sight {
        Sight { class, left_out: left_out.to_vec(), witnesses: Vec::new() }
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
    fn what_only_shows_while_another_is_left_out_may_be_the_others() {
        let mut exposures = Exposures::default();
        for begin in [10, 30, 50] {
            exposures.enter(&without(0, &[4]), window(begin, 0.1));
            exposures.enter(&without(0, &[5]), window(begin + 10, 0.1));
        }
        let owner = |births: &[u64]| exposures.owner(0, Some(6), births, &Living::default());
        assert_eq!(owner(&[11, 11, 31, 31, 52]), Owner::Doubtful(vec![4]));
        assert_eq!(owner(&[11, 11, 22, 22, 31, 31, 41, 52]), Owner::Stack);
        assert_eq!(owner(&[]), Owner::Doubtful(vec![4, 5]));
        assert_eq!(exposures.owner(1, None, &[11], &Living::default()), Owner::Doubtful(vec![]));
        let births: Vec<u64> = [vec![11; 20], vec![21], vec![31; 20], vec![51; 20]].concat();
        assert_eq!(owner(&births), Owner::Another, "one is none, beside so many");
    }

    #[test]
    fn one_that_has_grown_old_is_enough_where_there_are_few() {
        let mut exposures = Exposures::default();
        for begin in 1..=60 {
            exposures.enter(&without(0, &[4, 5]), window(10 * begin, 3.0));
            if begin % 20 == 0 {
                exposures.enter(&without(0, &[if begin == 40 { 4 } else { 5 }]), window(10 * begin + 5, 0.3));
            }
        }
        let seldom: Vec<u64> = (1..=60).step_by(2).map(|begin| 10 * begin + 1).collect();
        let with = |births: &[u64]| {
            let mut all = [seldom.clone(), births.to_vec()].concat();
            all.sort_unstable();
            exposures.owner(0, Some(6), &all, &Living::default()) == Owner::Stack
        };
        assert!(!with(&[]) && !with(&[206]), "with the one, not with the other");
        assert!(with(&[206, 406]));
        assert!(!with(&[406, 606]), "what was born last may not stay");
        assert!(with(&[406, 606, 606]));
    }

    #[test]
    fn who_has_no_such_blocks_itself_does_not_leak_them() {
        let mut exposures = Exposures::default();
        for begin in [10, 30, 50] {
            // Too hot to be armed together.
            exposures.enter(&without(0, &[4]), window(begin, 0.1));
            exposures.enter(&without(0, &[6]), window(begin + 10, 0.1));
        }
        let births: Vec<u64> = [11, 31, 51].into_iter().flat_map(|birth| [birth; 20]).collect();
        let owner = |living: &[(u32, Option<usize>, u64)]| {
            exposures.owner(0, Some(6), &births, &Living::of(living.iter().copied()))
        };
        let own = [(0, Some(6), 11); 60];
        assert_eq!(owner(&own), Owner::Stack);
        assert_eq!(owner(&[(0, Some(4), 21); 20]), Owner::Doubtful(vec![4]), "it has as many");
        assert_eq!(owner(&[(7, Some(4), 21); 20]), Owner::Stack, "of another class");
        let late: Vec<u64> = vec![51; 20];
        let only_late = exposures.owner(0, Some(6), &late, &Living::default());
        assert_eq!(only_late, Owner::Doubtful(vec![4]), "no window has tested it since");
    }

    #[test]
    fn of_a_witness_it_is_known_what_it_hands_out_not_to_whom() {
        let mut exposures = Exposures::default();
        let witness = |unit| Sight { witnesses: vec![unit], ..whole(0) };
        exposures.enter(&without(0, &[6]), window(10, 0.1));
        exposures.enter(&without(0, &[6]), window(20, 0.1));
        for begin in [30, 50, 70] {
            exposures.enter(&witness(4), window(begin, 0.1));
        }
        exposures.enter(&whole(0), window(90, 0.1));
        let seconds = |unit| exposures.seconds(0, Some(unit));
        assert!((seconds(4) - 0.2).abs() < 1e-9 && (seconds(6) - 0.3).abs() < 1e-9);
        assert_eq!(exposures.tested_until(0, Some(4)), 90, "but its addresses are seen to");
        let births: Vec<u64> = [11, 21].into_iter().flat_map(|birth| [birth; 20]).collect();
        let owner = |living: &Living| exposures.owner(0, Some(4), &births, living);
        assert_eq!(owner(&Living::default()), Owner::Another, "it had none in windows that armed the other too");
        let some = [30, 50, 70].into_iter().flat_map(|birth| [(0, Some(4), birth); 20]);
        assert_eq!(owner(&Living::of(some)), Owner::Doubtful(vec![6]), "it has some: whose is not known");
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
    fn a_window_that_was_open_before_does_not_clear_a_rival() {
        let mut exposures = Exposures::default();
        exposures.enter(&without(0, &[4]), window(10, 0.1));
        exposures.enter(&without(0, &[6]), Exposure { begin_ns: 20, end_ns: 60, seconds: 0.2 });
        exposures.enter(&without(0, &[4]), window(45, 0.1));
        exposures.enter(&without(0, &[6]), window(70, 0.2));
        exposures.enter(&without(0, &[4]), window(90, 0.1));
        let owner = exposures.owner(0, Some(6), &[46; 20], &Living::default());
        assert_eq!(owner, Owner::Doubtful(vec![4]), "it saw a part of the time in which there are such blocks");
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
