//! What the next window arms: all that serves a class that grows, or sites of which too little is known.

use super::{
    budget::NOTICED_SHARE,
    classes::LARGE,
    exposure::Sight,
    latency::noticing,
    parts::MORE_RIVALS,
    units::{ENOUGH_SIGHTINGS, Gentle, Growing, LEAST, Selection, Units},
};

/// Slowdown, as a share of the limit, up to which further classes are added to a window.
const GENTLE: f64 = 0.1;
/// What a part of a class is worth while another class shows survivors that is seen whole: these need no further proof.
const BESIDE_WHOLE: f64 = 0.15;
/// What a class is worth that can be seen whole and hardly was yet: as much as one that shows much.
const NEW: f64 = 20.0;
/// How often the class that a window is for is drawn without regard to what each costs and shows.
const ANY: f64 = 0.2;
/// How often it is any class's turn while there is one that comes first.
const OTHERS: f64 = 0.05;
/// How often a window is for what is not known yet, while something is; and while that is seen in parts only.
const CURIOUS: f64 = 0.15;
const CURIOUS_OF_PARTS: f64 = 0.1;
/// Share of all growth below which a class has to wait.
const MINOR: f64 = 0.05;
/// Part of the limit up to which a class is seen whole. What turns out to cost more than the limit is cut short.
pub(super) const WHOLE: f64 = 0.9;
/// Part of the limit that scouts of known cost may take.
const SCOUTS_SHARE: f64 = 0.5;

impl Units {
    /// Chooses what a window arms so that the target's work takes at most `1 + limit` times as long: all that may hand out blocks
    /// of one of the `growing` classes, of more where that costs little, of one that costs too much all but some that have their turn
    /// in other windows; or, while that costs too much because it is not known which sites serve a class, some of these sites to
    /// learn it. `hit_seconds` is the cost of a hit; what takes long to learn is learned in `gentle` windows where that can be. `None`
    /// where there is nothing to look for, or all of it costs too much.
    pub fn choose(
        &self,
        growing: &[Growing],
        limit: f64,
        hit_seconds: f64,
        gentle: Gentle,
        random: &mut fastrand::Rng,
    ) -> Option<Selection> {
        let known = |of| Some((of, self.known_cost(of, hit_seconds)?));
        let is_whole = |(of, cost): &(&Growing, f64)| *cost <= self.room(of, limit);
        let whole: Vec<(&Growing, f64)> = growing.iter().filter_map(known).filter(is_whole).collect();
        let in_parts = self.is_only_in_parts(growing, limit, hit_seconds);
        // The C allocator has no parts.
        let seen_in_parts = |of: &&Growing| in_parts && of.class != LARGE && !self.is_too_hot(of, limit, hit_seconds);
        let mut ready = whole.clone();
        ready.extend(growing.iter().filter(seen_in_parts).filter_map(known).filter(|of| !is_whole(of)));
        let unknown = growing.iter().any(|of| is_much(of, growing) && self.known_cost(of, hit_seconds).is_none());
        let chance = if whole.is_empty() { CURIOUS_OF_PARTS } else { CURIOUS };
        let curious = unknown || whole.len() < growing.len() && (ready.is_empty() || random.f64() < chance);
        let scouts = if curious { self.scouting(growing, &whole, limit, hit_seconds, gentle, random) } else { None };
        scouts.or_else(|| self.class_window(growing, &ready, limit, hit_seconds, gentle, random))
    }

    /// Seconds of hits per second of the target's own work, of all that may serve a class; `None` where a part was never armed.
    pub(super) fn known_cost(&self, of: &Growing, hit_seconds: f64) -> Option<f64> {
        let units = self.serving(&[of]);
        units.iter().all(|&index| self.get(index).rate().is_some()).then(|| self.cost(&units, hit_seconds))
    }

