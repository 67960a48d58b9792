//! The metrics page of a report: totals, and how many series a run can make.

#![allow(clippy::float_cmp, reason = "the page has the report's numbers to the last digit")]

use std::collections::{BTreeMap, HashSet};

use leaktrace::metrics::{Exporter, ProcessStats, TOP};
use leaktrace::model::{Criteria, Verdict};
use leaktrace::report::Report;

use crate::report::{facts, service};
use crate::simulator::World;

fn report() -> Report {
    let mut world = World::new(1);
    world.run(60, 5, &mut service, &mut |_| ());
    Report::build(&world.ledger, &facts(), &Criteria::default())
}

/// Samples of a page by name and labels.
fn samples(page: &str) -> BTreeMap<&str, f64> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let pairs: Vec<_> = samples.map(|line| line.rsplit_once(' ').unwrap()).collect();
    let samples: BTreeMap<_, _> = pairs.iter().map(|(name, value)| (*name, value.parse().unwrap())).collect();
    assert_eq!(samples.len(), pairs.len(), "a sample is there twice");
    samples
}

fn sum(samples: &BTreeMap<&str, f64>, prefix: &str) -> f64 {
    samples.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
}

#[test]
fn a_page_has_the_totals_of_its_report() {
    let report = report();
    let page = Exporter::default().page(&report, &ProcessStats::default());
    let samples = samples(&page);
    let live = report.totals.live_bytes as f64;
    assert!(live > 0.0);
    assert_eq!(samples["leaktrace_live_bytes"], live);
    assert_eq!(sum(&samples, "leaktrace_domain_live_bytes"), live);
    assert_eq!(sum(&samples, "leaktrace_site_live_bytes") + samples["leaktrace_other_sites_live_bytes"], live);
    assert_eq!(samples["leaktrace_growth_bytes_per_second"], report.headline.growth.bytes_per_second.estimate);
    assert_eq!(sum(&samples, "leaktrace_site_growing"), report.headline.growing_lines as f64);
    assert_eq!(samples["leaktrace_outlook{outlook=\"leaking\"}"], 1.0);
    assert_eq!(sum(&samples, "leaktrace_outlook"), 1.0);
    assert_eq!(samples["leaktrace_lost_total{cause=\"ring\"}"], 2.0);
    for generation in &report.gc.generations {
        let labels = format!("generation=\"{}\"", generation.generation);
        let count = samples[format!("leaktrace_gc_pause_seconds_count{{{labels}}}").as_str()];
        assert_eq!(samples[format!("leaktrace_gc_pause_seconds_bucket{{{labels},le=\"+Inf\"}}").as_str()], count);
        assert_eq!(count, generation.collections as f64);
    }
}

/// Labels of the lines that have series.
fn sites(page: &str) -> HashSet<String> {
    let name = "leaktrace_site_live_bytes{";
    page.lines().filter_map(|line| Some(line.strip_prefix(name)?.rsplit_once(' ')?.0.to_owned())).collect()
}

#[test]
fn a_run_makes_a_bounded_number_of_series() {
    let mut report = report();
    let mut line = report.lines[0].clone();
    line.verdict = Verdict::Unknown;
    let mut exporter = Exporter::default();
    let mut ever = HashSet::new();
    let mut look = |exporter: &mut Exporter, report: &Report| {
        let page = exporter.page(report, &ProcessStats::default());
        let shown = sites(&page);
        assert!(shown.len() <= TOP);
        ever.extend(shown.iter().cloned());
        (shown, ever.len())
    };
    // A plugin system, say, that comes with new lines all the time.
    let mut number = 0;
    let mut lines = |verdict| -> Vec<_> {
        line.verdict = verdict;
        (0..3 * TOP)
            .map(|_| {
                number += 1;
                line.line = number;
                line.clone()
            })
            .collect()
    };
    for _ in 0..100 {
        report.lines = lines(Verdict::Unknown);
        assert!(look(&mut exporter, &report).1 <= 5 * TOP);
    }
    // A leak that begins late is seen nevertheless, and until the end.
    report.lines = lines(Verdict::Growing);
    let leak = report.lines[0].clone();
    let (shown, _) = look(&mut exporter, &report);
    assert_eq!(shown.len(), TOP);
    for _ in 0..100 {
        report.lines = lines(Verdict::Growing);
        report.lines.insert(TOP + 5, leak.clone());
        let (shown, ever) = look(&mut exporter, &report);
        assert!(ever <= 25 * TOP);
        assert!(shown.iter().any(|labels| labels.contains(&format!("line=\"{}\"", leak.line))));
    }
    // Lines that come and go need none.
    report.lines = lines(Verdict::Churn);
    assert!(look(&mut exporter, &report).0.is_empty());
}
