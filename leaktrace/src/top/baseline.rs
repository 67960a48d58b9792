//! The mark: levels that later ones are compared with.

use std::collections::HashMap;

use super::rows::LineKey;
use crate::census::growth::Grown;
use crate::report::{Line, Report, SiteReport};

/// Live bytes and blocks more than at the mark; negative when there are fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Change {
    pub(super) bytes: i128,
    pub(super) blocks: i128,
}

impl Change {
    fn between(now: (u64, u64), then: (u64, u64)) -> Self {
        Self { bytes: i128::from(now.0) - i128::from(then.0), blocks: i128::from(now.1) - i128::from(then.1) }
    }
}

/// Levels at the time of the mark. What was not there then had none.
#[derive(Debug, Clone)]
pub(super) struct Baseline {
    /// Seconds since the attach.
    pub(super) seconds: f64,
    total: (u64, u64),
    lines: HashMap<LineKey, (u64, u64)>,
    sites: HashMap<usize, (u64, u64)>,
    /// `None`: there was nothing to compare yet.
    types: Option<HashMap<String, u64>>,
}

impl Baseline {
    pub(super) fn of(report: &Report) -> Self {
        let types =
            |heap: &crate::census::growth::Growth| heap.types.iter().map(|row| (row.name.clone(), row.last)).collect();
        Self {
            seconds: report.capture.duration_seconds,
            total: (report.totals.live_bytes, report.totals.live_blocks),
            lines: report.lines.iter().map(|l| (LineKey::of(l), (l.live_bytes, l.live_blocks))).collect(),
            sites: report.sites.iter().map(|s| (s.number, (s.live_bytes, s.live_blocks))).collect(),
            types: report.heap.as_ref().map(types),
        }
    }

    pub(super) fn total(&self, report: &Report) -> Change {
        Change::between((report.totals.live_bytes, report.totals.live_blocks), self.total)
    }

    pub(super) fn line(&self, line: &Line) -> Change {
        let then = self.lines.get(&LineKey::of(line)).copied().unwrap_or_default();
        Change::between((line.live_bytes, line.live_blocks), then)
    }

    pub(super) fn site(&self, site: &SiteReport) -> Change {
        let then = self.sites.get(&site.number).copied().unwrap_or_default();
        Change::between((site.live_bytes, site.live_blocks), then)
    }

    /// Objects of a type more than at the mark; `None` where no census had been taken.
    pub(super) fn objects(&self, row: &Grown) -> Option<i128> {
        // A type that is not listed had not changed since the first census.
        let then = self.types.as_ref()?.get(&row.name).copied().unwrap_or(row.first);
        Some(i128::from(row.last) - i128::from(then))
    }
}
