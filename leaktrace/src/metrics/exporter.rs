//! A report as a page of metrics.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::TOP;
use super::process::ProcessStats;
use super::site::Sites;
use super::text::{Kind, Page, shorten};
use crate::model::{Rate, Verdict};
use crate::report::{Collector, Line, Outlook, Report};

/// All outlooks and verdicts, each with the label's value.
const OUTLOOKS: [(Outlook, &str); 4] = [
    (Outlook::Leaking, "leaking"),
    (Outlook::NotLeaking, "not_leaking"),
    (Outlook::TooEarly, "too_early"),
    (Outlook::Incomplete, "incomplete"),
];
const VERDICTS: [(Verdict, &str); 4] = [
    (Verdict::Growing, "growing"),
    (Verdict::Plateau, "plateau"),
    (Verdict::Churn, "churn"),
    (Verdict::Unknown, "unknown"),
];

/// Makes the pages of one run: a line that had series keeps them.
#[derive(Debug, Default)]
pub struct Exporter {
    sites: Sites,
}

impl Exporter {
    /// The page of a look.
    pub fn page(&mut self, report: &Report, process: &ProcessStats) -> String {
        let mut page = Page::default();
        self::process(&mut page, report, process);
        capture(&mut page, report);
        headline(&mut page, report);
        totals(&mut page, report);
        self.sites(&mut page, report);
        types(&mut page, report);
        collector(&mut page, &report.gc);
        page.into_text()
    }

    fn sites(&mut self, page: &mut Page, report: &Report) {
        let chosen = self.sites.choose(&report.lines);
        let mut each = |name, kind, help: &str, value: &dyn Fn(&Line) -> String| {
            let mut family = page.family(name, kind, help);
            for (key, line) in &chosen {
                family.sample("", &key.labels(), value(line));
            }
        };
        each("leaktrace_site_live_bytes", Kind::Gauge, "Bytes of the line's blocks that live.", &|line| {
            line.live_bytes.to_string()
        });
        each("leaktrace_site_live_blocks", Kind::Gauge, "Blocks of the line that live.", &|line| {
            line.live_blocks.to_string()
        });
        each("leaktrace_site_allocated_bytes_total", Kind::Counter, "Bytes that the line has allocated.", &|line| {
            line.allocated_bytes.to_string()
        });
        each(
            "leaktrace_site_growth_bytes_per_second",
            Kind::Gauge,
            "Rate at which bytes of the line pile up.",
            &|line| line.growth.bytes_per_second.estimate.to_string(),
        );
        each("leaktrace_site_growing", Kind::Gauge, "Whether the line is judged to grow without bound.", &|line| {
            u8::from(line.verdict == Verdict::Growing).to_string()
        });
        let shown: u64 = chosen.iter().map(|(_, line)| line.live_bytes).sum();
        page.single(
            "leaktrace_other_sites_live_bytes",
            Kind::Gauge,
            "Live bytes of all lines that have no series of their own.",
            report.totals.live_bytes.saturating_sub(shown),
        );
    }
}

fn process(page: &mut Page, report: &Report, process: &ProcessStats) {
    use Kind::{Counter, Gauge};
    let target = &report.target;
    let pid = target.pid.to_string();
    page.family("leaktrace_target_info", Gauge, "Constant 1; the process that is traced.").sample(
        "",
        &[
            ("pid", &pid),
            ("exe", &target.exe),
            ("python", &target.python.version),
            ("mode", &report.capture.mode),
            ("leaktrace", env!("CARGO_PKG_VERSION")),
        ],
        1,
    );
    let help = "Resident memory of the traced process.";
    page.single("process_resident_memory_bytes", Gauge, help, target.rss_bytes.end);
    page.known("process_virtual_memory_bytes", Gauge, "Its address space.", process.virtual_bytes);
    page.known("process_cpu_seconds_total", Counter, "User and system time it has taken.", process.cpu_seconds);
    page.known("process_threads", Gauge, "Its threads.", process.threads);
    page.known("process_open_fds", Gauge, "Its open file descriptors.", process.open_fds);
    let help = "When it was started, seconds since the epoch.";
    page.known("process_start_time_seconds", Gauge, help, process.start_time_seconds);
}

