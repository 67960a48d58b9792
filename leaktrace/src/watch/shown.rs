//! What windows have shown of the growth of each class.

use super::{
    classes::{Found, LARGE},
    exposure::{Exposure, Living, Sight, meet},
    units::{Growing, Units},
};

/// Blocks that windows should have shown of a class before it is asked whether they did, and the share below which they did not; of
/// windows that leave out a part (what leaks may be left out of most of them); and how many blocks are remembered.
const ENOUGH_SHOWN: f64 = 8.0;
const FAR_FEWER: f64 = 0.25;
const ENOUGH_SHOWN_OF_PARTS: f64 = 150.0;
const FAR_FEWER_OF_PARTS: f64 = 0.08;
const MOST_SHOWN: f64 = 200.0;
/// Survivors of a class, of windows of the later half of the time, that suffice for a verdict on most that ask for it: a verdict asks
/// for the later half by itself.
const VERDICT: f64 = 40.0;
/// And of so many windows.
const MOMENTS: usize = 5;
/// Windows below which a class is new.
const FIRST_MOMENTS: usize = 2;
/// What a class is worth at least of which all is in doubt.
const DOUBTED: f64 = 2.0;

/// What some windows have seen of a class's growth.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Seen {
    /// Blocks by which it should have grown in them, by its count of used blocks; and those that outlived their window.
    expected: f64,
    found: f64,
    /// Of these, those of which it is known who asked for them.
    named: f64,
}

impl Seen {
    fn enter(&mut self, expected: f64, found: f64, named: f64) {
        let kept = if self.expected + expected > MOST_SHOWN { 0.5 } else { 1.0 };
        self.expected = kept * (self.expected + expected);
        self.found = kept * (self.found + found);
        self.named = kept * (self.named + named);
    }

    /// Which part of the growth was seen; all of it, as long as little is known.
    fn share(&self) -> f64 {
        ((self.found + 1.0) / (self.expected + 1.0)).min(1.0)
    }
}

/// What windows in which all of a class was armed have shown of its growth.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Shown {
    seen: Seen,
    /// By window, of the later half of the time.
    finds: Vec<Find>,
    /// What outlived any window and lives still.
    alive: f64,
    /// Some windows left out nothing: only these count.
    whole: bool,
    /// By windows that no request notices and that left out a part.
    gently: Seen,
    /// Units that no window has armed; `None` before the first.
    unseen: Option<Vec<usize>>,
    /// By unit: for how long it had been armed when it turned out that some other unit serves the class.
    pub(super) since: Vec<f64>,
}

/// What outlived a window, and lives still: of many that are in the middle of something when a window closes the next look finds
/// none.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Find {
    /// Seconds since the attach.
    at: f64,
    begin_ns: u64,
    end_ns: u64,
    blocks: f64,
    /// No request noticed the window, and it left out a part: what is hot is left out of each.
    unproven: bool,
}

impl Shown {
    /// How much more of it is worth `now`: first enough of one class for a verdict, then the others. Windows that no request notices
    /// show what may leak; the others, whether it is what seemed to.
    fn interest(&self, now: f64, unnoticed: bool) -> f64 {
        let late = self.late(now, unnoticed);
        let turn = match late.iter().sum::<f64>() {
            _ if self.alive <= 0.0 => 1.0,
            // The more there is of one, the sooner it is enough: many that have a little of each are not.
            _ if !is_enough(&late) => 2.0 + 18.0 * (self.alive / VERDICT).min(1.0),
            found if found < 3.0 * VERDICT => 0.05,
            _ => 0.005,
        };
        turn * self.seen.share()
    }

    /// Whether windows in which all was armed should not have shown much of it yet, or show a good part of it but not enough.
    fn is_unfinished(&self, now: f64) -> bool {
        let shows_some = self.alive > 0.0 && self.seen.share() >= FAR_FEWER;
        self.seen.expected < ENOUGH_SHOWN || shows_some && !is_enough(&self.late(now, false))
    }

