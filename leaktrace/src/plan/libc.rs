//! The C allocator that the process really bound: glibc's, musl's, or one that was preloaded.

use std::collections::BTreeSet;

use iced_x86::{FlowControl, Instruction};
use leaktrace_common::site::{op, reg};

use super::code::{Code, direct_target};
use crate::target::{ElfFile, Maps, Memory, Target};

/// A function of the C allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    pub name: &'static str,
    /// One of [`op`].
    pub op: u8,
    /// Registers that hold the operands on entry (System V ABI, x86-64).
    pub a: u8,
    pub b: Option<u8>,
    /// Whether its result is wanted.
    pub returns: bool,
}

const fn function(name: &'static str, op: u8, a: u8, b: Option<u8>, returns: bool) -> Function {
    Function { name, op, a, b, returns }
}

/// Functions that not every allocator has, and that little calls: no gap where they are missing.
pub const OBSOLETE: [&str; 2] = ["valloc", "pvalloc"];

/// What C code calls for memory. `malloc` comes first: where it is bound says which allocator it is.
pub const FUNCTIONS: [Function; 9] = [
    function("malloc", op::C_MALLOC, reg::RDI, None, true),
    function("calloc", op::C_CALLOC, reg::RDI, Some(reg::RSI), true),
    function("realloc", op::C_REALLOC, reg::RDI, Some(reg::RSI), true),
    function("free", op::C_FREE, reg::RDI, None, false),
    function("posix_memalign", op::C_POSIX_MEMALIGN, reg::RDI, Some(reg::RDX), true),
    function("aligned_alloc", op::C_MEMALIGN, reg::RSI, None, true),
    function("memalign", op::C_MEMALIGN, reg::RSI, None, true),
    function("valloc", op::C_MEMALIGN, reg::RDI, None, true),
    function("pvalloc", op::C_MEMALIGN, reg::RDI, None, true),
];

/// The address that the interpreter's calls of `name` go to, as the loader bound them. `None`: not bound yet (a lazy
/// binding points back into the interpreter's own stubs), or not called at all.
pub fn bound(python: &Code<'_>, memory: &dyn Memory, name: &str) -> Option<u64> {
    let entries = python.imports(name).iter();
    entries.filter_map(|&got| memory.u64(got).ok()).find(|&address| address != 0 && !python.file.contains(address))
}

/// The file of the C allocator: the one that the interpreter's `malloc` is bound to, else the first in the map that
/// defines it.
pub fn file(target: &Target, maps: &Maps, python: &Code<'_>, memory: &dyn Memory) -> Option<ElfFile> {
    let bound = bound(python, memory, "malloc").and_then(|address| maps.find(address)?.file);
    if let Some(id) = bound {
        return ElfFile::open(target, maps, id).ok();
    }
    let files = maps.code_files().into_iter().filter_map(|id| ElfFile::open(target, maps, id).ok());
    let mut defining = files.filter(|file| file.dynamic_symbol("malloc").is_some());
    defining.next()
}

/// Whether a library that has malloc is glibc: only that has its version to tell (`version.c`).
pub fn is_glibc(library: &ElfFile) -> bool {
    library.dynamic_symbol("gnu_get_libc_version").is_some()
}

/// Whether the interpreter calls an allocator that is linked into it: it calls no other file's, and defines none that others could
/// call.
pub fn is_linked_in(python: &Code<'_>) -> bool {
    python.imports("malloc").is_empty() && python.file.dynamic_symbol("malloc").is_none()
}

/// The allocator that is linked into the interpreter: by its symbols, else what the build's own functions of raw do nothing but call
/// (`_PyMem_RawMalloc` and so on, CPython `Objects/obmalloc.c`, 3.8 to 3.15), which are malloc, calloc, realloc and free. `None`:
/// these call nothing, or more than one function.
pub fn linked_in(python: &Code<'_>, raw: [u64; 4]) -> Option<Vec<(Function, u64)>> {
    let named = |function: Function| {
        let symbol = python.file.symbol(function.name).filter(|symbol| symbol.function && !symbol.indirect)?;
        Some((function, symbol.address))
    };
    if python.file.symbol("malloc").is_some() {
        return Some(FUNCTIONS.into_iter().filter_map(named).collect());
    }
    let called: Vec<_> =
        FUNCTIONS.into_iter().zip(raw).map(|(f, own)| Some((f, only_callee(python, own)?))).collect::<Option<_>>()?;
    let distinct: BTreeSet<u64> = called.iter().map(|(_, address)| *address).collect();
    (distinct.len() == raw.len()).then_some(called)
}

