//! What the C allocator is asked for, by size: what windows follow, of what they note only the addresses, and what they pass over.
//!
//! All of its blocks come from the same few functions, so what is armed there cannot be less; but what is done at a hit can. Sizes are
//! told by [`leaktrace_common::wire::size_bucket`]; bit n of a mask is bucket n.

use leaktrace_common::wire::SIZE_BUCKETS;

use super::{costs::CHEAP, units::ENOUGH_SIGHTINGS};

/// Hits of a request: its entry and its return.
const HITS: f64 = 2.0;
/// Of four windows one notes the addresses of sizes that the others pass over: a leak may have begun since.
const SEEN_STILL: u64 = 4;

type Buckets = [u64; SIZE_BUCKETS as usize];

/// The sizes that the C allocator was asked for, and which of them are of interest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sizes {
    /// Requests that windows saw; empty before the first.
    requests: Vec<u64>,
    /// Sizes of which nothing lives on.
    quiet: u64,
    /// Of these, those that were seen for so long that something should, if they were what leaks.
    passable: u64,
    /// Whether requests may be passed over: the kernel then does not tell of the return, and what is handed out without being noted cannot pass
    /// for a block of another size.
    pub can_pass: bool,
}

/// What a window does about them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overlooked {
    /// Sizes of which it notes the addresses only.
    pub quiet: u64,
    /// And of which it notes nothing.
    pub passed_over: u64,
}

impl Overlooked {
    /// Of a window's `requests` those of which it noted nothing.
    pub fn requests(&self, requests: &Buckets) -> u64 {
        let passed = |(bucket, requests): (usize, &u64)| requests * (self.passed_over >> bucket & 1);
        requests.iter().enumerate().map(passed).sum()
    }
}

impl Sizes {
    /// Enters requests that a window saw, by bucket.
    pub fn enter(&mut self, requests: &Buckets) {
        self.requests.resize(requests.len(), 0);
        self.requests.iter_mut().zip(requests).for_each(|(sum, new)| *sum += new);
    }

    /// Says of which sizes nothing lives on, in windows that should have shown `expected` blocks; `None`: these were too few to tell.
    /// `is_dear`: says of the mean cost of a request, as a multiple of what a hit costs with the stack, whether that is too much. Then
    /// windows note the addresses only, of all, until more is known.
    pub fn quieten(&mut self, quiet: Option<u64>, expected: f64, is_dear: impl FnOnce(f64) -> bool) {
        (self.quiet, self.passable) = (quiet.unwrap_or_default(), 0);
        if quiet.is_none() && is_dear(self.weight()) {
            self.quiet = u64::MAX;
        } else if self.can_pass && expected >= ENOUGH_SIGHTINGS {
            self.passable = self.quiet;
        }
    }

