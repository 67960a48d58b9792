//! Growing, plateau, churn or unknown: the judgement on a site, with its evidence.
//!
//! A growing total is not a leak. What is judged is how *cohorts* age, a cohort being the blocks of one interval:
//!
//! * **Mature** blocks are older than a sixth of the time that the site was watched. What is younger may be a request in
//!   flight, and says nothing.
//! * **Retention**: of the blocks that were mature at the reference scan (about half of the way), the share that lives
//!   now. A leak keeps them. A cache that evicts, a TTL that expires and a batch that is dropped do not.
//! * **Balance**: deaths of mature blocks against blocks that became mature, since the reference. 0 for a leak, about 1
//!   for anything bounded.
//! * **Steadiness**: what the younger half of the mature cohorts left behind per second against the older half. A
//!   warm-up decays; a leak does not.
//! * **Rate**: survivors per second of birth, with the interval that the spread between cohorts gives. A start-up burst
//!   is one cohort, and its interval includes zero; a leak that comes in bursts passes after its fifth or so.
//!
//! A site is growing when all five say so. Inherent limit: a cache that has neither filled nor expired anything while it
//! was watched is not different from a leak in any respect; nothing is called growing in the first
//! [`Criteria::min_observed_ns`], and the evidence tells how long was watched.
//!
//! **Cycles** that only the collector can free are not leaks until it has failed to free them. With the collector on:
//!
//! 1. When full collections keep happening (the last one began after the reference scan), mature also means older than
//!    the last one's start: what it has not examined does not count as a survivor.
//! 2. When the last one was longer ago, the cohorts that it did examine are the sample: if they kept less than half of
//!    what all keep on average, the rest is presumed to go the same way.
//! 3. When there was none, the same is asked of the young collections, which free cycles that died young.
//! 4. When nothing was collected at all since, a garbage cycle can wait for at most one threshold of containers, without the
//!    GIL for 40 more, if so many were made: more survivors than that are taken not to be waiting, all of them. Nor are more than sixteen
//!    for each container that was made and not freed since the attach, and for ten more, where the collector's list of young objects
//!    tells how many these are: a cycle that is garbage is taken to have one of them. The evidence says that no full collection has tested
//!    them.
//!
//! With the collector off, nothing will ever free them, and growth counts as it is.

use serde::Serialize;

use super::ageing::Ageing;
use super::gc::GcLog;
use super::growth::Rate;
use super::timeline::Timeline;
use super::trail::{Trail, seconds};

/// The judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Blocks pile up without bound.
    Growing,
    /// Blocks last, and their number does not grow.
    Plateau,
    /// Blocks come and go; none lasts.
    Churn,
    /// The evidence does not decide.
    Unknown,
}

impl Verdict {
    /// As one word, the same as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Growing => "growing",
            Self::Plateau => "plateau",
            Self::Churn => "churn",
            Self::Unknown => "unknown",
        }
    }
}

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Growing: cohorts keep surviving while new ones are added.
    CohortsSurvive,
    /// Growing: as many blocks, each replaced by a larger one.
    BlocksEnlarge,
    /// Plateau: nothing lasting was added of late.
    NothingAdded,
    /// Plateau: old blocks die as fast as new ones last.
    Balanced,
    /// Churn: nothing lives.
    AllFreed,
    /// Churn: no block grows old.
    NoneGrowsOld,
    /// Unknown: watched for too short a time.
    TooYoung,
    /// Unknown: too few blocks.
    TooFew,
    /// Unknown: it rises, but old blocks die too.
    OldBlocksDie,
    /// Unknown: it rises ever more slowly.
    Slowing,
    /// Unknown: it rises too unevenly to tell.
    Uneven,
    /// Unknown: the collector freed the like before, or has not looked yet.
    AwaitsCollector,
    /// Unknown: blocks seen in windows seem to survive, but the heap does not grow by as many of their size: addresses were
    /// handed out again unseen.
    HeapDoesNotGrow,
    /// Unknown: blocks seen in windows survive, but sites that these left out may have handed out their addresses again.
    Unproven,
    /// Unknown: blocks seen in windows seem to survive, but in windows that armed more sites none does: another site hands them out.
    Anothers,
    /// Unknown: so many blocks were missed that those seen prove nothing.
    Missed,
}

/// What the cyclic collector says of the survivors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CollectorTest {
    /// A full collection examined survivors and left them.
    FullSurvived,
    /// Only young collections ran: blocks that became garbage after they had grown old cannot be told apart.
    YoungSurvived,
    /// No collection ran since.
    Untested,
    /// The collector is switched off.
    Disabled,
    /// It did not matter for the verdict.
    NotApplied,
}

/// Rates of growth.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Growth {
    pub bytes_per_second: Rate,
    pub blocks_per_second: Rate,
}