    /// Whether windows that no request notices show next to nothing of it: what is hot is left out of each.
    fn is_gently_in_vain(&self) -> bool {
        self.gently.expected > ENOUGH_SHOWN_OF_PARTS && self.gently.share() < FAR_FEWER_OF_PARTS
    }

    /// What each window of the later half of the time has shown that had anything.
    fn late(&self, now: f64, unnoticed: bool) -> Vec<f64> {
        let late = self.finds.iter().filter(|find| find.at >= now / 2.0 && (unnoticed || !find.unproven));
        late.map(|find| find.blocks).filter(|blocks| *blocks > 0.0).collect()
    }
}

/// Whether so many blocks of each window suffice for a verdict: much of one moment does not.
fn is_enough(late: &[f64]) -> bool {
    late.iter().sum::<f64>() >= VERDICT && late.len() >= MOMENTS
}

impl Units {
    /// Enters what a window, `at` so many seconds since the attach, showed of the classes that it saw: what of each
    /// outlived it; and whether it was one that no request notices. Where far fewer did than the class grows by, others serve it than those that were seen to: a leak may have begun
    /// since. Gives the classes of which that is so: what was seen of them is not what it seemed.
    pub fn enter_survivors(
        &mut self,
        growing: &[Growing],
        sights: &[Sight],
        (at, window): (f64, Exposure),
        unnoticed: bool,
        found: impl Fn(u32) -> Found,
    ) -> Vec<u32> {
        let mut mistaken = Vec::new();
        self.now = at;
        for of in growing {
            let Some(sight) = sights.iter().find(|sight| sight.class == of.class) else { continue };
            let is_whole = sight.left_out.is_empty();
            let shown = self.shown.entry(of.class).or_default();
            shown.finds.retain(|find| find.at >= at / 2.0);
            let found = found(of.class);
            let blocks = found.blocks as f64;
            let unproven = unnoticed && !is_whole;
            shown.finds.push(Find { at, begin_ns: window.begin_ns, end_ns: window.end_ns, blocks, unproven });
            shown.alive += blocks;
            let expected = of.blocks_per_second * window.seconds;
            let (grown, named) = (found.grown(of.class), found.named(of.class));
            // What is hot is left out of each.
            if unproven {
                shown.gently.enter(expected, grown, named);
                continue;
            }
            let in_turn = meet(&mut shown.unseen, &sight.left_out).is_empty();
            if is_whole && !shown.whole {
                (shown.whole, shown.seen) = (true, Seen::default());
            }
            // A part shows nothing that the whole does not show better.
            if shown.whole && !is_whole {
                continue;
            }
            let (enough, far_fewer) =
                if is_whole { (ENOUGH_SHOWN, FAR_FEWER) } else { (ENOUGH_SHOWN_OF_PARTS, FAR_FEWER_OF_PARTS) };
            shown.seen.enter(expected, grown, named);
            // Of the C allocator all is armed: what seems to grow there is not its.
            if of.class != LARGE && in_turn && shown.seen.expected > enough && shown.seen.share() < far_fewer {
                *shown = Shown { since: self.all.iter().map(|unit| unit.seconds).collect(), ..Shown::default() };
                mistaken.push(of.class);
            }
        }
        mistaken
    }

    /// Takes those for dead that outlived their window and are not among the `living`.
    pub fn recount(&mut self, living: &Living) {
        for (&class, shown) in &mut self.shown {
            shown.finds.iter_mut().for_each(|find| find.blocks = 0.0);
            shown.alive = 0.0;
            for &birth in living.births(class) {
                shown.alive += 1.0;
                let after = shown.finds.partition_point(|find| find.begin_ns <= birth);
                if let Some(find) = after.checked_sub(1).map(|index| &mut shown.finds[index])
                    && birth < find.end_ns
                {
                    find.blocks += 1.0;
                }
            }
        }
    }

    /// Which part of the growth of the `growing` classes windows have shown, 0 to 1.
    pub fn explained(&self, growing: &[Growing]) -> f64 {
        let seen = |of: &Growing| {
            let seen = self.shown.get(&of.class).map(|shown| shown.seen).filter(|seen| seen.expected > 0.0);
            of.blocks_per_second * seen.map_or(0.0, |seen| (seen.named / seen.expected).min(1.0))
        };
        let all: f64 = growing.iter().map(|of| of.blocks_per_second).sum();
        if all > 0.0 { growing.iter().map(seen).sum::<f64>() / all } else { 0.0 }
    }

