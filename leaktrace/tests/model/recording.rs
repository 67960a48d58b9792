//! Recordings of simulated services: what is read is what was written, whatever became of the writer or of the file.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use leaktrace::model::Criteria;
use leaktrace::recording::{Origin, Recorder, Recording, RecordingError};
use leaktrace::report::{Report, Selection};

use crate::report::{facts, service};
use crate::simulator::{Random, World};

/// Where the child of the test of SIGKILL records.
const CHILD: &str = "LEAKTRACE_TEST_RECORDING";

fn origin(world: &World) -> Origin {
    Origin {
        leaktrace: "0".to_owned(),
        started_at: 1.0,
        start_ns: world.ledger.timeline().start_ns(),
        rss_bytes: 50 << 20,
    }
}

fn world() -> World {
    let mut world = World::new(3);
    world.ledger.gc_mut().set_state(Some(true), Some(700));
    world
}

fn recorder(path: &Path, world: &World) -> Recorder {
    let mut recorder = Recorder::create(path, false).unwrap();
    recorder.begin(&origin(world)).unwrap();
    recorder
}

fn json(report: &Report) -> String {
    serde_json::to_string(report).unwrap()
}

/// A finished recording of 90 seconds.
fn recorded(folder: &Path) -> PathBuf {
    let path = folder.join("a.leaktrace");
    let mut world = world();
    let mut recorder = recorder(&path, &world);
    world.run(90, 1, &mut service, &mut |world| recorder.record(&world.ledger, &facts(), None).unwrap());
    recorder.finish(&world.ledger, &facts(), None).unwrap();
    path
}

#[test]
fn the_report_is_the_same_at_every_scan() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.leaktrace");
    let mut world = world();
    let mut recorder = recorder(&path, &world);
    let mut scans = 0;
    world.run(200, 1, &mut service, &mut |world| {
        recorder.record(&world.ledger, &facts(), None).unwrap();
        scans += 1;
        // The first ones, then more and more rarely: thinned samples, merged cohorts and moved references come in between.
        if scans < 5 || scans % 37 == 0 {
            let live = Report::build(&world.ledger, &facts(), &Criteria::default());
            let recording = Recording::open(&path).unwrap();
            assert_eq!(json(&recording.report(&Selection::default())), json(&live), "after {scans} scans");
        }
    });
    recorder.finish(&world.ledger, &facts(), None).unwrap();
    let live = Report::build(&world.ledger, &facts(), &Criteria::default());
    let recording = Recording::open(&path).unwrap();
    assert_eq!(json(&recording.report(&Selection::default())), json(&live));
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["a.leaktrace"], "one file is left");

    let history = recording.history();
    let last = history.moments.last().unwrap();
    assert_eq!((last.live.bytes, last.allocated.blocks), (live.totals.live_bytes, live.totals.allocated_blocks));
    assert_eq!(history.moments.len(), 200, "so few scans are all kept");
    for site in &live.sites {
        let level = *recording.levels(site.number).last().unwrap();
        assert_eq!((level.live.bytes, level.allocated.blocks), (site.live_bytes, site.allocated_blocks));
    }
}

#[test]
fn sums_over_selections_are_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let recording = Recording::open(&recorded(folder.path())).unwrap();
    let whole = recording.report(&Selection::default());
    let glob = ["function1".to_owned()];
    let only = recording.report(&Selection::default().include(&glob).unwrap());
    let rest = recording.report(&Selection::default().exclude(&glob).unwrap());
    assert!(only.totals.live_blocks > 0 && rest.totals.live_blocks > 0);
    assert_eq!(only.totals.live_bytes + rest.totals.live_bytes, whole.totals.live_bytes);
    assert_eq!(only.totals.allocated_blocks + rest.totals.allocated_blocks, whole.totals.allocated_blocks);
    assert_eq!(recording.report(&Selection::default().include(&["*.py".to_owned()]).unwrap()).totals, whole.totals);
    assert_eq!(recording.report(&Selection::default().thread(8)).sites.len(), 0, "all blocks are thread 7's");
    // The leak at function1 is 60 blocks a second: what is younger than half of the time is about half of it.
    let later = recording.report(&Selection::default().since(45.0, recording.allocated_by(45.0)));
    let live = |report: &Report| report.lines.iter().find(|line| &*line.function == "function1").unwrap().live_blocks;
    assert!((2400..=2900).contains(&live(&later)) && live(&whole) >= 5340, "{} {}", live(&later), live(&whole));
    assert!(later.capture.notes.last().unwrap().contains("45 s after the attach"));
}

