//! From ledger and facts to the report.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use leaktrace_common::site::domain;
use serde::{Deserialize, Serialize};

use super::json::SCHEMA;
use super::select::{Chosen, Counted, Selection};
use super::value::{
    Capture, Collector, Cost, Coverage, Events, Exhaustion, Generation, Headline, Held, Holder, Line, Lost, Memory,
    OtherCollectors, Outlook, Pause, Report, Room, RssBytes, Series, SiteReport, Target, Totals,
};
use crate::model::gc::PAUSE_BOUNDS_NS;
use crate::model::growth::Point;
use crate::model::sampling::Sampling;
use crate::model::stacks::LineId;
use crate::model::trail::seconds;
use crate::model::verdict::{Reason, judge};
use crate::model::{Criteria, Growth, Judgement, Ledger, Rate, Root, StackId, Tally, Timeline, Trail, Verdict};

/// Share of the blocks that may be missed before a report that shows no leak proves nothing.
const MOST_MISSED: f64 = 0.1;

/// What the ledger does not know.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Facts {
    pub target: Target,
    /// "exact" or "watch".
    pub mode: String,
    /// Where windows saw a part only.
    pub sampling: Option<Sampling>,
    pub events: Events,
    /// The ledger adds its contradictions.
    pub lost: Lost,
    pub coverage: Coverage,
    pub cost: Cost,
    /// Memory that the target can still take, if known.
    pub room: Option<Room>,
    pub notes: Vec<String>,
    /// Through what the blocks of growing lines are held, where that was looked for.
    #[serde(default)]
    pub holders: Vec<Held>,
}

impl Facts {
    /// What there is of a site, estimated where a part was seen only.
    pub(crate) fn all_of(&self, site: usize, seen: Tally) -> Tally {
        let weight = self.sampling.as_ref().map_or(1.0, |sampling| sampling.weight(site));
        let all = |seen: u64| (seen as f64 * weight).round() as u64;
        Tally { blocks: all(seen.blocks), bytes: all(seen.bytes) }
    }

    fn holders_of(&self, file: &str, line: u32, domain: &str) -> Vec<Holder> {
        let held = self.holders.iter().find(|held| (&*held.file, held.line, &*held.domain) == (file, line, domain));
        held.map_or_else(Vec::new, |held| held.holders.clone())
    }
}

/// A line while it is put together.
struct LineDraft {
    trail: Trail,
    judgement: Judgement,
    /// Indices in the ledger, each with its own judgement.
    sites: Vec<(usize, Judgement)>,
}

impl LineDraft {
    /// What was missed, nobody knows where, may be of this line: what seems to stand still may grow.
    fn doubt(&mut self) {
        for judgement in self.sites.iter_mut().map(|(_, judgement)| judgement).chain([&mut self.judgement]) {
            if matches!(judgement.verdict, Verdict::Plateau | Verdict::Churn) {
                judgement.verdict = Verdict::Unknown;
                judgement.evidence.reason = Reason::Missed;
            }
        }
    }
}

impl Report {
    /// The report as of the ledger's last scan.
    pub fn build(ledger: &Ledger, facts: &Facts, criteria: &Criteria) -> Self {
        Self::of_selection(ledger, facts, criteria, &Selection::default())
    }

    /// The report on some of the sites. Its totals, lines and headline are of these.
    pub fn of_selection(ledger: &Ledger, facts: &Facts, criteria: &Criteria, selection: &Selection) -> Self {
        let timeline = ledger.timeline();
        let chosen = selection.of(ledger, facts);
        let mut drafts = lines(ledger, &chosen, facts.sampling.as_ref(), criteria);
        if is_incomplete(facts) {
            drafts.iter_mut().for_each(LineDraft::doubt);
        }
        let mut sites = Vec::with_capacity(ledger.sites().len());
        let mut lines = Vec::with_capacity(drafts.len());
        for (index, draft) in drafts.into_iter().enumerate() {
            lines.push(line_report(ledger, &chosen, facts, &draft));
            // Each judgement moves on, so that they are not held twice.
            sites.extend(
                draft.sites.into_iter().map(|(site, judgement)| site_report(ledger, &chosen, site, index, judgement)),
            );
        }
        let headline = headline(ledger, &lines, &sites, facts, criteria);
        sort(&mut sites, &mut lines);
        let totals = totals(&lines);
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
                watch: facts.sampling.as_ref().map(|sampling| sampling.facts),
                notes: facts.notes.iter().cloned().chain(selection.note()).collect(),
            },
            headline,
            totals,
            memory: memory(ledger, facts, totals.live_bytes),
            sites,
            lines,
            gc: collector(ledger),
            heap: None,
            series_seconds: timeline.samples().iter().map(|t| seconds(t - timeline.start_ns())).collect(),
        }
    }

    /// Through what lines are held, for [`Facts::holders`].
    pub fn holders(&self) -> Vec<Held> {
        let held = self.lines.iter().filter(|line| !line.holders.is_empty());
        held.map(|line| Held {
            file: line.file.to_string(),
            line: line.line,
            domain: line.domain.to_owned(),
            holders: line.holders.clone(),
        })
        .collect()
    }

    /// Lines that seem to grow, where that is not proven.
    pub fn suspects(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.evidence.reason == Reason::Unproven)
    }

    /// Whether any site grows.
    pub fn is_growing(&self) -> bool {
        self.headline.outlook == Outlook::Leaking
    }
}