    /// Whether windows note addresses only.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet == u64::MAX
    }

    /// What the next window does.
    pub fn overlooked(&self, random: &mut fastrand::Rng) -> Overlooked {
        let seen_still = (0..SIZE_BUCKETS).filter(|_| random.u64(..SEEN_STILL) == 0);
        let seen_still = seen_still.fold(0, |mask, bucket| mask | 1 << bucket);
        Overlooked { quiet: self.quiet, passed_over: self.passable & !seen_still }
    }

    /// What a request costs on the mean, as a multiple of what a hit costs with the stack.
    pub(super) fn weight(&self) -> f64 {
        let often = 1.0 / SEEN_STILL as f64;
        let of = |bucket: usize| {
            let is_in = |mask: u64| mask >> bucket & 1 != 0;
            match (is_in(self.quiet), is_in(self.passable)) {
                (_, true) => CHEAP * (often * HITS + 1.0 - often),
                (true, _) => CHEAP * HITS,
                _ => HITS,
            }
        };
        let all: u64 = self.requests.iter().sum();
        if all == 0 {
            return HITS;
        }
        let cost = |(bucket, &requests): (usize, &u64)| requests as f64 * of(bucket);
        self.requests.iter().enumerate().map(cost).sum::<f64>() / all as f64
    }

    /// Of a window's hits those that cost less, where it saw such `requests`.
    pub fn cheap_hits(&self, requests: &Buckets, overlooked: Overlooked) -> u64 {
        let of = |bucket: usize| {
            let is_in = |mask: u64| mask >> bucket & 1;
            is_in(overlooked.passed_over) + 2 * is_in(overlooked.quiet & !overlooked.passed_over)
        };
        requests.iter().enumerate().map(|(bucket, requests)| requests * of(bucket)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hundred requests of a bucket, three hundred of the next.
    fn seen(can_pass: bool) -> (Sizes, Buckets) {
        let mut requests = [0; SIZE_BUCKETS as usize];
        (requests[7], requests[8]) = (100, 300);
        let mut sizes = Sizes { can_pass, ..Sizes::default() };
        sizes.enter(&requests);
        (sizes, requests)
    }

    fn is(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-9
    }

    #[test]
    fn what_nothing_lives_of_costs_less() {
        let (mut sizes, requests) = seen(true);
        assert!(is(Sizes::default().weight(), 2.0) && is(sizes.weight(), 2.0), "an entry and a return");
        sizes.quieten(Some(1 << 8), 2.9, |_| panic!("it is known"));
        assert!(is(sizes.weight(), 0.25 * 2.0 + 0.75 * 2.0 * CHEAP), "hardly anything was to be seen yet");
        let overlooked = sizes.overlooked(&mut fastrand::Rng::with_seed(1));
        assert_eq!(overlooked, Overlooked { quiet: 1 << 8, passed_over: 0 });
        assert_eq!(sizes.cheap_hits(&requests, overlooked), 600);
        sizes.quieten(Some(1 << 8), 3.0, |_| panic!("it is known"));
        assert!(is(sizes.weight(), 0.25 * 2.0 + 0.75 * CHEAP * (0.25 * 2.0 + 0.75)));
        let passed_over = Overlooked { quiet: 1 << 8, passed_over: 1 << 8 };
        assert_eq!((sizes.cheap_hits(&requests, passed_over), passed_over.requests(&requests)), (300, 300));
    }

    #[test]
    fn what_is_passed_over_is_looked_at_now_and_then() {
        let (mut sizes, _) = seen(true);
        sizes.quieten(Some(1 << 8), 100.0, |_| false);
        let mut random = fastrand::Rng::with_seed(5);
        let windows: Vec<Overlooked> = (0..400).map(|_| sizes.overlooked(&mut random)).collect();
        assert!(windows.iter().all(|of| of.quiet == 1 << 8 && of.passed_over & !(1 << 8) == 0));
        let seen = windows.iter().filter(|of| of.passed_over == 0).count();
        assert!((60..140).contains(&seen), "one of four: {seen}");
    }

    #[test]
    fn where_that_cannot_be_addresses_are_noted() {
        let (mut sizes, requests) = seen(false);
        sizes.quieten(Some(u64::MAX), 100.0, |_| false);
        let overlooked = sizes.overlooked(&mut fastrand::Rng::with_seed(1));
        assert_eq!(overlooked, Overlooked { quiet: u64::MAX, passed_over: 0 });
        assert!(sizes.cheap_hits(&requests, overlooked) == 800 && is(sizes.weight(), 2.0 * CHEAP));
    }

    #[test]
    fn what_is_too_dear_is_only_witnessed_until_more_is_known() {
        let (mut sizes, _) = seen(true);
        sizes.quieten(None, 100.0, |weight| weight > 1.9);
        assert!(sizes.is_quiet() && is(sizes.weight(), 2.0 * CHEAP), "nothing is passed over of what is not known");
        sizes.quieten(None, 100.0, |weight| weight > 2.1);
        assert!(!sizes.is_quiet() && is(sizes.weight(), 2.0));
        sizes.quieten(Some(1 << 8), 100.0, |_| true);
        assert!(!sizes.is_quiet(), "it is known");
    }
}
