//! What speaks for one of the units that windows left out, as the owner of blocks that seem to be a stack's: where it is armed, too, the
//! stack has next to none.

/// So many windows that show less than this part of what others do, where that comes by chance once in `exp(MANY)` times, or of so many
/// that were expected: then the blocks are not the stack's.
const MANY_WINDOWS: u32 = 3;
pub(super) const MANY: f64 = 12.0;
pub(super) const NEXT_TO_NONE: f64 = 0.1;
/// The same that speaks against it.
const ANYTHING: f64 = 4.0;
/// Moments in which blocks came without the rival, for that to say anything of chance: those of one request are one event.
const MOMENTS: u32 = 2;
/// Part of the time that windows with a rival are taken to be at most.
const NEARLY_ALL: f64 = 0.99;

/// A unit that some windows left out, and what those show that armed it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rival {
    pub unit: usize,
    pub count: u32,
    pub seconds: f64,
    pub is_old: bool,
    /// Since the stack's first block: windows, for how long, and how many of them had any.
    windows: u32,
    late_seconds: f64,
    moments: u32,
    /// Also those in which the stack's unit was a witness.
    pub asked: u32,
}

/// A stack's blocks, and the time since the first of them that windows saw it for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub blocks: f64,
    pub seconds: f64,
    /// Windows that have any.
    pub moments: u32,
    /// Blocks that come in a second of all that windows saw it for.
    pub rate: f64,
}

impl Rival {
    pub(super) fn of(unit: usize) -> Self {
        Self { unit, ..Self::default() }
    }

    /// Enters a window that had it armed.
    pub(super) fn enter(&mut self, count: u32, seconds: f64, is_late: bool, is_old: bool) {
        self.count += count;
        self.seconds += seconds;
        self.is_old |= count > 0 && is_old;
        self.windows += u32::from(is_late);
        self.late_seconds += if is_late { seconds } else { 0.0 };
        self.moments += u32::from(count > 0);
    }

    /// How improbable it is by chance, in nats, that no more of the blocks came while the rival was armed: a binomial tail's bound
    /// (Chernoff). 0 where that is more than next to none of what comes without it.
    fn evidence(&self, of: &Seen) -> f64 {
        let count = f64::from(self.count);
        let part = (self.late_seconds / of.seconds.max(1e-9)).min(NEARLY_ALL);
        let (expected, without) = (part * of.blocks, (1.0 - part) * of.blocks);
        let others = (of.blocks - count).max(0.0);
        if self.late_seconds <= 0.0 || count * without >= NEXT_TO_NONE * others * expected {
            return 0.0;
        }
        let nats = |of: f64, expected: f64| if of > 0.0 { of * (of / expected).ln() } else { 0.0 };
        nats(count, expected) + nats(others, without)
    }

    /// Whether it has next to none of so many that should have been there by the mean rate.
    fn lacks(&self, of: &Seen, many: f64) -> bool {
        let expected = of.rate * self.seconds;
        expected >= many && f64::from(self.count) < NEXT_TO_NONE * expected
    }

    /// Whether windows that had it armed speak against the stack.
    pub(super) fn speaks_against(&self, of: &Seen) -> bool {
        self.lacks(of, ANYTHING) || self.evidence(of) >= ANYTHING
    }

    /// Whether they say that the blocks are not the stack's.
    pub(super) fn owns_them(&self, of: &Seen) -> bool {
        let is_no_chance = of.moments - self.moments.min(of.moments) >= MOMENTS && self.evidence(of) >= MANY;
        self.windows >= MANY_WINDOWS && (is_no_chance || self.lacks(of, MANY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rival(count: u32, late_seconds: f64) -> Rival {
        Rival { unit: 4, windows: 3, count, seconds: late_seconds, late_seconds, moments: count, ..Rival::default() }
    }

    fn seen(blocks: f64, seconds: f64, moments: u32) -> Seen {
        Seen { blocks, seconds, moments, rate: blocks / seconds }
    }

    #[test]
    fn what_comes_by_chance_is_no_evidence() {
        // A binomial of 9 with 3 parts of 4 has none with 4 to the power of -9.
        assert!((rival(0, 0.15).evidence(&seen(9.0, 0.2, 1)) - 9.0 * 4_f64.ln()).abs() < 1e-9);
        let (few, many) = (seen(100.0, 0.1, 9), seen(1200.0, 240.0, 99));
        assert!((rival(0, 0.002).evidence(&few) - 2.02).abs() < 0.01, "as many as were expected, of a small part");
        assert!((rival(0, 0.3).evidence(&many) - 1.5).abs() < 0.01, "however many there are in all");
        assert!(rival(2, 0.45).evidence(&seen(14.0, 0.5, 4)) > MANY, "most came in the tenth of the time without it");
        let none = |rival: Rival| rival.evidence(&seen(9.0, 0.2, 1)).abs() < 1e-9;
        assert!(none(rival(3, 0.15)) && none(rival(0, 0.0)));
    }

    #[test]
    fn blocks_of_one_moment_are_one_event() {
        let rival = rival(0, 0.45);
        assert!(rival.speaks_against(&seen(9.0, 0.5, 1)) && !rival.owns_them(&seen(9.0, 0.5, 1)));
        assert!(rival.owns_them(&seen(9.0, 0.5, 2)) && rival.owns_them(&seen(14.0, 0.5, 1)), "or are many");
        assert!(!Rival { windows: 2, ..rival }.owns_them(&seen(90.0, 0.5, 9)), "too few windows");
    }
}
