//! The views of one report: text, JSON, live table and line, against files that a person has read.
//!
//! `LEAKTRACE_BLESS=1 cargo test -p leaktrace --test model` writes the files anew; read the difference.

use std::fs;
use std::path::{Path, PathBuf};

use leaktrace::model::sampling::{Sampling, WatchFacts};
use leaktrace::model::verdict::Reason;
use leaktrace::model::{Criteria, FrameKind, FrameRef, Ledger, Root, ScanEnd, Verdict};
use leaktrace::report::{
    Cost, Coverage, Events, Facts, Lost, Outlook, Python, Report, Room, RssBytes, SourceReader, Style, Target, json,
    line, live, text,
};

use leaktrace_common::site::domain;
use leaktrace_common::wire::{Block, StackTotals};

use crate::simulator::{SECOND, World};

fn golden(name: &str, got: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    if std::env::var_os("LEAKTRACE_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, got).unwrap();
    }
    let want = fs::read_to_string(&path).unwrap_or_default();
    assert!(got == want, "{name} differs; got:\n{got}");
}

/// A leak at stack 1, a leak scattered over many callers at line 3, a start-up burst at 2, churn at 4, full collections.
pub(crate) fn service(world: &mut World) {
    for _ in 0..3 {
        world.alloc(1, 120);
    }
    let caller = world.random.below(300) as u32 * 100;
    world.alloc(3 + caller, 48);
    if world.seconds() < 2.0 {
        (0..40).for_each(|_| _ = world.alloc(2, 512));
    }
    (0..5).for_each(|_| {
        let address = world.alloc(4, 64);
        world.free(address);
    });
    if world.now.is_multiple_of(20 * SECOND) {
        world.collect(2);
    }
}

pub(crate) fn facts() -> Facts {
    Facts {
        target: Target {
            pid_inside: 4711,
            pid: 4711,
            exe: "/usr/bin/python3.11".to_owned(),
            cmdline: vec!["python3".to_owned(), "service.py".to_owned(), "--bad\x1b[31m".to_owned()],
            python: Python { version: "3.11.2".to_owned(), features: vec!["pgo-guards".to_owned()] },
            rss_bytes: RssBytes { start: 50 << 20, end: 52 << 20 },
        },
        mode: "exact".to_owned(),
        sampling: None,
        events: Events {
            alloc: 12_345,
            free: 6789,
            realloc: 12,
            gc: 3,
            free_before_attach: 5,
            native_alloc: 7,
            native_realloc: 1,
            reused: 7,
        },
        lost: Lost { ring: 2, ..Lost::default() },
        coverage: Coverage { ratio: Some(0.9997), basis: "pool counters".to_owned() },
        cost: Cost { probe_seconds: 1.5, collector_cpu_seconds: 0.25, collector_rss_bytes: 30 << 20 },
        room: Some(Room { available_bytes: 512 << 20, basis: "cgroup memory.max".to_owned() }),
        notes: vec!["libfoo.so was replaced on disk".to_owned()],
        holders: Vec::new(),
    }
}

fn report() -> Report {
    report_on("service.py")
}

fn report_on(file: &'static str) -> Report {
    let mut world = World::new(1);
    world.file = file;
    world.ledger.gc_mut().set_state(Some(true), Some(700));
    world.run(60, 5, &mut service, &mut |_| ());
    Report::build(&world.ledger, &facts(), &Criteria::default())
}

