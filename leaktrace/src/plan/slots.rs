//! The three allocator tables (`PyMemAllocatorEx` of raw, mem and obj): where they are, what they hold, and what this
//! build puts there by default.

use std::collections::BTreeSet;

use iced_x86::{InstructionInfoFactory, OpKind};
use leaktrace_common::site::domain;

use super::code::Code;
use super::machine::{Environment, SlotFunction, State, Value};
use super::{PlanError, nameless};
use crate::cpython::AllocatorSlot;
use crate::target::Memory;

/// Functions of a table, in the order of `PyMemAllocatorEx` (CPython `Include/cpython/pymem.h`).
pub const FUNCTIONS: [&str; 4] = ["malloc", "calloc", "realloc", "free"];
/// Domains with a table.
pub const DOMAINS: [u8; 3] = [domain::RAW, domain::MEM, domain::OBJ];
/// Exported functions that call through the tables, by domain and function.
const EXPORTED: [[&str; 4]; 3] = [
    ["PyMem_RawMalloc", "PyMem_RawCalloc", "PyMem_RawRealloc", "PyMem_RawFree"],
    ["PyMem_Malloc", "PyMem_Calloc", "PyMem_Realloc", "PyMem_Free"],
    ["PyObject_Malloc", "PyObject_Calloc", "PyObject_Realloc", "PyObject_Free"],
];

/// The exported function that calls through an entry of a table.
pub(super) fn exported(function: SlotFunction) -> &'static str {
    EXPORTED[usize::from(function.domain).min(2)][usize::from(function.function).min(3)]
}

/// ctx and four functions.
pub(super) const TABLE_BYTES: u64 = 40;

/// One allocator's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// What the target's memory holds now.
    pub live: AllocatorSlot,
    /// What the file holds: the build's own functions, in the target's addresses.
    pub default: [u64; 4],
    /// What is called in the end, and what wraps it.
    pub layers: Layers,
}

/// Hooks of the interpreter's own around an allocator. Each keeps a copy of the table that it replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layers {
    /// The debug hooks: they put [`DEBUG_HEAD`] bytes before each block.
    pub debug: bool,
    /// tracemalloc.
    pub tracemalloc: bool,
    /// Functions of the allocator under them.
    pub functions: [u64; 4],
}

/// What the debug hooks put before a block: its size, a letter for its domain, forbidden bytes (CPython `Objects/obmalloc.c`,
/// `_PyMem_DebugRawAlloc`, 3.8 to 3.15).
pub const DEBUG_HEAD: u32 = 16;
/// Most hooks that are looked through.
const MAX_LAYERS: usize = 4;

impl Layers {
    /// Looks through the hooks from the table `live` on. `own`: whether an address is the interpreter's own code.
    ///
    /// The context of a hook is what it keeps: tracemalloc a table (`Modules/_tracemalloc.c`, `allocators`), the debug hooks
    /// the letter of the domain, then a table (`Objects/obmalloc.c`, `debug_alloc_api_t`).
    fn through(live: &AllocatorSlot, own: &dyn Fn(u64) -> bool, memory: &dyn Memory) -> Self {
        let (mut debug, mut tracemalloc, mut top) = (false, false, *live);
        for _ in 0..MAX_LAYERS {
            if top.ctx == 0 || !top.functions.into_iter().all(own) {
                break;
            }
            let letter =
                memory.u64(top.ctx).ok().filter(|word| b"rmo".iter().any(|&letter| u64::from(letter) == *word));
            let table = if letter.is_some() { top.ctx.wrapping_add(8) } else { top.ctx };
            let Ok(under) = read(memory, table) else { break };
            if !under.functions.into_iter().all(own) {
                break;
            }
            debug |= letter.is_some();
            tracemalloc |= letter.is_none();
            top = under;
        }
        Self { debug, tracemalloc, functions: top.functions }
    }
}

impl Slot {
    /// Whether requests reach the build's own functions, directly or through hooks.
    pub fn reaches_default(&self) -> bool {
        self.layers.functions == self.default
    }

    /// Whether something (tracemalloc, debug hooks, `PYTHONMALLOC`, an extension) replaced one of the functions.
    pub fn replaced(&self) -> bool {
        self.live.functions != self.default
    }
}

/// The three tables, indexed by domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots(pub [Slot; 3]);

impl Slots {
    /// Finds the tables in the code of the exported functions and reads them.
    ///
    /// A table looks like a null context and four pointers to code, and each of the domain's four exported functions
    /// reads the pointer at its place in it. mem and obj fall back on raw, so raw is told first.
    pub fn find(code: &Code<'_>, memory: &dyn Memory) -> Result<Self, PlanError> {
        let candidates = candidates(code);
        let named = EXPORTED.as_flattened().iter().any(|name| code.file.symbol(name).is_some());
        // Where no name leads to them, the tables themselves and what works on all of them have to tell.
        let unnamed = if named { None } else { nameless::tables(code, &candidates) };
        let found = unnamed.map_or_else(|| by_name(code, &candidates), |tables| Ok(tables.to_vec()))?;
        let mut slots = Vec::new();
        for table in found {
            let default = std::array::from_fn(|i| code.initial_word(table.wrapping_add(8 + 8 * i as u64)).unwrap_or(0));
            let live = read(memory, table)?;
            let layers = Layers::through(&live, &|address| code.is_code(address), memory);
            slots.push(Slot { live, default, layers });
        }
        Ok(Self([slots[0], slots[1], slots[2]]))
    }

    pub fn get(&self, domain: u8) -> &Slot {
        &self.0[usize::from(domain).min(2)]
    }

