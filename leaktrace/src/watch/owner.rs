//! Whose the blocks are that outlived their windows, where windows left out some of what may hand them out.

use std::collections::BTreeSet;

use super::{
    exposure::{Exposures, Living, Window, is_in},
    rival::{MANY, NEXT_TO_NONE, Rival, Seen},
};

/// Share of a stack's usual number of survivors below which a window does not count as one that has them.
const FEW: f64 = 1.0 / 3.0;
/// So many it has to have in a window that left out a part: one may have been in the middle of a request, unless it is older now than
/// a sixth of the time.
const FEWEST: u32 = 2;
const OLD: u64 = 6;
/// After so many windows that had both armed a rival is not asked first any more, whatever speaks for it.
const ASKED: u32 = 6;

/// Whose the blocks are that seem to be a stack's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    Stack,
    /// The stack's, or one of these units', in the order in which they are to be asked: those that have as many, then those of which the
    /// least was seen.
    Doubtful(Vec<usize>),
    /// The same, but windows that had the first of them armed show next to nothing so far.
    Unlikely(Vec<usize>),
    /// Some unit's that windows left out: the stack has none where that was armed.
    Another,
}

impl Exposures {
    /// Whose the blocks are that were handed out to one stack by `unit`, and born at these times. They may be those of a unit that some
    /// windows left out, at addresses that the stack had before, unless others that armed it have such blocks too, one of them or all
    /// together; or unless that unit has hardly any in the windows that armed it: who leaks them would. `living`: of all stacks.
    pub fn owner(&self, class: u32, unit: Option<usize>, births: &[u64], living: &Living) -> Owner {
        let Some(seen) = self.classes.get(&class) else { return Owner::Doubtful(Vec::new()) };
        let left_out: BTreeSet<usize> = seen.iter().flat_map(|window| window.left_out.iter().copied()).collect();
        let mut rivals: Vec<Rival> = left_out.into_iter().map(Rival::of).collect();
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
        // Also of the last windows: births of these are among them.
        let traced = seen.iter().filter(|window| window.traces(unit)).map(|window| window.exposure.seconds);
        let rate = births.len() as f64 / traced.sum::<f64>().max(1e-3);
        let since = births.iter().copied().min().unwrap_or(u64::MAX);
        let mut all = Seen { blocks: births.len() as f64, rate, ..Seen::default() };
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
                let own = living.count(class, unit, window.begin_ns, window.end_ns);
                if own as f64 >= NEXT_TO_NONE * rate * window.seconds {
                    for rival in rivals.iter_mut().filter(|rival| !is_in(left_out, rival.unit)) {
                        rival.asked += 1;
                    }
                    continue;
                }
            }
            let is_late = window.end_ns >= since;
            all.seconds += if is_late { window.seconds } else { 0.0 };
            all.moments += u32::from(count > 0);
            let fewest = if left_out.is_empty() { 1 } else { FEWEST };
            let shows_all = count >= fewest && has_them(count, window.seconds);
            let mut out = left_out.iter().peekable();
            rivals.retain_mut(|rival| {
                while out.next_if(|unit| **unit < rival.unit).is_some() {}
                let armed = out.peek().is_none_or(|unit| **unit != rival.unit);
                if armed {
                    rival.enter(count, window.seconds, is_late, window.end_ns < old);
                    rival.asked += u32::from(is_late);
                }
                !(armed && shows_all)
            });
        }
        if rivals.iter().any(|rival| rival.owns_them(&all)) {
            return Owner::Another;
        }
        rivals.retain(|rival| !(rival.count >= FEWEST || rival.is_old) || !has_them(rival.count, rival.seconds));
        rivals.retain(|rival| rival.speaks_against(&all) || !self.has_none(class, rival.unit, rate, since, living));
        // In the order in which they are to be asked.
        let mut rivals: Vec<((bool, bool), f64, Rival)> = rivals
            .into_iter()
            .map(|rival| {
                let seen = self.seconds_armed(class, rival.unit);
                let own = living.count(class, rival.unit, 0, u64::MAX);
                // Of two that have as many one has what the other hands out.
                let has_as_many = own >= FEWEST as usize && own as f64 >= FEW * rate * seen;
                let is_first = |why: bool| rival.asked < ASKED && why;
                ((!is_first(rival.speaks_against(&all)), !is_first(has_as_many)), seen, rival)
            })
            .collect();
        rivals.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let rivals: Vec<Rival> = rivals.into_iter().map(|(_, _, rival)| rival).collect();
        let is_unlikely = rivals.iter().any(|rival| rival.speaks_against(&all));
        let rivals: Vec<usize> = rivals.iter().map(|rival| rival.unit).collect();
        match is_unlikely {
            _ if rivals.is_empty() => Owner::Stack,
            true => Owner::Unlikely(rivals),
            false => Owner::Doubtful(rivals),
        }
    }

    /// Whether `unit` itself has next to none of the blocks that become `rate` more in each second `since` a time, in windows that
    /// should have shown many of them.
    fn has_none(&self, class: u32, unit: usize, rate: f64, since: u64, living: &Living) -> bool {
        let windows = self.tested(class, Some(unit)).map(|window| window.exposure).filter(|of| of.begin_ns >= since);
        let expected = rate * windows.map(|of| of.seconds).sum::<f64>();
        let own = living.count(class, unit, since, self.tested_until(class, Some(unit)));
        expected >= MANY && (own as f64) < NEXT_TO_NONE * expected
    }
}

