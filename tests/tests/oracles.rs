//! The oracles against each other, without leaktrace and without privileges: a test that compares with them is worth what they are worth.

use std::process::Command;
use std::time::{Duration, Instant};

use leaktrace_tests::oracle::{account, close, count, differences, tracemalloc};
use leaktrace_tests::process::Service;
use leaktrace_tests::python::supported;
use leaktrace_tests::{asset, python};

/// The file names of the bundled services.
fn services() -> Vec<String> {
    let files = std::fs::read_dir(asset("services")).expect("the services").flatten();
    let names = files.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let kinds = ["leak_", "calm_", "flask_", "slow_", "storm"];
    names.filter(|name| kinds.iter().any(|kind| name.starts_with(kind))).collect()
}

#[test]
fn two_runs_under_tracemalloc_agree() {
    for python in supported() {
        let (first, second) = (tracemalloc(&python, 1), tracemalloc(&python, 25));
        assert_eq!(differences(&first.lines, &second.lines, 0.001), [], "{python:?}");
        assert!(first.lines.len() > 300, "{python:?}: {} lines", first.lines.len());
    }
}

/// tracemalloc moves a block to another line when a free list hands it out again; a tracer of the allocator cannot.
/// The script is written so that this is under one per cent of each line: else the two could not be compared.
#[test]
fn free_lists_do_not_blur_the_lines() {
    for python in supported() {
        let (blocks, objects) = (account(&python), tracemalloc(&python, 1));
        assert_eq!(differences(&objects.lines, &blocks.lines, 0.01), [], "{python:?}");
    }
}

#[test]
fn the_counts_do_not_depend_on_the_allocator() {
    for python in supported() {
        let (default, debug) = (count(&python, "default"), count(&python, "debug"));
        assert!(default.allocations() > 1_000_000, "{default:?}");
        for (what, default, debug) in [
            ("allocations", default.allocations(), debug.allocations()),
            ("reallocations", default.reallocations(), debug.reallocations()),
            ("frees", default.frees(), debug.frees()),
        ] {
            assert!(
                close(default, debug, 0.0002),
                "{python:?}: {what}: {default} and {debug} under PYTHONMALLOC=debug"
            );
        }
    }
}

/// Every bundled service starts, says where it leaks if its name says that it does, works, and quits.
#[test]
fn services_keep_the_handshake() {
    let python = &supported()[0];
    let with_packages = python.with_packages(&["flask", "gunicorn", "gevent"]);
    for name in services() {
        let (python, script, arguments): (&python::Python, _, Vec<&str>) = match name.as_str() {
            "flask_leak.py" => (&with_packages, "web.py", vec!["flask_leak"]),
            "flask_calm.py" => (&with_packages, "web.py", vec!["flask_calm"]),
            "leak_gevent.py" => (&with_packages, "leak_gevent.py", vec![]),
            other => (python, other, vec![]),
        };
        let mut service = Service::start(python, &format!("services/{script}"), &arguments);
        assert_eq!(service.leaks().len(), usize::from(name.contains("leak")), "{name}: {:?}", service.leaks());
        service.go();
        service.progress(20);
        service.work_for(Duration::from_millis(1));
        assert!(service.quit().success(), "{name}");
    }
}

/// What is marked as the leak is what grows most, at 50 blocks a second and more, in the eyes of tracemalloc.
/// (leak_ctypes.py is not asked: tracemalloc does not see the C allocator.)
#[test]
fn marked_lines_are_what_grows() {
    let python = &supported()[0];
    let mut services: Vec<_> = services()
        .into_iter()
        .filter(|name| name.starts_with("leak_") && name != "leak_ctypes.py" && name != "leak_gevent.py")
        .map(|name| {
            let mut command = Command::new(&python.executable);
            let mut service = Service::spawn(command.args(["-X", "tracemalloc"]).arg(asset("services").join(name)));
            service.go();
            service
        })
        .collect();
    // Buffers of pipes, caches and the first growth of containers come first.
    for service in &mut services {
        service.progress(200);
    }
    for service in &mut services {
        let (begin, before) = (Instant::now(), service.stats());
        service.progress(400);
        let (after, seconds) = (service.stats(), begin.elapsed().as_secs_f64());
        let growth = |line: &str| {
            let (new, old) = (after.lines[line], before.lines.get(line).copied().unwrap_or_default());
            (new.bytes.cast_signed() - old.bytes.cast_signed(), new.blocks.cast_signed() - old.blocks.cast_signed())
        };
        let most = after.lines.keys().max_by_key(|line| growth(line).0).expect("something is alive");
        let leak = &service.leaks()[0];
        assert_eq!(*most, format!("{}:{}", leak.file, leak.line), "{}", service.name());
        let rate = growth(most).1 as f64 / seconds;
        assert!(rate > 50.0, "{}: {rate} blocks a second", service.name());
    }
}

/// The storm's digest is a function of its steps, over cycles too, also when signals, children and threads come between.
#[test]
fn storms_compute_what_they_should() {
    let python = &supported()[0];
    for options in [&[][..], &["--threads", "2"], &["--signals"], &["--forks"], &["--seccomp"]] {
        let mut storm = Service::start(python, "services/storm.py", options);
        storm.go();
        storm.progress(5000);
        let stats = storm.stats();
        assert!(storm.quit().success(), "{options:?}");
        assert_eq!(stats.wrong, 0, "{options:?}");
        assert_eq!(stats.digest, leaktrace_tests::oracle::digest(python, stats.cycle_step), "{options:?}");
        for (steps, digest) in stats.threads {
            assert_eq!(digest, leaktrace_tests::oracle::digest(python, steps), "{options:?}, a thread");
        }
    }
}
