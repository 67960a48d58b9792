//! Classes of which all together costs too much: windows leave out a part of what serves them, in turns.

use super::{
    choice::WHOLE,
    classes::LARGE,
    exposure::Sight,
    latency::MODEST,
    units::{Doubt, Gentle, Growing, Selection, Units},
};

/// Part of the limit that is filled, the part of it below which units are cheap together, and most parts that it is worth to see a
/// class in.
const FULL: f64 = 0.85;
const CHEAP: f64 = 0.3;
const MOST_PARTS: f64 = 20.0;

/// How many times the limit the rivals of a suspect may cost beside it, where that is borne.
pub(super) const MORE_RIVALS: f64 = 2.0;

impl Units {
    /// Whether no class of blocks in pools can be seen whole, though it is known what serves them: what one such class shows is worth
    /// more than what parts of the others do.
    pub(super) fn is_only_in_parts(&self, growing: &[Growing], limit: f64, hit_seconds: f64) -> bool {
        let too_dear = |of: &Growing| self.known_cost(of, hit_seconds).is_some_and(|cost| cost > WHOLE * limit);
        let mut in_pools = growing.iter().filter(|of| of.class != LARGE).peekable();
        in_pools.peek().is_some() && in_pools.all(too_dear)
    }

    /// Whether a class costs too much to be seen even in parts: a unit can never be armed, not even as a witness, or so many are hot
    /// that each would seldom be.
    pub(super) fn is_too_hot(&self, of: &Growing, limit: f64, hit_seconds: f64) -> bool {
        let fits = |index| self.least_cost_of_witness(index, hit_seconds) <= WHOLE * self.bearing * limit;
        self.has_too_hot(of, limit, hit_seconds, |index| {
            fits(index) || self.fits_alone(index, self.bearing * limit, hit_seconds)
        })
    }

    /// Whether not all that such a class grows by can be told, because a unit can never be armed but as a witness.
    pub(super) fn is_partly_too_hot(&self, of: &Growing, limit: f64, hit_seconds: f64) -> bool {
        self.has_too_hot(of, limit, hit_seconds, |index| self.fits_alone(index, self.bearing * limit, hit_seconds))
    }

    fn has_too_hot(&self, of: &Growing, limit: f64, hit_seconds: f64, fits: impl Fn(usize) -> bool) -> bool {
        let units = self.serving(&[of]);
        let all = self.least_cost(&units, hit_seconds);
        if of.class == LARGE {
            // It has no parts.
            return all > self.room(of, limit);
        }
        all > WHOLE * limit && (all > MOST_PARTS * limit || !units.iter().all(|&index| fits(index)))
    }

    /// Whether a unit may be armed by itself, as far as is known.
    fn fits_alone(&self, index: usize, most: f64, hit_seconds: f64) -> bool {
        self.least_cost(&[index], hit_seconds) <= WHOLE * most
    }

    /// A window for a part of a class, and how much that is worth: 1 for all that the limit allows, or for what a doubt is about.
    pub(super) fn part(&self, of: &Growing, limit: f64, hit_seconds: f64, gentle: Gentle) -> (Selection, f64) {
        let Part { units, left_out, witness } = self.part_of(of, limit, hit_seconds, Some(gentle));
        let saved = |hit_seconds| witness.map_or(0.0, |index| self.saved_as_witness(index, hit_seconds));
        // Of what little is known it may be far less: a window that is not afforded does not tell.
        let expected = (self.expected(&units, hit_seconds, gentle) - saved(hit_seconds)).min(self.bearing * limit);
        let mut witnesses = self.quiet(&units);
        if let Some(witness) = witness
            && let Err(at) = witnesses.binary_search(&witness)
        {
            witnesses.insert(at, witness);
        }
        let shown = if self.doubts.contains_key(&of.class) { 1.0 } else { (expected / (FULL * limit)).min(1.0) };
        let sights = vec![Sight::new(of.class, left_out, &witnesses)];
        (Selection::of(units, expected, sights, witnesses), shown)
    }

    /// Slowdown that is expected of a window with some units: where there are few hits, each costs more.
    pub(super) fn expected(&self, units: &[usize], hit_seconds: f64, gentle: Gentle) -> f64 {
        let few = self.cost(units, gentle.hit_seconds);
        if few <= MODEST { few } else { self.cost(units, hit_seconds).max(MODEST) }
    }

