//! Verdicts on the bundled services: which leaks are named, and who is left in peace.
//!
//! Services run a few at a time: each is traced for as long as a user would, and they need little of the processor.

use std::sync::Mutex;

use leaktrace_tests::process::Service;
use leaktrace_tests::python::{Python, supported};
use leaktrace_tests::report::Report;
use leaktrace_tests::trace::{Outcome, Trace};

/// Services traced at once: each takes a sixth of a core.
const BATCH: usize = 9;
/// One test of this file at a time: together they would starve their services.
static TURN: Mutex<()> = Mutex::new(());

const LEAKING: [&str; 9] = [
    "leak_global_list.py",
    "leak_dict_cache.py",
    "leak_class_registry.py",
    "leak_callbacks.py",
    "leak_cycles.py",
    "leak_asyncio_tasks.py",
    "leak_thread_local.py",
    "leak_tracebacks.py",
    "leak_ctypes.py",
];
const INNOCENT: [&str; 6] =
    ["calm_lru.py", "calm_ttl_cache.py", "calm_sawtooth.py", "calm_churn.py", "calm_queue.py", "calm_fragmentation.py"];

/// Traces services, some at a time, each for `seconds` from before its start.
fn judge<'a>(
    services: impl IntoIterator<Item = (&'a Python, &'a str, &'a [&'a str])>,
    seconds: u32,
) -> Vec<(Service, Report, Outcome)> {
    let duration = format!("{seconds}s");
    let services: Vec<_> = services.into_iter().collect();
    let mut judged = Vec::new();
    for batch in services.chunks(BATCH) {
        let running: Vec<_> = batch
            .iter()
            .map(|(python, script, arguments)| {
                let mut service = Service::start(python, &format!("services/{script}"), arguments);
                let trace = Trace::attach(service.pid(), &["--duration", &duration, "--fail-on-growth"]);
                service.go();
                (service, trace)
            })
            .collect();
        judged.extend(running.into_iter().map(|(service, trace)| {
            let (report, outcome) = trace.report();
            (service, report, outcome)
        }));
    }
    judged
}

fn leak_is_named(service: &Service, report: &Report, outcome: &Outcome) -> Result<(), String> {
    let mut place = service.leaks()[0].clone();
    let minor: u32 = report.target.python.version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap();
    if minor < 11 {
        // Code objects know their plain name only.
        place.function = place.function.rsplit('.').next().unwrap_or_default().to_owned();
    }
    let place = &place;
    let growing = report.growing();
    let tops: Vec<_> = growing.iter().take(3).map(|site| (site.places().first().cloned(), &site.growth)).collect();
    let Some(top) = growing.first() else { return Err(format!("{}: nothing grows", service.name())) };
    if top.places().first() != Some(place) {
        let marked = report.sites.iter().filter(|site| site.places().first() == Some(place));
        let marked: Vec<_> =
            marked.map(|site| (&site.verdict, site.live_blocks, &site.growth, &site.evidence)).collect();
        return Err(format!("{}: the leak is at {place:?}, judged {marked:#?}, not {tops:?}", service.name()));
    }
    let rate = &top.growth.bytes_per_second;
    if !(0.0 < rate.low && rate.low <= rate.estimate && rate.estimate <= rate.high) {
        return Err(format!("{}: a rate of {rate:?}", service.name()));
    }
    if outcome.code != Some(1) {
        return Err(format!("{}: --fail-on-growth ended with {:?}", service.name(), outcome.code));
    }
    Ok(())
}

fn is_left_in_peace(service: &Service, report: &Report, outcome: &Outcome) -> Result<(), String> {
    if let Some(site) = report.growing().first() {
        return Err(format!("{} does not leak, but is said to grow at {site:#?}", service.name()));
    }
    if outcome.code != Some(0) {
        return Err(format!("{}: --fail-on-growth ended with {:?}", service.name(), outcome.code));
    }
    Ok(())
}

/// Fails with all the wrong verdicts, not only with the first.
fn check(judged: &[(Service, Report, Outcome)], verdict: fn(&Service, &Report, &Outcome) -> Result<(), String>) {
    let wrong: Vec<_> = judged
        .iter()
        .filter_map(|(service, report, outcome)| {
            report.assert_nothing_lost();
            verdict(service, report, outcome).err()
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), judged.len(), wrong.join("\n"));
}

fn turn() -> impl Drop {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn each_leak_is_named_within_a_minute() {
    let _turn = turn();
    let pythons = supported();
    let services = pythons.iter().flat_map(|python| LEAKING.map(|script| (python, script, &[][..])));
    check(&judge(services, 60), leak_is_named);
}

#[test]
fn the_innocent_are_left_in_peace() {
    let _turn = turn();
    let pythons = supported();
    let services = pythons.iter().flat_map(|python| INNOCENT.map(|script| (python, script, &[][..])));
    check(&judge(services, 75), is_left_in_peace);
}

#[test]
fn flask_under_gunicorn_and_gevent_are_judged() {
    let _turn = turn();
    let pythons: Vec<_> = supported().iter().map(|p| p.with_packages(&["flask", "gunicorn", "gevent"])).collect();
    // First all that leak, then the innocent.
    let services = [("web.py", &["flask_leak"][..]), ("leak_gevent.py", &[]), ("web.py", &["flask_calm"])];
    let services =
        services.iter().flat_map(|(script, arguments)| pythons.iter().map(move |p| (p, *script, *arguments)));
    let judged = judge(services, 75);
    let (leaking, innocent) = judged.split_at(2 * pythons.len());
    check(leaking, leak_is_named);
    check(innocent, is_left_in_peace);
}