    /// Slowdown up to which a class is seen whole. Of the C allocator's blocks there is nothing less: they may cost as much as a doubt.
    pub(super) fn room(&self, of: &Growing, limit: f64) -> f64 {
        WHOLE * limit * if of.class == LARGE { self.bearing.min(MORE_RIVALS) } else { 1.0 }
    }

    /// Whether there is a class that comes first: one that can be seen whole, is no small part of what grows, and has more to show.
    pub(super) fn has_first(&self, growing: &[Growing], limit: f64, hit_seconds: f64) -> bool {
        let is_whole = |of: &Growing| self.known_cost(of, hit_seconds).is_some_and(|cost| cost <= self.room(of, limit));
        growing.iter().any(|of| is_much(of, growing) && self.is_unfinished(of.class) && is_whole(of))
    }

    /// A window for classes of known cost.
    fn class_window(
        &self,
        growing: &[Growing],
        ready: &[(&Growing, f64)],
        limit: f64,
        hit_seconds: f64,
        gentle: Gentle,
        random: &mut fastrand::Rng,
    ) -> Option<Selection> {
        let all: f64 = growing.iter().map(|of| of.blocks_per_second).sum();
        // In random order, by weight (Efraimidis and Spirakis, 2006).
        let mut order: Vec<(&Growing, Option<Selection>, (bool, f64))> = Vec::new();
        let dear = |of: &Growing, cost: f64| cost > self.room(of, limit);
        let beside = ready.iter().any(|&(of, cost)| !dear(of, cost) && self.survived(of.class));
        let any = random.f64() < ANY;
        let others = random.f64() < OTHERS;
        for &(of, cost) in ready {
            let part = dear(of, cost).then(|| self.part(of, limit, hit_seconds, gentle));
            let (expected, shown) = match &part {
                Some((selection, shown)) => (selection.expected, if beside { BESIDE_WHOLE * shown } else { *shown }),
                None => (self.expected(&self.serving(&[of]), hit_seconds, gentle), 1.0),
            };
            // What a second costs: CPU time, or the notice of requests, whichever bounds such windows.
            let price = expected.max(noticing(expected) / NOTICED_SHARE) + LEAST * limit;
            let interest = if part.is_none() && self.is_new(of.class) { NEW } else { self.interest(of.class, false) };
            let worth = shown * interest * of.blocks_per_second / all / price;
            let weight = if any { 1.0 } else { worth };
            let first = !others && part.is_none() && is_much(of, growing) && self.is_unfinished(of.class);
            order.push((of, part.map(|(selection, _)| selection), (first, random.f64().powf(1.0 / weight.max(1e-9)))));
        }
        order.sort_by(|(_, _, a), (_, _, b)| b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)));
        if let Some((_, part @ Some(_), _)) = order.first_mut() {
            return part.take();
        }
        let mut selection = Selection::of(Vec::new(), 0.0, Vec::new(), Vec::new());
        selection.is_first = order.first().is_some_and(|(_, _, (first, _))| *first);
        let mut chosen: Vec<&Growing> = Vec::new();
        for (of, _, _) in order {
            chosen.push(of);
            let units = self.serving(&chosen);
            let cost = self.expected(&units, hit_seconds, gentle);
            if chosen.len() == 1 || cost <= (GENTLE * limit).max(selection.expected) {
                selection.units = units;
                selection.expected = cost;
            } else {
                chosen.pop();
            }
        }
        let witnesses = self.quiet(&selection.units);
        let complete = growing.iter().filter(|of| self.is_complete(&selection, of));
        selection.sights = complete.map(|of| Sight::new(of.class, Vec::new(), &witnesses)).collect();
        selection.witnesses = witnesses;
        (!chosen.is_empty()).then_some(selection)
    }

    /// A window that is to show what sites cost and which classes they serve: of those that may serve the class that grows the
    /// most and is not ready, one with sites that were never armed before others. First these sites, a few at a time; then what was
    /// armed for the shortest time.
    fn scouting(
        &self,
        growing: &[Growing],
        ready: &[(&Growing, f64)],
        limit: f64,
        hit_seconds: f64,
        gentle: Gentle,
        random: &mut fastrand::Rng,
    ) -> Option<Selection> {
        let in_parts = self.is_only_in_parts(growing, limit, hit_seconds);
        let waiting = growing.iter().filter(|of| ready.iter().all(|(other, _)| other.class != of.class));
        let mut waiting: Vec<&Growing> = waiting.collect();
        waiting.sort_by(|a, b| {
            let later = |of: &Growing| (!is_much(of, growing), self.known_cost(of, hit_seconds).is_some());
            later(a).cmp(&later(b)).then(b.blocks_per_second.total_cmp(&a.blocks_per_second))
        });
        waiting.into_iter().find_map(|of| {
            // Windows that see it in parts show the same, and what survives them too.
            let only_gently = in_parts && !self.is_too_hot(of, limit, hit_seconds);
            self.scouts_for(of, limit, gentle, only_gently, random)
        })
    }

    fn scouts_for(
        &self,
        of: &Growing,
        limit: f64,
        gentle: Gentle,
        only_gently: bool,
        random: &mut fastrand::Rng,
    ) -> Option<Selection> {
        let seconds = ENOUGH_SIGHTINGS / of.blocks_per_second;
        let mut selection = Selection::of_scouts(Vec::new(), 0.0, seconds);
        let (mut unknown, mut unsure) = (Vec::new(), Vec::new());
        for index in self.serving(&[of]) {
            let unit = self.get(index);
            match unit.rate() {
                _ if unit.always => selection.units.push(index),
                None => unknown.push(index),
                Some(_) if unit.classes & of.bit() == 0 => unsure.push(index),
                Some(_) => {}
            }
        }
        if unknown.is_empty() {
            // All that together hardly costs anything; else what was armed for the shortest time.
            let cost = |index: usize| self.cost_of_hits(index, gentle.scout_seconds);
            unsure.sort_by(|&a, &b| cost(a).total_cmp(&cost(b)));
            let mut sum = 0.0;
            let few = unsure.iter().take_while(|&&index| {
                sum += cost(index);
                sum <= gentle.slowdown
            });
            let few = few.count();
            if few > 0 {
                unsure.truncate(few);
                selection.expected = unsure.iter().map(|&index| cost(index)).sum();
                selection.units.extend(unsure);
                return Some(selection);
            }
            if only_gently {
                return None;
            }
            unsure.sort_by(|&a, &b| self.get(a).seconds.total_cmp(&self.get(b).seconds));
            let mut some = false;
            for index in unsure {
                let room = if some { SCOUTS_SHARE * limit } else { limit };
                if selection.expected + cost(index) <= room {
                    selection.units.push(index);
                    selection.expected += cost(index);
                    some = true;
                }
            }
            return some.then_some(selection);
        }
        random.shuffle(&mut unknown);
        unknown.truncate(self.scouts);
        // What they cost soon is known. What they serve takes longer, and nobody has to notice that.
        selection.scouts = Some(0.0);
        selection.units.extend(unknown);
        selection.expected = self.scouts_cost * limit;
        Some(selection)
    }
}