    /// What to arm of a class of which all together costs too much, and what not. First the unit of the most suspected stack, with one
    /// whose blocks its may be; where there is none, the unit, among those that are not cheap, that was armed for the shortest time; then
    /// those that seem to leak, to see whether they do with that one armed; then the cheap ones; then the others in their turn.
    /// `gentle`: no more than few requests notice, where the first is that cheap: such windows can be open for ten times as long. Without
    /// it, in windows that no request notices, nothing is borne.
    pub(super) fn part_of(&self, of: &Growing, limit: f64, hit_seconds: f64, gentle: Option<Gentle>) -> Part {
        let serving = self.serving(&[of]);
        let doubt = self.doubts.get(&of.class).filter(|doubt| serving.contains(&doubt.unit));
        let most = if gentle.is_some() { self.bearing * limit } else { limit };
        let pair = doubt.filter(|_| gentle.is_some()).and_then(|doubt| self.pair(doubt, (limit, most), hit_seconds));
        let witness = pair.and_then(|pair| pair.witness);
        let cost_at = |index: usize, hit_seconds: f64| {
            let saved = if witness == Some(index) { self.saved_as_witness(index, hit_seconds) } else { 0.0 };
            self.cost(&[index], hit_seconds) - saved
        };
        let cost = |index: usize| cost_at(index, hit_seconds);
        let (units, turn) = self.in_order(serving, doubt, pair, (limit, most), hit_seconds);
        // Without those that seem to leak nothing is told of what it sees: others have the addresses of theirs.
        let needed = |index: &&usize| Some(**index) == turn || self.suspects.contains(index);
        let modest = |gentle: &Gentle| {
            let cost: f64 = units.iter().filter(needed).map(|&index| cost_at(index, gentle.hit_seconds)).sum();
            turn.is_some() && cost <= MODEST.min(limit)
        };
        let with_suspects: f64 = units.iter().filter(needed).map(|&index| cost(index)).sum();
        let first: f64 = match pair {
            Some(pair) => pair.units.into_iter().map(cost).sum(),
            None if with_suspects <= FULL * most => with_suspects,
            None => turn.map_or(0.0, cost),
        };
        let always: f64 = units.iter().filter(|&&index| self.get(index).always).map(|&index| cost(index)).sum();
        let modest = gentle.filter(|gentle| witness.is_none() && modest(gentle));
        let (room, hit_seconds) = match modest {
            Some(gentle) => (MODEST.min(limit), gentle.hit_seconds),
            None => (first.max(FULL * limit), hit_seconds),
        };
        // Sums of the same numbers in another order are not the same.
        let mut left = (room + always) * (1.0 + f64::EPSILON.sqrt());
        // The more rivals beside the suspect, the fewer such windows.
        let more = if pair.is_some() && modest.is_none() {
            (FULL * most.min(MORE_RIVALS * limit) - room).max(0.0)
        } else {
            0.0
        };
        let is_rival = |index: usize| doubt.is_some_and(|doubt| doubt.rivals.contains(&index));
        let (armed, mut left_out): (Vec<usize>, Vec<usize>) = units.into_iter().partition(|&index| {
            let cost = cost_at(index, hit_seconds);
            let fits = cost <= if is_rival(index) { left + more } else { left.max(0.0) };
            left -= if fits { cost } else { 0.0 };
            fits
        });
        left_out.sort_unstable();
        Part { witness: witness.filter(|witness| armed.contains(witness)), units: armed, left_out }
    }