impl Growth {
    /// Adds another site's growth.
    pub fn add(&mut self, other: &Self) {
        self.bytes_per_second.add(&other.bytes_per_second);
        self.blocks_per_second.add(&other.blocks_per_second);
    }
}

/// Why the verdict is what it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evidence {
    /// Cohorts of which a block lives.
    pub cohorts: usize,
    /// Cohorts since the site's first block.
    pub cohorts_observed: usize,
    pub oldest_survivor_seconds: f64,
    /// Share of all blocks allocated that were freed.
    pub freed_share: f64,
    /// Since the site's first block.
    pub observed_seconds: f64,
    /// Age from which a block counts as mature.
    pub mature_seconds: f64,
    /// Mature blocks that live.
    pub mature_blocks: u64,
    /// Share of the blocks mature at the reference scan that live now.
    pub retention: Option<f64>,
    /// Deaths of mature blocks per block that became mature since the reference scan.
    pub balance: Option<f64>,
    /// Survivors per second of the younger half of the mature cohorts, over those of the older half.
    pub steadiness: Option<f64>,
    pub collector: CollectorTest,
    pub reason: Reason,
    /// Of a stack: the verdict is that of its line, since the stack alone has too few blocks. Its rate then is its
    /// share, by live blocks and bytes, of the line's.
    pub by_line: bool,
    /// Of a line: the verdict is that of some of its stacks, whose rates are added up; the line as a whole also holds
    /// blocks that come and go.
    pub by_stack: bool,
}

/// Verdict, rates and evidence.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    pub verdict: Verdict,
    pub growth: Growth,
    pub evidence: Evidence,
}

/// Thresholds of the judgement.
#[derive(Debug, Clone, PartialEq)]
pub struct Criteria {
    /// A site watched for less is unknown.
    pub min_observed_ns: u64,
    /// Scans below which everything is unknown.
    pub min_scans: u64,
    /// Mature survivors below which nothing is growing, unless they are large.
    pub min_blocks: u64,
    /// Bytes of mature survivors that make up for few blocks.
    pub large_bytes: u64,
    pub min_retention: f64,
    pub max_balance: f64,
    pub min_steadiness: f64,
    /// For how many blocks each that was seen stands: 1 where all are.
    pub weight: f64,
    /// Where windows were open only now and then: for how many seconds of each cohort.
    pub exposure: Option<Vec<f64>>,
}

impl Default for Criteria {
    fn default() -> Self {
        Self {
            min_observed_ns: 24_000_000_000,
            min_scans: 5,
            min_blocks: 20,
            large_bytes: 1 << 20,
            min_retention: 0.9,
            max_balance: 0.5,
            min_steadiness: 0.65,
            weight: 1.0,
            exposure: None,
        }
    }
}

/// Where windows were open only now and then, after so many nanoseconds so few survivors are enough: each has lasted for a sixth of
/// the time.
const PATIENT_NS: u64 = 600_000_000_000;
const PATIENT_BLOCKS: u64 = 8;
/// Of these so many have to be as old at the reference: else that none has died says little.
const PATIENT_OLD: u64 = 4;
/// Where windows were open only now and then: survivors that there should be among what a collection has examined, for it to say that
/// they are few.
const FEW_TESTED: f64 = 3.0;
/// Fewest survivors that large blocks still need.
const FEWEST_BLOCKS: u64 = 5;
/// Share of what became mature at the reference below which later additions count as nothing.
const NEGLIGIBLE: f64 = 0.05;
/// Share of the looks since the reference below which they say nothing of what was added.
const SELDOM: f64 = 0.1;
/// How far a level may pass its earlier peak and still count as bounded by it.
const PEAK_SLACK: f64 = 1.1;

/// Judges a site, or several read as one.
pub fn judge(trail: &Trail, timeline: &Timeline, gc: &GcLog, criteria: &Criteria) -> Judgement {
    let ageing = Ageing::of(trail, timeline, gc, criteria.exposure.as_deref());
    let observed = timeline.now_ns().saturating_sub(trail.first_ns.max(timeline.start_ns()));
    let mut collector = CollectorTest::NotApplied;
    let (verdict, reason) = match decide(trail, timeline, gc, criteria, &ageing, observed, &mut collector) {
        (verdict, _) if verdict != Verdict::Growing && may_hide_a_leak(trail, timeline, criteria) => {
            (Verdict::Unknown, Reason::Missed)
        }
        decided => decided,
    };
    let growth = if reason == Reason::CohortsSurvive {
        let blocks = survival(trail, timeline, criteria, &ageing);
        let bytes = match criteria.exposure {
            // So many that seconds are one window: what blocks weigh differs more than how many there are.
            Some(_) => blocks.scaled(ageing.bytes as f64 / ageing.blocks.max(1) as f64),
            None => Rate::of_increments(&trail.survivors(timeline, None, ageing.rated(), |c| c.live_bytes)),
        };
        Growth { bytes_per_second: bytes, blocks_per_second: blocks }
    } else {
        Growth {
            bytes_per_second: trail.slope(timeline, |t| t.bytes),
            blocks_per_second: trail.slope(timeline, |t| t.blocks),
        }
    };
    let evidence = Evidence {
        cohorts: trail.surviving_cohorts(),
        cohorts_observed: timeline.cohorts() - ageing.first.min(timeline.cohorts()),
        oldest_survivor_seconds: trail
            .oldest_ns
            .map_or(0.0, |oldest| seconds(timeline.now_ns().saturating_sub(oldest))),
        freed_share: trail.freed_share(),
        observed_seconds: seconds(observed),
        mature_seconds: seconds(ageing.age_ns),
        mature_blocks: ageing.blocks,
        retention: ageing.retention(),
        balance: ageing.balance(),
        steadiness: ageing.steadiness.map(|s| s.ratio),
        collector,
        reason,
        by_line: false,
        by_stack: false,
    };
    Judgement { verdict, growth, evidence }
}

