//! Plans for real interpreters, held against what other tools say of the same files: the symbol table and objdump.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use leaktrace_common::site::{domain, op, reg, slot};

use super::code::{Code, Sweep};
use super::new_reference::NewReference;
use super::slots::{self, Slots};
use super::{
    Execution, Inputs, PlanError, ProbePlan, gc, guards, nameless, perfect_factor, plan, pymalloc, render, verify,
};
use crate::cpython::Interpreter;
use crate::cpython::testing::{Script, pythons};
use crate::target::{ElfFile, ImageMemory, Memory as _, Target};

/// Debian 12's python3.11 3.11.2-6, whose counts are known from a survey with another disassembler.
const BOOKWORM: &str = "571d98e01096d5c1c32420d229a6731a0a50d2a0";
const WAIT: &str = "print('ready', flush=True); input()";

/// A waiting interpreter and the plan for it.
pub(super) struct Planned {
    _script: Script,
    target: Target,
    pub(super) interpreter: Interpreter,
    pub(super) plan: ProbePlan,
}

impl Planned {
    fn new(python: &Path, environment: &[(&str, &str)], trace_small_frees: bool) -> Self {
        Self::with(python, environment, |inputs| Inputs { trace_small_frees, ..inputs })
    }

    pub(super) fn with(
        python: &Path,
        environment: &[(&str, &str)],
        change: impl FnOnce(Inputs<'_>) -> Inputs<'_>,
    ) -> Self {
        let mut command = Command::new(python);
        let mut script =
            Script::start_with(command.args(["-c", WAIT]).envs(environment.iter().copied()), Stdio::inherit());
        assert_eq!(script.line(), "ready");
        let (target, interpreter) = script.interpreter();
        let (maps, memory) = (target.maps().unwrap(), target.memory());
        let plan = plan(&change(Inputs::of(&target, &interpreter, &maps, &memory))).unwrap();
        Self { _script: script, target, interpreter, plan }
    }

    fn ops(&self) -> BTreeMap<u8, usize> {
        let mut counts = BTreeMap::new();
        self.plan.probes.iter().for_each(|p| *counts.entry(p.op).or_default() += 1);
        counts
    }
}

fn build_id(file: &ElfFile) -> String {
    use object::Object as _;
    let id = file.object().and_then(|elf| elf.build_id().ok().flatten().map(<[u8]>::to_vec)).unwrap_or_default();
    id.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Address and mnemonic of every instruction in the file's code, by objdump; `None` where it is not installed.
pub(super) fn objdump(path: &Path) -> Option<BTreeMap<u64, String>> {
    let output = Command::new("objdump").args(["-d", "-w", "--no-show-raw-insn"]).arg(path).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter_map(|line| {
        let (address, rest) = line.trim_start().split_once(":\t")?;
        Some((u64::from_str_radix(address, 16).ok()?, rest.to_owned()))
    });
    Some(lines.collect())
}

#[test]
fn the_slots_and_functions_are_those_of_the_symbol_table() {
    let mut compared = 0;
    for python in pythons() {
        let planned = Planned::new(&python, &[], false);
        let file = &planned.interpreter.elf;
        let code = Code::new(file);
        let slots = Slots::find(&code, &planned.target.memory()).unwrap();
        assert!(slots.0.iter().all(|s| !s.replaced() && s.live.ctx == 0), "{}", python.display());
        assert_eq!(planned.plan.slots, slots.0.map(|s| s.live));
        // The names of 3.11.
        if !file.has_symtab() || planned.interpreter.version.minor != 11 {
            continue;
        }
        compared += 1;
        let address = |name: &str| file.symbol(name).unwrap_or_else(|| panic!("{name}")).address;
        for (domain, table, functions) in [
            (domain::RAW, "_PyMem_Raw", "_PyMem_Raw"),
            (domain::MEM, "_PyMem", "_PyObject_"),
            (domain::OBJ, "_PyObject", "_PyObject_"),
        ] {
            let slot = slots.get(domain);
            assert_eq!(slot.live.address, address(table));
            let names = ["Malloc", "Calloc", "Realloc", "Free"];
            assert_eq!(slot.default, names.map(|name| address(&format!("{functions}{name}"))));
        }
        let sweep = Sweep::new(&code, guards::mentions(&code, &slots));
        assert_eq!(
            gc::collector(&code, &sweep, &planned.target.memory()),
            Some(gc::Collector::Function(address("gc_collect_main"), reg::RSI))
        );
        let functions = slots.get(domain::OBJ).default;
        let refill = pymalloc::refill_function(&code, &functions.into_iter().collect(), functions[0]);
        assert_eq!(refill, Some(address("allocate_from_new_pool")));
    }
    if compared == 0 {
        eprintln!("skipped: no interpreter with a symbol table");
    }
}

/// Where symbols name the functions, they are the truth for what finds them without.
#[test]
fn what_symbols_name_is_found_without_them() {
    for python in pythons() {
        let planned = Planned::new(&python, &[], false);
        let code = Code::new(&planned.interpreter.elf);
        let memory = planned.target.memory();
        let slots = Slots::find(&code, &memory).unwrap();
        let sweep = Sweep::new(&code, guards::mentions(&code, &slots));
        // A library finds its data through tables that the loader fills in; what is linked static does not.
        let fixed = code.file.bias() == 0;
        let tables = nameless::tables(&code, &slots::candidates(&code));
        assert!(tables.is_some() || !fixed, "{}", python.display());
        let addresses = slots.0.map(|slot| slot.live.address);
        assert_eq!(tables.unwrap_or(addresses), addresses, "{}", python.display());
        let collector = gc::by_method(&code, &sweep, &memory);
        assert!(collector.is_some() || !fixed, "{}", python.display());
        assert!(collector.is_none() || collector == gc::collector(&code, &sweep, &memory), "{}", python.display());
        let Some(named) = code.file.symbol("_Py_NewReference") else { continue };
        let unnamed = NewReference::unnamed(&code, &memory);
        assert!(unnamed.is_some() || !fixed, "{}", python.display());
        let found = unnamed.is_none_or(|found| found.functions.contains(&named.address));
        assert!(found, "{}", python.display());
    }
}

#[test]
fn the_guards_of_the_surveyed_build_are_all_found_and_resolved() {
    for python in pythons() {
        let planned = Planned::new(&python, &[], true);
        let file = &planned.interpreter.elf;
        let code = Code::new(file);
        let slots = Slots::find(&code, &planned.target.memory()).unwrap();
        let sweep = Sweep::new(&code, guards::mentions(&code, &slots));
        let found = guards::find(&code, &sweep, &slots);
        assert_eq!(found.shared, 0);
        for guard in &found.guards {
            assert!(guard.a.is_some(), "{:#x}", guard.address);
            assert!(guard.b.is_some() || !matches!(guard.function.function, 1 | 2), "{:#x}", guard.address);
        }
        // Every domain and function is reached somehow.
        let mut guarded = [[0; 4]; 3];
        let mut direct = [[0; 4]; 3];
        for guard in &found.guards {
            guarded[usize::from(guard.function.domain)][usize::from(guard.function.function)] += 1;
        }
        for (_, function) in &found.direct {
            direct[usize::from(function.domain)][usize::from(function.function)] += 1;
        }
        for (guarded, direct) in guarded.iter().flatten().zip(direct.iter().flatten()) {
            assert!(guarded + direct > 0, "{}: {guarded:?} {direct:?}", python.display());
        }
        if build_id(file) == BOOKWORM {
            assert_eq!(guarded, [[171, 8, 13, 55], [26, 5, 10, 30], [161, 1, 5, 21]]);
            assert_eq!(direct, [[1, 1, 2, 0], [1, 0, 0, 0], [0, 11, 0, 0]]);
            let immediate = found.guards.iter().filter(|g| g.a.is_some_and(|a| a.reg == 255)).count();
            let stack = found.guards.iter().filter(|g| g.a.is_some_and(|a| a.deref != 0)).count();
            assert_eq!((immediate, stack), (129, 3));
        }
    }
}

#[test]
fn every_probe_is_an_instruction_to_objdump_as_well() {
    for python in pythons() {
        let planned = Planned::new(&python, &[], true);
        let memory = planned.target.memory();
        verify(&planned.plan, &memory).unwrap();
        for (index, file) in planned.plan.files.iter().enumerate() {
            let Some(listing) = objdump(Path::new(&file.display)) else {
                eprintln!("skipped: no objdump");
                return;
            };
            let maps = planned.target.maps().unwrap();
            let mut elf = None;
            let points = planned.plan.probes.iter().map(|p| (p.file, p.address, p.file_offset, p.execution));
            let returns = planned.plan.returns.iter().map(|r| (r.file, r.address, r.file_offset, r.execution));
            for (_, address, offset, execution) in points.chain(returns).filter(|p| p.0 == index) {
                // The kernel finds the instruction by the mapping's file offset.
                let mapping = maps.find(address).unwrap();
                assert_eq!(address - mapping.range.start + mapping.offset, offset);
                let elf =
                    elf.get_or_insert_with(|| ElfFile::open(&planned.target, &maps, mapping.file.unwrap()).unwrap());
                let text =
                    listing.get(&elf.vaddr_of(address)).unwrap_or_else(|| panic!("{address:#x} {}", file.display));
                let emulated = text.starts_with('j') || text.starts_with("push ") || text.starts_with("call ");
                assert_eq!(emulated, execution == Execution::Emulated, "{address:#x}: {text}");
            }
        }
    }
}

#[test]
fn a_refill_probe_follows_each_call_that_objdump_shows() {
    for python in pythons() {
        let planned = Planned::new(&python, &[], false);
        let file = &planned.interpreter.elf;
        let refills: Vec<_> = planned.plan.probes.iter().filter(|p| p.op == op::REFILLED).collect();
        assert!(!refills.is_empty());
        let Some(listing) = objdump(file.display()) else { return };
        // What the call right before each probe calls is one function, and no other call of it is without a probe.
        let mut callees = BTreeSet::new();
        for probe in &refills {
            let before = listing.range(..file.vaddr_of(probe.address)).rev();
            let call = before.map(|(_, text)| text).find(|text| text.starts_with("call")).unwrap();
            callees.insert(call.split_whitespace().nth(1).unwrap().to_owned());
        }
        assert_eq!(callees.len(), 1, "{callees:?}");
        let callee = callees.pop_first().unwrap();
        let uses = |text: &&String| text.split_whitespace().nth(1) == Some(callee.as_str());
        assert_eq!(listing.values().filter(uses).count(), refills.len());
    }
}

/// Functions of CPython 3.11 that take objects from free lists, by its source, if the compiler inlined nothing into them; and
/// some that get all of theirs from the allocator.
const TAKE_REUSED: [&str; 4] = ["PyList_New", "PyFloat_FromDouble", "PySlice_New", "async_gen_anext"];
const TAKE_FRESH: [&str; 5] =
    ["PyUnicode_New", "PyObject_Init", "_PyObject_GC_New", "PyType_GenericAlloc", "_PyBytes_Resize"];

#[test]
fn objects_from_free_lists_are_told_from_fresh_ones() {
    for python in pythons() {
        let planned = Planned::new(&python, &[], false);
        if planned.interpreter.version.minor != 11 {
            continue;
        }
        let file = &planned.interpreter.elf;
        let functions = Code::new(file).functions;
        let reused: Vec<_> = planned.plan.probes.iter().filter(|p| p.op == op::PY_REUSED).collect();
        let probed = |name: &str| {
            let range = functions.containing(file.symbol(name)?.address)?;
            Some(reused.iter().any(|p| range.contains(&p.address)))
        };
        // Where symbols are stripped, the exported ones are left.
        let told = |names: &[&str]| names.iter().filter_map(|name| probed(name)).collect::<Vec<bool>>();
        let (takes, fresh) = (told(&TAKE_REUSED), told(&TAKE_FRESH));
        assert!(takes.len() >= 3 && takes.iter().all(|&probed| probed), "{}: {takes:?}", python.display());
        assert!(fresh.len() >= 4 && !fresh.contains(&true), "{}: {fresh:?}", python.display());
        // The float's check serves both ways.
        assert!(reused.iter().any(|p| p.b.disp == 1) && reused.iter().any(|p| p.b.disp == 0));
    }
}

#[test]
fn a_plan_has_what_tracing_needs_and_nothing_twice() {
    for python in pythons() {
        let planned = Planned::new(&python, &[], false);
        let ops = planned.ops();
        for op in [op::PY_MALLOC, op::PY_CALLOC, op::PY_REALLOC] {
            assert!(ops.contains_key(&op), "{op} {ops:?}");
        }
        assert!(ops.contains_key(&op::GC_START) || ops.contains_key(&op::GC_CALLBACKS), "{ops:?}");
        for op in op::C_MALLOC..=op::C_POSIX_MEMALIGN {
            assert!(ops.contains_key(&op), "{op} {ops:?}");
        }
        assert!(!ops.contains_key(&op::PY_FREE));
        assert!(planned.interpreter.version.minor != 11 || !ops.contains_key(&op::PY_REALLOC_INLINED));
        assert!(Planned::new(&python, &[], true).ops().contains_key(&op::PY_FREE));
        let addresses: Vec<u64> = planned.plan.probes.iter().map(|p| p.address).collect();
        let factor = perfect_factor(&addresses).expect("a factor");
        let slots: BTreeSet<u32> = addresses.iter().map(|&a| slot(a, factor)).collect();
        assert_eq!(slots.len(), addresses.len());
        let text = render(&planned.plan);
        assert_eq!(text.lines().filter(|line| line.contains(" entry of malloc of ")).count(), 1, "{text}");
    }
}

#[test]
fn a_replaced_allocator_gets_another_plan_and_is_told() {
    for python in pythons() {
        let malloc = Planned::new(&python, &[("PYTHONMALLOC", "malloc")], false);
        assert!(malloc.plan.features.iter().any(|f| f == "malloc-allocator"));
        let small = malloc.plan.probes.iter().filter(|p| p.op < op::PY_REUSED && p.domain != domain::RAW);
        assert_eq!(small.count(), 0);
        assert_eq!(malloc.plan.gaps.iter().filter(|gap| gap.contains("PYTHONMALLOC=malloc")).count(), 2);
        for (variable, value, feature, head) in
            [("PYTHONMALLOC", "debug", "debug-hooks", 16), ("PYTHONTRACEMALLOC", "1", "tracemalloc", 0)]
        {
            let hooked = Planned::new(&python, &[(variable, value)], false);
            assert!(hooked.plan.features.iter().any(|f| f == feature), "{feature} {:?}", hooked.plan.features);
            assert_eq!(hooked.plan.block_head, head);
            let of_guards = hooked.plan.probes.iter().filter(|p| p.why.starts_with("guard"));
            assert!(of_guards.into_iter().all(|p| p.op == op::PY_WRAPPER), "the guards lead to the hooks");
            assert!(hooked.ops().contains_key(&op::PY_MALLOC));
        }
    }
}

#[test]
fn code_that_changed_is_not_armed() {
    let planned = Planned::new(&pythons()[0], &[], false);
    let memory = planned.target.memory();
    let image = |patch: Option<(u64, u8)>| {
        let mut image = ImageMemory::new();
        let points = planned.plan.probes.iter().map(|p| (p.address, p.bytes.len()));
        for (address, len) in points.chain(planned.plan.returns.iter().map(|r| (r.address, r.bytes.len()))) {
            let mut bytes = memory.bytes(address, len).unwrap();
            if let Some((at, byte)) = patch.filter(|&(at, _)| at == address) {
                bytes[(at - address) as usize] = byte;
            }
            image.insert(address, bytes);
        }
        image
    };
    verify(&planned.plan, &image(None)).unwrap();
    let address = planned.plan.probes[3].address;
    assert!(
        matches!(verify(&planned.plan, &image(Some((address, 0xcc)))), Err(PlanError::Probed { address: a, .. }) if a == address)
    );
    assert!(matches!(verify(&planned.plan, &image(Some((address, 0x90)))), Err(PlanError::Changed { .. })));
    assert!(matches!(verify(&planned.plan, &ImageMemory::new()), Err(PlanError::Memory(_))));
}

/// A library whose table of functions is filled by packed relocations (DT_RELR), as newer distributions build them.
const PACKED: &str = "
static int one(void) { return 1; }
static int two(void) { return 2; }
__attribute__((visibility(\"hidden\"))) int (*table[6])(void) = {0, one, two, one, two, one};
int use(int i) { return table[i](); }
";

#[test]
fn pointers_are_what_the_loader_makes_of_packed_relocations() {
    let dir = tempfile::tempdir().unwrap();
    let (source, library) = (dir.path().join("packed.c"), dir.path().join("libpacked.so"));
    std::fs::write(&source, PACKED).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-Wl,-z,pack-relative-relocs", "-o"]).arg(&library).arg(&source);
    if !cc.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no compiler that packs relocations");
        return;
    }
    let load = format!("import ctypes; lib = ctypes.CDLL({library:?}); print(lib.use(2), flush=True); input()");
    let mut script = Script::start(&pythons()[0], &load);
    assert_eq!(script.line(), "2");
    let target = script.target();
    let maps = target.maps().unwrap();
    let id = maps.code_files().into_iter().find(|&id| maps.of_file(id).any(|m| m.path == library)).unwrap();
    let file = ElfFile::open(&target, &maps, id).unwrap();
    let code = Code::new(&file);
    let table = file.symbol("table").unwrap().address;
    for entry in (0..6).map(|i| table + 8 * i) {
        let loaded = target.memory().u64(entry).unwrap();
        assert_eq!(code.initial_word(entry), Some(loaded), "{entry:#x}");
        assert_eq!(code.is_code(loaded), loaded != 0);
    }
}
