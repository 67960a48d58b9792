//! One run in every view: the totals are the same, and the page does what it shows, in a real browser.
//!
//! Needs `chromium` and `npm`: on Debian, `apt-get install chromium npm`.

#![allow(clippy::float_cmp, reason = "all views have the report's numbers to the last digit")]

use std::fs;
use std::path::Path;
use std::process::Command;

use leaktrace_tests::net::{free_port, metrics_at_rest, sample};
use leaktrace_tests::process::{Service, signal};
use leaktrace_tests::python::supported;
use leaktrace_tests::trace::{Trace, run};
use leaktrace_tests::{asset, npm_package};
use rustix::process::Signal;
use serde_json::Value;

/// What a browser shows of a page, and what it does when it is used (readers/page.mjs).
fn browse(page: &Path) -> Value {
    let read = Command::new("node")
        .arg(asset("readers/page.mjs"))
        .args([npm_package("playwright-core"), npm_package("axe-core")])
        .arg("/usr/bin/chromium")
        .arg(page)
        .args(std::env::var_os("LEAKTRACE_TEST_PICTURES"))
        .output()
        .unwrap_or_else(|error| panic!("cannot start node: {error}"));
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    serde_json::from_slice(&read.stdout).unwrap()
}

fn export(recording: &Path, format: &str, to: &Path) {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let ran = run(&["export", &text(recording), "--format", format, "-o", &text(to)]);
    assert_eq!(ran.code, Some(0), "{format}: {:?}", ran.stderr);
}