fn decide(
    trail: &Trail,
    timeline: &Timeline,
    gc: &GcLog,
    criteria: &Criteria,
    ageing: &Ageing,
    observed: u64,
    collector: &mut CollectorTest,
) -> (Verdict, Reason) {
    if trail.live.blocks == 0 {
        return (Verdict::Churn, Reason::AllFreed);
    }
    if observed < criteria.min_observed_ns || timeline.scans() < criteria.min_scans {
        return (Verdict::Unknown, Reason::TooYoung);
    }
    let doubt = match doubt(trail, timeline, criteria, ageing) {
        None => {
            *collector = collector_test(trail, timeline, gc, criteria, ageing);
            let survivors = ageing.blocks as f64 * criteria.weight;
            let waiting = *collector == CollectorTest::Untested && survivors <= gc.patience() as f64;
            if *collector != CollectorTest::NotApplied && !waiting {
                return (Verdict::Growing, Reason::CohortsSurvive);
            }
            Reason::AwaitsCollector
        }
        Some(doubt) => doubt,
    };
    // Of a sample, the level rises as more windows are seen.
    if criteria.weight <= 1.0 && enlarges(trail) {
        return (Verdict::Growing, Reason::BlocksEnlarge);
    }
    if ageing.blocks == 0 || (ageing.blocks as f64) < 0.01 * trail.allocated.blocks as f64 && !rises(trail, timeline) {
        return (Verdict::Churn, Reason::NoneGrowsOld);
    }
    // Where windows were open only now and then, a level says little, and that nothing came says nothing where nobody looked of
    // late: only deaths tell that it is bounded.
    if criteria.exposure.is_some() {
        let die = ageing.retention().is_some_and(|retention| retention < criteria.min_retention)
            || ageing.balance().is_some_and(|balance| balance > criteria.max_balance);
        let nothing_came = ageing.looked_since >= SELDOM && ageing.matured == 0 && ageing.blocks >= criteria.min_blocks;
        if !die && !nothing_came {
            return (Verdict::Unknown, doubt);
        }
    }
    if ageing.at_reference > 0 && (ageing.matured as f64) <= NEGLIGIBLE * ageing.at_reference as f64 {
        return (Verdict::Plateau, Reason::NothingAdded);
    }
    if bounded_by_peak(trail, timeline) || ageing.matured.saturating_sub(ageing.deaths) * 10 <= ageing.at_reference {
        return (Verdict::Plateau, Reason::Balanced);
    }
    (Verdict::Unknown, doubt)
}

/// What keeps the cohorts from showing a leak; `None` when nothing does.
fn doubt(trail: &Trail, timeline: &Timeline, criteria: &Criteria, ageing: &Ageing) -> Option<Reason> {
    // Asked of all survivors, and of the later half for itself: a thousand blocks of one burst and a few stragglers are
    // not a thousand that pile up.
    let observed = timeline.now_ns().saturating_sub(trail.first_ns.max(timeline.start_ns()));
    let patient = criteria.exposure.is_some() && observed >= PATIENT_NS;
    let patient = patient && ageing.at_reference >= PATIENT_OLD;
    let min_blocks = if patient { criteria.min_blocks.min(PATIENT_BLOCKS) } else { criteria.min_blocks };
    let enough =
        |blocks: u64, bytes: u64| blocks >= min_blocks || blocks >= FEWEST_BLOCKS && bytes >= criteria.large_bytes;
    if !enough(ageing.blocks, ageing.bytes) || !enough(2 * ageing.matured, 2 * ageing.matured_bytes) {
        return Some(Reason::TooFew);
    }
    let Some(retention) = ageing.retention() else { return Some(Reason::TooYoung) };
    if retention < criteria.min_retention || ageing.balance().is_none_or(|b| b > criteria.max_balance) {
        return Some(Reason::OldBlocksDie);
    }
    if ageing.steadiness.is_some_and(|s| s.ratio < criteria.min_steadiness && s.declines) {
        return Some(Reason::Slowing);
    }
    (!survival(trail, timeline, criteria, ageing).is_positive()).then_some(Reason::Uneven)
}

