//! Where only a part was traced: what was seen, and for how much it stands.

use serde::{Deserialize, Serialize};

use super::{Judgement, Verdict, verdict::Reason};

/// The windows of a watch at a bounded cost.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct WatchFacts {
    /// Share of the target's CPU time that tracing might cost, and what it did cost by our own measure.
    pub overhead_limit: f64,
    pub overhead: f64,
    /// How many times longer the target's work might take in a window, and the longest that it did.
    pub max_slowdown: f64,
    pub slowest: f64,
    pub windows: u64,
    /// Seconds for which windows were open.
    pub open_seconds: f64,
    /// Blocks that outlived their window and are believed to live.
    pub followed_blocks: u64,
    /// Blocks that were believed to live when a window saw their address handed out again.
    pub reused_unseen: u64,
    /// Entries of the C allocator's functions that windows only counted: of sizes of which nothing that they saw lived on.
    #[serde(default)]
    pub passed_over: u64,
    /// Sites that may hand out what grows and that no window has armed yet.
    pub sites_unseen: u64,
    /// Size classes that grow and of which a part can never be told, because a site alone would pass the slowdown, or all together do
    /// many times.
    #[serde(default, alias = "sites_too_hot")]
    pub classes_too_hot: u64,
    /// The least slowdown that would let a window see one of these whole; 0 where there is none.
    #[serde(default)]
    pub slowdown_needed: f64,
    /// Which part of the heap's growth, in blocks, the survivors of the windows are, 0 to 1.
    #[serde(default)]
    pub explained: f64,
}

/// What makes estimates of what windows saw.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sampling {
    /// By index of the ledger's sites: for how many blocks each that was seen stands.
    pub weights: Vec<f64>,
    /// Seconds in which some part of the interpreter was armed, by the timeline's cohorts.
    #[serde(default)]
    pub exposures: Vec<Vec<f64>>,
    /// By index of the ledger's sites: which of [`Self::exposures`] is that of its blocks; `None` where none was seen.
    #[serde(default)]
    pub exposure_of: Vec<Option<u32>>,
    /// By index of the ledger's sites: the most blocks a second by which the heap grows in the size class of its blocks;
    /// `None` where that is not known.
    pub bounds: Vec<Option<f64>>,
    /// By index of the ledger's sites: the blocks seen of it may be another's, that was never armed in the same windows.
    #[serde(default)]
    pub unproven: Vec<bool>,
    /// By index of the ledger's sites: the blocks seen of it are another's, that handed its addresses out again.
    #[serde(default)]
    pub refuted: Vec<bool>,
    /// The heap has more and more blocks of some size, or it was not looked long enough to say that it has not.
    pub heap_grows: bool,
    pub facts: WatchFacts,
}

impl Sampling {
    /// Whether so much was seen that what does not seem to grow does not.
    pub fn is_enough(&self) -> bool {
        !self.heap_grows
    }

    /// For how many blocks each that was seen of the site stands.
    pub fn weight(&self, site: usize) -> f64 {
        self.weights.get(site).copied().unwrap_or(1.0)
    }

    /// Whether estimates of a ledger from these weights, which may come from outside, stay numbers.
    pub fn is_sound(&self, ledger: &super::Ledger) -> bool {
        let sites = ledger.sites().iter().enumerate();
        let all: f64 = sites.map(|(site, s)| self.weight(site) * (s.trail.allocated.bytes as f64 + 1.0)).sum();
        let believable = |seconds: &f64| (0.0..1e12).contains(seconds);
        let exposures = self.exposures.iter().all(|by_cohort| by_cohort.iter().all(believable));
        self.weights.iter().all(|weight| *weight >= 0.0) && exposures && all < 1e18
    }

    /// The mean over sites.
    pub fn mean_weight(&self, sites: &[usize]) -> f64 {
        sites.iter().map(|&site| self.weight(site)).sum::<f64>() / sites.len().max(1) as f64
    }

    /// Seconds by cohort for which some sites (their indices) were armed, the mean over those that are known; `None` where
    /// none is.
    pub fn exposure(&self, sites: &[usize]) -> Option<Vec<f64>> {
        let of = |site: &usize| self.exposures.get(*self.exposure_of.get(*site)?.as_ref()? as usize);
        let known: Vec<&Vec<f64>> = sites.iter().filter_map(of).collect();
        let cohorts = known.iter().map(|by_cohort| by_cohort.len()).max()?;
        let mean = |cohort| known.iter().filter_map(|e| e.get(cohort)).sum::<f64>() / known.len() as f64;
        Some((0..cohorts).map(mean).collect())
    }

    /// What keeps some sites from being called growing, if there is something.
    fn doubt(&self, sites: &[usize]) -> Option<Reason> {
        let is = |of: &[bool], site: &usize| of.get(*site).copied().unwrap_or(false);
        let refuted = |site: &usize| is(&self.refuted, site);
        let doubtful = |site: &usize| refuted(site) || is(&self.unproven, site);
        // A site of which nothing is followed proves nothing.
        let known = || sites.iter().filter(|site| self.exposure_of.get(**site).is_some_and(Option::is_some));
        if !sites.iter().any(doubtful) || !known().all(doubtful) {
            return None;
        }
        Some(if known().all(refuted) { Reason::Anothers } else { Reason::Unproven })
    }