fn capture(page: &mut Page, report: &Report) {
    use Kind::{Counter, Gauge};
    let capture = &report.capture;
    page.single(
        "leaktrace_capture_duration_seconds",
        Gauge,
        "From the attach to the last look.",
        capture.duration_seconds,
    );
    page.single("leaktrace_looks_total", Counter, "Looks at what is outstanding.", capture.scans);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    page.single("leaktrace_last_look_timestamp_seconds", Gauge, "When these numbers were taken.", now);
    let events = &capture.events;
    let mut family = page.family("leaktrace_events_total", Counter, "Calls of the allocators that were seen.");
    for (event, value) in [
        ("alloc", events.alloc),
        ("free", events.free),
        ("realloc", events.realloc),
        ("free_before_attach", events.free_before_attach),
    ] {
        family.sample("", &[("event", event)], value);
    }
    let lost = &capture.lost;
    let mut family =
        page.family("leaktrace_lost_total", Counter, "Events, stacks and blocks that were missed, by cause.");
    for (cause, value) in [
        ("ring", lost.ring),
        ("stack", lost.stack),
        ("map_full", lost.map_full),
        ("unmatched_free", lost.unmatched_free),
        ("address", lost.address),
        ("contradictions", lost.contradictions),
    ] {
        family.sample("", &[("cause", cause)], value);
    }
    let help = "Share of the blocks in use that are known, by pymalloc's own counts.";
    page.known("leaktrace_coverage_ratio", Gauge, help, capture.coverage.ratio);
    let (cost, help) = (&capture.cost, "CPU time that the probes took from the process.");
    page.single("leaktrace_probe_seconds_total", Counter, help, cost.probe_seconds);
    let help = "CPU time of leaktrace itself.";
    page.single("leaktrace_collector_cpu_seconds_total", Counter, help, cost.collector_cpu_seconds);
    let help = "Resident memory of leaktrace itself.";
    page.single("leaktrace_collector_resident_memory_bytes", Gauge, help, cost.collector_rss_bytes);
    if let Some(watch) = &capture.watch {
        page.single("leaktrace_watch_windows_total", Counter, "Windows of tracing.", watch.windows);
        let help = "Share of the process's CPU time that tracing took.";
        page.single("leaktrace_watch_overhead_ratio", Gauge, help, watch.overhead);
        let help = "Share that it may take.";
        page.single("leaktrace_watch_overhead_limit_ratio", Gauge, help, watch.overhead_limit);
    }
}

fn headline(page: &mut Page, report: &Report) {
    use Kind::Gauge;
    let headline = &report.headline;
    let mut family = page.family("leaktrace_outlook", Gauge, "1 for what is thought of the process, 0 for the others.");
    for (outlook, name) in OUTLOOKS {
        family.sample("", &[("outlook", name)], u8::from(headline.outlook == outlook));
    }
    let mut family = page.family("leaktrace_lines", Gauge, "Lines that allocate, by verdict.");
    for (verdict, name) in VERDICTS {
        let count = report.lines.iter().filter(|line| line.verdict == verdict).count();
        family.sample("", &[("verdict", name)], count);
    }
    let Rate { estimate, low, high } = headline.growth.bytes_per_second;
    let help = "Rate at which bytes of all growing lines pile up.";
    page.single("leaktrace_growth_bytes_per_second", Gauge, help, estimate);
    let help = "Lower end of the 95 % interval of that rate.";
    page.single("leaktrace_growth_low_bytes_per_second", Gauge, help, low);
    let help = "Upper end of the 95 % interval of that rate.";
    page.single("leaktrace_growth_high_bytes_per_second", Gauge, help, high);
    let exhaustion = headline.exhaustion.as_ref();
    let help = "Time until memory runs out at that rate; absent while nothing grows.";
    page.known("leaktrace_exhaustion_seconds", Gauge, help, exhaustion.map(|exhaustion| exhaustion.seconds));
    let help = "Memory that the process can still take; absent while nothing grows.";
    let room = exhaustion.map(|exhaustion| exhaustion.room.available_bytes);
    page.known("leaktrace_available_memory_bytes", Gauge, help, room);
}