fn text_of(report: &Report) -> String {
    let mut out = Vec::new();
    text::write(report, 3, Style::PLAIN, &mut SourceReader::new("/nonexistent"), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_text_reads_well_at_80_columns() {
    let text = text_of(&report());
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(!text.contains('\x1b'));
    golden("report.txt", &text);
}

#[test]
fn source_lines_stand_under_their_frames() {
    let root = tempfile::tempdir().unwrap();
    let report = report_on("/service.py");
    fs::write(root.path().join("service.py"), "\n  registry.append(Session())\n").unwrap();
    let mut out = Vec::new();
    let mut source = SourceReader::new(PathBuf::from(root.path()));
    text::write(&report, 1, Style::COLOUR, &mut source, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("registry.append(Session())"), "{text}");
    assert!(text.contains("\x1b[1;31m"));
}

#[test]
fn the_json_has_the_documented_fields() {
    let mut report = report();
    let mut out = Vec::new();
    json::write(&report, &mut out).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
    for pointer in [
        "/schema",
        "/target/pid",
        "/target/exe",
        "/target/cmdline",
        "/target/python/version",
        "/target/python/features",
        "/target/rss_bytes/start",
        "/target/rss_bytes/end",
        "/capture/mode",
        "/capture/duration_seconds",
        "/capture/events/alloc",
        "/capture/events/free",
        "/capture/events/realloc",
        "/capture/events/gc",
        "/capture/lost/ring",
        "/capture/lost/stack",
        "/capture/lost/map_full",
        "/capture/lost/unmatched_free",
        "/capture/coverage/ratio",
        "/capture/coverage/basis",
        "/capture/cost/probe_seconds",
        "/capture/cost/collector_cpu_seconds",
        "/capture/cost/collector_rss_bytes",
        "/totals/allocated_bytes",
        "/totals/allocated_blocks",
        "/totals/live_bytes",
        "/totals/live_blocks",
        "/sites/0/verdict",
        "/sites/0/domain",
        "/sites/0/live_bytes",
        "/sites/0/live_blocks",
        "/sites/0/allocated_bytes",
        "/sites/0/allocated_blocks",
        "/sites/0/freed_blocks",
        "/sites/0/growth/bytes_per_second/estimate",
        "/sites/0/growth/bytes_per_second/low",
        "/sites/0/growth/bytes_per_second/high",
        "/sites/0/growth/blocks_per_second/estimate",
        "/sites/0/evidence/cohorts",
        "/sites/0/evidence/oldest_survivor_seconds",
        "/sites/0/evidence/freed_share",
        "/sites/0/stack/0/kind",
        "/sites/0/stack/0/function",
        "/sites/0/stack/0/file",
        "/sites/0/stack/0/line",
        "/gc/generations/0/generation",
        "/gc/generations/0/collections",
        "/gc/generations/0/collected",
        "/gc/generations/0/uncollectable",
        "/gc/generations/0/pause_seconds/total",
        "/gc/generations/0/pause_seconds/max",
    ] {
        assert!(value.pointer(pointer).is_some_and(|field| !field.is_null()), "{pointer}");
    }
    assert_eq!(value["schema"], "leaktrace.report/1");
    assert_eq!(value["sites"][0]["stack"][0]["kind"], "python");
    // All sites are too many to read.
    report.sites.truncate(2);
    report.lines.iter_mut().for_each(|line| line.sites.truncate(3));
    out.clear();
    json::write(&report, &mut out).unwrap();
    golden("report.json", &String::from_utf8(out).unwrap());
}

#[test]
fn sites_and_lines_agree_and_are_sorted() {
    let report = report();
    let sum: u64 = report.sites.iter().map(|site| site.live_bytes).sum();
    assert_eq!(sum, report.totals.live_bytes);
    assert_eq!(report.lines.iter().map(|line| line.live_bytes).sum::<u64>(), sum);
    assert_eq!(report.lines.iter().map(|line| line.sites.len()).sum::<usize>(), report.sites.len());
    for (index, line) in report.lines.iter().enumerate() {
        assert!(line.sites.iter().all(|&site| report.sites[site].line == index));
        assert!(line.sites.iter().all(|&site| report.sites[site].stack.frames().next().unwrap().line == line.line));
    }
    assert!(
        report
            .sites
            .windows(2)
            .all(|pair| (pair[0].verdict == Verdict::Growing) >= (pair[1].verdict == Verdict::Growing))
    );
    assert_eq!((report.lines[0].line, report.lines[0].verdict), (2, Verdict::Growing));
    assert_eq!((report.headline.outlook, report.headline.growing_lines), (Outlook::Leaking, 2));
    let rate = report.headline.growth.blocks_per_second;
    assert!(rate.low <= 80.0 && 80.0 <= rate.high + 1.0, "{rate:?}");
    // 20 steps a second: 60 blocks of 120 bytes and 20 of 48.
    let end = report.headline.exhaustion.unwrap();
    assert!((end.seconds - f64::from(512 << 20) / 8160.0).abs() < 0.02 * end.seconds, "{end:?}");
}

#[test]
fn the_live_table_fits_any_terminal() {
    let report = report();
    for (columns, rows) in [(80, 24), (200, 60), (40, 10)] {
        let lines = live::render(&report, Style::PLAIN, columns, rows);
        assert!(lines.len() < rows, "{} lines in {rows} rows", lines.len());
        assert!(lines.iter().all(|line| line.chars().count() < columns), "{lines:#?}");
    }
    golden("live.txt", &(live::render(&report, Style::PLAIN, 80, 24).join("\n") + "\n"));
    let mut screen = Vec::new();
    let mut table = live::LiveTable::start(&mut screen, Style::PLAIN).unwrap();
    table.draw(&report, 80, 24).unwrap();
    table.draw(&report, 80, 24).unwrap();
    table.clear().unwrap();
    drop(table);
    assert!(String::from_utf8(screen).unwrap().ends_with("\x1b[?25h"));
}

#[test]
fn the_line_tells_the_state() {
    golden("line.txt", &(line::line(&report()) + "\n"));
}

/// A full table takes no new block: what grows in the target seems to stand still.
#[test]
fn a_leak_that_a_full_table_hides_is_no_plateau() {
    let run = |room: usize, leaks_until: f64| {
        let mut world = World::new(1);
        world.room = room;
        world.ledger.gc_mut().set_state(Some(true), Some(700));
        let filled: Vec<_> = (0..400).map(|_| world.alloc(1, 64)).collect();
        let mut service = |world: &mut World| {
            let churn = world.alloc(2, 64);
            if world.seconds() < leaks_until {
                world.alloc(3, 64);
            }
            world.free(churn);
        };
        world.run(120, 5, &mut service, &mut |_| ());
        assert_eq!(filled.len(), 400);
        Report::build(&world.ledger, &facts(), &Criteria::default())
    };
    let verdicts = |report: &Report| -> Vec<_> {
        let mut lines: Vec<_> = report.lines.iter().map(|l| (l.line, l.verdict, l.evidence.reason)).collect();
        lines.sort_by_key(|line| line.0);
        lines.into_iter().map(|(_, verdict, reason)| (verdict, reason == Reason::Missed)).collect()
    };
    let full = run(500, f64::MAX);
    assert_eq!(full.headline.outlook, Outlook::Incomplete);
    // What filled once lost nothing; what comes and goes found the room that it had left.
    assert_eq!(verdicts(&full), [(Verdict::Plateau, false), (Verdict::Churn, false), (Verdict::Unknown, true)]);
    for site in full.sites.iter().chain(&run(usize::MAX, f64::MAX).sites) {
        assert_eq!(site.allocated_blocks, site.live_blocks + site.freed_blocks + site.lost_blocks);
    }
    assert_eq!(run(usize::MAX, f64::MAX).headline.outlook, Outlook::Leaking);
    assert_eq!(run(usize::MAX, 30.0).headline.outlook, Outlook::NotLeaking);
}

/// Losses long ago hide no leak that goes on.
#[test]
fn a_burst_that_found_no_room_is_forgiven() {
    let mut world = World::new(1);
    let mut service = |world: &mut World| {
        world.room = if world.seconds() < 10.0 { 0 } else { 1000 };
        let address = world.alloc(1, 64);
        world.free(address);
    };
    world.run(20, 5, &mut service, &mut |_| ());
    world.run(300, 5, &mut service, &mut |_| ());
    let report = Report::build(&world.ledger, &facts(), &Criteria::default());
    assert!(report.sites[0].lost_blocks > 0);
    assert_eq!((report.sites[0].verdict, report.headline.outlook), (Verdict::Churn, Outlook::NotLeaking));
}

#[test]
fn too_much_missed_proves_no_innocence() {
    let innocent = |facts: &Facts| {
        let mut calm = World::new(1);
        calm.run(
            60,
            5,
            &mut |world| {
                let address = world.alloc(4, 64);
                world.free(address);
            },
            &mut |_| (),
        );
        Report::build(&calm.ledger, facts, &Criteria::default())
    };
    assert_eq!(innocent(&facts()).headline.outlook, Outlook::NotLeaking);
    let unknown = Facts { lost: Lost { address: 4000, ..Lost::default() }, ..facts() };
    assert_eq!(innocent(&unknown).headline.outlook, Outlook::Incomplete);
    let blind = Facts { coverage: Coverage { ratio: Some(0.31), basis: String::new() }, ..facts() };
    let report = innocent(&blind);
    assert_eq!(report.headline.outlook, Outlook::Incomplete);
    assert!(report.sites.iter().all(|site| site.verdict == Verdict::Unknown));
    assert!(text_of(&report).starts_with("Cannot tell"), "{}", text_of(&report));
    assert!(text_of(&report).lines().all(|line| line.chars().count() <= 80));
    // Growth that was seen is growth, whatever was missed.
    let mut world = World::new(1);
    world.ledger.gc_mut().set_state(Some(true), Some(700));
    world.run(60, 5, &mut service, &mut |_| ());
    assert!(Report::build(&world.ledger, &blind, &Criteria::default()).is_growing());
}

#[test]
fn an_empty_trace_has_a_report() {
    let world = World::new(1);
    let report = Report::build(&world.ledger, &Facts::default(), &Criteria::default());
    assert_eq!(report.headline.outlook, Outlook::TooEarly);
    assert!(text_of(&report).contains("Too early"));
    assert!(!live::render(&report, Style::PLAIN, 80, 24).is_empty());
}

#[test]
fn a_watch_that_may_not_see_what_grows_says_what_would_do() {
    let watch = |classes_too_hot, slowdown_needed| {
        let watch = WatchFacts { max_slowdown: 2.0, classes_too_hot, slowdown_needed, ..WatchFacts::default() };
        let sampling = Sampling { heap_grows: true, facts: watch, ..Sampling::default() };
        let facts = Facts { sampling: Some(sampling), ..facts() };
        text_of(&Report::build(&World::new(1).ledger, &facts, &Criteria::default()))
    };
    let text = watch(2, 2.41);
    assert!(text.contains("--max-slowdown 2.0x") && text.contains("2.4x") && text.contains("exact"), "{text}");
    assert!(!watch(0, 0.0).contains("--max-slowdown"));
}

#[test]
fn what_seems_to_leak_in_parts_is_suspected() {
    let mut world = World::new(1);
    world.ledger.gc_mut().set_state(Some(true), Some(700));
    world.run(60, 5, &mut service, &mut |_| ());
    let sites = world.ledger.sites().len();
    let watched = |unproven: bool| {
        let exposures = vec![vec![0.1; world.ledger.timeline().cohorts()]];
        let sampling = Sampling {
            weights: vec![1.0; sites],
            bounds: vec![None; sites],
            unproven: vec![unproven; sites],
            exposure_of: vec![Some(0); sites],
            exposures,
            heap_grows: true,
            ..Sampling::default()
        };
        Report::build(&world.ledger, &Facts { sampling: Some(sampling), ..facts() }, &Criteria::default())
    };
    let (proven, suspected) = (watched(false), watched(true));
    assert_eq!((proven.headline.outlook, proven.suspects().count()), (Outlook::Leaking, 0));
    assert_eq!((suspected.headline.outlook, suspected.headline.growing_lines), (Outlook::TooEarly, 0));
    let leaking = proven.headline.growing_lines;
    assert_eq!(suspected.suspects().count(), leaking);
    let first = suspected.suspects().next().unwrap();
    assert_eq!(first.verdict, Verdict::Unknown);
    let text = text_of(&suspected);
    assert!(text.contains("Suspected, not proven: ") && text.contains("Suspected to grow, not proven"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(line::line(&suspected).contains("suspected, not proven: "), "{}", line::line(&suspected));
}

#[test]
fn a_line_that_functions_share_names_them_all_the_worst_first() {
    let mut ledger = Ledger::new(0, 0);
    for (dense, function) in [(1, "make.<locals>.<lambda>"), (2, "make")] {
        let frame = FrameRef { kind: FrameKind::Python, function, file: "app.py", line: 3 };
        ledger.learn(dense, domain::OBJ, &[frame], Root::Whole);
    }
    let mut pass = ledger.scan(1000);
    for (dense, size) in [(1, 10), (2, 1000)] {
        pass.observe(&Block::new(size, domain::OBJ, true, 5, dense, 7));
    }
    let total = |bytes| StackTotals { blocks: 1, bytes, lost: 0 };
    pass.finish(&ScanEnd { totals: &[StackTotals::default(), total(10), total(1000)], rss_bytes: 0 });
    let report = Report::build(&ledger, &facts(), &Criteria::default());
    let [line] = &report.lines[..] else { panic!("{:#?}", report.lines) };
    assert_eq!(line.functions.iter().map(|f| &**f).collect::<Vec<_>>(), ["make", "make.<locals>.<lambda>"]);
    assert_eq!((&*line.function, line.sites.len()), ("make", 2));
    assert!(text_of(&report).contains("app.py:3 make, make.<locals>.<lambda>"), "{}", text_of(&report));
}
