//! The heap census against what the process says of itself.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use leaktrace_tests::census::{Census, Collectors, Diff, Watched, heap, json, leaktrace, wait_until_it_reads};
use leaktrace_tests::process::{Lines, PATIENCE, Service};
use leaktrace_tests::python::{Python, each_minor, supported};
use leaktrace_tests::trace::{executable, require_privileges};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Censuses of a process that changes its heap as fast as it can.
const MOVING: usize = 1000;

/// Objects that a service under load keeps between two looks.
const SERVED: u64 = 10_000;

#[derive(Debug, Deserialize)]
struct Tracked {
    counts: BTreeMap<String, u64>,
    sizes: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
struct CollectorTruth {
    enabled: bool,
    thresholds: Vec<u64>,
    sizes: Vec<u64>,
    stats: Vec<Stats>,
    frozen: u64,
    garbage: Vec<String>,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Stats {
    collections: u64,
    collected: u64,
    uncollectable: u64,
}

fn start(python: &Python) -> Service {
    require_privileges();
    Service::start(python, "truth/census.py", &[])
}

/// Says a command, takes the answer, and waits until nothing of it is left.
fn ask<T: DeserializeOwned>(service: &mut Service, command: &str) -> T {
    service.say(command);
    let answer = service.expect("");
    wait_until_it_reads(service);
    answer
}

/// The same of a process that works meanwhile.
fn ask_busy<T: DeserializeOwned>(service: &mut Service, command: &str) -> T {
    service.say(command);
    service.expect("")
}

fn tell(service: &mut Service, command: &str) {
    let _: Option<u64> = ask(service, command);
}

/// Within a share, or a few.
fn close(ours: u64, truth: u64, share: f64, few: u64) -> bool {
    ours.abs_diff(truth) as f64 <= (truth as f64 * share).max(few as f64)
}

#[test]
fn tracked_objects_are_counted_as_get_objects_lists_them() {
    for python in each_minor() {
        let mut service = start(&python);
        let truth: Tracked = ask(&mut service, "tracked");
        let collector: CollectorTruth = ask(&mut service, "collector");
        let census = heap(service.pid(), &[]);
        assert_eq!(census.schema, "leaktrace.heap/1");
        assert_eq!(
            census.consistency.lists_closed,
            (!python.free_threaded).then_some(true),
            "{python:?}: {:?}",
            census.totals
        );
        assert_eq!(census.consistency.unsettled_bytes, 0);
        // 3.12 froze what it started with (gh-113190); get_objects leaves that out.
        let frozen = collector.frozen;
        let mut off = Vec::new();
        for (name, &count) in &truth.counts {
            let ours = census.of(name);
            // What the truth itself is made of is a list, two counters and their frames.
            let own = matches!(name.as_str(), "list" | "dict" | "frame" | "tuple" | "collections.Counter");
            if !close(ours.tracked, count, 0.0, if own { 3 + frozen } else { 0 }) {
                off.push((name, ours.tracked, count));
            }
            let size = truth.sizes[name];
            if ours.count == ours.tracked && !close(ours.bytes, size, 0.02, 2000) && !own {
                off.push((name, ours.bytes, size));
            }
        }
        assert!(off.is_empty(), "{python:?}: type, ours, truth: {off:?}");
        let listed: u64 = truth.counts.values().sum();
        assert!(close(census.totals.tracked, listed + frozen, 0.0, 8), "{} {listed} {frozen}", census.totals.tracked);
    }
}

#[test]
fn blocks_that_the_debug_hooks_wrapped_are_understood() {
    require_privileges();
    for python in each_minor() {
        let mut command = Command::new(&python.executable);
        let script = leaktrace_tests::asset("truth/census.py");
        let mut service = Service::spawn(command.arg(script).env("PYTHONMALLOC", "debug"));
        let truth: Tracked = ask(&mut service, "tracked");
        let census = heap(service.pid(), &[]);
        assert_eq!(
            census.consistency.lists_closed,
            (!python.free_threaded).then_some(true),
            "{python:?}: {:?}",
            census.totals
        );
        for name in ["__main__.Plain", "__main__.Point", "set", "collections.deque", "function"] {
            assert_eq!(census.of(name).tracked, truth.counts[name], "{python:?} {name}");
        }
    }
}

#[test]
fn objects_of_other_threads_and_huge_ones_are_found() {
    for python in each_minor() {
        let mut service = start(&python);
        tell(&mut service, "threads");
        tell(&mut service, "huge");
        let truth: Tracked = ask(&mut service, "tracked");
        let census = heap(service.pid(), &[]);
        for name in ["__main__.Plain", "set", "function"] {
            assert_eq!(census.of(name).tracked, truth.counts[name], "{python:?} {name}");
        }
        let size = |name| (census.of(name).bytes, truth.sizes.get(name).copied().unwrap_or(0));
        let (lists, tuples) = (size("list"), size("tuple"));
        assert!(close(lists.0, lists.1, 0.01, 0), "{python:?}: {lists:?}");
        assert!(tuples.0 > 40_000_000 && census.of("bytes").bytes > 80 << 20, "{python:?}: {tuples:?}");
        let long = |name: &str, length| census.containers.iter().any(|c| c.name == name && c.length == length);
        assert!(long("tuple", 5_000_000) && long("list", 6_000_000), "{python:?}");
        let arenas = &census.arenas;
        let parts =
            ["objects", "parts", "free_listed", "unknown", "free_blocks", "free_pools", "unsettled", "overhead"];
        assert_eq!(parts.iter().map(|part| arenas[*part]).sum::<u64>(), arenas["bytes"], "{python:?}: {arenas:?}");
    }
}

#[test]
fn untracked_objects_are_counted_as_they_are_made() {
    for python in each_minor() {
        let mut service = start(&python);
        wait_until_it_reads(&service);
        let before = heap(service.pid(), &[]);
        let truth: BTreeMap<String, (u64, u64)> = ask(&mut service, "atoms");
        let after = heap(service.pid(), &[]);
        let mut off = Vec::new();
        for (name, (count, bytes)) in truth {
            let (old, new) = (before.of(&name), after.of(&name));
            let (count_rose, bytes_rose) = (new.count - old.count, new.bytes - old.bytes);
            if !close(count_rose, count, 0.01, 2) || !close(bytes_rose, bytes, 0.02, 500) {
                off.push(format!("{name}: {count_rose} of {count}, {bytes_rose} of {bytes} bytes"));
            }
        }
        assert!(off.is_empty(), "{python:?}: {off:#?}");
    }
}

#[test]
fn the_collector_is_as_the_gc_module_says() {
    for python in each_minor() {
        let mut service = start(&python);
        for command in ["garbage", "enable", "freeze"] {
            tell(&mut service, command);
            let truth: CollectorTruth = ask(&mut service, "collector");
            let ours: Collectors = json(&["gc", "--pid", &service.pid().to_string()]);
            assert_eq!((ours.schema.as_str(), ours.interpreters.len()), ("leaktrace.gc/1", 1));
            let ours = &ours.interpreters[0];
            assert_eq!((ours.enabled, ours.frozen), (truth.enabled, Some(truth.frozen)), "{python:?}");
            let generations = ours.generations.iter().zip(&truth.thresholds).zip(&truth.sizes).zip(&truth.stats);
            for (((generation, threshold), size), stats) in generations {
                assert_eq!(generation.threshold, *threshold, "{python:?}");
                let counters = (generation.collections, generation.collected, generation.uncollectable);
                assert_eq!(counters, (stats.collections, stats.collected, stats.uncollectable), "{python:?}");
                // Without the GIL there is one generation, whichever is asked for.
                if python.free_threaded && generation.objects.is_none() {
                    continue;
                }
                assert!(generation.whole);
                // The answer itself was in the youngest generation.
                let objects = generation.objects.unwrap();
                assert!(close(objects, *size, 0.0, 40), "{python:?}: {generation:?}, truth {size}");
            }
            assert!(ours.generations[0].objects.is_some());
            assert_eq!(ours.garbage.count as usize, truth.garbage.len());
            let names: Vec<&str> = ours.garbage.objects.iter().map(|object| object.name.as_str()).collect();
            assert_eq!(names, truth.garbage);
            assert_eq!(ours.garbage.objects[3].repr, "\"text\"");
        }
    }
}

#[test]
fn every_collection_is_timed_and_what_is_wrong_is_said() {
    for python in supported() {
        let mut service = start(&python);
        let pid = service.pid().to_string();
        let watch = |duration| {
            let ours: Collectors = json(&["gc", "--pid", &pid, "--interval", "500ms", "--duration", duration]);
            ours.watched.expect("it was watched")
        };
        let kinds = |watched: &Watched| watched.warnings.iter().map(|w| w.kind.clone()).collect::<Vec<_>>();
        let still = watch("1s");
        assert_eq!(
            (kinds(&still), &still.collections[..]),
            (vec!["disabled".to_owned()], &[0, 0, 0][..]),
            "{python:?}"
        );
        // Makes cycles as fast as it can: collections of each generation, by the interpreter's own counters.
        tell(&mut service, "mutate");
        let busy = watch("3s");
        let pauses = busy.pauses.as_ref().expect("the collector is found on these builds");
        let counted: u64 = busy.collections.iter().sum();
        // Without the GIL each looks at all objects, and waits for more new ones.
        let least = if python.free_threaded { 3 } else { 20 };
        assert!(counted > least && pauses.count.abs_diff(counted) <= 3, "{python:?}: {counted} {pauses:?}");
        assert_eq!(pauses.histogram.iter().map(|bucket| bucket.count).sum::<u64>(), pauses.count);
        assert!(pauses.histogram.last().is_some_and(|bucket| bucket.up_to >= pauses.max_seconds));
        assert!(pauses.max_seconds <= pauses.total_seconds && pauses.total_seconds < busy.seconds + 1.0, "{busy:?}");
        assert!(!kinds(&busy).contains(&"disabled".to_owned()));
    }
}

#[test]
fn growth_and_difference_name_what_grew() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old.json"), folder.path().join("new.json"));
    let (old, new) = (old.to_str().unwrap(), new.to_str().unwrap());
    for python in supported() {
        let mut service = start(&python);
        wait_until_it_reads(&service);
        heap(service.pid(), &["--save", old]);
        tell(&mut service, "leak 7000");
        heap(service.pid(), &["--save", new]);
        let output = leaktrace(&["diff", old, new, "--json", "-"]);
        let diff: Diff = serde_json::from_slice(&output.stdout).unwrap();
        assert!(diff.same_process);
        let grown = diff.types.iter().find(|t| t.name == "__main__.Plain").unwrap();
        assert_eq!((grown.change.as_str(), grown.new_count - grown.old_count), ("grown", 7000), "{python:?}");
        let text = String::from_utf8(leaktrace(&["diff", old, new]).stdout).unwrap();
        assert!(text.contains("__main__.Plain") && text.contains("+7k"), "{text}");
    }
    assert_eq!(leaktrace(&["diff", old, "/nowhere"]).status.code(), Some(2));
}

#[test]
fn a_watch_counts_what_a_working_process_leaks() {
    for python in supported() {
        let mut service = start(&python);
        wait_until_it_reads(&service);
        let pid = service.pid().to_string();
        let watch = std::thread::spawn(move || {
            json::<Census>(&["heap", "--pid", &pid, "--interval", "500ms", "--duration", "5s"])
        });
        let mut leaked = 0;
        while !watch.is_finished() {
            leaked = ask(&mut service, "leak 100");
            service.work_for(Duration::from_millis(10));
        }
        let census = watch.join().unwrap();
        let growth = census.growth.expect("there was an interval");
        assert!(growth.censuses >= 3, "{growth:?}");
        let grown = growth.types.iter().find(|t| t.name == "__main__.Plain").expect("it grew");
        let rose = grown.last - grown.first;
        // The first look came after the start, the last before the end.
        assert!(rose > leaked / 2 && rose <= leaked, "{rose} of {leaked}");
        assert_eq!(
            growth.types[0].last - growth.types[0].first,
            growth.types.iter().map(|t| t.last.saturating_sub(t.first)).max().unwrap()
        );
        assert!(census.containers.iter().any(|c| c.name == "list" && c.length >= rose));
    }
}

/// A look of ours at a process that works on meanwhile, between two of objgraph's.
fn look_between(service: &mut Service) -> (BTreeMap<String, u64>, Census, BTreeMap<String, u64>) {
    let before = ask_busy(service, "typestats");
    let ours = heap(service.pid(), &[]);
    (before, ours, ask_busy(service, "typestats"))
}

#[test]
fn growth_of_a_service_under_load_is_that_of_objgraph() {
    for python in supported() {
        let python = python.with_packages(&["objgraph"]);
        let mut service = start(&python);
        tell(&mut service, "serve");
        let first = look_between(&mut service);
        let _: u64 = ask_busy(&mut service, &format!("serve_until {SERVED}"));
        let last = look_between(&mut service);
        for name in ["__main__.Plain", "__main__.Slots", "set"] {
            let of = |stats: &BTreeMap<String, u64>| {
                let found = stats.get(name).or_else(|| stats.get(&format!("builtins.{name}")));
                found.copied().unwrap_or(0)
            };
            // The truth moves while it is told, and we look in between.
            let least = of(&last.0).saturating_sub(of(&first.2)) as f64;
            let most = (of(&last.2) - of(&first.0)) as f64;
            let ours = last.1.of(name).tracked as f64 - first.1.of(name).tracked as f64;
            assert!(least > 100.0, "{name} grew by {least}");
            assert!((0.95 * least..=1.05 * most).contains(&ours), "{python:?} {name}: {ours} of {least} to {most}");
        }
    }
}

#[test]
fn looks_at_a_heap_that_moves() {
    let python = supported().remove(0);
    let mut service = start(&python);
    tell(&mut service, "mutate");
    let (mut exact, mut closed) = (0, 0);
    for turn in 0..MOVING {
        // Every now and then an exact one.
        let census = heap(service.pid(), if turn % 25 == 0 { &["--pause"] } else { &[] });
        let plain = census.of("__main__.Plain");
        assert!(close(plain.count, 5000, 0.01, 0), "{plain:?} in look {turn}");
        assert!(census.of("__main__.Cycle").count > 0 && census.totals.objects > 30_000, "{:?}", census.totals);
        if turn % 25 == 0 {
            assert!(census.pause_seconds.is_some_and(|pause| pause > 0.0));
            // It may have been stopped in a collection, or between the stores that put an object into its list.
            exact += u32::from(!census.consistency.collecting);
            closed += u32::from(!census.consistency.collecting && census.consistency.lists_closed != Some(false));
        }
    }
    assert!(closed * 2 >= exact, "{closed} of {exact} pauses gave whole lists");
    tell(&mut service, "enable");
}

#[test]
fn a_killed_pause_lets_the_process_go_on() {
    let python = supported().remove(0);
    let mut service = start(&python);
    for _ in 0..20 {
        let pid = service.pid().to_string();
        let mut run = Command::new(executable());
        let mut run = run.args(["heap", "--pause", "--interval", "100ms", "--pid", &pid]);
        run = run.stdout(Stdio::null()).stderr(Stdio::null());
        let mut run = run.spawn().unwrap();
        let stat = format!("/proc/{pid}/stat");
        // Until it is caught stopped.
        while !std::fs::read_to_string(&stat).unwrap().contains(") t ") {}
        run.kill().unwrap();
        run.wait().unwrap();
        let _: u64 = ask(&mut service, "leak 1");
    }
}

#[test]
fn the_c_allocator_holds_what_mallinfo_says() {
    for python in supported() {
        let mut service = start(&python);
        tell(&mut service, "churn_native");
        let truth: Option<Vec<u64>> = ask(&mut service, "mallinfo");
        let ours = heap(service.pid(), &[]).c_allocator;
        let Some(truth) = truth else {
            assert!(ours.is_none(), "{python:?} has no glibc: {ours:?}");
            continue;
        };
        let ours = ours.expect("it is glibc's");
        let keys = ["heap_bytes", "free_bytes", "top_bytes", "mapped_bytes"];
        for (key, truth) in keys.into_iter().zip(truth) {
            assert!(close(ours[key], truth, 0.02, 128 << 10), "{python:?} {key}: {ours:?}, truth {truth}");
        }
    }
}

#[test]
fn a_warm_up_is_told_from_growth_that_goes_on() {
    for python in supported() {
        for (commands, warm_up) in [(&["warm_up"][..], true), (&["leak 100"; 400], false)] {
            let mut service = start(&python);
            wait_until_it_reads(&service);
            let folder = tempfile::tempdir().unwrap();
            let report = folder.path().join("report.json");
            let mut watch = Command::new(executable())
                .args(["heap", "--pid", &service.pid().to_string(), "--interval", "500ms", "--duration", "10s"])
                .arg("--json")
                .arg(&report)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            // The first look is over when the second is told.
            let lines = Lines::of(watch.stderr.take().unwrap());
            assert!(lines.next(PATIENCE).is_some());
            let mut commands = commands.iter();
            while watch.try_wait().unwrap().is_none() {
                match commands.next() {
                    Some(command) => {
                        let _: Option<u64> = ask(&mut service, command);
                        service.work_for(Duration::from_millis(25));
                    }
                    None => assert!(watch.wait().unwrap().success()),
                }
            }
            let census: Census = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
            let growth = census.growth.unwrap();
            assert_eq!((growth.cause.as_deref(), growth.warm_up), (Some("objects"), warm_up), "{python:?}");
        }
    }
}

#[test]
fn the_cause_of_growth_is_named() {
    let cases =
        [("fragment", "fragmentation"), ("touch_file", "file"), ("touch_native", "native"), ("warm_up", "objects")];
    for python in supported() {
        for (command, cause) in cases {
            let mut service = start(&python);
            wait_until_it_reads(&service);
            let folder = tempfile::tempdir().unwrap();
            let (old, new) = (folder.path().join("old"), folder.path().join("new"));
            let (old, new) = (old.to_str().unwrap(), new.to_str().unwrap());
            heap(service.pid(), &["--save", old]);
            tell(&mut service, command);
            let census = heap(service.pid(), &["--save", new]);
            let diff: Diff = json(&["diff", old, new]);
            assert_eq!(
                diff.cause.as_deref(),
                Some(cause),
                "{command} on {python:?}: {:?} {:?}",
                census.arenas,
                census.memory
            );
        }
    }
}