/// A page is of use to everybody, asks for nothing, says nothing to the console, and lets no other script in.
fn is_sound(seen: &Value) {
    assert_eq!((&seen["said"], &seen["asked"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    assert_eq!(seen["policy"], "undefined", "a script that is not the page's own ran");
    for (how, found) in seen["inspected"].as_object().unwrap() {
        assert_eq!(found["violations"], Value::Array(vec![]), "{how}");
        assert!(found["passes"].as_u64().unwrap() > 10, "{how}");
        assert_eq!(found["overflow"], 0, "{how}");
    }
}

#[test]
fn every_view_of_a_run_has_its_totals() {
    let python = &supported()[0];
    let mut service = Service::start(python, "services/leak_dict_cache.py", &[]);
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("a.leaktrace");
    let address = free_port();
    let to = recording.to_str().unwrap();
    let trace = Trace::attach(service.pid(), &["--interval", "500ms", "--metrics", &address, "--record", to]);
    service.go();
    // Long enough for a verdict, and for two censuses.
    service.progress(7000);
    let metrics = metrics_at_rest(service.pid(), &address);
    let (report, outcome) = trace.interrupt();
    signal(service.pid(), Signal::CONT);

    let totals = &report.totals;
    let of = |name: &str| match name {
        "live_bytes" => totals.live_bytes,
        "live_blocks" => totals.live_blocks,
        "allocated_bytes" => totals.allocated_bytes,
        _ => totals.allocated_blocks,
    };
    let names = [
        ("inuse_space", "live_bytes", "leaktrace_live_bytes"),
        ("inuse_objects", "live_blocks", "leaktrace_live_blocks"),
        ("alloc_space", "allocated_bytes", "leaktrace_allocated_bytes_total"),
        ("alloc_objects", "allocated_blocks", "leaktrace_allocated_blocks_total"),
    ];
    let exports = folder.path().join("exports");
    fs::create_dir(&exports).unwrap();
    for format in ["pprof", "speedscope", "collapsed", "flamegraph", "firefox", "csv", "jsonl"] {
        export(&recording, format, &exports.join(format));
    }
    let again = run(&["export", to, "--format", "csv", "-o", exports.join("csv").to_str().unwrap()]);
    assert_eq!(again.code, Some(9), "an export is not overwritten: {:?}", again.stderr);
    let venv = python.with_packages(&["jsonschema"]);
    let schema = npm_package("speedscope").join("dist/release/file-format-schema.json");
    let read =
        Command::new(&venv.executable).arg(asset("truth/exports.py")).arg(&exports).arg(schema).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let found: Value = serde_json::from_slice(&read.stdout).unwrap();
    assert_eq!(found["pprof"].as_object().unwrap().len(), 5);
    assert_eq!(found["pprof"], found["speedscope"]);
    assert!(found.as_object().unwrap().values().all(|read| read["inuse_space"].as_u64().unwrap() > 0), "{found}");
    let page = folder.path().join("report.html");
    export(&recording, "html", &page);
    let seen = browse(&page);
    let recorded: Value = {
        let json = folder.path().join("report.json");
        let ran = run(&["report", to, "--json", json.to_str().unwrap()]);
        assert_eq!(ran.code, Some(0), "{:?}", ran.stderr);
        let json = fs::read_to_string(json).unwrap();
        assert_eq!(json, report.text, "the recording shows what the run showed");
        serde_json::from_str(&json).unwrap()
    };
    let scan = rusqlite::Connection::open(&recording).unwrap();
    let scanned = |column: &str| {
        let query = format!("SELECT {column} FROM scan ORDER BY id DESC LIMIT 1");
        scan.query_row(&query, [], |row| row.get::<_, u64>(0)).unwrap()
    };
    assert!(totals.live_bytes > 100_000);
    for (pprof, json, metric) in names {
        let truth = of(json);
        assert_eq!(recorded["totals"][json], truth, "recording, {json}");
        assert_eq!(scanned(json), truth, "recording's table, {json}");
        assert_eq!(seen["totals"][json], truth, "page, {json}");
        assert_eq!(sample(&metrics, metric), truth as f64, "metrics, {json}");
        for (format, read) in found.as_object().unwrap().iter().filter(|(_, read)| !read[pprof].is_null()) {
            assert_eq!(read[pprof], truth, "{format}, {json}");
        }
    }
    // The live view rounds: its last line tells the same.
    let live = human(totals.live_bytes);
    let looks = outcome.stderr.iter().filter(|line| line.contains(" live"));
    assert!(looks.clone().next_back().unwrap().contains(&live), "{live}: {:?}", outcome.stderr);

    // The page.
    is_sound(&seen);
    assert!(seen["headline"].as_str().unwrap().starts_with("LEAKING"), "{}", seen["headline"]);
    let growing: Vec<_> = report.lines.iter().filter(|line| line.verdict == "growing").collect();
    assert!(growing.iter().any(|line| !line.holders.is_empty()));
    let cards = seen["cards"].as_array().unwrap();
    assert_eq!(cards.len(), growing.len().min(10));
    assert!(cards[0]["place"].as_str().unwrap().contains("leak_dict_cache.py"), "{}", cards[0]);
    let leak =
        cards.iter().find(|card| card["source"].as_str().unwrap().contains("# LEAK")).expect("the leak's source");
    assert!(leak["functions"].as_array().unwrap().iter().any(|name| name == "page"));
    assert_eq!(leak["spark"], 2);
    assert!(seen["flame"]["inuse_space"].as_str().unwrap().contains(&live), "{}", seen["flame"]);
    let matched = seen["matched"].as_str().unwrap();
    assert!(matched.contains(" % match") && !matched.starts_with("0 %"), "{matched}");
    assert!(seen["filtered"].as_array().unwrap().contains(&cards[0]["place"]));
    assert!(seen["types"].as_u64().unwrap() > 10);
    let shown = seen["blocks"]["falling"].as_array().unwrap();
    assert_eq!(shown.len(), report.lines.len().min(30));
    let most = report.lines.iter().map(|line| line.live_blocks).max().unwrap();
    assert_eq!(shown[0], count(most));
    assert!(seen["charts"][0].as_str().unwrap().contains("resident set from"), "{}", seen["charts"]);
}

/// As people read it, to three digits.
fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB"].into_iter();
    let mut unit = units.next().unwrap();
    while value >= 999.5 {
        value /= 1024.0;
        unit = units.next().unwrap();
    }
    format!("{} {unit}", digits(value))
}

fn count(value: u64) -> String {
    match value {
        ..1000 => value.to_string(),
        1000..1_000_000 => format!("{}k", digits(value as f64 / 1e3)),
        _ => format!("{}M", digits(value as f64 / 1e6)),
    }
}

fn digits(value: f64) -> String {
    let places = if value <= 9.995 { 2 } else { usize::from(value <= 99.95) };
    let text = format!("{value:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// What the target names itself is text, whatever it looks like.
#[test]
fn names_of_the_target_stay_names() {
    let python = &supported()[0];
    let mut service = Service::start(python, "services/hostile_names.py", &[]);
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("a.leaktrace");
    let to = recording.to_str().unwrap();
    let trace = Trace::attach(service.pid(), &["--interval", "500ms", "--record", to]);
    service.go();
    service.progress(3000);
    trace.finish();
    let page = folder.path().join("report.html");
    export(&recording, "html", &page);
    let markup = fs::read_to_string(&page).unwrap();
    assert!(markup.contains("touched = true"), "the names are on the page");
    let seen = browse(&page);
    is_sound(&seen);
    assert_eq!(seen["touched"], Value::Null, "a name ran as a script");
    let places = seen["blocks"]["falling"].as_array().unwrap().len();
    assert!(places > 0);
}
