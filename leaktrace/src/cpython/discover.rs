//! Finds the interpreter in a target.

use crate::target::{ElfError, ElfFile, FileId, Maps, Memory, MemoryError, Target, TargetError};

use super::offsets::{Offsets, OffsetsError};
use super::version::Version;
use super::{Facts, gc, pymalloc, threads, tls};

/// Symbols that only a file with the interpreter in it defines. `_PyRuntime` is there from 3.7.
const MARKS: [&str; 4] = ["Py_Version", "_PyRuntime", "PyObject_Malloc", "Py_GetVersion"];
/// The section of `_PyRuntime` from 3.10 (`Python/pylifecycle.c`), also in stripped files without dynamic symbols.
pub(crate) const RUNTIME_SECTION: &str = ".PyRuntime";
/// Most bytes of a file's writable memory that are searched.
const MAX_DATA: u64 = 64 << 20;

/// Why a target has no interpreter that can be traced.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    #[error("process {pid} ({exe}) is not a CPython: none of the files it has mapped holds the interpreter")]
    NotPython { pid: u32, exe: String },
    #[error("process {pid} runs CPython {version}, which is not supported: supported are {supported}")]
    Unsupported { pid: u32, version: String, supported: String },
    #[error("the CPython {version} of process {pid} is not initialised: it is starting or finishing, try again")]
    NotInitialised { pid: u32, version: String },
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Elf(#[from] ElfError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// A CPython found in a target.
#[derive(Debug)]
pub struct Interpreter {
    /// The file that holds it: the executable or libpython.
    pub elf: ElfFile,
    /// Address of `_PyRuntime` in the target.
    pub runtime: u64,
    pub version: Version,
    pub offsets: Offsets,
    /// For the plan and the report. `slots` are empty here: the plan finds them.
    pub facts: Facts,
}

impl Interpreter {
    /// What to tell the user when there are several interpreters in the process, which from 3.12 on (PEP 684) may each have pools
    /// of their own, and the threads of each cannot be told. `None`: all is followed.
    #[must_use]
    pub fn unfollowed(&self, memory: &dyn Memory) -> Option<String> {
        let is_told =
            self.facts.pymalloc.is_none_or(|state| state.others.is_some()) && self.facts.layout.tstate_tls != 0;
        if is_told || (self.version.major, self.version.minor) < (3, 12) {
            return None;
        }
        let count = threads::states(memory, &self.offsets, self.runtime).map_or(1, |found| found.len());
        // Neither can the collector's then.
        let pauses = if self.facts.layout.tstate_tls == 0 { "; pauses of their collectors are not known" } else { "" };
        (count > 1).then(|| {
            format!("{count} interpreters run in this process: small blocks of those with an allocator of their own (PEP 684) are not followed, and what their threads allocate may be missing or wrong{pauses}")
        })
    }

    /// Looks through the files that the target has mapped. If several hold an interpreter, the first that is
    /// initialised is taken; the executable comes first.
    pub fn find(target: &Target) -> Result<Self, DiscoverError> {
        let maps = target.maps()?;
        let memory = target.memory();
        let mut not_initialised = None;
        let mut exe_error = None;
        for id in search_order(&maps, target.exe_id()) {
            let elf = match ElfFile::open(target, &maps, id) {
                Ok(elf) => elf,
                Err(error) => {
                    exe_error = exe_error.or((id == target.exe_id()).then_some(error));
                    continue;
                }
            };
            let runtime = runtime_address(&elf);
            if runtime.is_none() && !MARKS.iter().any(|name| elf.symbol(name).is_some()) {
                continue;
            }
            match Self::in_file(target, &memory, elf, runtime) {
                Err(error @ DiscoverError::NotInitialised { .. }) => not_initialised = Some(error),
                decided => return decided,
            }
        }
        Err(match (not_initialised, exe_error) {
            (Some(error), _) => error,
            (None, Some(error)) => error.into(),
            (None, None) => DiscoverError::NotPython { pid: target.pid(), exe: target.exe().display().to_string() },
        })
    }

    fn in_file(
        target: &Target,
        memory: &dyn Memory,
        elf: ElfFile,
        runtime: Option<u64>,
    ) -> Result<Self, DiscoverError> {
        let pid = target.pid();
        let unsupported =
            |version: String| DiscoverError::Unsupported { pid, version, supported: Offsets::supported().join(", ") };
        let version = find_version(memory, &elf).map_err(unsupported)?;
        let Some(runtime) = runtime else { return Err(unsupported(version.to_string())) };
        let mut offsets = match Offsets::read(memory, runtime, version) {
            Ok(Some(offsets)) => offsets,
            Ok(None) => return Err(unsupported(version.to_string())),
            Err(OffsetsError::Memory(error)) => return Err(error.into()),
            Err(error) => return Err(unsupported(format!("{version} ({error})"))),
        };
        let main = memory.u64(runtime + u64::from(offsets.runtime.interpreters_main))?;
        if main == 0 {
            return Err(DiscoverError::NotInitialised { pid, version: version.to_string() });
        }
        offsets.gc.generations = gc::generations_offset(memory, &offsets, runtime, main);
        let mut layout = offsets.layout(runtime);
        if layout.tstate_current == 0 {
            let threads = threads::interpreters(memory, &offsets, runtime)?;
            let threads: Vec<_> = threads.into_iter().flat_map(|interpreter| interpreter.threads).collect();
            layout.tstate_tls = tls::thread_state_offset(memory, &elf, &threads).unwrap_or(0);
        }
        let facts = Facts {
            version: (version.major, version.minor, version.patch),
            version_text: version.to_string(),
            // Free-threaded builds have its tables and leave them empty (`Objects/obmalloc.c`).
            pymalloc: if offsets.free_threaded { None } else { pymalloc::find(memory, &elf, &offsets, runtime) },
            layout,
            features: features(target, &elf, &offsets),
            slots: Default::default(),
        };
        Ok(Self { elf, runtime, version, offsets, facts })
    }
}

/// The executable, then files with python in their name, then the rest.
fn search_order(maps: &Maps, exe: FileId) -> Vec<FileId> {
    let mut files = maps.code_files();
    let named = |id: &FileId| maps.of_file(*id).any(|m| m.path.to_string_lossy().contains("python"));
    files.sort_by_cached_key(|id| (*id != exe, !named(id)));
    files
}

/// Address of `_PyRuntime` in the target.
pub(crate) fn runtime_address(elf: &ElfFile) -> Option<u64> {
    let symbol = elf.symbol("_PyRuntime").map(|s| s.address);
    symbol.or_else(|| elf.section(RUNTIME_SECTION).map(|s| elf.address_of(s.vaddr)))
}

fn features(target: &Target, elf: &ElfFile, offsets: &Offsets) -> Vec<String> {
    let has = |on: bool, name: &str| on.then(|| name.to_owned());
    let features = [
        has(!elf.has_symtab(), "stripped"),
        has(elf.id() != target.exe_id(), "shared-libpython"),
        has(elf.symbol("_Py_RefTotal").is_some(), "pydebug"),
        has(offsets.free_threaded, "free-threaded"),
        has(elf.deleted(), "deleted-on-disk"),
    ];
    features.into_iter().flatten().collect()
}

/// The version; if it can be told only in part or not at all, the text for the message.
fn find_version(memory: &dyn Memory, elf: &ElfFile) -> Result<Version, String> {
    let by_hex = elf.symbol("Py_Version").and_then(|s| Version::from_hex(memory.u32(s.address).ok()?));
    by_hex
        .or_else(|| version_in_memory(memory, elf))
        .or_else(|| version_in_file(elf))
        .ok_or_else(|| version_in_name(elf).unwrap_or_else(|| "of unknown version".to_owned()))
}

/// The buffer of `Py_GetVersion` (`Python/getversion.c`), which start-up fills: "3.8.18 (default, DATE) \n[GCC 12.2.0]",
/// from 3.10 without the line feed.
fn version_in_memory(memory: &dyn Memory, elf: &ElfFile) -> Option<Version> {
    elf.writable_ranges().into_iter().find_map(|range| {
        let mut data = vec![0; usize::try_from((range.end - range.start).min(MAX_DATA)).ok()?];
        memory.read_sparse(range.start, &mut data);
        let texts = data.split(|&b| b == 0).filter(|text| (10..250).contains(&text.len()));
        texts.filter_map(|text| std::str::from_utf8(text).ok()).find_map(|text| {
            let looks_so = text.contains(" (") && text.contains('[') && text.ends_with(']');
            looks_so.then(|| Version::from_text(text)).flatten()
        })
    })
}

/// `PY_VERSION` among the file's strings, which must agree with the version in the file's name.
fn version_in_file(elf: &ElfFile) -> Option<Version> {
    let minor = version_in_name(elf)?;
    let data = elf.section(".rodata").map_or(&[][..], |s| elf.section_data(s));
    data.split(|&b| b == 0).filter_map(|text| std::str::from_utf8(text).ok()).find_map(|text| {
        let patch = text.strip_prefix(&minor)?.strip_prefix('.')?;
        patch.starts_with(|c: char| c.is_ascii_digit()).then(|| Version::from_text(text)).flatten()
    })
}

/// "3.8" of `python3.8` or `libpython3.8.so.1.0`.
fn version_in_name(elf: &ElfFile) -> Option<String> {
    let name = elf.display().file_name()?.to_string_lossy().into_owned();
    let rest = &name[name.find("python")? + "python".len()..];
    let (major, rest) = rest.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    (matches!(major, "2" | "3") && !minor.is_empty()).then(|| format!("{major}.{minor}"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::cpython::testing::{Script, libpythons_with_dwarf, pyenv_versions, pythons};

    const SHOW: &str = "import sys; print('%d.%d.%d' % sys.version_info[:3]); sys.stdin.readline()";

    #[test]
    fn the_version_is_what_sys_says() {
        for python in pythons() {
            let mut script = Script::start(&python, SHOW);
            let version = script.line();
            let (target, found) = script.interpreter();
            assert_eq!(found.facts.version_text, version, "{}", python.display());
            let shared = found.facts.features.iter().any(|f| f == "shared-libpython");
            assert_eq!(shared, found.elf.id() != target.exe_id());
            assert_ne!(found.facts.pymalloc.is_some(), found.offsets.free_threaded, "{}", python.display());
        }
    }

    #[test]
    fn other_versions_are_named() {
        for python in pyenv_versions("").into_iter().map(|dir| dir.join("bin/python")).filter(|p| p.exists()) {
            let mut script = Script::start(&python, SHOW);
            let version = script.line();
            if Offsets::supported().iter().any(|minor| version.starts_with(&format!("{minor}."))) {
                continue;
            }
            match Interpreter::find(&script.target()) {
                Err(DiscoverError::Unsupported { version: said, .. }) => assert_eq!(said, version),
                other => panic!("{version}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_initialised_interpreter_is_taken_of_two() {
        let Some(library) = libpythons_with_dwarf().pop() else { return };
        for python in pythons() {
            let load = format!("import ctypes; lib = ctypes.CDLL({library:?}); {SHOW}");
            let mut script = Script::start(&python, &load);
            let version = script.line();
            let (_, found) = script.interpreter();
            assert_eq!(found.facts.version_text, version, "{}", python.display());
        }
    }

    #[test]
    fn an_interpreter_that_was_upgraded_on_disk_is_still_found() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: opening a deleted file through map_files needs root");
            return;
        }
        let is_elf = |path: &PathBuf| std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"));
        let Some(python) = pythons().into_iter().find(is_elf) else { return };
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("service with a blank");
        std::fs::copy(python, &copy).unwrap();
        let mut script = Script::start(&copy, SHOW);
        let version = script.line();
        std::fs::remove_file(&copy).unwrap();
        let (_, found) = script.interpreter();
        assert_eq!(found.facts.version_text, version);
        let deleted = found.facts.features.iter().any(|f| f == "deleted-on-disk");
        // The interpreter of a small executable is in its library, which is where it was.
        assert_eq!(deleted, found.elf.display() == copy);
    }

    #[test]
    fn what_is_no_python_is_said_to_be_none() {
        let target = Target::open(std::process::id()).unwrap();
        assert!(matches!(Interpreter::find(&target), Err(DiscoverError::NotPython { .. })));
    }
}
