//! Targets that are no `python`: a program that embeds the interpreter, and frozen applications.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use leaktrace_tests::process::Service;
use leaktrace_tests::python::{Python, each_minor, supported};
use leaktrace_tests::report::Site;
use leaktrace_tests::trace::{Trace, require_privileges};
use leaktrace_tests::{asset, oracle};
use object::Object as _;

const BLOCKS: u64 = 1000;

/// The interpreters that have a libpython of their own, and where it is.
fn shared() -> Vec<(Python, PathBuf)> {
    let code = "import sysconfig as s; print(s.get_config_var('LIBDIR') + '/' + s.get_config_var('INSTSONAME'))";
    let library = |python: &Python| {
        let output = Command::new(&python.executable).args(["-c", code]).output().unwrap();
        let path = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        // Distributions keep it with the libraries of the architecture.
        let multiarch = Path::new("/usr/lib/x86_64-linux-gnu").join(path.file_name().unwrap());
        [path, multiarch].into_iter().find(|path| path.to_string_lossy().contains(".so") && path.exists())
    };
    let found: Vec<_> =
        supported().into_iter().filter_map(|python| library(&python).map(|path| (python, path))).collect();
    assert!(!found.is_empty(), "no libpython of an interpreter to test on: install libpython3.11");
    found
}

/// Traces the application while it allocates.
fn is_traced(name: &str, command: &mut Command) {
    let mut target = Service::spawn(command);
    let trace = Trace::attach(target.pid(), &[]);
    target.go();
    let _: serde_json::Value = target.expect("DONE");
    let report = trace.finish();
    target.quit();
    report.assert_nothing_lost();
    let here = report.sites.iter().filter(|site| site.places().first().is_some_and(|place| place.function == "work"));
    let blocks: u64 = here.filter(|site| site.domain == "obj").map(|site| site.live_blocks).sum();
    assert_eq!(blocks, BLOCKS, "{name}");
    assert!(report.capture.coverage.ratio > Some(0.99), "{name}: {:?}", report.capture.coverage);
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_program_that_loads_the_interpreter() {
    require_privileges();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("host");
    run(Command::new("gcc").arg(asset("applications/host.c")).arg("-o").arg(&program).arg("-ldl"));
    for (python, library) in shared() {
        is_traced(&python.label(), Command::new(&program).arg(library).arg(asset("applications/app.py")));
    }
}

/// The interpreters that come as a static library as well, with what that is linked with. The section that tells where they are
/// is there from 3.10.
fn linkable() -> Vec<(Python, Vec<String>)> {
    let code = "import sysconfig as s; print(*(s.get_config_var(n) for n in ('LIBPL', 'LIBRARY', 'LIBS', 'MODLIBS')), sep='\\n')";
    let parts = |python: &Python| {
        let output = Command::new(&python.executable).args(["-c", code]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines = text.lines();
        let library = Path::new(lines.next()?).join(lines.next()?);
        let libraries = lines.flat_map(str::split_whitespace).filter(|word| word.starts_with("-l"));
        library
            .exists()
            .then(|| [library.display().to_string()].into_iter().chain(libraries.map(str::to_owned)).collect())
    };
    let pythons = each_minor().into_iter().filter(|python| python.minor() >= 10);
    let found: Vec<_> = pythons.filter_map(|python| parts(&python).map(|parts| (python, parts))).collect();
    assert!(!found.is_empty(), "no libpython.a of an interpreter to test on: install libpython3.11-dev");
    found
}

/// The interpreter and the C library in one file, with no symbol left.
fn linked_static(folder: &Path, python: Python, parts: &[String]) -> Python {
    let program = folder.join("service");
    let mut link = Command::new("gcc");
    run(link.args(["-static", "-s", "-o"]).arg(&program).arg(asset("applications/static.c")).args(parts).arg("-lm"));
    let file = fs::read(&program).unwrap();
    let elf = object::File::parse(&*file).unwrap();
    assert!(elf.symbols().chain(elf.dynamic_symbols()).next().is_none(), "symbols are left");
    Python { executable: program, ..python }
}

#[test]
fn one_static_file_without_symbols() {
    require_privileges();
    for (python, parts) in linkable() {
        let folder = tempfile::tempdir().unwrap();
        let python = linked_static(folder.path(), python, &parts);
        is_traced(&python.label(), Command::new(&python.executable).arg(asset("applications/app.py")));
        memory_is_tracemallocs(&python);
    }
}

/// Live memory by line, and what the C library keeps for itself.
fn memory_is_tracemallocs(python: &Python) {
    let truth = oracle::tracemalloc_of(python, "applications/kept.py", 1);
    let mut service = Service::start(python, "applications/kept.py", &[]);
    let trace = Trace::attach(service.pid(), &[]);
    service.go();
    let done: oracle::Done = service.expect("DONE");
    let report = trace.finish();
    report.assert_nothing_lost();
    assert!(truth.lines.len() > 20, "{truth:?}");
    assert_eq!(oracle::differences(&truth.lines, &report.by_line(Site::is_python), 0.01), [], "{python:?}");
    // The allocator is in the file as well. setenv keeps some more, for its table of variables.
    let native = report
        .sites
        .iter()
        .filter(|site| site.domain == "native" && site.places().iter().any(|place| place.function == "variables"));
    let (blocks, bytes) = native.fold((0, 0), |(n, sum), site| (n + site.live_blocks, sum + site.live_bytes));
    let variables = done.native["variables"];
    let kept = blocks >= variables.blocks && bytes >= variables.bytes && bytes < 2 * variables.bytes;
    assert!(kept, "{python:?}: {blocks} blocks, {bytes} bytes: {variables:?}");
    let note = report.capture.notes.iter().find(|note| note.contains("linked into the interpreter"));
    assert!(note.is_some_and(|note| note.contains("posix_memalign")), "{:?}", report.capture.notes);
}

#[test]
fn one_file_of_pyinstaller() {
    require_privileges();
    for (python, _) in shared() {
        let folder = tempfile::tempdir().unwrap();
        let python = python.with_packages(&["pyinstaller"]);
        let mut freeze = Command::new(&python.executable);
        freeze.current_dir(folder.path()).args(["-m", "PyInstaller", "--onefile", "--log-level", "ERROR"]);
        run(freeze.arg(asset("applications/app.py")));
        is_traced(&python.label(), &mut Command::new(folder.path().join("dist/app")));
    }
}

#[test]
fn a_folder_of_cx_freeze() {
    require_privileges();
    let folder = tempfile::tempdir().unwrap();
    let python = supported().remove(0).with_packages(&["cx_Freeze"]);
    let mut freeze = Command::new(&python.executable);
    freeze.current_dir(folder.path()).args(["-m", "cx_Freeze", "--script"]).arg(asset("applications/app.py"));
    run(freeze.args(["--target-dir", "app"]));
    let program = folder.path().join("app/app");
    assert!(fs::exists(&program).unwrap());
    is_traced("cx_Freeze", &mut Command::new(program));
}