/// How many times longer a site is observed before a verdict where only windows show it: a cache that has just filled up is told
/// later by them.
const WATCHED: (u64, u64) = (3, 2);

/// Sites that allocated something, by line and domain, each line judged as a whole.
fn lines(ledger: &Ledger, chosen: &Chosen<'_>, sampling: Option<&Sampling>, criteria: &Criteria) -> Vec<LineDraft> {
    let mut index: HashMap<(Option<LineId>, bool, u8), usize> = HashMap::new();
    let mut groups: Vec<(Trail, Vec<usize>)> = Vec::new();
    for (number, site) in chosen.sites() {
        let next = groups.len();
        let key = (ledger.stacks().line(site.stack), site.stack == StackId::LOST, site.domain);
        let group = *index.entry(key).or_insert(next);
        if group == next {
            groups.push((Trail::default(), Vec::new()));
        }
        groups[group].0.merge(&site.trail);
        groups[group].1.push(number);
    }
    groups.into_iter().map(|(trail, sites)| judge_line(ledger, sampling, trail, &sites, criteria)).collect()
}

/// Judges a line and its stacks, and lets each learn from the other.
fn judge_line(
    ledger: &Ledger,
    sampling: Option<&Sampling>,
    trail: Trail,
    sites: &[usize],
    criteria: &Criteria,
) -> LineDraft {
    let judged = |trail: &Trail, sites: &[usize]| {
        let Some(sampling) = sampling else { return judge(trail, ledger.timeline(), ledger.gc(), criteria) };
        let criteria = Criteria {
            weight: sampling.mean_weight(sites),
            exposure: sampling.exposure(sites),
            min_observed_ns: criteria.min_observed_ns.saturating_mul(WATCHED.0) / WATCHED.1,
            ..criteria.clone()
        };
        let mut judgement = judge(trail, ledger.timeline(), ledger.gc(), &criteria);
        sampling.extend(&mut judgement, sites);
        judgement
    };
    let mut whole = judged(&trail, sites);
    if let [site] = sites {
        return LineDraft { sites: vec![(*site, whole.clone())], judgement: whole, trail };
    }
    let mut stacks: Vec<_> = sites.iter().map(|&site| (site, judged(&ledger.sites()[site].trail, &[site]))).collect();
    if whole.verdict == Verdict::Growing {
        // A leak scattered over many callers: each stack alone has too little, the line they share has enough.
        for (site, judgement) in &mut stacks {
            let part = ledger.sites()[*site].trail.live;
            let unclear = matches!(judgement.evidence.reason, Reason::TooFew | Reason::Uneven | Reason::TooYoung);
            let thin = part.blocks < criteria.min_blocks && part.bytes < criteria.large_bytes;
            if judgement.verdict != Verdict::Growing && part.blocks > 0 && (thin || unclear) {
                judgement.verdict = Verdict::Growing;
                judgement.evidence.by_line = true;
                let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
                judgement.growth = Growth {
                    bytes_per_second: whole.growth.bytes_per_second.scaled(share(part.bytes, trail.live.bytes)),
                    blocks_per_second: whole.growth.blocks_per_second.scaled(share(part.blocks, trail.live.blocks)),
                };
            }
        }
    } else if stacks.iter().any(|(_, stack)| stack.verdict == Verdict::Growing) {
        // A leak through one caller beside a cache, through another, that is still turning over.
        whole.verdict = Verdict::Growing;
        whole.evidence.by_stack = true;
        whole.growth = Growth::default();
        for (_, stack) in stacks.iter().filter(|(_, stack)| stack.verdict == Verdict::Growing) {
            whole.growth.add(&stack.growth);
        }
    }
    LineDraft { trail, judgement: whole, sites: stacks }
}

fn site_report(ledger: &Ledger, chosen: &Chosen<'_>, number: usize, line: usize, judgement: Judgement) -> SiteReport {
    let site = &ledger.sites()[number];
    let trail = &site.trail;
    let Counted { live, allocated, freed } = chosen.counted(number);
    SiteReport {
        number,
        verdict: judgement.verdict,
        domain: domain_name(site.domain),
        live_bytes: live.bytes,
        live_blocks: live.blocks,
        allocated_bytes: allocated.bytes,
        allocated_blocks: allocated.blocks,
        freed_blocks: freed.blocks,
        lost_blocks: trail.lost_blocks,
        growth: judgement.growth,
        series: match judgement.verdict {
            Verdict::Growing => series(trail, ledger.timeline(), judgement.verdict),
            _ => Series::default(),
        },
        evidence: judgement.evidence,
        stack: ledger.stacks().stack(site.stack),
        truncated: ledger.stacks().root(site.stack) == Root::Truncated,
        stack_lost: ledger.stacks().root(site.stack) == Root::Lost,
        line,
        threads: site.threads().0.to_vec(),
    }
}

