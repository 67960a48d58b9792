//! Classes of which all together costs too much: windows leave out a part of what serves them, in turns.

use super::{
    choice::WHOLE,
    classes::LARGE,
    exposure::Sight,
    units::{Growing, Selection, Units},
};

/// Part of the limit that is filled, the part of it below which units are cheap together, and most parts that it is worth to see a
/// class in.
const FULL: f64 = 0.9;
const CHEAP: f64 = 0.3;
const MOST_PARTS: f64 = 4.0;

impl Units {
    /// Whether no class of blocks in pools can be seen whole, though it is known what serves them: what one such class shows is worth
    /// more than what parts of the others do.
    pub(super) fn is_only_in_parts(&self, growing: &[Growing], limit: f64, hit_seconds: f64) -> bool {
        let too_dear = |of: &Growing| self.known_cost(of, hit_seconds).is_some_and(|cost| cost > WHOLE * limit);
        let mut in_pools = growing.iter().filter(|of| of.class != LARGE).peekable();
        in_pools.peek().is_some() && in_pools.all(too_dear)
    }

    /// A window that no request notices, for a class of which all together costs more than the `limit`: of what serves it only so much
    /// that the target's work takes at most `1 + unnoticed` times as long. What seems to leak in such windows is looked at in those that
    /// [`Self::choose`] chooses. A hit costs more here (the second) than where there are many (the first).
    pub fn choose_unnoticed(
        &self,
        growing: &[Growing],
        (limit, unnoticed): (f64, f64),
        (hit_seconds, cold_hit_seconds): (f64, f64),
        random: &mut fastrand::Rng,
    ) -> Option<Selection> {
        if !self.is_only_in_parts(growing, limit, hit_seconds) {
            return None;
        }
        let dear = |of: &&Growing| self.known_cost(of, hit_seconds).is_some_and(|cost| cost > WHOLE * limit);
        let weight = |of: &Growing| self.interest(of.class) * of.blocks_per_second;
        let candidates: Vec<&Growing> = growing.iter().filter(dear).collect();
        let mut at = random.f64() * candidates.iter().map(|of| weight(of)).sum::<f64>();
        let of = candidates.into_iter().find(|of| {
            at -= weight(of);
            at <= 0.0
        })?;
        let (units, left_out) = self.part_of(of, unnoticed, cold_hit_seconds);
        let serves = units.iter().any(|&index| self.get(index).classes & of.bit() != 0);
        let expected = self.cost(&units, cold_hit_seconds);
        let sights = vec![Sight { class: of.class, left_out }];
        (serves && expected <= unnoticed).then_some(Selection { units, expected, scouts: None, sights })
    }

    /// Whether a class costs too much to be seen even in parts: a unit can never be armed, or so many are hot that each would seldom be.
    pub(super) fn is_too_hot(&self, of: &Growing, limit: f64, hit_seconds: f64) -> bool {
        let units = self.serving(&[of]);
        let all = self.cost(&units, hit_seconds);
        let alone = |&index: &usize| self.cost(&[index], hit_seconds) > limit;
        all > WHOLE * limit && (all > MOST_PARTS * limit || units.iter().any(alone))
    }

    /// What to arm of a class of which all together costs too much, and what not. First the unit, among those that are not cheap,
    /// that was armed for the shortest time; then those that seem to leak, to see whether they do with that one armed; then the cheap
    /// ones; then the others in their turn.
    pub(super) fn part_of(&self, of: &Growing, limit: f64, hit_seconds: f64) -> (Vec<usize>, Vec<usize>) {
        let mut units = self.serving(&[of]);
        let cost = |index: usize| self.cost(&[index], hit_seconds);
        units.sort_by(|&a, &b| cost(a).total_cmp(&cost(b)));
        let mut sum = 0.0;
        let is_cheap = |&&index: &&usize| {
            sum += cost(index);
            sum <= CHEAP * limit
        };
        let cheap = units.iter().take_while(is_cheap).count();
        let mut hot = units.split_off(cheap);
        hot.sort_by(|&a, &b| self.get(a).seconds.total_cmp(&self.get(b).seconds));
        let turn = hot.iter().copied().find(|&index| cost(index) <= limit);
        units.extend(hot);
        let rank = |index: &usize| (Some(*index) != turn, !self.suspects.contains(index));
        units.sort_by_key(rank);
        let mut left = turn.map_or(0.0, cost).max(FULL * limit);
        let (armed, mut left_out): (Vec<usize>, Vec<usize>) = units.into_iter().partition(|&index| {
            let fits = cost(index) <= left;
            left -= if fits { cost(index) } else { 0.0 };
            fits
        });
        left_out.sort_unstable();
        (armed, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        exposure::meet,
        units::{
            Growing,
            tests::{HIT, growing, units},
        },
    };

    #[test]
    fn what_costs_too_much_together_is_armed_in_turns() {
        let mut units =
            units(&[(Some(7e5), 1, true), (Some(6e5), 1, true), (Some(5e5), 1, true), (Some(1e4), 1, true)]);
        let mut random = fastrand::Rng::with_seed(3);
        let mut windows = [0; 4];
        let mut common = None;
        for _ in 0..30 {
            let selection = units.choose(&growing(&[0]), 1.0, HIT, &mut random).unwrap();
            let [sight] = &selection.sights[..] else { panic!("{selection:?}") };
            assert!(selection.expected <= 1.0 && selection.units.contains(&3) && sight.class == 0);
            assert_eq!(selection.units.len() + sight.left_out.len(), 4);
            selection.units.iter().for_each(|&unit| windows[unit] += 1);
            meet(&mut common, &sight.left_out);
            units.enter(&selection, 0.1, 0.0, 1.0, HIT, |_| Default::default());
        }
        assert!(windows.iter().all(|&windows| windows >= 8) && common.unwrap().is_empty(), "{windows:?}");
        assert_eq!(units.unwatched(&growing(&[0]), 1.0, HIT).classes, 0);
    }

    #[test]
    fn what_no_request_notices_leaves_out_what_is_hot() {
        let units = units(&[(Some(7e5), 1, true), (Some(3e4), 1, true), (Some(2e4), 1, true), (Some(1e3), 1, true)]);
        let mut random = fastrand::Rng::with_seed(3);
        let mut gentle =
            |growing: &[Growing]| units.choose_unnoticed(growing, (0.5, 0.04), (HIT, 1.2 * HIT), &mut random);
        let selection = gentle(&growing(&[0])).unwrap();
        assert!(selection.expected <= 0.04 && selection.units.contains(&3), "{selection:?}");
        assert!(selection.sights[0].left_out.contains(&0), "{selection:?}");
        assert_eq!(gentle(&growing(&[1])), None, "nothing is known to serve it");
        assert_eq!(gentle(&growing(&[0, 1])), None, "the other can be seen whole");
    }
}
