//! From ledger and facts to the report.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use leaktrace_common::site::domain;

use super::json::SCHEMA;
use super::value::{
    Capture, Collector, Cost, Coverage, Events, Exhaustion, Generation, Headline, Line, Lost, Memory, Outlook, Pause,
    Report, Room, RssBytes, Series, SiteReport, Target, Totals,
};
use crate::model::growth::Point;
use crate::model::stacks::LineId;
use crate::model::trail::seconds;
use crate::model::verdict::{Reason, judge};
use crate::model::{Criteria, FrameKind, Growth, Judgement, Ledger, Rate, Root, Tally, Timeline, Trail, Verdict};

/// What the ledger does not know.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    pub target: Target,
    /// "exact".
    pub mode: String,
    pub events: Events,
    /// The ledger adds its contradictions.
    pub lost: Lost,
    pub coverage: Coverage,
    pub cost: Cost,
    /// Memory that the target can still take, if known.
    pub room: Option<Room>,
    pub notes: Vec<String>,
}

/// A line while it is put together.
struct LineDraft {
    trail: Trail,
    judgement: Judgement,
    sites: Vec<usize>,
}

impl Report {
    /// The report as of the ledger's last scan.
    pub fn build(ledger: &Ledger, facts: &Facts, criteria: &Criteria) -> Self {
        let timeline = ledger.timeline();
        let drafts = lines(ledger, criteria);
        let mut sites = Vec::with_capacity(ledger.sites().len());
        let mut lines = Vec::with_capacity(drafts.len());
        for (index, draft) in drafts.iter().enumerate() {
            for &site in &draft.sites {
                sites.push(site_report(ledger, site, index, draft, criteria));
            }
            lines.push(line_report(ledger, draft));
        }
        let headline = headline(ledger, &drafts, &sites, facts, criteria);
        sort(&mut sites, &mut lines);
        let duration_seconds = seconds(timeline.now_ns() - timeline.start_ns());
        Self {
            schema: SCHEMA,
            target: facts.target.clone(),
            capture: Capture {
                mode: facts.mode.clone(),
                duration_seconds,
                scans: timeline.scans(),
                events: facts.events,
                lost: Lost { contradictions: ledger.contradictions(), ..facts.lost },
                coverage: facts.coverage.clone(),
                cost: facts.cost,
                notes: facts.notes.clone(),
            },
            headline,
            totals: totals(ledger),
            memory: memory(ledger, facts),
            sites,
            lines,
            gc: collector(ledger),
            series_seconds: timeline.samples().iter().map(|t| seconds(t - timeline.start_ns())).collect(),
        }
    }

    /// Whether any site grows.
    pub fn is_growing(&self) -> bool {
        self.headline.outlook == Outlook::Leaking
    }
}

/// Sites that allocated something, by line and domain, each line judged as a whole.
fn lines(ledger: &Ledger, criteria: &Criteria) -> Vec<LineDraft> {
    let mut index: HashMap<(Option<LineId>, u8), usize> = HashMap::new();
    let mut groups: Vec<(Trail, Vec<usize>)> = Vec::new();
    for (number, site) in ledger.sites().iter().enumerate().filter(|(_, site)| site.trail.allocated.blocks > 0) {
        let next = groups.len();
        let group = *index.entry((ledger.stacks().line(site.stack), site.domain)).or_insert(next);
        if group == next {
            groups.push((Trail::default(), Vec::new()));
        }
        groups[group].0.merge(&site.trail);
        groups[group].1.push(number);
    }
    let judged = |(trail, sites)| {
        let judgement = judge(&trail, ledger.timeline(), ledger.gc(), criteria);
        LineDraft { trail, judgement, sites }
    };
    groups.into_iter().map(judged).collect()
}

