//! Recordings of real traces: the same report as the run's, and what is left after SIGKILL.

use std::path::Path;
use std::process::Command;

use leaktrace_tests::process::Service;
use leaktrace_tests::python::supported;
use leaktrace_tests::trace::{Trace, executable, require_privileges, run};

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

fn readable_folder() -> tempfile::TempDir {
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
    let python = &supported()[0];
    let mut service = Service::start(python, "services/leak_dict_cache.py", &[]);
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

#[test]
fn a_killed_run_leaves_a_recording() {
    let python = &supported()[0];
    let mut service = Service::start(python, "services/leak_dict_cache.py", &[]);
    let folder = readable_folder();
    let file = path(folder.path(), "a.leaktrace");
    let trace = Trace::attach(service.pid(), &["--interval", "100ms", "--record", &file]);
    service.go();
    // Until two looks are in it, as another reader sees.
    let scans = || {
        let reader = rusqlite::Connection::open(&file).ok()?;
        reader.query_row("SELECT count(*) FROM scan WHERE live_bytes > 0", [], |row| row.get::<_, u64>(0)).ok()
    };
    while scans().unwrap_or(0) < 2 {
        std::thread::yield_now();
    }
    trace.kill();
    let known = scans().unwrap();
    let (code, printed, said) = unprivileged(&["report", &file, "--json", "-"]);
    assert_eq!(code, Some(0), "{said}");
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert!(report["capture"]["scans"].as_u64().unwrap() >= known);
    assert!(
        report["lines"].as_array().unwrap().iter().any(|line| line["file"].as_str().unwrap().contains("leak_dict"))
    );
}