    /// Whether hardly a window has seen a class of late.
    pub(super) fn is_new(&self, class: u32) -> bool {
        self.shown.get(&class).is_none_or(|shown| shown.finds.len() < FIRST_MOMENTS)
    }

    /// Whether a class that can be seen whole comes before parts of others: it may be the one that shows all, or does, but not enough
    /// for a verdict.
    pub(super) fn is_unfinished(&self, class: u32) -> bool {
        self.shown.get(&class).is_none_or(|shown| shown.is_unfinished(self.now))
    }

    /// Whether windows that no request notices show next to nothing of a class.
    pub(super) fn is_gently_in_vain(&self, class: u32) -> bool {
        self.shown.get(&class).is_some_and(Shown::is_gently_in_vain)
    }

    /// Whether a block of a class has outlived a window.
    pub(super) fn survived(&self, class: u32) -> bool {
        self.shown.get(&class).is_some_and(|shown| shown.alive > 0.0)
    }

    pub(super) fn interest(&self, class: u32, unnoticed: bool) -> f64 {
        let shown = self.shown.get(&class);
        // What is in doubt is not enough, however much there is.
        let doubted = self.doubts.get(&class).map_or(0.0, |doubt| DOUBTED * doubt.share);
        shown.map_or(1.0, |shown| shown.interest(self.now, unnoticed).max(doubted * shown.seen.share()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::units::tests::{GENTLE, HIT, growing, units};
    use super::*;

    fn blocks(blocks: u64) -> Found {
        Found { blocks, bytes: 512 * blocks, named: blocks }
    }

    /// A window at a time since the attach, and for how many seconds it counts.
    fn at(at: f64, seconds: f64) -> (f64, Exposure) {
        let begin_ns = (at * 1e9) as u64;
        (at, Exposure { begin_ns, end_ns: begin_ns + (seconds * 1e9) as u64, seconds })
    }

    #[test]
    fn where_little_survives_of_what_grows_others_are_asked() {
        let mut units = units(&[(Some(2e4), 1, true), (Some(2e4), 2, false)]);
        let growing = growing(&[0]);
        let serving =
            |units: &Units| units.choose(&growing, 1.0, HIT, GENTLE, &mut fastrand::Rng::with_seed(1)).unwrap().units;
        assert_eq!(serving(&units), [0]);
        let whole = [Sight { class: 0, left_out: vec![], witnesses: vec![] }];
        assert!(units.enter_survivors(&growing, &whole, at(1.0, 0.1), false, |_| blocks(9)).is_empty());
        assert!((units.explained(&growing) - 0.9).abs() < 1e-9);
        assert_eq!(units.enter_survivors(&growing, &whole, at(2.0, 0.4), false, |_| blocks(0)), [0], "9 of 50");
        assert_eq!(serving(&units), [0, 1]);
        assert!(units.explained(&growing) < 1e-9);
    }

    #[test]
    fn what_was_seen_enough_of_is_looked_at_again_when_that_is_long_ago() {
        let mut units = units(&[(Some(2e4), 1, true), (Some(2e4), 2, true)]);
        let growing = growing(&[0, 1]);
        let whole = [Sight { class: 0, left_out: vec![], witnesses: vec![] }];
        assert!((units.interest(0, false) - 1.0).abs() < 1e-9);
        units.enter_survivors(&growing, &whole, at(20.0, 0.1), false, |_| blocks(9));
        assert!(units.interest(0, false) > 3.0, "there is something");
        units.enter_survivors(&growing, &whole, at(21.0, 0.3), false, |_| blocks(30));
        assert!(units.interest(0, false) > 3.0, "much, but of two moments");
        for second in 22..=24 {
            units.enter_survivors(&growing, &whole, at(f64::from(second), 0.03), false, |_| blocks(3));
        }
        assert!(units.interest(0, false) < 0.1, "enough for now");
        let other = [Sight { class: 1, left_out: vec![], witnesses: vec![] }];
        units.enter_survivors(&growing, &other, at(39.0, 0.1), false, |_| blocks(9));
        assert!(units.interest(0, false) < 0.1, "it is of the later half");
        units.enter_survivors(&growing, &other, at(49.0, 0.1), false, |_| blocks(9));
        assert!(units.interest(0, false) > 19.0, "there was much of it");
    }

    #[test]
    fn what_is_seen_whole_by_the_way_is_enough_some_time() {
        let mut units = units(&[(Some(2e3), 1, true)]);
        let (growing, whole) = (growing(&[0]), [Sight { class: 0, left_out: vec![], witnesses: vec![] }]);
        assert!(units.is_unfinished(0), "nothing is known of it");
        for second in 1..=12 {
            units.enter_survivors(&growing, &whole, at(f64::from(second), 0.1), true, |_| blocks(9));
            assert_eq!(units.is_unfinished(0), second < 8, "no request noticed it: {second}");
        }
        units.recount(&Living::default());
        assert!(!units.is_unfinished(0), "it should have shown much, and shows nothing");
    }

    #[test]
    fn only_what_lives_still_is_something() {
        let mut units = units(&[(Some(2e4), 1, true)]);
        let (growing, whole) = (growing(&[0]), [Sight { class: 0, left_out: vec![], witnesses: vec![] }]);
        for second in 1..=8 {
            units.enter_survivors(&growing, &whole, at(f64::from(second), 0.5), false, |_| blocks(30));
        }
        assert!(units.interest(0, false) < 0.1 && units.survived(0), "enough");
        let births = [(0, Some(0), 7_100_000_000), (0, Some(0), 7_600_000_000), (0, Some(0), 8_100_000_000)];
        units.recount(&Living::of(births.into_iter()));
        let finds = &units.shown[&0].finds;
        assert_eq!(
            finds.iter().map(|find| find.blocks as u32).collect::<Vec<_>>(),
            [0, 0, 0, 1, 1],
            "of the later half"
        );
        assert!((2.0..4.0).contains(&units.interest(0, false)), "most were dead at the next look");
        units.recount(&Living::default());
        assert!(!units.survived(0));
    }

    #[test]
    fn blocks_of_the_c_allocator_count_by_their_bytes() {
        let mut units = units(&[(Some(2e4), 1 << LARGE, true)]);
        units.all[0].is_c = true;
        // By 100 KiB a second.
        let (growing, whole) = (growing(&[LARGE]), [Sight { class: LARGE, left_out: vec![], witnesses: vec![] }]);
        units.enter_survivors(&growing, &whole, at(1.0, 0.5), false, |_| Found {
            blocks: 1,
            bytes: 40 << 10,
            named: 1,
        });
        assert!((units.explained(&growing) - 0.8).abs() < 1e-9);
    }

    #[test]
    fn parts_show_little_by_nature_and_the_whole_shows_it_better() {
        let mut units = units(&[(Some(2e4), 1, true), (Some(2e4), 1, true)]);
        let growing = growing(&[0]);
        let sight = |left_out: &[usize]| [Sight { class: 0, left_out: left_out.to_vec(), witnesses: vec![] }];
        assert!(
            units.enter_survivors(&growing, &sight(&[0]), at(1.0, 1.0), false, |_| blocks(0)).is_empty(),
            "it may be the first's"
        );
        assert!(units.enter_survivors(&growing, &sight(&[1]), at(2.0, 0.4), false, |_| blocks(40)).is_empty());
        assert!((units.explained(&growing) - 40.0 / 140.0).abs() < 1e-9);
        units.enter_survivors(&growing, &sight(&[]), at(3.0, 0.1), false, |_| blocks(9));
        units.enter_survivors(&growing, &sight(&[1]), at(2.0, 0.4), false, |_| blocks(0));
        assert!(units.enter_survivors(&growing, &sight(&[1]), at(2.0, 30.0), true, |_| blocks(0)).is_empty());
        assert!((units.explained(&growing) - 0.9).abs() < 1e-9);
    }
}
