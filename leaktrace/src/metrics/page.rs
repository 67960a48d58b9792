//! A report as Prometheus text.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use crate::model::Verdict;
use crate::model::gc::PAUSE_BOUNDS_NS;
use crate::report::{Collector, Line, Outlook, Report};

/// Most lines that have series of their own at a time, the others together are one.
const MAX_LINES: usize = 25;
/// Most types that have series.
const MAX_TYPES: usize = 25;

/// Names that have series, so that a site does not come and go with its rank: each stays until another needs its place
/// more. So there are never more of them than that at a time.
#[derive(Debug, Default)]
struct Shown<K>(Vec<K>);

impl<K: PartialEq + Clone> Shown<K> {
    /// Which of `ranked`, the most important first, are shown. The first third of the places go by rank alone.
    fn choose(&mut self, ranked: &[K], most: usize) -> &[K] {
        self.0.retain(|key| ranked.contains(key));
        for key in &ranked[..ranked.len().min(most / 3)] {
            if self.0.contains(key) {
                continue;
            }
            if self.0.len() >= most {
                let rank = |key: &K| ranked.iter().position(|other| other == key);
                let last = (0..self.0.len()).max_by_key(|&at| rank(&self.0[at])).unwrap_or_default();
                self.0.remove(last);
            }
            self.0.push(key.clone());
        }
        for key in ranked {
            if self.0.len() >= most {
                break;
            }
            if !self.0.contains(key) {
                self.0.push(key.clone());
            }
        }
        &self.0
    }
}

/// Makes the pages of one trace.
#[derive(Debug, Default)]
pub struct Page {
    lines: Shown<(String, u32, &'static str)>,
    types: Shown<String>,
}

impl Page {
    /// The page of a report made at `now`, seconds since 1970, of a trace that began at `started`.
    pub fn of(&mut self, report: &Report, started: f64, now: f64) -> String {
        let mut text = Text::default();
        about(report, started, now, &mut text);
        verdict(report, &mut text);
        totals(report, &mut text);
        self.lines(&report.lines, &mut text);
        if let Some(heap) = &report.heap {
            self.types(heap, &mut text);
        }
        collector(&report.gc, &mut text);
        cost(report, &mut text);
        text.0
    }

    /// The lines that matter most, and all others as one, so that the sum is the total.
    fn lines(&mut self, lines: &[Line], text: &mut Text) {
        let key = |line: &Line| (line.file.to_string(), line.line, line.domain);
        // The report has the growing ones first, then the large ones.
        let ranked: Vec<_> = lines.iter().take(4 * MAX_LINES).map(key).collect();
        let shown = self.lines.choose(&ranked, MAX_LINES);
        let mut series: Vec<(_, &Line)> = Vec::new();
        let mut other = [0u64; 2];
        for line in lines {
            // The first with that key: two lines have the same only where neither has a file.
            if shown.contains(&key(line)) && !series.iter().any(|(known, ..)| *known == key(line)) {
                series.push((key(line), line));
            } else {
                other[0] += line.live_bytes;
                other[1] += line.live_blocks;
            }
        }
        let labels = |line: &Line| {
            labels(&[
                ("file", &line.file),
                ("line", &line.line.to_string()),
                ("function", &line.function),
                ("domain", line.domain),
            ])
        };
        let rest = labels_of_rest();
        text.metric("leaktrace_site_live_bytes", "gauge", "Live bytes allocated on a line since the attach.");
        for (_, line) in &series {
            text.sample("", &labels(line), line.live_bytes);
        }
        text.sample("", &rest, other[0]);
        text.metric("leaktrace_site_live_blocks", "gauge", "Live blocks allocated on a line since the attach.");
        for (_, line) in &series {
            text.sample("", &labels(line), line.live_blocks);
        }
        text.sample("", &rest, other[1]);
        text.metric("leaktrace_site_growing", "gauge", "Whether a line grows without bound, by its verdict.");
        for (_, line) in &series {
            text.sample("", &labels(line), u8::from(line.verdict == Verdict::Growing));
        }
        text.metric("leaktrace_site_growth_bytes_per_second", "gauge", "Rate at which a line's survivors grow.");
        for (_, line) in series.iter().filter(|(_, line)| line.verdict == Verdict::Growing) {
            text.sample("", &labels(line), line.growth.bytes_per_second.estimate);
        }
    }

