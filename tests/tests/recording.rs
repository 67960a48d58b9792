//! Recordings of real traces: the same report as the run's, and what is left after SIGKILL.

use std::path::Path;
use std::process::Command;

use leaktrace_tests::asset;
use leaktrace_tests::process::Service;
use leaktrace_tests::python::supported;
use leaktrace_tests::trace::{Trace, executable, require_privileges, run};
use serde_json::Value;
use tempfile::TempDir;

/// What a command prints, run as nobody: no view of a recording needs privileges.
fn unprivileged(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set", "-all"])
        .arg(executable())
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn readable_folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

#[test]
fn the_recording_shows_what_the_run_showed() {
    require_privileges();
    let mut service = Service::start(&supported()[0], "services/leak_dict_cache.py", &[]);
    let folder = readable_folder();
    let (file, json) = (path(folder.path(), "a.leaktrace"), path(folder.path(), "run.json"));
    service.go();
    let pid = service.pid().to_string();
    let ran = run(&["run", "--pid", &pid, "--duration", "6s", "--record", &file, "--json", &json]);
    assert_eq!(ran.code, Some(0), "{:?}", ran.stderr);
    let (code, printed, _) = unprivileged(&["report", &file, "--json", "-"]);
    assert_eq!(code, Some(0));
    assert_eq!(printed, std::fs::read_to_string(&json).unwrap());
    let sampled = rusqlite::Connection::open(&file).unwrap();
    let count = |query: &str| sampled.query_row(query, [], |row| row.get::<_, u64>(0)).unwrap();
    assert!(count("SELECT count(*) FROM scan") >= 3);
    assert!(count("SELECT count(*) FROM census") >= 1);
    assert!(count("SELECT count(*) FROM type_sample") > 10);
    // Nothing is overwritten unless it is asked for.
    let again = run(&["run", "--pid", &pid, "--duration", "1s", "--record", &file]);
    assert_eq!(again.code, Some(9), "{:?}", again.stderr);
    assert!(again.stderr.iter().any(|line| line.contains("--force")));
}

const BEGUN: &str = "SELECT count(*) > 0 FROM document WHERE name = 'facts'";

/// Each time after another number of looks, and anywhere between two of them.
#[test]
fn a_killed_run_leaves_a_recording() {
    require_privileges();
    let python = &supported()[0];
    let mut service = Service::start(python, "services/leak_dict_cache.py", &[]);
    let folder = readable_folder();
    service.go();
    for (round, looks) in [0, 1, 2, 4, 7].into_iter().enumerate() {
        let file = path(folder.path(), &format!("{round}.leaktrace"));
        let trace = Trace::attach(service.pid(), &["--interval", "100ms", "--record", &file]);
        // As another reader sees.
        let scans = || {
            let reader = rusqlite::Connection::open(&file).ok()?;
            let count = "SELECT count(*) FROM scan WHERE live_bytes > 0";
            reader.query_row(count, [], |row| row.get::<_, u64>(0)).ok()
        };
        // From its first moment on it can be read.
        let begun = || rusqlite::Connection::open(&file).ok()?.query_row(BEGUN, [], |row| row.get::<_, bool>(0)).ok();
        while !begun().unwrap_or(false) || scans().unwrap_or(0) < looks {
            std::thread::yield_now();
        }
        (0..round * 3_000_000).for_each(|_| std::hint::spin_loop());
        trace.kill();
        let known = scans().unwrap();
        let (code, printed, said) = unprivileged(&["report", &file, "--json", "-"]);
        assert_eq!(code, Some(0), "{said}");
        let report: Value = serde_json::from_str(&printed).unwrap();
        assert!(report["capture"]["scans"].as_u64().unwrap() >= known);
        assert!(!printed.contains("damaged"), "{}", report["capture"]["notes"]);
        let lines = report["lines"].as_array().unwrap();
        assert!(looks == 0 || lines.iter().any(|line| line["file"].as_str().unwrap().contains("leak_dict")));
    }
}

/// A row as tracemalloc's `compare_to` gives it: places, most recent first; change in bytes, bytes; change in blocks, blocks.
type Compared = (Vec<(String, u32)>, i64, i64, i64, i64);

fn ours(row: &Value, by: &str) -> Compared {
    let place = |frame: &Value| (frame["file"].as_str().unwrap().to_owned(), frame["line"].as_u64().unwrap() as u32);
    let number = |name: &str| row[name].as_i64().unwrap();
    let places = match by {
        "traceback" => row["stack"].as_array().map_or_else(Vec::new, |stack| stack.iter().map(place).collect()),
        _ => vec![place(row)],
    };
    let (bytes, count) = (number("new_bytes"), number("new_count"));
    (places, bytes - number("old_bytes"), bytes, count - number("old_count"), count)
}

#[test]
fn a_diff_is_what_tracemalloc_makes_of_the_two() {
    require_privileges();
    let python = &supported()[0];
    let mut service = Service::start(python, "services/leak_callbacks.py", &[]);
    let folder = readable_folder();
    let file = |name: &str| path(folder.path(), name);
    service.go();
    let pid = service.pid().to_string();
    for (name, time) in [("old", "2s"), ("new", "4s")] {
        let (record, json) = (file(name), file(&format!("{name}.json")));
        let ran = run(&["run", "--pid", &pid, "--duration", time, "--record", &record, "--json", &json]);
        assert_eq!(ran.code, Some(0), "{:?}", ran.stderr);
    }
    for by in ["lineno", "filename", "traceback"] {
        let truth = Command::new(&python.executable)
            .arg(asset("readers/compare.py"))
            .args([&file("old.json"), &file("new.json"), by])
            .output()
            .unwrap();
        let mut truth: Vec<Compared> = serde_json::from_slice(&truth.stdout).unwrap();
        let (code, printed, said) = unprivileged(&["diff", &file("old"), &file("new"), "--by", by, "--json", "-"]);
        assert_eq!(code, Some(0), "{said}");
        let diff: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!((&diff["schema"], &diff["by"]), (&"leaktrace.diff/1".into(), &by.into()));
        assert!(said.contains(" live: "), "{said}");
        // Without a Python frame there is nothing to tell tracemalloc.
        let of_python = |row: &&Value| row["kind"] == "python";
        let mut rows: Vec<_> =
            diff["rows"].as_array().unwrap().iter().filter(of_python).map(|row| ours(row, by)).collect();
        assert!(!truth.is_empty());
        // Rows that changed by as much come in any order.
        rows.sort();
        truth.sort();
        assert_eq!(rows, truth, "{by}");
    }
}
