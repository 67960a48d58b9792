//! Two reports on simulated services compared.

use leaktrace::model::Criteria;
use leaktrace::report::diff::{Diff, Key, text};
use leaktrace::report::{Report, Style};

use crate::report::{facts, service};
use crate::simulator::World;

fn report(seconds: u64) -> Report {
    let mut world = World::new(3);
    world.run(seconds, 1, &mut service, &mut |_| {});
    Report::build(&world.ledger, &facts(), &Criteria::default())
}

const KEYS: [Key; 3] = [Key::Line, Key::File, Key::Stack];

#[test]
fn rows_add_up_to_the_totals() {
    let (old, new) = (report(40), report(90));
    for key in KEYS {
        let diff = Diff::of(&old, &new, key);
        let bytes: i64 = diff.rows.iter().map(|row| row.difference.bytes_delta()).sum();
        let blocks: i64 = diff.rows.iter().map(|row| row.difference.count_delta()).sum();
        assert_eq!(bytes, new.totals.live_bytes as i64 - old.totals.live_bytes as i64, "{key:?}");
        assert_eq!(blocks, new.totals.live_blocks as i64 - old.totals.live_blocks as i64, "{key:?}");
        let order: Vec<_> = diff.rows.iter().map(|row| row.difference.bytes_delta().unsigned_abs()).collect();
        assert!(order.is_sorted_by(|a, b| a >= b), "{key:?}");
        assert!(diff.rows[0].growing);
    }
}

#[test]
fn nothing_changed_in_equal_reports() {
    let report = report(40);
    for key in KEYS {
        assert!(Diff::of(&report, &report, key).rows.is_empty());
    }
}

#[test]
fn what_only_one_has_is_new_or_gone() {
    let (mut old, mut new) = (report(40), report(40));
    let (first, last) = (old.sites.remove(0), new.sites.pop().unwrap());
    let changes = |old: &Report, new: &Report| -> Vec<(&str, u64)> {
        let rows = Diff::of(old, new, Key::Stack).rows;
        rows.iter().map(|row| (row.difference.change.name(), row.difference.bytes_delta().unsigned_abs())).collect()
    };
    let mut expected = vec![("new", first.live_bytes)];
    expected.extend((last.live_bytes > 0).then_some(("gone", last.live_bytes)));
    assert_eq!(changes(&old, &new), expected);
    new.sites.insert(0, last);
    old.sites.insert(0, first);
    assert_eq!(changes(&old, &new), []);
}

#[test]
fn the_page_is_eighty_columns_wide_and_steers_no_terminal() {
    let diff = Diff::of(&report(40), &report(90), Key::Stack);
    let page = text(&diff, 10, Style::PLAIN);
    assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
    assert!(!page.contains('\x1b'), "{page}");
    assert!(page.contains("watched for longer"), "{page}");
}