/// Survivors per second of birth.
fn survival(trail: &Trail, timeline: &Timeline, criteria: &Criteria, ageing: &Ageing) -> Rate {
    let exposure = criteria.exposure.as_deref();
    let increments = trail.survivors(timeline, exposure, ageing.rated(), |c| c.live.into());
    if exposure.is_some() { Rate::of_counts(&increments) } else { Rate::of_increments(&increments) }
}

/// What the collector says of survivors that pile up. [`CollectorTest::NotApplied`] when it freed the like of them.
fn collector_test(
    trail: &Trail,
    timeline: &Timeline,
    gc: &GcLog,
    criteria: &Criteria,
    ageing: &Ageing,
) -> CollectorTest {
    if gc.enabled() == Some(false) {
        return CollectorTest::Disabled;
    }
    let full = gc.last_full_before(timeline.now_ns());
    let any = gc.last_before(timeline.now_ns());
    for (start, passed) in [(full, CollectorTest::FullSurvived), (any, CollectorTest::YoungSurvived)] {
        let Some(start) = start else { continue };
        let tested = (ageing.first..ageing.mature).take_while(|&c| timeline.cohort_end(c) <= start).count();
        if tested == 0 {
            continue;
        }
        let exposure = criteria.exposure.as_deref();
        let survivors =
            |range| Rate::of_increments(&trail.survivors(timeline, exposure, range, |c| c.live.into())).estimate;
        let kept = survivors(ageing.first..ageing.first + tested);
        let all = survivors(ageing.first..ageing.mature);
        // None of few says nothing.
        let seen: f64 = trail
            .survivors(timeline, exposure, ageing.first..ageing.first + tested, |c| c.live.into())
            .iter()
            .map(|increment| increment.seconds)
            .sum();
        if exposure.is_some() && all * seen < FEW_TESTED {
            continue;
        }
        return if kept * 2.0 >= all { passed } else { CollectorTest::NotApplied };
    }
    CollectorTest::Untested
}

/// Whether the blocks lost of late would be a leak, if they all lived. A full table takes no new block, so what grows in it
/// seems to stand still.
fn may_hide_a_leak(trail: &Trail, timeline: &Timeline, criteria: &Criteria) -> bool {
    let lost = trail.lost_since(timeline.reference_for(trail.first_ns));
    let enough = lost >= criteria.min_blocks
        || lost >= FEWEST_BLOCKS && trail.mean_bytes() * lost as f64 >= criteria.large_bytes as f64;
    enough && lost as f64 > NEGLIGIBLE * trail.live.blocks as f64
}

/// Whether the level is one that was reached before the reference scan already.
fn bounded_by_peak(trail: &Trail, timeline: &Timeline) -> bool {
    let reference = timeline.references()[timeline.reference_for(trail.first_ns)];
    let before = timeline.samples().iter().zip(&trail.series).filter(|(time, _)| **time <= reference);
    let peak = before.map(|(_, tally)| tally.blocks).max().unwrap_or(0) as f64;
    trail.live.blocks as f64 <= peak * PEAK_SLACK + 3.0 * peak.sqrt()
}

fn rises(trail: &Trail, timeline: &Timeline) -> bool {
    trail.slope(timeline, |tally| tally.blocks).is_positive()
}

/// Whether bytes keep rising while the number of blocks does not: a container's buffer that is reallocated again and
/// again. Each rise must be a new record, spread over the whole series, without a drop.
fn enlarges(trail: &Trail) -> bool {
    let level: Vec<_> = trail.series.iter().skip_while(|tally| tally.blocks == 0).collect();
    let third = level.len() / 3;
    if third < 2 {
        return false;
    }
    let (early, middle, late) = (level[third - 1], level[2 * third - 1], level[level.len() - 1]);
    let records = level.windows(2).filter(|pair| pair[1].bytes > pair[0].bytes).count();
    let drops = level.windows(2).any(|pair| pair[1].bytes * 100 < pair[0].bytes * 95);
    let relative = |now: u64, then: u64| now as f64 / then.max(1) as f64 - 1.0;
    let (bytes, blocks) = (relative(late.bytes, early.bytes), relative(late.blocks, early.blocks));
    let (before, lately) = (middle.bytes.saturating_sub(early.bytes), late.bytes.saturating_sub(middle.bytes));
    records >= 4 && !drops && bytes >= 0.2 && blocks <= bytes / 2.0 && lately * 2 >= before && before * 5 >= lately
}