    /// Makes the judgement on what was seen of some sites (their indices) one on all of it: rates of levels are multiplied
    /// (those of cohorts are by time of exposure already), and what seems to grow where the heap does not, or may be another's, is not
    /// called growing.
    pub fn extend(&self, judgement: &mut Judgement, sites: &[usize]) {
        let by_exposure = judgement.evidence.reason == Reason::CohortsSurvive && self.exposure(sites).is_some();
        let weight = if by_exposure { 1.0 } else { self.mean_weight(sites) };
        judgement.growth.bytes_per_second = judgement.growth.bytes_per_second.scaled(weight);
        judgement.growth.blocks_per_second = judgement.growth.blocks_per_second.scaled(weight);
        let bounds = sites.iter().map(|&site| self.bounds.get(site).copied().flatten());
        // Blocks of a class whose growth is not known may be all of it.
        let most: Option<Vec<f64>> = bounds.collect();
        let most = most.map(|bounds| bounds.into_iter().fold(0.0, f64::max));
        let refuted = most.is_some_and(|most| most <= 0.0 || judgement.growth.blocks_per_second.low > most);
        if judgement.verdict == Verdict::Growing && refuted {
            judgement.verdict = Verdict::Unknown;
            judgement.evidence.reason = Reason::HeapDoesNotGrow;
        } else if judgement.verdict == Verdict::Growing
            && let Some(doubt) = self.doubt(sites)
        {
            judgement.verdict = Verdict::Unknown;
            judgement.evidence.reason = doubt;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Growth, Rate, verdict};

    fn growing(blocks: Rate) -> Judgement {
        let judgement = verdict::judge(
            &crate::model::Trail::default(),
            &crate::model::Timeline::new(0),
            &crate::model::gc::GcLog::default(),
            &crate::model::Criteria::default(),
        );
        let growth = Growth { bytes_per_second: blocks.scaled(64.0), blocks_per_second: blocks };
        Judgement { verdict: Verdict::Growing, growth, ..judgement }
    }

    /// Each block seen stands for 100; the heap grows by at most `bound` such blocks a second.
    fn extended(bound: Option<f64>) -> Judgement {
        let sampling = Sampling { weights: vec![100.0], bounds: vec![bound], ..Sampling::default() };
        let mut judgement = growing(Rate { estimate: 0.5, low: 0.4, high: 0.6 });
        sampling.extend(&mut judgement, &[0]);
        judgement
    }

    #[test]
    fn what_may_be_anothers_is_suspected_only() {
        let sampling = |unproven: &[bool]| Sampling {
            weights: vec![1.0; 2],
            bounds: vec![None; 2],
            exposure_of: vec![Some(0); 2],
            unproven: unproven.to_vec(),
            ..Sampling::default()
        };
        let judged = |unproven: &[bool], sites: &[usize]| {
            let mut judgement = growing(Rate { estimate: 0.5, low: 0.4, high: 0.6 });
            sampling(unproven).extend(&mut judgement, sites);
            (judgement.verdict, judgement.evidence.reason == Reason::Unproven)
        };
        assert_eq!(judged(&[true, false], &[0]), (Verdict::Unknown, true));
        assert_eq!(judged(&[true, true], &[0, 1]), (Verdict::Unknown, true));
        assert_eq!(judged(&[true, false], &[0, 1]), (Verdict::Growing, false), "one stack of the line is proven");
        assert_eq!(judged(&[], &[0]), (Verdict::Growing, false));
    }

    #[test]
    fn what_is_anothers_is_not_even_suspected() {
        let sampling = Sampling {
            weights: vec![1.0; 3],
            bounds: vec![None; 3],
            exposure_of: vec![Some(0); 3],
            unproven: vec![false, true, false],
            refuted: vec![true, false, false],
            ..Sampling::default()
        };
        let reason = |sites: &[usize]| {
            let mut judgement = growing(Rate { estimate: 0.5, low: 0.4, high: 0.6 });
            sampling.extend(&mut judgement, sites);
            (judgement.verdict == Verdict::Unknown).then_some(judgement.evidence.reason)
        };
        assert_eq!(reason(&[0]), Some(Reason::Anothers));
        assert_eq!(reason(&[0, 1]), Some(Reason::Unproven));
        assert_eq!(reason(&[0, 1, 2]), None);
    }

    #[test]
    fn what_was_seen_is_multiplied() {
        let judgement = extended(Some(60.0));
        assert_eq!(judgement.verdict, Verdict::Growing);
        assert!((judgement.growth.blocks_per_second.estimate - 50.0).abs() < 1e-9);
        assert!((judgement.growth.bytes_per_second.high - 3840.0).abs() < 1e-9);
    }

    #[test]
    fn what_the_heap_does_not_have_more_of_does_not_grow() {
        for bound in [0.0, 39.0] {
            let judgement = extended(Some(bound));
            assert_eq!((judgement.verdict, judgement.evidence.reason), (Verdict::Unknown, Reason::HeapDoesNotGrow));
        }
        assert_eq!(extended(None).verdict, Verdict::Growing, "of the C allocator's blocks it is not known");
    }

    #[test]
    fn a_heap_that_grows_acquits_no_one() {
        let enough = |heap_grows| Sampling { heap_grows, ..Sampling::default() }.is_enough();
        assert!(enough(false) && !enough(true));
    }
}
