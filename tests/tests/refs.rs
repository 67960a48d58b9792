//! Who holds what, against what the process says of itself.

use std::collections::{BTreeMap, BTreeSet};

use leaktrace_tests::asset;
use leaktrace_tests::census::{json, leaktrace, wait_until_it_reads};
use leaktrace_tests::process::Service;
use leaktrace_tests::python::{Python, each_minor, supported};
use leaktrace_tests::trace::require_privileges;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Objects whose referrers are compared.
const SAMPLE: usize = 1000;

#[derive(Debug, Deserialize)]
struct Answer {
    schema: String,
    coverage: BTreeMap<String, Value>,
    #[serde(default)]
    addresses: Vec<OneObject>,
    objects: Option<Objects>,
    growth: Option<Growth>,
    unreachable: Garbage,
}

#[derive(Debug, Deserialize)]
struct OneObject {
    address: u64,
    #[serde(rename = "type")]
    name: String,
    path: Option<Way>,
    referrers: Vec<Referrer>,
}

#[derive(Debug, Deserialize)]
struct Referrer {
    address: u64,
    #[serde(rename = "type")]
    name: String,
}

#[derive(Debug, Deserialize)]
struct Way {
    path: String,
    objects: u64,
    share: f64,
    python: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Objects {
    count: u64,
    paths: Vec<Way>,
}

#[derive(Debug, Deserialize)]
struct Growth {
    new_objects: u64,
    culprits: Vec<Culprit>,
}

#[derive(Debug, Deserialize)]
struct Culprit {
    path: String,
    share: f64,
    length_before: Option<u64>,
    length_now: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Garbage {
    new_bytes: u64,
    collector_enabled: Option<bool>,
    cycles: Vec<Cycle>,
}

#[derive(Debug, Deserialize)]
struct Cycle {
    cycle: String,
}

#[derive(Debug, Deserialize)]
struct Truth {
    /// For each object of the sample.
    referrers: Vec<BTreeSet<u64>>,
    /// What the collector tracks.
    tracked: BTreeSet<u64>,
}

/// Says a command, takes the answer, and waits until nothing of it is left.
fn ask<T: DeserializeOwned>(service: &mut Service, command: &str) -> T {
    service.say(command);
    let answer = service.expect("");
    wait_until_it_reads(service);
    answer
}

fn refs(pid: u32, arguments: &[&str]) -> Answer {
    let answer: Answer = json(&[&["refs", "--pid", &pid.to_string()], arguments].concat());
    assert_eq!(answer.schema, "leaktrace.refs/1");
    answer
}

/// Whether the interpreter itself leaves out a reference that is there: the traversal of these types does not visit all that they
/// own (`Modules/_asynciomodule.c` to 3.11: `fut_loop` of tasks; `Modules/_threadmodule.c`: `wr_callback`).
fn is_not_told(python: &Python, holder: &Referrer) -> bool {
    let minor: u32 = python.version.split('.').nth(1).and_then(|minor| minor.parse().ok()).expect("a version");
    // Without the GIL the collector knows code objects, of which it visits the constants alone (`code_traverse`,
    // Objects/codeobject.c of 3.13).
    holder.name == "code"
        || minor < 12 && (holder.name == "_asyncio.Task" || holder.name.to_lowercase().ends_with("_local"))
}

#[test]
fn referrers_and_paths_are_those_of_the_interpreter() {
    require_privileges();
    for python in each_minor() {
        let mut service = Service::start(&python, "truth/refs.py", &[]);
        let sample: Vec<u64> = ask(&mut service, &format!("sample {SAMPLE}"));
        let truth: Truth = ask(&mut service, "referrers");
        let of: BTreeMap<u64, BTreeSet<u64>> = sample.iter().copied().zip(truth.referrers).collect();
        let arguments: Vec<String> = sample.iter().flat_map(|id| ["--address".to_owned(), id.to_string()]).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let answer = refs(service.pid(), &arguments);
        assert_eq!(answer.addresses.len(), SAMPLE);
        let mut wrong = Vec::new();
        for object in &answer.addresses {
            let told = &of[&object.address];
            let ours: BTreeSet<u64> = object.referrers.iter().map(|referrer| referrer.address).collect();
            // Types of ctypes visit what their dicts hold in C (`StgDict`, to 3.12).
            let by_dict = object.name.starts_with("_ctypes.PyC");
            wrong.extend(
                told.difference(&ours).filter(|_| !by_dict).map(|id| format!("{}: not held by {id:#x}", object.name)),
            );
            let made_up =
                object.referrers.iter().filter(|r| truth.tracked.contains(&r.address) && !told.contains(&r.address));
            let made_up = made_up.filter(|referrer| !is_not_told(&python, referrer));
            wrong.extend(made_up.map(|referrer| format!("{}: held by {}", object.name, referrer.name)));
        }
        assert_eq!(wrong, Vec::<String>::new(), "{python:?}");
        let mut real = 0;
        for object in &answer.addresses {
            let path = object.path.as_ref().unwrap_or_else(|| panic!("no path to a {}", object.name));
            let Some(expression) = &path.python else { continue };
            let id: Value = ask(&mut service, &format!("eval {expression}"));
            // What no traversal visits cannot be asked for.
            let hidden = path.path.contains(".<builtin_function_or_method>");
            assert!(id == object.address || hidden, "{python:?}: {} at {} is {id}", object.name, path.path);
            real += usize::from(id == object.address);
        }
        assert!(real * 100 >= SAMPLE * 98, "{python:?}: Python can say {real} of {SAMPLE} paths");
        service.quit();
    }
}

/// Each leaking service whose leak a container of Python holds, and which.
fn leaks() -> BTreeMap<String, String> {
    let path = asset("services/holders.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn watched(python: &Python, name: &str) -> Answer {
    let mut service = Service::start(python, &format!("services/{name}.py"), &[]);
    service.go();
    service.progress(100);
    let answer = refs(service.pid(), &["--interval", "3s"]);
    service.quit();
    answer
}

#[test]
fn the_container_that_grows_is_named_first() {
    require_privileges();
    for python in supported() {
        for (name, path) in leaks() {
            let growth = watched(&python, &name).growth.unwrap();
            let first = growth.culprits.first().unwrap_or_else(|| panic!("{python:?} {name}: nothing of {growth:?}"));
            assert_eq!(first.path, path, "{python:?} {name}: {growth:?}");
            assert!(first.share > 0.8 && first.length_now > first.length_before, "{name}: {first:?}");
        }
    }
}

#[test]
fn cycles_that_nothing_holds_are_shown() {
    require_privileges();
    for python in supported() {
        let answer = watched(&python, "leak_cycles");
        let garbage = answer.unreachable;
        assert_eq!(garbage.collector_enabled, Some(false));
        let cycles: Vec<&str> = garbage.cycles.iter().map(|cycle| cycle.cycle.as_str()).collect();
        assert!(cycles[0].starts_with("__main__.Node.") && cycles[0].contains("children"), "{python:?}: {cycles:?}");
        assert!(garbage.new_bytes > 10_000);
    }
}

#[test]
fn nothing_of_python_grows_where_c_leaks() {
    require_privileges();
    for name in ["leak_ctypes", "calm_churn"] {
        let growth = watched(&supported()[0], name).growth.unwrap();
        let kept =
            growth.culprits.iter().find(|culprit| culprit.share > 0.5 && culprit.length_now > culprit.length_before);
        assert!(kept.is_none() || growth.new_objects < 200, "{name}: {growth:?}");
    }
}

#[test]
fn objects_of_a_type_are_found_by_its_name() {
    require_privileges();
    let python = &supported()[0];
    let mut service = Service::start(python, "services/leak_class_registry.py", &[]);
    service.go();
    service.progress(100);
    let pid = service.pid().to_string();
    for name in ["__main__.Session", "Session"] {
        let objects = refs(service.pid(), &["--type", name]).objects.unwrap();
        assert!(objects.count >= 100 && objects.paths[0].share > 0.9, "{objects:?}");
        assert_eq!((objects.paths[0].path.as_str(), objects.paths[0].objects > 90), ("__main__.Session.live[*]", true));
    }
    let said = |arguments: &[&str]| {
        let output = leaktrace(&[&["refs", "--pid", &pid], arguments].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, line) = said(&["--type", "Sesion"]);
    assert!(code == Some(2) && line.contains("__main__.Session (") && line.lines().count() == 1, "{code:?} {line}");
    let (code, line) = said(&["--type", "zxqwv"]);
    assert!(code == Some(2) && line.contains("no type zxqwv is in this heap"), "{code:?} {line}");
    let (code, line) = said(&["--address", "0x10"]);
    assert!(code == Some(2) && line.contains("no object is at 0x10"), "{code:?} {line}");
    let (code, _) = said(&["--address", "here"]);
    assert_eq!(code, Some(2));
    let dir = tempfile::tempdir().unwrap();
    let dot = dir.path().join("paths.dot");
    let (code, line) = said(&["--type", "Session", "--dot", dot.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{line}");
    let text = std::fs::read_to_string(&dot).unwrap();
    assert!(text.starts_with("digraph refs {") && text.contains("label=\".live\""), "{text}");
    service.quit();
}

#[test]
fn a_trace_says_who_holds_what_its_lines_allocate() {
    require_privileges();
    let python = &supported()[0];
    let mut service = Service::start(python, "services/leak_global_list.py", &[]);
    service.go();
    let pid = service.pid().to_string();
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.json");
    let file = report.to_str().unwrap();
    let time = ["--mode", "exact", "--duration", "30s", "--interval", "2s"];
    let output = leaktrace(&[&["run", "--pid", &pid][..], &time, &["--json", file]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let worst = &text["lines"][0];
    assert_eq!((&worst["function"], &worst["verdict"]), (&"record".into(), &"growing".into()));
    let holder = &worst["holders"][0];
    assert!(holder["path"] == "__main__.AUDIT[*]" && holder["share"].as_f64() > Some(0.95), "{holder}");
    let answer: Value = json(&["refs", "--pid", &pid, "--interval", "2s", "--report", report.to_str().unwrap()]);
    let culprit = &answer["growth"]["culprits"][0];
    assert_eq!(
        (&culprit["path"], &culprit["inserted_by"][0]["function"]),
        (&"__main__.AUDIT".into(), &"record".into())
    );
    let other = std::process::id().to_string();
    let refused = leaktrace(&["refs", "--pid", &other, "--report", report.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2), "a report of another process");
    service.quit();
}

#[test]
fn a_moving_heap_gives_an_answer_each_time() {
    require_privileges();
    let mut service = Service::start(&supported()[0], "services/storm.py", &[]);
    service.go();
    for _ in 0..20 {
        let answer = refs(service.pid(), &["--retained"]);
        assert!(answer.coverage["objects"].as_u64() > Some(1000));
    }
    service.quit();
}
