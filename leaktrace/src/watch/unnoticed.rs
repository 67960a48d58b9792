//! Windows that no request notices, of what is too hot to be seen whole.

use super::{
    exposure::Sight,
    parts::Part,
    units::{Gentle, Growing, Selection, Units},
};

impl Units {
    /// A window that no request notices, where all of any class costs more than the `limit`: of what serves one of them only so much
    /// that nobody does. What seems to leak in such windows is looked at in those that [`Self::choose`] chooses. Those that have shown
    /// next to nothing, or less than a class does that is seen whole, are only chosen where that is to be done, too, `seldom`.
    pub fn choose_unnoticed(
        &self,
        growing: &[Growing],
        limit: f64,
        hit_seconds: f64,
        gentle: Gentle,
        seldom: bool,
        random: &mut fastrand::Rng,
    ) -> Option<Selection> {
        if !self.is_only_in_parts(growing, limit, hit_seconds) {
            return None;
        }
        // What they show is only suspected: what shows a class whole needs what they cost.
        if !seldom && self.has_first(growing, limit, hit_seconds) {
            return None;
        }
        let window = |of: &Growing| {
            if !seldom && self.is_gently_in_vain(of.class) {
                return None;
            }
            self.known_cost(of, hit_seconds)?;
            let Part { units, left_out, .. } = self.part_of(of, gentle.slowdown, gentle.hit_seconds, None);
            let serves = units.iter().any(|&index| !self.get(index).always && self.get(index).classes & of.bit() != 0);
            let expected = self.cost(&units, gentle.hit_seconds);
            let witnesses = self.quiet(&units);
            let sights = vec![Sight::new(of.class, left_out, &witnesses)];
            let weight = self.interest(of.class, true) * of.blocks_per_second;
            (serves && expected <= gentle.slowdown)
                .then_some((weight, Selection::of(units, expected, sights, witnesses)))
        };
        let windows: Vec<(f64, Selection)> = growing.iter().filter_map(window).collect();
        let mut at = random.f64() * windows.iter().map(|(weight, _)| weight).sum::<f64>();
        let chosen = windows.into_iter().find(|(weight, _)| {
            at -= weight;
            at <= 0.0
        });
        chosen.map(|(_, selection)| selection)
    }
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

    #[test]
    fn what_no_request_notices_leaves_out_what_is_hot() {
        let units = units(&[(Some(7e5), 1, true), (Some(3e4), 1, true), (Some(2e4), 1, true), (Some(1e3), 1, true)]);
        let mut random = fastrand::Rng::with_seed(3);
        let mut gentle = |growing: &[Growing]| units.choose_unnoticed(growing, 0.5, HIT, GENTLE, false, &mut random);
        let selection = gentle(&growing(&[0])).unwrap();
        assert!(selection.expected <= 0.04 && selection.units.contains(&3), "{selection:?}");
        assert!(selection.sights[0].left_out.contains(&0), "{selection:?}");
        assert_eq!(gentle(&growing(&[1])), None, "nothing is known to serve it");
        assert_eq!(gentle(&growing(&[0, 1])), None, "the other can be seen whole");
    }

    #[test]
    fn what_no_request_notices_is_seldom_where_it_is_in_vain_or_another_class_is_seen_whole() {
        let mut units = units(&[(Some(7e5), 1, true), (Some(3e4), 1, true), (Some(1e3), 1 << LARGE, true)]);
        let chosen = |units: &Units, growing: &[Growing], seldom| {
            let mut random = fastrand::Rng::with_seed(3);
            units.choose_unnoticed(growing, 0.5, HIT, GENTLE, seldom, &mut random).is_some()
        };
        let (one, both) = (growing(&[0]), growing(&[0, LARGE]));
        assert!(chosen(&units, &one, false));
        assert!(!chosen(&units, &both, false) && chosen(&units, &both, true), "all of the other can be seen");
        let part = [Sight::new(0, vec![0], &[])];
        let show = |units: &mut Units, blocks| {
            let window = Exposure { begin_ns: 1, end_ns: 2, seconds: 1.0 };
            units.enter_survivors(&one, &part, (1.0, window), true, |_| Found { blocks, bytes: 0, named: blocks });
            units.enter_survivors(&one, &part, (2.0, window), true, |_| Found { blocks, bytes: 0, named: blocks });
        };
        show(&mut units, 0);
        assert!(!chosen(&units, &one, false) && chosen(&units, &one, true), "of 200 it showed none");
        show(&mut units, 30);
        assert!(chosen(&units, &one, false));
    }
}
