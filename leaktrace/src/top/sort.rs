//! What tables are sorted by.

use std::cmp::Ordering;

use super::baseline::Baseline;
use crate::census::growth::Grown;
use crate::model::Verdict;
use crate::report::Line;

/// What lines are sorted by, the most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum SiteSort {
    /// Bytes a second of what grows, then live bytes.
    #[default]
    Rate,
    LiveBytes,
    LiveBlocks,
    Allocated,
    /// Live bytes more than at the mark.
    Since,
}

impl SiteSort {
    /// The next one; what needs a mark only where there is one.
    pub(super) fn next(self, marked: bool) -> Self {
        match self {
            Self::Rate => Self::LiveBytes,
            Self::LiveBytes => Self::LiveBlocks,
            Self::LiveBlocks => Self::Allocated,
            Self::Allocated if marked => Self::Since,
            Self::Allocated | Self::Since => Self::Rate,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::LiveBytes => "live bytes",
            Self::LiveBlocks => "live blocks",
            Self::Allocated => "allocated",
            Self::Since => "since mark",
        }
    }

    /// Equal ones keep their order: that of the report.
    pub(super) fn compare(self, a: &Line, b: &Line, baseline: Option<&Baseline>) -> Ordering {
        let rate = |line: &Line| {
            if line.verdict == Verdict::Growing { line.growth.bytes_per_second.estimate } else { f64::NEG_INFINITY }
        };
        let since = |line: &Line| baseline.map_or(0, |baseline| baseline.line(line).bytes);
        match self {
            Self::Rate => rate(b).total_cmp(&rate(a)).then(b.live_bytes.cmp(&a.live_bytes)),
            Self::LiveBytes => b.live_bytes.cmp(&a.live_bytes),
            Self::LiveBlocks => b.live_blocks.cmp(&a.live_blocks),
            Self::Allocated => b.allocated_bytes.cmp(&a.allocated_bytes),
            Self::Since => since(b).cmp(&since(a)),
        }
    }
}

/// What types are sorted by, the most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum TypeSort {
    /// Objects more than at first.
    #[default]
    Change,
    Rate,
    Bytes,
    Objects,
    Since,
}

impl TypeSort {
    pub(super) fn next(self, marked: bool) -> Self {
        match self {
            Self::Change => Self::Rate,
            Self::Rate => Self::Bytes,
            Self::Bytes => Self::Objects,
            Self::Objects if marked => Self::Since,
            Self::Objects | Self::Since => Self::Change,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Rate => "rate",
            Self::Bytes => "bytes",
            Self::Objects => "objects",
            Self::Since => "since mark",
        }
    }

    pub(super) fn compare(self, a: &Grown, b: &Grown, baseline: Option<&Baseline>) -> Ordering {
        let since = |row: &Grown| baseline.and_then(|baseline| baseline.objects(row)).unwrap_or(0);
        match self {
            Self::Change => b.delta().cmp(&a.delta()),
            Self::Rate => b.rate.estimate.total_cmp(&a.rate.estimate),
            Self::Bytes => b.last_bytes.cmp(&a.last_bytes),
            Self::Objects => b.last.cmp(&a.last),
            Self::Since => since(b).cmp(&since(a)),
        }
    }
}