fn line_report(ledger: &Ledger, chosen: &Chosen<'_>, facts: &Facts, draft: &LineDraft) -> Line {
    // The worst site's function names the line; others may share it (a lambda, a comprehension).
    let mut order: Vec<_> =
        draft.sites.iter().map(|(number, judgement)| (&ledger.sites()[*number], judgement)).collect();
    order.sort_by_key(|(site, judgement)| worse(judgement.verdict, &judgement.growth, site.trail.live.bytes));
    let mut functions: Vec<Arc<str>> = Vec::new();
    for function in order.iter().filter_map(|(site, _)| Some(ledger.stacks().line_frame(site.stack)?.function)) {
        if !functions.contains(&function) {
            functions.push(function);
        }
    }
    let site = order[0].0;
    let frame = ledger.stacks().line_frame(site.stack);
    let trail = &draft.trail;
    let mut counted = Counted::default();
    draft.sites.iter().for_each(|(number, _)| counted.add(chosen.counted(*number)));
    let Counted { live, allocated, freed } = counted;
    let line = frame.as_ref().map_or(0, |frame| frame.line);
    let file = frame.map_or_else(|| Arc::from(""), |frame| frame.file);
    let verdict = draft.judgement.verdict;
    let domain = domain_name(site.domain);
    Line {
        verdict,
        domain,
        function: functions.first().map_or_else(|| Arc::from(""), Arc::clone),
        functions,
        line,
        stack_lost: ledger.stacks().root(site.stack) == Root::Lost,
        live_bytes: live.bytes,
        live_blocks: live.blocks,
        allocated_bytes: allocated.bytes,
        allocated_blocks: allocated.blocks,
        freed_blocks: freed.blocks,
        lost_blocks: trail.lost_blocks,
        growth: draft.judgement.growth,
        evidence: draft.judgement.evidence.clone(),
        sites: Vec::new(),
        holders: if verdict == Verdict::Growing { facts.holders_of(&file, line, domain) } else { Vec::new() },
        file,
        series: series(trail, ledger.timeline(), verdict),
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

fn headline(ledger: &Ledger, lines: &[Line], sites: &[SiteReport], facts: &Facts, criteria: &Criteria) -> Headline {
    let timeline = ledger.timeline();
    let growing_sites = sites.iter().filter(|site| site.verdict == Verdict::Growing).count();
    let (mut growth, mut growing_lines) = (Growth::default(), 0);
    for line in lines.iter().filter(|line| line.verdict == Verdict::Growing) {
        growth.add(&line.growth);
        growing_lines += 1;
    }
    let watched = timeline.now_ns() - timeline.start_ns();
    let outlook = if growing_lines > 0 {
        Outlook::Leaking
    } else if watched < criteria.min_observed_ns
        || timeline.scans() < criteria.min_scans
        || facts.sampling.as_ref().is_some_and(|sampling| !sampling.is_enough())
    {
        Outlook::TooEarly
    } else if is_incomplete(facts) || lines.iter().any(|line| line.evidence.reason == Reason::Missed) {
        Outlook::Incomplete
    } else {
        Outlook::NotLeaking
    };
    let rate = growth.bytes_per_second;
    Headline {
        outlook,
        growing_sites,
        growing_lines,
        growth,
        exhaustion: facts.room.as_ref().and_then(|room| exhaustion(room, &rate)),
    }
}

/// Whether so many blocks were missed, nobody knows of which sites, that a leak may be among them.
fn is_incomplete(facts: &Facts) -> bool {
    facts.lost.address as f64 > MOST_MISSED * facts.events.alloc as f64
        || facts.coverage.ratio.is_some_and(|r| r < 1.0 - MOST_MISSED)
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

fn totals(lines: &[Line]) -> Totals {
    lines.iter().fold(Totals::default(), |sum, line| Totals {
        allocated_bytes: sum.allocated_bytes + line.allocated_bytes,
        allocated_blocks: sum.allocated_blocks + line.allocated_blocks,
        live_bytes: sum.live_bytes + line.live_bytes,
        live_blocks: sum.live_blocks + line.live_blocks,
    })
}

fn memory(ledger: &Ledger, facts: &Facts, explained_bytes: u64) -> Memory {
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
        explained_bytes,
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
        pause_counts: log.pauses.to_vec(),
    });
    Collector {
        generations: generations.collect(),
        enabled: log.enabled(),
        pauses_known: log.pauses_known(),
        pause_bounds_seconds: PAUSE_BOUNDS_NS.map(seconds).to_vec(),
        other_interpreters: OtherCollectors {
            collections: log.others().collections,
            pause_seconds: Pause {
                total: seconds(log.others().pause_total_ns),
                max: seconds(log.others().pause_max_ns),
            },
        },
    }
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