fn totals(page: &mut Page, report: &Report) {
    use Kind::{Counter, Gauge};
    let totals = &report.totals;
    page.single("leaktrace_live_bytes", Gauge, "Bytes allocated since the attach that live.", totals.live_bytes);
    page.single("leaktrace_live_blocks", Gauge, "Blocks allocated since the attach that live.", totals.live_blocks);
    let help = "Bytes allocated since the attach.";
    page.single("leaktrace_allocated_bytes_total", Counter, help, totals.allocated_bytes);
    let help = "Blocks allocated since the attach.";
    page.single("leaktrace_allocated_blocks_total", Counter, help, totals.allocated_blocks);
    let mut domains = BTreeMap::<&str, u64>::new();
    for line in &report.lines {
        *domains.entry(line.domain).or_default() += line.live_bytes;
    }
    let mut family = page.family("leaktrace_domain_live_bytes", Gauge, "Live bytes by who manages them.");
    for (domain, bytes) in domains {
        family.sample("", &[("domain", domain)], bytes);
    }
}

fn types(page: &mut Page, report: &Report) {
    let Some(heap) = &report.heap else { return };
    // Two types of one name, as after a reload of their module, are one.
    let mut types = BTreeMap::<&str, (u64, u64, f64)>::new();
    for grown in heap.types.iter().take(TOP) {
        let sums = types.entry(shorten(&grown.name)).or_default();
        *sums = (sums.0 + grown.last, sums.1 + grown.last_bytes, sums.2 + grown.rate.estimate);
    }
    let mut each = |name, help: &str, value: &dyn Fn(&(u64, u64, f64)) -> String| {
        let mut family = page.family(name, Kind::Gauge, help);
        for (type_, sums) in &types {
            family.sample("", &[("type", type_)], value(sums));
        }
    };
    each("leaktrace_type_objects", "Objects in the heap, of the types that grew most.", &|sums| sums.0.to_string());
    each("leaktrace_type_bytes", "Bytes of these objects.", &|sums| sums.1.to_string());
    each("leaktrace_type_growth_objects_per_second", "Rate at which they become more.", &|sums| sums.2.to_string());
}

fn collector(page: &mut Page, gc: &Collector) {
    use Kind::{Counter, Gauge, Histogram};
    page.known("leaktrace_gc_enabled", Gauge, "Whether automatic collection is on.", gc.enabled.map(u8::from));
    let numbers: Vec<_> = gc.generations.iter().map(|of| (of.generation.to_string(), of)).collect();
    let mut family = page.family("leaktrace_gc_collections_total", Counter, "Collections since the attach.");
    for (generation, of) in &numbers {
        family.sample("", &[("generation", generation)], of.collections);
    }
    let mut family =
        page.family("leaktrace_gc_objects_collected_total", Counter, "Objects that collections have freed.");
    for (generation, of) in &numbers {
        family.sample("", &[("generation", generation)], of.collected);
    }
    let help = "Objects that collections could not free.";
    let mut family = page.family("leaktrace_gc_objects_uncollectable_total", Counter, help);
    for (generation, of) in &numbers {
        family.sample("", &[("generation", generation)], of.uncollectable);
    }
    let others = gc.other_interpreters;
    let help = "Collections of other interpreters than the main one, which the counts by generation leave out.";
    page.single("leaktrace_gc_other_interpreters_collections_total", Counter, help, others.collections);
    let help = "How long these stopped their interpreters, all together.";
    page.single("leaktrace_gc_other_interpreters_pause_seconds_total", Counter, help, others.pause_seconds.total);
    let help = "How long collections stopped the interpreter, of those that were measured.";
    let mut family = page.family("leaktrace_gc_pause_seconds", Histogram, help);
    for (generation, of) in &numbers {
        let bounds = gc.pause_bounds_seconds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        let mut sum = 0;
        for (bound, count) in bounds.zip(&of.pause_counts) {
            sum += count;
            family.sample("_bucket", &[("generation", generation), ("le", &bound)], sum);
        }
        family.sample("_sum", &[("generation", generation)], of.pause_seconds.total);
        family.sample("_count", &[("generation", generation)], sum);
    }
}