/// Whether a class is no small part of what grows.
fn is_much(of: &Growing, growing: &[Growing]) -> bool {
    of.blocks_per_second >= MINOR * growing.iter().map(|of| of.blocks_per_second).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::super::{
        classes::{Found, LARGE},
        exposure::{Exposure, Sight},
        units::{
            Growing, Units,
            tests::{GENTLE, HIT, growing, units},
        },
    };
    use leaktrace_common::wire::SiteStats;

    #[test]
    fn all_that_may_serve_a_class_is_armed_and_nothing_else() {
        // The third was armed too shortly to be sure of, the last costs too much.
        let units = units(&[(Some(3e5), 1, true), (Some(3e5), 2, true), (Some(7.0), 4, false), (Some(2e6), 8, true)]);
        let mut random = fastrand::Rng::with_seed(7);
        let selection = units.choose(&growing(&[0]), 1.0, HIT, GENTLE, &mut random).unwrap();
        assert_eq!(selection.units, [0, 2]);
        assert_eq!(selection.sights, [Sight { class: 0, left_out: vec![], witnesses: vec![] }]);
        assert!((selection.expected - 0.3).abs() < 1e-3 && selection.scouts.is_none());
        let scouts = units.choose(&growing(&[3]), 1.0, HIT, GENTLE, &mut random).unwrap();
        assert!(scouts.units == [2] && scouts.scouts.is_some(), "it is to be known first: {scouts:?}");
        assert_eq!(units.choose(&[], 1.0, HIT, GENTLE, &mut random), None, "nothing grows");
        let unwatched = units.unwatched(&growing(&[0, 3]), 1.0, HIT);
        assert_eq!((unwatched.units, unwatched.classes, unwatched.least_cost.unwrap().round()), (0, 1, 2.0));
    }

    #[test]
    fn cheap_classes_have_most_windows_and_dear_ones_some() {
        let units = units(&[(Some(9e5), 1, true), (Some(2e4), 2, true), (Some(3e4), 4, true)]);
        let mut random = fastrand::Rng::with_seed(7);
        let mut complete = [0; 3];
        for _ in 0..1000 {
            let selection = units.choose(&growing(&[0, 1, 2]), 1.0, HIT, GENTLE, &mut random).unwrap();
            assert!(selection.expected <= 1.0, "{selection:?}");
            (0..3).for_each(|class| complete[class] += u32::from(selection.classes() & 1 << class != 0));
        }
        assert!((20..400).contains(&complete[0]), "{complete:?}");
        assert!(complete[1] > 700 && complete[2] > 700, "both fit in one gentle window: {complete:?}");
    }

    #[test]
    fn what_can_be_seen_whole_comes_before_parts_until_it_should_have_shown_something() {
        let mut units = units(&[(Some(1e5), 1 << 63, true), (Some(7e5), 1, true), (Some(6e5), 1, true)]);
        units.all[0].is_c = true;
        let growing = growing(&[0, LARGE]);
        let parts = |units: &Units, growing: &[Growing]| {
            let mut random = fastrand::Rng::with_seed(5);
            let chosen = (0..1000).filter_map(|_| units.choose(growing, 1.0, HIT, GENTLE, &mut random));
            chosen.filter(|selection| selection.sights.iter().any(|sight| !sight.left_out.is_empty())).count()
        };
        let window = (1.0, Exposure { begin_ns: 1, end_ns: 2, seconds: 0.1 });
        let part = [Sight { class: 0, left_out: vec![1], witnesses: vec![] }];
        units.enter_survivors(&growing, &part, window, false, |_| Found { blocks: 20, bytes: 0, named: 20 });
        assert!(parts(&units, &growing) < 100, "nothing is known of it");
        let mut random = fastrand::Rng::with_seed(5);
        assert!(units.choose(&growing, 1.0, HIT, GENTLE, &mut random).unwrap().is_first);
        let minor = [growing[0], Growing { blocks_per_second: 1.0, ..growing[1] }];
        assert!(parts(&units, &minor) > 300, "it is a small part of what grows");
        let whole = [Sight { class: LARGE, left_out: vec![], witnesses: vec![] }];
        for _ in 0..2 {
            units.enter_survivors(&growing, &whole, window, false, |_| Found { blocks: 0, bytes: 0, named: 0 });
        }
        let without = parts(&units, &growing);
        assert!(without > 300, "it should have shown twenty: {without}");
        units.enter_survivors(&growing, &whole, window, false, |_| Found { blocks: 9, bytes: 9000, named: 9 });
        assert!(parts(&units, &growing) < 150, "it shows survivors");
        for second in 2..=10 {
            let window = (f64::from(second), Exposure { begin_ns: 10, end_ns: 20, seconds: 0.1 });
            units.enter_survivors(&growing, &whole, window, false, |_| Found { blocks: 9, bytes: 9000, named: 9 });
        }
        assert!(parts(&units, &growing) > without / 2, "enough of them");
    }

    #[test]
    fn blocks_of_the_c_allocator_are_seen_whole_or_not_at_all() {
        let mut units = units(&[(Some(7e5), 1, true), (Some(6e5), 1, true), (Some(1.2e6), 1 << LARGE, true)]);
        units.all[2].is_c = true;
        let both = growing(&[0, LARGE]);
        let sees_it = |units: &Units| {
            let mut random = fastrand::Rng::with_seed(3);
            let choices = (0..200).filter_map(|_| units.choose(&both, 1.0, HIT, GENTLE, &mut random));
            let sights: Vec<Sight> = choices.flat_map(|selection| selection.sights).collect();
            assert!(sights.iter().all(|sight| sight.class != LARGE || sight.left_out.is_empty()));
            sights.iter().any(|sight| sight.class == LARGE)
        };
        assert!(!sees_it(&units), "too dear");
        units.bear(1e-4, 5e-3);
        assert!(sees_it(&units), "a window is less than what a request is reckoned at");
        units.all[2].hits = 2_000_000;
        assert!(!sees_it(&units), "twice the limit is borne, not more");
    }

    #[test]
    fn units_of_unknown_cost_come_a_few_at_a_time_and_by_themselves() {
        let mut units =
            units(&[(None, 0, false), (None, 0, false), (None, 1, true), (None, 2, true), (Some(5e5), 1, true)]);
        let mut random = fastrand::Rng::with_seed(3);
        let selection = units.choose(&growing(&[0]), 1.0, HIT, GENTLE, &mut random).unwrap();
        assert!(
            selection.scouts.is_some() && selection.units.len() == 2 && selection.sights.is_empty(),
            "{selection:?}"
        );
        assert!(!selection.units.contains(&3) && !selection.units.contains(&4), "{selection:?}");
        let hits = |_| (SiteStats::default(), SiteStats { hits: 10, classes: 4, skipped: 0 });
        units.enter(&selection, 0.1, (0.1, 0.0), 1.0, HIT, hits);
        let known = |&unit: &usize| units.get(unit).rate() == Some(100.0) && units.get(unit).classes & 4 != 0;
        assert!(selection.units.iter().all(known));
        // They cost nothing, so the next time there may be more.
        assert_eq!(units.scouts, 4);
        let next = units.choose(&growing(&[0]), 1.0, HIT, GENTLE, &mut random).unwrap();
        assert_eq!((next.scouts.is_some(), next.units.len()), (true, 1), "one is left that matters: {next:?}");
    }

    #[test]
    fn what_is_not_sure_is_learned_gently_first() {
        // None was armed for long enough, and all of them cost too much.
        let slow = [Growing { class: 0, blocks_per_second: 0.5 }];
        let units = units(&[(Some(1e4), 2, false), (Some(2e4), 4, false), (Some(9e5), 8, false), (Some(8e5), 1, true)]);
        let choices =
            (0..20).filter_map(|seed| units.choose(&slow, 1.0, HIT, GENTLE, &mut fastrand::Rng::with_seed(seed)));
        let selection = choices.into_iter().find(|selection| selection.scouts.is_some()).unwrap();
        assert!((selection.expected - 0.015).abs() < 1e-9, "at the price of hits that only count: {selection:?}");
        assert_eq!((selection.units, selection.scouts), (vec![0, 1], Some(6.0)));
    }

    #[test]
    fn what_was_never_armed_comes_before_what_is_ready() {
        let units = units(&[(Some(1e4), 1, true), (None, 2, true)]);
        for seed in 0..20 {
            let selection =
                units.choose(&growing(&[0, 1]), 1.0, HIT, GENTLE, &mut fastrand::Rng::with_seed(seed)).unwrap();
            assert!(selection.scouts.is_some() && selection.units == [1], "{selection:?}");
        }
    }
}
