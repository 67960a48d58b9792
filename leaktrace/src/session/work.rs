//! How much of the CPU time that went by in a window was the target's own work: the rest is what hits cost, by an estimate.

use super::window::Passed;

/// Least share of a window's CPU time that is taken for the target's own work: the cost of hits is an estimate.
const LEAST_OWN: f64 = 0.02;
/// By how much of itself that may be too high, which part of what is usual the target does at least, and how much more than it seemed to do.
const TOO_DEAR: f64 = 0.4;
const LEAST_USUAL: f64 = 0.5;
const MOST_MORE: f64 = 2.0;

/// CPU seconds that the target worked itself in what went by, of which hits are reckoned at `hits` CPU seconds.
pub(super) fn own_work(passed: Passed, hits: f64) -> f64 {
    (passed.cpu_seconds - hits).max(LEAST_OWN * passed.cpu_seconds)
}

/// The same to tell how hot sites are, and what is usual in that time as far as that may be believed. Where hits took nearly all of it, a
/// small error of theirs is a large one of the rest, and what is usual says more.
pub(super) fn believed_work(passed: Passed, hits: f64, usual: f64) -> (f64, f64) {
    let at_least = (LEAST_USUAL * usual).min(passed.cpu_seconds - (1.0 - TOO_DEAR) * hits);
    let own = own_work(passed, hits).max(at_least);
    (own, usual.min(MOST_MORE * own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_hits_took_nearly_all_of_it_what_is_usual_is_believed() {
        let passed = Passed { open: 0.06, cpu_seconds: 1e-3, ..Passed::default() };
        let is = |(own, usual): (f64, f64), expected: (f64, f64)| {
            (own - expected.0).abs() < 1e-12 && (usual - expected.1).abs() < 1e-12
        };
        assert!(is(believed_work(passed, 0.2e-3, 0.5e-3), (0.8e-3, 0.5e-3)), "most of it was its own");
        assert!(is(believed_work(passed, 0.95e-3, 0.5e-3), (0.25e-3, 0.5e-3)), "half of what is usual, not 0.05 ms");
        assert!(
            is(believed_work(passed, 0.95e-3, 8e-3), (0.43e-3, 0.86e-3)),
            "hits are not that much dearer than they are"
        );
        assert!((own_work(passed, 2e-3) - 0.02e-3).abs() < 1e-12);
    }
}