/// Records until it is killed, and says after each scan which it was. Does nothing unless it is the child.
#[test]
fn child_that_records() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let mut world = world();
    let mut recorder = recorder(Path::new(&path), &world);
    let mut scans = 0;
    let mut leak = |world: &mut World| _ = world.alloc(1, 120);
    world.run(100_000, 1, &mut leak, &mut |world| {
        recorder.record(&world.ledger, &facts(), None).unwrap();
        scans += 1;
        eprintln!("{scans}");
    });
}

#[test]
fn sigkill_at_any_moment_costs_at_most_the_scan_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new(11);
    for round in 0..50 {
        let path = folder.path().join(format!("{round}"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "recording::child_that_records", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // At another scan each time, and anywhere between it and the next ones.
        let wanted = 1 + random.below(12);
        let mut told = 0;
        while told < wanted {
            told = lines.next().unwrap().unwrap().parse().unwrap_or(told);
        }
        (0..random.below(200_000)).for_each(|_| std::hint::spin_loop());
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died, the pipe still holds.
        told = lines.map_while(Result::ok).filter_map(|line| line.parse().ok()).last().unwrap_or(told);
        let report = Recording::open(&path).unwrap().report(&Selection::default());
        assert!(report.capture.scans >= told, "{} of {told}", report.capture.scans);
        assert!(report.capture.notes.iter().all(|note| !note.contains("damaged")), "{:?}", report.capture.notes);
        assert!(report.totals.live_bytes > 0);
    }
}

#[test]
fn what_is_no_recording_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let refusal = |path: &Path| Recording::open(path).unwrap_err();
    fs::write(path("text"), "hello").unwrap();
    fs::write(path("empty"), "").unwrap();
    rusqlite::Connection::open(path("other")).unwrap().execute_batch("CREATE TABLE site (id)").unwrap();
    for name in ["text", "empty", "other"] {
        assert!(matches!(refusal(&path(name)), RecordingError::Foreign { .. }), "{name}");
    }
    assert!(matches!(refusal(folder.path()), RecordingError::Foreign { .. }));
    assert!(matches!(refusal(&path("none")), RecordingError::Open { .. }));
    drop(recorder(&path("begun"), &world()));
    assert!(matches!(refusal(&path("begun")), RecordingError::Empty { .. }));
    let newer = recorded(folder.path());
    rusqlite::Connection::open(&newer).unwrap().pragma_update(None, "user_version", 2).unwrap();
    assert!(matches!(refusal(&newer), RecordingError::Newer { version: 2, .. }));
    assert!(matches!(Recorder::create(&newer, false).unwrap_err(), RecordingError::Exists { .. }));
    assert!(matches!(Recorder::create(&path("none/a"), false).unwrap_err(), RecordingError::Create { .. }));
}

#[test]
fn of_a_damaged_recording_what_can_be_read_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = recorded(folder.path());
    let whole = fs::read(&path).unwrap();
    let damaged = folder.path().join("damaged");
    let mut random = Random::new(5);
    let (mut opened, mut noted) = (0, 0);
    for round in 0..120 {
        let mut bytes = whole.clone();
        if round % 3 == 0 {
            bytes.truncate(random.below(whole.len() as u64) as usize);
        } else {
            for _ in 0..=random.below(40) {
                let at = random.below(whole.len() as u64) as usize;
                bytes[at] = random.next() as u8;
            }
        }
        fs::write(&damaged, &bytes).unwrap();
        // No panic, no endless loop, and what is shown says that it is not all.
        if let Ok(recording) = Recording::open(&damaged) {
            opened += 1;
            let report = recording.report(&Selection::default());
            noted += u32::from(report.capture.notes.iter().any(|note| note.contains("damaged")));
            recording.history();
            recording.sources();
        }
    }
    assert!(opened > 10 && noted > 5, "{opened} opened, {noted} noted");
}