    /// What serves a class, in the order in which it is armed as long as there is room; and whose turn it is.
    fn in_order(
        &self,
        mut units: Vec<usize>,
        doubt: Option<&Doubt>,
        pair: Option<Pair>,
        limits: (f64, f64),
        hit_seconds: f64,
    ) -> (Vec<usize>, Option<usize>) {
        let cost = |index: usize| self.cost(&[index], hit_seconds);
        units.sort_by(|&a, &b| cost(a).total_cmp(&cost(b)));
        let mut sum = 0.0;
        let is_cheap = |&&index: &&usize| {
            sum += cost(index);
            sum <= CHEAP * limits.0
        };
        let cheap = units.iter().take_while(is_cheap).count();
        let mut hot = units.split_off(cheap);
        hot.sort_by(|&a, &b| self.get(a).seconds.total_cmp(&self.get(b).seconds));
        let fits_alone = |index: &usize| self.fits_alone(*index, limits.1, hit_seconds);
        let least_seen = hot.iter().copied().find(fits_alone);
        units.extend(hot);
        let is_paired = |index: &usize| pair.is_some_and(|pair| pair.units.contains(index));
        let may_be = |turn: &usize| units.contains(turn) && fits_alone(turn);
        let turn = match doubt {
            Some(doubt) if pair.is_some() => Some(doubt.turn).filter(is_paired).or(Some(doubt.unit)),
            doubt => doubt.map(|doubt| doubt.turn).filter(may_be).or(least_seen),
        };
        let in_doubt = |index: &usize| {
            let rival = |doubt: &Doubt| doubt.rivals.iter().position(|rival| rival == index).map(|at| at + 1);
            doubt.and_then(|doubt| if doubt.unit == *index { Some(0) } else { rival(doubt) }).unwrap_or(usize::MAX)
        };
        units.sort_by_key(|index| {
            let first = (!self.get(*index).always, Some(*index) != turn, !is_paired(index));
            let (suspect, in_doubt) = (usize::from(!self.suspects.contains(index)), in_doubt(index));
            (first, if pair.is_some() { (in_doubt, suspect) } else { (suspect, in_doubt) })
        });
        (units, turn)
    }

    /// The suspect of a doubt and the first of its rivals that may be armed in one window with it, for at most `most`. Where both are dear
    /// one of them is only a witness: the rival, so that the suspect's blocks have names; or the suspect, where that is so hot that
    /// hardly anything fits beside it else.
    fn pair(&self, doubt: &Doubt, (limit, most): (f64, f64), hit_seconds: f64) -> Option<Pair> {
        let is_hot = self.is_hot(doubt.unit, limit, hit_seconds);
        doubt.rivals.iter().find_map(|&rival| {
            let units = [doubt.unit, rival];
            let both = self.cost(&units, hit_seconds);
            let order = if is_hot { units } else { [rival, doubt.unit] };
            let fits = |index: &usize| both - self.saved_as_witness(*index, hit_seconds) <= most;
            let witness = if both > FULL * limit { order.into_iter().find(fits) } else { None };
            (witness.is_some() || both <= FULL * limit).then_some(Pair { units, witness })
        })
    }

    /// Whether a unit is so hot that hardly anything fits beside it, but where it is only a witness.
    pub fn is_hot(&self, index: usize, limit: f64, hit_seconds: f64) -> bool {
        self.cost(&[index], hit_seconds) > FULL * self.bearing.min(MORE_RIVALS) * limit
    }

    fn saved_as_witness(&self, index: usize, hit_seconds: f64) -> f64 {
        self.cost(&[index], hit_seconds) - self.cost_of_witness(index, hit_seconds)
    }
}

/// The suspect of a doubt and one of its rivals.
#[derive(Clone, Copy)]
struct Pair {
    units: [usize; 2],
    witness: Option<usize>,
}

/// A part of a class.
pub(super) struct Part {
    pub units: Vec<usize>,
    pub left_out: Vec<usize>,
    /// The one that is a witness although it is not quiet.
    pub witness: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::super::{
        exposure::meet,
        latency::MODEST,
        units::{
            Doubt, Units,
            tests::{GENTLE, HIT, growing, units},
        },
    };
    use super::Part;