#[cfg(test)]
mod tests {
    use super::super::exposure::{
        Exposure, Sight,
        tests::{whole, window, without},
    };
    use super::*;

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
        assert_eq!(
            owner(&Living::of(some)),
            Owner::Unlikely(vec![6]),
            "it has some, whose is not known, but none in the last one"
        );
    }

    #[test]
    fn few_blocks_of_one_moment_are_not_in_doubt_for_good() {
        let mut exposures = Exposures::default();
        exposures.enter(&without(0, &[4, 5]), window(10, 0.05));
        let owner = |exposures: &Exposures| exposures.owner(0, Some(6), &[11; 9], &Living::default());
        for begin in [30, 50] {
            exposures.enter(&without(0, &[5]), window(begin, 0.05));
            assert_eq!(owner(&exposures), Owner::Unlikely(vec![4, 5]));
        }
        exposures.enter(&without(0, &[5]), window(70, 0.05));
        assert_eq!(owner(&exposures), Owner::Unlikely(vec![4, 5]), "they may be one request's");
        exposures.enter(&without(0, &[4]), window(90, 0.05));
        assert_eq!(
            exposures.owner(0, Some(6), &[vec![11; 9], vec![91; 5]].concat(), &Living::default()),
            Owner::Another
        );
        let one_is_in_use = [vec![11; 12], vec![71], vec![91; 9]].concat();
        assert_eq!(exposures.owner(0, Some(6), &one_is_in_use, &Living::default()), Owner::Another);
        let some = [vec![11; 9], vec![31; 1], vec![51; 3], vec![71]].concat();
        assert_eq!(exposures.owner(0, Some(6), &some, &Living::default()), Owner::Doubtful(vec![5]), "it has some");
    }

    #[test]
    fn whom_windows_speak_for_is_asked_first() {
        let mut exposures = Exposures::default();
        for begin in [10, 30, 50] {
            exposures.enter(&without(0, &[4, 5, 7]), window(begin, 0.1));
        }
        exposures.enter(&without(0, &[4, 7]), window(70, 0.1));
        exposures.enter(&without(0, &[4, 6]), window(80, 0.1));
        let births: Vec<u64> = [11, 31, 51].into_iter().flat_map(|birth| [birth; 20]).collect();
        let owner = exposures.owner(0, Some(6), &births, &Living::default());
        assert_eq!(owner, Owner::Unlikely(vec![5, 4, 7]), "next to none with the first, the others were hardly seen");
        let own = Living::of([(0, Some(7), 81); 20].into_iter());
        let owner = exposures.owner(0, Some(6), &births, &own);
        assert_eq!(owner, Owner::Unlikely(vec![5, 7, 4]), "one has as many");
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
}