    fn types(&mut self, heap: &crate::census::growth::Growth, text: &mut Text) {
        let ranked: Vec<_> = heap.types.iter().take(4 * MAX_TYPES).map(|grown| grown.name.clone()).collect();
        let shown = self.types.choose(&ranked, MAX_TYPES);
        let types: Vec<_> = heap.types.iter().filter(|grown| shown.contains(&grown.name)).collect();
        text.metric("leaktrace_type_objects", "gauge", "Objects of a type in the heap, of types that changed.");
        for grown in &types {
            text.sample("", &labels(&[("type", &grown.name)]), grown.last);
        }
        text.metric("leaktrace_type_bytes", "gauge", "Their bytes.");
        for grown in &types {
            text.sample("", &labels(&[("type", &grown.name)]), grown.last_bytes);
        }
        text.metric("leaktrace_type_growth_objects_per_second", "gauge", "Rate at which a type's objects grow.");
        for grown in &types {
            text.sample("", &labels(&[("type", &grown.name)]), grown.rate.estimate);
        }
    }
}

fn about(report: &Report, started: f64, now: f64, text: &mut Text) {
    let target = &report.target;
    text.metric("leaktrace_info", "gauge", "This collector and what it traces.");
    let about = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("mode", &report.capture.mode),
        ("target_pid", &target.pid.to_string()),
        ("target_exe", &target.exe),
        ("target_python", &target.python.version),
    ];
    text.sample("", &labels(&about), 1);
    text.gauge("leaktrace_start_time_seconds", "When the trace began, seconds since 1970.", started);
    text.gauge("leaktrace_last_look_time_seconds", "When this page was made, seconds since 1970.", now);
    text.counter("leaktrace_looks_total", "Looks at what is outstanding.", report.capture.scans);
    let rss = target.rss_bytes;
    text.gauge("leaktrace_target_resident_memory_bytes", "Resident memory of the traced process.", rss.end);
    text.gauge("leaktrace_target_resident_memory_at_attach_bytes", "Resident memory at the attach.", rss.start);
    // By convention these are of the process that is scraped: the collector.
    text.gauge("process_start_time_seconds", "Start of the trace, seconds since 1970.", started);
    text.gauge(
        "process_resident_memory_bytes",
        "Resident memory of leaktrace itself.",
        report.capture.cost.collector_rss_bytes,
    );
    text.counter(
        "process_cpu_seconds_total",
        "CPU time of leaktrace itself.",
        report.capture.cost.collector_cpu_seconds,
    );
}

fn verdict(report: &Report, text: &mut Text) {
    let headline = &report.headline;
    text.metric("leaktrace_outlook", "gauge", "1 for what is the case, 0 for the others.");
    let all = [Outlook::Leaking, Outlook::NotLeaking, Outlook::TooEarly, Outlook::Incomplete];
    for (outlook, name) in all.iter().zip(["leaking", "not_leaking", "too_early", "incomplete"]) {
        text.sample("", &labels(&[("outlook", name)]), u8::from(headline.outlook == *outlook));
    }
    text.gauge("leaktrace_growing_sites", "Stacks that grow without bound.", headline.growing_sites);
    text.gauge("leaktrace_growing_lines", "Lines that grow without bound.", headline.growing_lines);
    let rate = &headline.growth.bytes_per_second;
    text.gauge("leaktrace_growth_bytes_per_second", "Growth of all growing lines together.", rate.estimate);
    text.gauge("leaktrace_growth_low_bytes_per_second", "Lower end of its 95 % interval.", rate.low);
    text.gauge("leaktrace_growth_high_bytes_per_second", "Upper end of its 95 % interval.", rate.high);
    if let Some(exhaustion) = &headline.exhaustion {
        text.gauge("leaktrace_exhaustion_seconds", "Until memory runs out at this rate.", exhaustion.seconds);
        let room = exhaustion.room.available_bytes;
        text.gauge("leaktrace_room_bytes", "Memory that the target can still take.", room);
    }
}

fn totals(report: &Report, text: &mut Text) {
    let totals = &report.totals;
    text.gauge("leaktrace_live_bytes", "Live bytes allocated since the attach.", totals.live_bytes);
    text.gauge("leaktrace_live_blocks", "Live blocks allocated since the attach.", totals.live_blocks);
    text.counter("leaktrace_allocated_bytes_total", "Bytes allocated since the attach.", totals.allocated_bytes);
    text.counter("leaktrace_allocated_blocks_total", "Blocks allocated since the attach.", totals.allocated_blocks);
}

