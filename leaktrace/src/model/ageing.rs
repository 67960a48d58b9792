//! How the cohorts of a site age: what the verdict is made from. The terms are those of [`super::verdict`].

use std::ops::Range;

use super::gc::GcLog;
use super::growth::{Increment, Rate, median};
use super::timeline::Timeline;
use super::trail::Trail;

/// What the cohorts show.
#[derive(Debug)]
pub(super) struct Ageing {
    pub(super) age_ns: u64,
    /// Cohorts `first..mature` are mature.
    pub(super) first: usize,
    pub(super) mature: usize,
    pub(super) blocks: u64,
    pub(super) bytes: u64,
    pub(super) at_reference: u64,
    pub(super) deaths: u64,
    pub(super) matured: u64,
    pub(super) matured_bytes: u64,
    /// Of the time for which the mature cohorts were looked at, the share since the reference scan: 1 where all is looked at.
    pub(super) looked_since: f64,
    pub(super) steadiness: Option<Steadiness>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Steadiness {
    pub(super) ratio: f64,
    /// Whether the cohorts show a trend downwards.
    pub(super) declines: bool,
}

impl Ageing {
    pub(super) fn of(trail: &Trail, timeline: &Timeline, gc: &GcLog, exposure: Option<&[f64]>) -> Self {
        let now = timeline.now_ns();
        let first_ns = trail.first_ns.max(timeline.start_ns());
        let age_ns = ((now - first_ns.min(now)) / 6).max(timeline.last_interval_ns());
        // A scan that came a little late must not cost a cohort.
        let slack = timeline.last_interval_ns() / 4;
        let first = (0..timeline.cohorts()).find(|&c| timeline.cohort_end(c) > first_ns).unwrap_or(0);
        let reference_index = timeline.reference_for(first_ns);
        let reference_ns = timeline.references()[reference_index];
        let recurs = examined(gc, now).is_some_and(|full| full > reference_ns);
        let mature_at = |time: u64| {
            let aged = (time + slack).saturating_sub(age_ns);
            let horizon = match examined(gc, time).filter(|_| recurs) {
                Some(full) if full.saturating_sub(first_ns) >= aged.saturating_sub(first_ns) / 2 => aged.min(full),
                _ => aged,
            };
            (0..timeline.cohorts()).take_while(|&c| timeline.cohort_end(c) <= horizon).count().max(first)
        };
        let (mature, reference) = (mature_at(now), mature_at(reference_ns));
        let cells = |range: Range<usize>| trail.cells.get(range).unwrap_or_default().iter();
        let (mut at_reference, mut deaths) = (0, 0);
        for cell in cells(first..reference.min(mature)) {
            let before = cell.references[reference_index];
            at_reference += u64::from(before);
            deaths += u64::from(before.saturating_sub(cell.live));
        }
        let looked = |range: Range<usize>| exposure.and_then(|e| e.get(range)).map(|e| e.iter().sum::<f64>());
        let looked_since = match (looked(reference.min(mature)..mature), looked(first..mature)) {
            (Some(since), Some(all)) if all > 0.0 => since / all,
            _ => 1.0,
        };
        Self {
            age_ns,
            first,
            mature,
            looked_since,
            blocks: cells(first..mature).map(|c| u64::from(c.live)).sum(),
            bytes: cells(first..mature).map(|c| c.live_bytes).sum(),
            at_reference,
            deaths,
            matured: cells(reference.min(mature)..mature).map(|c| u64::from(c.live)).sum(),
            matured_bytes: cells(reference.min(mature)..mature).map(|c| c.live_bytes).sum(),
            steadiness: steadiness(&trail.survivors(timeline, exposure, rated(first, mature), |c| u64::from(c.live))),
        }
    }

    /// Share of the old blocks that live.
    pub(super) fn retention(&self) -> Option<f64> {
        (self.at_reference > 0).then(|| 1.0 - self.deaths as f64 / self.at_reference as f64)
    }

    /// Deaths per block that became mature.
    pub(super) fn balance(&self) -> Option<f64> {
        (self.matured > 0).then(|| self.deaths as f64 / self.matured as f64)
    }

    /// Cohorts that the rate is taken from.
    pub(super) fn rated(&self) -> Range<usize> {
        rated(self.first, self.mature)
    }
}

/// Mature cohorts without the first: the first one began before the site did, and holds what it set up once; it is
/// left out when there are enough others.
fn rated(first: usize, mature: usize) -> Range<usize> {
    let trim = usize::from(mature >= first + 4);
    first + trim..mature
}

/// Start of the last full collection before `time`, when it is the collector that decides.
fn examined(gc: &GcLog, time: u64) -> Option<u64> {
    if gc.enabled() == Some(false) { None } else { gc.last_full_before(time) }
}

/// Compares the halves of the mature cohorts by mean and by median, and believes the steadier: one burst drags the
/// mean of its half, and arrivals in bursts make medians jump, but a warm-up that decays shows in both.
fn steadiness(increments: &[Increment]) -> Option<Steadiness> {
    if increments.len() < 4 {
        return None;
    }
    let total: f64 = increments.iter().map(|i| i.seconds).sum();
    let mut elapsed = 0.0;
    let split = increments.iter().take_while(|i| {
        elapsed += i.seconds;
        elapsed <= total / 2.0 + i.seconds / 2.0
    });
    let rates: Vec<f64> = increments.iter().map(|i| i.amount / i.seconds).collect();
    let split = split.count();
    let middle = |part: &[f64]| median(&mut part.to_vec());
    let medians = middle(&rates[split..])? / middle(&rates[..split])?;
    let mean = |part: &[Increment]| Rate::of_increments(part).estimate;
    let means = mean(&increments[split..]) / mean(&increments[..split]);
    let ratio = if medians.is_finite() { means.max(medians) } else { means };
    ratio.is_finite().then(|| Steadiness { ratio, declines: declines(&rates) })
}

/// Mann and Kendall's trend test: whether later values are lower more often than chance explains (one-sided, 5 %).
fn declines(values: &[f64]) -> bool {
    let count = values.len() as f64;
    let mut score = 0.0;
    for (index, earlier) in values.iter().enumerate() {
        for later in &values[index + 1..] {
            score += f64::from(i8::from(later > earlier) - i8::from(later < earlier));
        }
    }
    let deviation = (count * (count - 1.0) * (2.0 * count + 5.0) / 18.0).sqrt();
    score + 1.0 < -1.645 * deviation
}