    #[test]
    fn what_costs_too_much_together_is_armed_in_turns() {
        let mut units =
            units(&[(Some(7e5), 1, true), (Some(6e5), 1, true), (Some(5e5), 1, true), (Some(1e4), 1, true)]);
        let mut random = fastrand::Rng::with_seed(3);
        let mut windows = [0; 4];
        let mut common = None;
        for _ in 0..30 {
            let selection = units.choose(&growing(&[0]), 1.0, HIT, GENTLE, &mut random).unwrap();
            let [sight] = &selection.sights[..] else { panic!("{selection:?}") };
            assert!(selection.expected <= 1.0 && selection.units.contains(&3) && sight.class == 0);
            assert_eq!(selection.units.len() + sight.left_out.len(), 4);
            selection.units.iter().for_each(|&unit| windows[unit] += 1);
            meet(&mut common, &sight.left_out);
            units.enter(&selection, 0.1, (0.0, 0.0), 1.0, HIT, |_| Default::default());
        }
        assert!(windows.iter().all(|&windows| windows >= 8) && common.unwrap().is_empty(), "{windows:?}");
        assert_eq!(units.unwatched(&growing(&[0]), 1.0, HIT).classes, 0);
    }

    #[test]
    fn who_is_suspected_is_armed_with_those_it_may_be_confused_with() {
        let mut units =
            units(&[(Some(7e5), 1, true), (Some(3e5), 1, true), (Some(4e5), 1, true), (Some(1e4), 1, true)]);
        for (rivals, left_out) in [(vec![2], [0]), (vec![3], [0])] {
            units.doubts.insert(0, Doubt { unit: 1, rivals, turn: 1, share: 1.0 });
            let Part { units: armed, left_out: out, .. } = units.part_of(&growing(&[0])[0], 1.0, HIT, Some(GENTLE));
            assert!(armed.starts_with(&[1]) && armed.contains(&2) && out == left_out, "{armed:?}");
        }
        units.doubts.insert(0, Doubt { unit: 1, rivals: vec![2], turn: 2, share: 1.0 });
        assert!(
            units.part_of(&growing(&[0])[0], 1.0, HIT, Some(GENTLE)).units.starts_with(&[2, 1]),
            "the rival is to be seen itself"
        );
        units.doubts.insert(0, Doubt { unit: 0, rivals: vec![], turn: 0, share: 1.0 });
        assert_eq!(units.part_of(&growing(&[0])[0], 1.0, HIT, Some(GENTLE)).units, [0, 3]);
    }

    #[test]
    fn a_rival_that_is_hot_is_a_witness() {
        let mut units = units(&[(Some(7e5), 1, true), (Some(3e5), 1, true), (Some(1e4), 1, true)]);
        let part = |units: &Units, limit| units.part(&growing(&[0])[0], limit, HIT, GENTLE).0;
        units.doubts.insert(0, Doubt { unit: 1, rivals: vec![0], turn: 1, share: 1.0 });
        let selection = part(&units, 1.0);
        assert!(selection.units == [1, 0, 2] && selection.witnesses == [0], "{selection:?}");
        assert!(selection.sights[0].left_out.is_empty() && selection.sights[0].witnesses == [0]);
        assert!((0.7..0.8).contains(&selection.expected), "it costs less: {selection:?}");
        assert_eq!(part(&units, 2.0).witnesses, [0; 0], "there is room for both");
        let selection = part(&units, 0.6);
        assert!(!selection.units.contains(&0) && selection.witnesses.is_empty(), "too hot even so: {selection:?}");
        // Such a window is less than what a request is reckoned at.
        units.bear(1e-4, 5e-3);
        assert_eq!(part(&units, 0.6).witnesses, [0]);
        units.bear(1.0, 5e-3);
        assert!(part(&units, 0.6).witnesses.is_empty());
    }

    #[test]
    fn a_rival_that_is_too_hot_alone_is_still_a_witness() {
        let mut units = units(&[(Some(1e5), 1, true), (Some(1.4e6), 1, true), (Some(8e5), 1, true)]);
        units.all[2].seconds = 0.1;
        let part = |units: &Units| units.part(&growing(&[0])[0], 1.0, HIT, GENTLE).0;
        units.doubts.insert(0, Doubt { unit: 0, rivals: vec![1, 2], turn: 1, share: 1.0 });
        let selection = part(&units);
        assert!(selection.units == [1, 0] && selection.witnesses == [1], "{selection:?}");
        assert!(selection.expected <= 1.0, "no third one beside them: {selection:?}");
        units.all[1].hits = 2_000_000;
        let selection = part(&units);
        assert!(selection.units == [0, 2] && selection.expected <= 1.0, "the other rival's turn: {selection:?}");
        let unnoticed = units.part_of(&growing(&[0])[0], 0.2, HIT, None);
        assert!(unnoticed.units == [0] && unnoticed.witness.is_none(), "nothing is borne there");
    }