fn collector(gc: &Collector, text: &mut Text) {
    let by_generation = |generation: usize| labels(&[("generation", &generation.to_string())]);
    for (name, help, value) in [
        (
            "leaktrace_gc_collections_total",
            "Collections since the attach.",
            (|g| g.collections) as fn(&crate::report::Generation) -> u64,
        ),
        ("leaktrace_gc_collected_objects_total", "Objects that they freed.", |g| g.collected),
        ("leaktrace_gc_uncollectable_objects_total", "Objects that they could not free.", |g| g.uncollectable),
    ] {
        text.metric(name, "counter", help);
        gc.generations.iter().for_each(|generation| {
            text.sample("", &by_generation(generation.generation), value(generation));
        });
    }
    if let Some(enabled) = gc.enabled {
        text.gauge("leaktrace_gc_enabled", "Whether automatic collection is on.", u8::from(enabled));
    }
    if !gc.pauses_known {
        return;
    }
    text.metric("leaktrace_gc_pause_seconds", "histogram", "How long collections stopped the interpreter.");
    for generation in &gc.generations {
        let number = generation.generation.to_string();
        let mut sum = 0;
        for (count, bound) in generation.pause_counts.iter().zip(PAUSE_BOUNDS_NS) {
            sum += count;
            let bound = (bound as f64 / 1e9).to_string();
            text.sample("_bucket", &labels(&[("generation", &number), ("le", &bound)]), sum);
        }
        let all: u64 = generation.pause_counts.iter().sum();
        text.sample("_bucket", &labels(&[("generation", &number), ("le", "+Inf")]), all);
        text.sample("_sum", &labels(&[("generation", &number)]), generation.pause_seconds.total);
        text.sample("_count", &labels(&[("generation", &number)]), all);
    }
}

fn cost(report: &Report, text: &mut Text) {
    let capture = &report.capture;
    let seconds = capture.cost.probe_seconds;
    text.counter("leaktrace_probe_seconds_total", "CPU time that tracing took from the target, estimated.", seconds);
    if let Some(watch) = &capture.watch {
        text.gauge("leaktrace_overhead_ratio", "Share of the target's CPU time that tracing took.", watch.overhead);
        text.gauge("leaktrace_overhead_limit_ratio", "Share that it may take.", watch.overhead_limit);
        text.counter("leaktrace_windows_total", "Windows of tracing.", watch.windows);
    }
    if let Some(ratio) = capture.coverage.ratio {
        text.gauge("leaktrace_coverage_ratio", "Share of the allocations that was seen.", ratio);
    }
    let lost = &capture.lost;
    text.metric("leaktrace_lost_events_total", "counter", "Events lost, by cause.");
    let causes: BTreeMap<_, _> = BTreeMap::from([
        ("ring", lost.ring),
        ("stack", lost.stack),
        ("map_full", lost.map_full),
        ("unmatched_free", lost.unmatched_free),
        ("address", lost.address),
        ("contradictions", lost.contradictions),
    ]);
    for (cause, count) in causes {
        text.sample("", &labels(&[("cause", cause)]), count);
    }
    let events = capture.events;
    text.metric("leaktrace_events_total", "counter", "Events seen.");
    for (kind, count) in [("alloc", events.alloc), ("realloc", events.realloc), ("free", events.free)] {
        text.sample("", &labels(&[("event", kind)]), count);
    }
}

/// Text under construction.
#[derive(Default)]
struct Text(String, &'static str);

impl Text {
    fn metric(&mut self, name: &'static str, kind: &str, help: &str) {
        self.1 = name;
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn sample(&mut self, suffix: &str, labels: &str, value: impl fmt::Display) {
        let name = self.1;
        self.line(format_args!("{name}{suffix}{labels} {value}"));
    }

    fn gauge(&mut self, name: &'static str, help: &str, value: impl fmt::Display) {
        self.metric(name, "gauge", help);
        self.sample("", "", value);
    }

    fn counter(&mut self, name: &'static str, help: &str, value: impl fmt::Display) {
        self.metric(name, "counter", help);
        self.sample("", "", value);
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing into a String does not fail.
        let _ = writeln!(self.0, "{line}");
    }
}

fn labels_of_rest() -> String {
    labels(&[("file", "[all others]"), ("line", "0"), ("function", ""), ("domain", "")])
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

/// As the format wants it, and no longer than a label need be.
fn escaped(value: &str) -> String {
    const LONGEST: usize = 200;
    let skip = value.chars().count().saturating_sub(LONGEST);
    value.chars().skip(skip).fold(String::new(), |mut text, c| {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_short() {
        assert_eq!(labels(&[("a", "x\"\\\n")]), "{a=\"x\\\"\\\\\\n\"}");
        assert_eq!(escaped(&"é".repeat(1000)).chars().count(), 200);
    }

    #[test]
    fn what_is_shown_stays_unless_a_worse_one_needs_its_place() {
        let mut shown = Shown::default();
        let all: Vec<u32> = (0..100).collect();
        assert_eq!(shown.choose(&all, 9), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        let mut ranked = all.clone();
        ranked.swap(5, 50);
        assert_eq!(shown.choose(&ranked, 9), [0, 1, 2, 3, 4, 5, 6, 7, 8], "in the middle nothing changes");
        ranked.swap(0, 70);
        assert_eq!(shown.choose(&ranked, 9), [1, 2, 3, 4, 5, 6, 7, 8, 70].map(|k| if k == 0 { 70 } else { k }));
        assert_eq!(shown.choose(&[3], 9), [3]);
    }
}