fn site_report(ledger: &Ledger, number: usize, line: usize, draft: &LineDraft, criteria: &Criteria) -> SiteReport {
    let site = &ledger.sites()[number];
    let trail = &site.trail;
    let mut judgement = if draft.sites.len() == 1 {
        draft.judgement.clone()
    } else {
        judge(trail, ledger.timeline(), ledger.gc(), criteria)
    };
    // A leak scattered over many callers: each stack alone has too little, the line they share has enough.
    let too_thin = matches!(judgement.evidence.reason, Reason::TooFew | Reason::Uneven | Reason::TooYoung);
    if judgement.verdict == Verdict::Unknown && too_thin && draft.judgement.verdict == Verdict::Growing {
        judgement.verdict = Verdict::Growing;
        judgement.evidence.by_line = true;
    }
    let freed = trail.freed();
    SiteReport {
        verdict: judgement.verdict,
        domain: domain_name(site.domain),
        live_bytes: trail.live.bytes,
        live_blocks: trail.live.blocks,
        allocated_bytes: trail.allocated.bytes,
        allocated_blocks: trail.allocated.blocks,
        freed_blocks: freed.blocks,
        growth: judgement.growth,
        series: series(trail, ledger.timeline(), judgement.verdict),
        evidence: judgement.evidence,
        stack: ledger.stacks().frames(site.stack).collect(),
        truncated: ledger.stacks().root(site.stack) == Root::Truncated,
        stack_lost: ledger.stacks().root(site.stack) == Root::Lost,
        line,
        threads: site.threads().0.to_vec(),
    }
}

fn line_report(ledger: &Ledger, draft: &LineDraft) -> Line {
    let site = &ledger.sites()[draft.sites[0]];
    let frames: Vec<_> = ledger.stacks().frames(site.stack).collect();
    let frame = frames.iter().find(|frame| frame.kind == FrameKind::Python).or(frames.first());
    let trail = &draft.trail;
    let empty: Arc<str> = "".into();
    Line {
        verdict: draft.judgement.verdict,
        domain: domain_name(site.domain),
        function: frame.map_or_else(|| Arc::clone(&empty), |frame| Arc::clone(&frame.function)),
        file: frame.map_or(empty, |frame| Arc::clone(&frame.file)),
        line: frame.map_or(0, |frame| frame.line),
        live_bytes: trail.live.bytes,
        live_blocks: trail.live.blocks,
        allocated_bytes: trail.allocated.bytes,
        allocated_blocks: trail.allocated.blocks,
        freed_blocks: trail.freed().blocks,
        growth: draft.judgement.growth,
        evidence: draft.judgement.evidence.clone(),
        sites: Vec::new(),
        series: series(trail, ledger.timeline(), draft.judgement.verdict),
    }
}

/// Orders both lists worst first and makes them point at each other.
fn sort(sites: &mut [SiteReport], lines: &mut Vec<Line>) {
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&lines[a], &lines[b]);
        worse(a.verdict, &a.growth, a.live_bytes)
            .cmp(&worse(b.verdict, &b.growth, b.live_bytes))
            .then_with(|| (&a.file, a.line, a.domain).cmp(&(&b.file, b.line, b.domain)))
    });
    let mut place = vec![0; lines.len()];
    let mut sorted: Vec<_> = Vec::with_capacity(lines.len());
    for (new, &old) in order.iter().enumerate() {
        place[old] = new;
        sorted.push(lines[old].clone());
    }
    *lines = sorted;
    sites.sort_by(|a, b| {
        worse(a.verdict, &a.growth, a.live_bytes)
            .cmp(&worse(b.verdict, &b.growth, b.live_bytes))
            .then_with(|| (&a.stack, a.domain).cmp(&(&b.stack, b.domain)))
    });
    for (index, site) in sites.iter_mut().enumerate() {
        site.line = place[site.line];
        lines[site.line].sites.push(index);
    }
}

/// Key that sorts the worst first: growing by bytes per second, then the others by live bytes.
fn worse(verdict: Verdict, growth: &Growth, live_bytes: u64) -> (bool, Reverse<u64>, Reverse<u64>) {
    let growing = verdict == Verdict::Growing;
    // Rates in thousandths, so that the key is totally ordered.
    let rate = if growing { (growth.bytes_per_second.estimate.max(0.0) * 1000.0) as u64 } else { 0 };
    (!growing, Reverse(rate), Reverse(live_bytes))
}