    #[test]
    fn a_cheap_one_has_those_that_seem_to_leak_beside_it() {
        let mut units = units(&[(Some(1e5), 1, true), (Some(3e5), 1, true), (Some(2.5e5), 1, true)]);
        units.all[0].seconds = 0.5;
        let part = |units: &Units| units.part(&growing(&[0])[0], 0.3, HIT, GENTLE).0;
        assert!(part(&units).units == [0], "it is the first's turn: {:?}", part(&units));
        units.suspects.insert(1);
        units.doubts.insert(0, Doubt { unit: 0, rivals: vec![2], turn: 0, share: 1.0 });
        let selection = part(&units);
        assert!(selection.expected > MODEST, "no gentle window without who seems to leak: {selection:?}");
    }

    #[test]
    fn what_few_requests_notice_is_seen_for_longer() {
        let mut units =
            units(&[(Some(1e5), 1, true), (Some(1e5), 1, true), (Some(1.2e5), 1, true), (Some(1e3), 1, true)]);
        let part = |units: &Units| units.part(&growing(&[0])[0], 1.0, HIT, GENTLE);
        let (selection, shown) = part(&units);
        assert!(selection.units == [2, 3] && selection.expected <= MODEST && shown < 0.25, "{selection:?}");
        units.doubts.insert(0, Doubt { unit: 1, rivals: vec![], turn: 1, share: 1.0 });
        let (selection, shown) = part(&units);
        assert!(selection.units == [1, 3] && (shown - 1.0).abs() < 1e-9, "{selection:?}");
        let Part { units: armed, .. } = units.part_of(&growing(&[0])[0], 0.115, HIT, Some(GENTLE));
        assert!(armed.starts_with(&[1]), "however little is allowed, who can be armed at all has its turn: {armed:?}");
        units.all[1].hits = 300_000;
        let (selection, _) = part(&units);
        assert!(selection.units[0] == 1 && selection.units.len() == 4, "not that cheap: all that is allowed");
    }

    #[test]
    fn rivals_beside_a_suspect_may_cost_more_where_that_is_borne_but_not_in_modest_windows() {
        let of = [(Some(5e4), 1, true), (Some(5e4), 1, true), (Some(7e5), 1, true), (Some(7e5), 1, true)];
        let mut units = units(&of);
        let part = |units: &Units| units.part(&growing(&[0])[0], 1.0, HIT, GENTLE).0;
        units.doubts.insert(0, Doubt { unit: 0, rivals: vec![1, 2, 3], turn: 1, share: 1.0 });
        units.bear(1e-4, 5e-3);
        let selection = part(&units);
        assert!(selection.units == [1, 0] && selection.expected <= MODEST, "few notice it: {selection:?}");
        units.suspects.insert(2);
        units.doubts.insert(0, Doubt { unit: 2, rivals: vec![1, 3, 0], turn: 1, share: 1.0 });
        let selection = part(&units);
        assert!(selection.units.len() == 4 && selection.expected > 1.0, "all of them at once: {selection:?}");
        units.bear(1.0, 5e-3);
        assert!(part(&units).expected <= 1.0, "a request would notice");
    }

    #[test]
    fn what_was_seen_for_a_moment_is_not_too_hot_for_good() {
        let mut units = units(&[(Some(1e6), 1, true), (Some(3e5), 1, true)]);
        // 400 hits in 0.2 ms: 2 s of hits a second.
        (units.all[0].hits, units.all[0].cpu_seconds) = (400, 2e-4);
        let of = growing(&[0])[0];
        assert!((units.cost(&[0], HIT) - 2.0).abs() < 1e-9 && !units.is_too_hot(&of, 1.0, HIT));
        units.all[1].seconds = 9.0;
        let (selection, _) = units.part(&of, 1.0, HIT, GENTLE);
        assert!(selection.units == [0] && (selection.expected - 1.0).abs() < 1e-9, "its turn: {selection:?}");
        (units.all[0].hits, units.all[0].cpu_seconds) = (4000, 2e-3);
        assert!(units.is_too_hot(&of, 1.0, HIT), "it is");
    }
}