/// The one function that another calls or jumps to on all ways.
fn only_callee(python: &Code<'_>, function: u64) -> Option<u64> {
    let (mut seen, mut work, mut callees) = (BTreeSet::new(), vec![function], BTreeSet::new());
    let begins = |address: u64| python.functions.containing(address).is_some_and(|range| range.start == address);
    while let Some(address) = work.pop() {
        if !seen.insert(address) {
            continue;
        }
        let instruction = python.decode(address).filter(|_| seen.len() <= STEPS)?;
        let target = direct_target(&instruction);
        match instruction.flow_control() {
            FlowControl::Next => work.push(instruction.next_ip()),
            FlowControl::ConditionalBranch => work.extend([target?, instruction.next_ip()]),
            FlowControl::UnconditionalBranch if begins(target?) => callees.extend(target),
            FlowControl::UnconditionalBranch => work.extend(target),
            FlowControl::Call => {
                callees.insert(target?);
                work.push(instruction.next_ip());
            }
            FlowControl::Return if !callees.is_empty() => {}
            _ => return None,
        }
    }
    callees.pop_first().filter(|&callee| callees.is_empty() && begins(callee))
}

/// Address of one function in the allocator's file; `Err` says why there is none.
pub fn resolve(library: &ElfFile, python: &Code<'_>, memory: &dyn Memory, name: &str) -> Result<u64, String> {
    if let Some(address) = bound(python, memory, name).filter(|&address| library.contains(address)) {
        return Ok(address);
    }
    let shown = library.display().display();
    match library.dynamic_symbol(name) {
        Some(symbol) if symbol.indirect => {
            Err(format!("{name} of {shown} is chosen at run time and was not bound yet"))
        }
        Some(symbol) => Ok(symbol.address),
        None => Err(format!("{shown} has no {name}")),
    }
}

/// Most instructions between a guard and the call that it stands before.
const STEPS: usize = 32;

/// Whether all ways from `start` arrive at a *call* of the C allocator, so that it returns to this code: the caller then tells
/// whose request it was. (Code that *jumps* there returns to whoever called it.)
pub fn is_called_from(python: &Code<'_>, start: u64) -> bool {
    let (mut seen, mut work) = (BTreeSet::new(), vec![start]);
    while let Some(address) = work.pop() {
        if !seen.insert(address) {
            continue;
        }
        let Some(instruction) = python.decode(address).filter(|_| seen.len() <= STEPS) else { return false };
        match instruction.flow_control() {
            FlowControl::Next => work.push(instruction.next_ip()),
            FlowControl::ConditionalBranch => {
                work.extend(direct_target(&instruction));
                work.push(instruction.next_ip());
            }
            FlowControl::UnconditionalBranch if !is_allocator(python, &instruction) => {
                work.extend(direct_target(&instruction));
            }
            FlowControl::Call | FlowControl::IndirectCall if is_allocator(python, &instruction) => {}
            _ => return false,
        }
    }
    true
}

/// Whether some way from `start`, within its first instructions, leads to the C allocator.
pub fn goes_to(python: &Code<'_>, start: u64) -> bool {
    let (mut seen, mut work) = (BTreeSet::new(), vec![start]);
    while let Some(address) = work.pop() {
        if seen.len() >= STEPS || !seen.insert(address) {
            continue;
        }
        let Some(instruction) = python.decode(address) else { continue };
        if is_allocator(python, &instruction) {
            return true;
        }
        match instruction.flow_control() {
            FlowControl::Return | FlowControl::IndirectBranch => {}
            FlowControl::UnconditionalBranch => work.extend(direct_target(&instruction)),
            FlowControl::ConditionalBranch => {
                work.extend(direct_target(&instruction));
                work.push(instruction.next_ip());
            }
            _ => work.push(instruction.next_ip()),
        }
    }
    false
}

/// Whether a call or jump goes to a function of the C allocator: through a GOT entry, or a stub that jumps through one.
fn is_allocator(python: &Code<'_>, instruction: &Instruction) -> bool {
    let names = FUNCTIONS.map(|function| function.name);
    python.goes_through(instruction, &names)
        || direct_target(instruction).is_some_and(|stub| python.is_stub_of(stub, &names))
}