    /// The build's own function for an entry of a table.
    pub fn default_of(&self, function: SlotFunction) -> u64 {
        self.get(function.domain).default[usize::from(function.function)]
    }

    /// Which entry the build's own function at `address` is for; functions of several domains are [`domain::SHARED`].
    pub fn owner_of(&self, address: u64) -> Option<SlotFunction> {
        let mut owners = DOMAINS.into_iter().filter_map(|domain| {
            let function = self.get(domain).default.iter().position(|&own| own == address)?;
            Some(SlotFunction { domain, function: function as u8 })
        });
        let first = owners.next()?;
        let domain = if owners.next().is_some() { domain::SHARED } else { first.domain };
        Some(SlotFunction { domain, ..first })
    }

    /// Which entry of which table lies at `address`.
    pub fn at(&self, address: u64) -> Option<SlotFunction> {
        DOMAINS.into_iter().find_map(|domain| {
            let into = address.wrapping_sub(self.get(domain).live.address.wrapping_add(8));
            (into < 32 && into.is_multiple_of(8)).then_some(SlotFunction { domain, function: (into / 8) as u8 })
        })
    }

    /// Whether `address` lies in one of the tables.
    pub fn covers(&self, address: u64) -> bool {
        self.0.iter().any(|slot| address.wrapping_sub(slot.live.address) < TABLE_BYTES)
    }
}

/// What the code reads at fixed addresses: the tables, and the addresses in the file's GOT.
pub struct SlotMemory<'a> {
    pub code: &'a Code<'a>,
    pub slots: Option<&'a Slots>,
}

impl Environment for SlotMemory<'_> {
    fn load(&self, address: u64) -> Value {
        if let Some(function) = self.slots.and_then(|slots| slots.at(address)) {
            return Value::Slot(function);
        }
        // Other words that the loader fills in may be written later by the program; the GOT is not.
        let section = self.code.file.section(".got");
        let got = section.is_some_and(|got| self.code.file.vaddr_of(address).wrapping_sub(got.vaddr) < got.size);
        let value = if got { self.code.relocated(address) } else { None };
        value.map_or(Value::Unknown, Value::constant)
    }
}

/// The tables of raw, mem and obj, by what each domain's exported functions read.
fn by_name(code: &Code<'_>, tables: &[u64]) -> Result<Vec<u64>, PlanError> {
    let mut found: Vec<u64> = Vec::new();
    for (domain, names) in DOMAINS.into_iter().zip(EXPORTED) {
        let mut left: Vec<u64> = tables.iter().copied().filter(|t| !found.contains(t)).collect();
        for (index, name) in names.into_iter().enumerate() {
            let symbol = code
                .file
                .symbol(name)
                .ok_or_else(|| PlanError::NoSymbol { file: code.file.display().display().to_string(), symbol: name })?;
            let used = references(code, symbol.address);
            left.retain(|table| used.contains(&table.wrapping_add(8 + 8 * index as u64)));
        }
        let [table] = left[..] else {
            return Err(PlanError::NoSlot {
                file: code.file.display().display().to_string(),
                domain: domain::NAMES[usize::from(domain)],
                candidates: left.len(),
            });
        };
        found.push(table);
    }
    Ok(found)
}

/// Whether a table is no longer what it was when the plan was made. One that cannot be read tells nothing.
pub fn changed(planned: &[AllocatorSlot], memory: &dyn Memory) -> bool {
    planned.iter().any(|slot| read(memory, slot.address).is_ok_and(|now| now != *slot))
}

fn read(memory: &dyn Memory, address: u64) -> Result<AllocatorSlot, PlanError> {
    let mut bytes = [0; TABLE_BYTES as usize];
    memory.read(address, &mut bytes)?;
    let word = |i: usize| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().unwrap_or_default());
    Ok(AllocatorSlot { address, ctx: word(0), functions: std::array::from_fn(|i| word(i + 1)) })
}

/// Addresses in the file's writable data that look like a table: a null context and four pointers to code.
pub(super) fn candidates(code: &Code<'_>) -> Vec<u64> {
    let mut found = Vec::new();
    for segment in code.file.segments().iter().filter(|s| s.writable && !s.executable) {
        let start = code.file.address_of(segment.vaddr.saturating_add(7) & !7);
        // What the file really has, whatever the header claims.
        let len = code.file.bytes_at(start, usize::MAX).len() as u64;
        // How many words in a row point to code.
        let mut run = 0;
        let mut before = None;
        for address in (0..len).step_by(8).map(|into| start.wrapping_add(into)) {
            let word = code.initial_word(address).unwrap_or(0);
            if word != 0 && code.is_code(word) {
                run += 1;
                if run == 1 {
                    before = address.checked_sub(8).filter(|&a| a >= start);
                }
                if let (4, Some(table)) = (run, before)
                    && code.initial_word(table) == Some(0)
                {
                    found.push(table);
                }
            } else {
                run = 0;
            }
        }
    }
    found
}

/// Fixed addresses that a function's instructions read, address or call through.
fn references(code: &Code<'_>, function: u64) -> BTreeSet<u64> {
    let mut factory = InstructionInfoFactory::new();
    let memory = SlotMemory { code, slots: None };
    let mut state = State::unknown();
    let mut found = BTreeSet::new();
    let range = code.functions.containing(function).unwrap_or(function..function + 64);
    for instruction in code.instructions(&(function..range.end)) {
        if instruction.op_kinds().any(|kind| kind == OpKind::Memory)
            && let Some(address) = state.address(&instruction).as_constant()
        {
            found.insert(address);
        }
        state.step(&instruction, &mut factory, &memory);
    }
    found
}