/// `sites` still point at `drafts`.
fn headline(
    ledger: &Ledger,
    drafts: &[LineDraft],
    sites: &[SiteReport],
    facts: &Facts,
    criteria: &Criteria,
) -> Headline {
    let timeline = ledger.timeline();
    let growing: Vec<_> = drafts.iter().filter(|draft| draft.judgement.verdict == Verdict::Growing).collect();
    let growing_sites = sites.iter().filter(|site| site.verdict == Verdict::Growing).count();
    let mut growth = Growth::default();
    for draft in &growing {
        accumulate(&mut growth.bytes_per_second, &draft.judgement.growth.bytes_per_second);
        accumulate(&mut growth.blocks_per_second, &draft.judgement.growth.blocks_per_second);
    }
    // Stacks that grow on a line that as a whole does not: a leak beside a cache that is still turning over.
    for site in sites.iter().filter(|site| site.verdict == Verdict::Growing) {
        if drafts[site.line].judgement.verdict != Verdict::Growing {
            accumulate(&mut growth.bytes_per_second, &site.growth.bytes_per_second);
            accumulate(&mut growth.blocks_per_second, &site.growth.blocks_per_second);
        }
    }
    let watched = timeline.now_ns() - timeline.start_ns();
    let outlook = if growing_sites > 0 || !growing.is_empty() {
        Outlook::Leaking
    } else if watched < criteria.min_observed_ns || timeline.scans() < criteria.min_scans {
        Outlook::TooEarly
    } else {
        Outlook::NotLeaking
    };
    let rate = growth.bytes_per_second;
    Headline {
        outlook,
        growing_sites,
        growing_lines: growing.len(),
        growth,
        exhaustion: facts.room.as_ref().and_then(|room| exhaustion(room, &rate)),
    }
}

/// Adds a rate as if both were wrong in the same direction: sites share the load that drives them.
fn accumulate(sum: &mut Rate, rate: &Rate) {
    sum.estimate += rate.estimate;
    sum.low += rate.low;
    sum.high += rate.high;
}

fn exhaustion(room: &Room, rate: &Rate) -> Option<Exhaustion> {
    let at = |rate: f64| (rate > 0.0).then(|| room.available_bytes as f64 / rate).filter(|t| t.is_finite());
    Some(Exhaustion {
        room: room.clone(),
        seconds: at(rate.estimate)?,
        earliest_seconds: at(rate.high)?,
        latest_seconds: at(rate.low),
    })
}

fn totals(ledger: &Ledger) -> Totals {
    let (mut allocated, mut live) = (Tally::default(), Tally::default());
    for site in ledger.sites() {
        allocated.add(site.trail.allocated);
        live.add(site.trail.live);
    }
    Totals {
        allocated_bytes: allocated.bytes,
        allocated_blocks: allocated.blocks,
        live_bytes: live.bytes,
        live_blocks: live.blocks,
    }
}

fn memory(ledger: &Ledger, facts: &Facts) -> Memory {
    let timeline = ledger.timeline();
    let points: Vec<_> = timeline
        .samples()
        .iter()
        .zip(ledger.rss())
        .map(|(time, rss)| Point { seconds: seconds(time - timeline.start_ns()), value: *rss as f64 })
        .collect();
    let RssBytes { start, end } = facts.target.rss_bytes;
    Memory {
        rss_growth: Rate::of_series(&points),
        rss_grown_bytes: end as i64 - start as i64,
        explained_bytes: totals(ledger).live_bytes,
        rss_series: ledger.rss().to_vec(),
    }
}

fn collector(ledger: &Ledger) -> Collector {
    let log = ledger.gc();
    let generations = log.generations().iter().enumerate().map(|(generation, log)| Generation {
        generation,
        collections: log.collections,
        collected: log.collected,
        uncollectable: log.uncollectable,
        pause_seconds: Pause { total: seconds(log.pause_total_ns), max: seconds(log.pause_max_ns) },
    });
    Collector { generations: generations.collect(), enabled: log.enabled(), pauses_known: log.pauses_known() }
}

fn series(trail: &Trail, timeline: &Timeline, verdict: Verdict) -> Series {
    if verdict == Verdict::Churn || trail.series().len() != timeline.samples().len() {
        return Series::default();
    }
    Series {
        live_bytes: trail.series().iter().map(|tally| tally.bytes).collect(),
        live_blocks: trail.series().iter().map(|tally| tally.blocks).collect(),
    }
}

fn domain_name(value: u8) -> &'static str {
    domain::NAMES.get(usize::from(value)).copied().unwrap_or("unknown")
}
