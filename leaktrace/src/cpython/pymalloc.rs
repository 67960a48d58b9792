//! Finds the state of pymalloc (`Objects/obmalloc.c`), with or without symbols.

use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind, Register};

use leaktrace_common::walk::ABSENT;

use crate::target::{ElfFile, Memory};

use super::offsets::{Obmalloc, Offsets};
use super::{PerInterpreter, PymallocState, methods};

/// Most bytes of a file's writable memory that are searched.
const MAX_DATA: u64 = 64 << 20;
/// Longest code of a small function that is looked at, bytes.
const MAX_CODE: u64 = 512;
/// Words of 4 bytes on each side of `arenas` among which `maxarenas` is looked for.
const NEAR: u64 = 16;
/// Most arenas that a heap may have: 256 GiB of small blocks.
pub(super) const MAX_ARENAS: u32 = 1 << 18;

/// Finds pymalloc's state in the file that holds the interpreter. `None`: it has none of this shape, or
/// does not use it (`PYTHONMALLOC=malloc`).
///
/// `arenas` and `maxarenas` are 0 when only `usedpools` could be found: blocks can be predicted then, but not swept.
pub(super) fn find(memory: &dyn Memory, elf: &ElfFile, offsets: &Offsets, runtime: u64) -> Option<PymallocState> {
    let constants = offsets.pymalloc;
    let mut state = PymallocState {
        usedpools: 0,
        arenas: 0,
        maxarenas: 0,
        raw_allocated_blocks: 0,
        pool_size: u64::from(constants.pool_size),
        arena_size: u64::from(constants.arena_size),
        class_shift: constants.class_shift,
        small_max: u64::from(constants.small_max),
        pool: offsets.pool,
        arena: offsets.arena,
        others: None,
    };
    state.usedpools = find_usedpools(memory, elf, &state)?;
    let arenas = Arenas { memory, elf, pools: pools_in(memory, &state, state.usedpools), state: &state };
    let found = match offsets.obmalloc {
        // The state is one struct, of which `usedpools` is a part.
        of @ Obmalloc { used, .. } if used != ABSENT => {
            arenas.in_struct(state.usedpools.wrapping_sub(u64::from(used)), of)
        }
        _ => arenas.in_code().or_else(|| arenas.in_data()),
    };
    if let Some(Found { arenas, maxarenas, raw_allocated_blocks }) = found {
        (state.arenas, state.maxarenas, state.raw_allocated_blocks) = (arenas, maxarenas, raw_allocated_blocks);
        state.others = PerInterpreter::find(memory, offsets, runtime, &state);
    }
    Some(state)
}

/// `usedpools` is an array of pairs, one for each size class, of which the pools name the class. No other data looks so.
fn find_usedpools(memory: &dyn Memory, elf: &ElfFile, state: &PymallocState) -> Option<u64> {
    for range in elf.writable_ranges() {
        let mut data = vec![0; usize::try_from((range.end - range.start).min(MAX_DATA)).ok()?];
        memory.read_sparse(range.start, &mut data);
        let words: Vec<u64> = data.as_chunks().0.iter().map(|&word| u64::from_le_bytes(word)).collect();
        for (index, window) in words.windows(2 * state.classes()).enumerate() {
            let address = range.start + 8 * index as u64;
            if are_pairs(window, address, state) {
                let pools = pools_in(memory, state, address);
                let right = pools.iter().filter(|(class, pool)| {
                    memory.u32(pool + u64::from(state.pool.szidx)).is_ok_and(|szidx| szidx as usize == *class)
                });
                if most(right.count(), pools.len()) {
                    return Some(address);
                }
            }
        }
    }
    None
}

/// Whether words at an address are pairs as `usedpools` has them: either both point 16 bytes before the pair (no pool in use), or
/// both to pools. The thread that holds the GIL may have lost its processor between the stores to the two: one pair may be uneven.
fn are_pairs(words: &[u64], address: u64, state: &PymallocState) -> bool {
    let mut uneven = 0;
    words.chunks_exact(2).enumerate().all(|(class, pair)| {
        let empty = address + 16 * class as u64 - 16;
        let is_pool = |word: u64| word != 0 && word.is_multiple_of(state.pool_size);
        uneven += u32::from((pair[0] == empty) != (pair[1] == empty));
        uneven <= 1 && pair.iter().all(|&word| word == empty || is_pool(word))
    })
}

/// The pools at both ends of each class's list, with the class.
fn pools_in(memory: &dyn Memory, state: &PymallocState, usedpools: u64) -> Vec<(usize, u64)> {
    let mut pools = Vec::new();
    for class in 0..state.classes() {
        let at = usedpools + 16 * class as u64;
        let ends = [memory.u64(at), memory.u64(at + 8)].into_iter().flatten();
        // A class without pools points 16 bytes before its pair, which may by chance be where a pool could begin.
        let is_pool = |pool: &u64| pool.is_multiple_of(state.pool_size) && *pool != 0 && *pool != at.wrapping_sub(16);
        pools.extend(ends.filter(is_pool).map(|pool| (class, pool)));
    }
    pools.dedup();
    pools
}

/// The target runs: a pool may leave its list between two looks, so nearly all is enough.
fn most(count: usize, of: usize) -> bool {
    of > 0 && count * 4 >= of * 3
}

/// Addresses of `arenas`, `maxarenas` and `raw_allocated_blocks`, the last 0 where there is none.
struct Found {
    arenas: u64,
    maxarenas: u64,
    raw_allocated_blocks: u64,
}

/// The search for the table of arenas: the known pools decide which word points at it.
struct Arenas<'a> {
    memory: &'a dyn Memory,
    elf: &'a ElfFile,
    pools: Vec<(usize, u64)>,
    state: &'a PymallocState,
}

impl Arenas<'_> {
    /// 3.12 and later: by the offsets in `struct _obmalloc_state`, which is at `base`.
    fn in_struct(&self, base: u64, of: Obmalloc) -> Option<Found> {
        let [arenas, maxarenas, raw_allocated_blocks] =
            [of.arenas, of.maxarenas, of.raw_allocated_blocks].map(|offset| base.wrapping_add(u64::from(offset)));
        (self.is_arenas(arenas) && self.is_maxarenas(maxarenas)).then_some(Found {
            arenas,
            maxarenas,
            raw_allocated_blocks,
        })
    }

    /// 3.9 to 3.11: `_Py_GetAllocatedBlocks` is exported by every build and adds up all arenas: its code refers to `arenas`,
    /// `maxarenas` and `raw_allocated_blocks` and to no other data. Without symbols it is what `sys.getallocatedblocks` calls first
    /// (CPython `Python/sysmodule.c`).
    fn in_code(&self) -> Option<Found> {
        if let Some(function) = self.elf.symbol("_Py_GetAllocatedBlocks") {
            return self.in_function(function.address, function.size.clamp(16, MAX_CODE));
        }
        let names = ["getallocatedblocks", "getrefcount", "setswitchinterval"];
        let methods = methods::table(self.memory, self.elf, &names)?;
        let callees = methods::first_callee(self.elf, *methods.get("getallocatedblocks")?);
        callees.into_iter().find_map(|function| self.in_function(function, MAX_CODE))
    }

    fn in_function(&self, function: u64, size: u64) -> Option<Found> {
        let code = self.elf.bytes_at(function, size as usize);
        let data: Vec<(u64, usize)> = data_references(code, function)
            .into_iter()
            .filter(|(address, _)| self.elf.writable_ranges().iter().any(|range| range.contains(address)))
            .collect();
        let of_size = |wanted: usize| data.iter().filter(move |(_, size)| *size == wanted).map(|(address, _)| *address);
        let arenas = of_size(8).find(|&address| self.is_arenas(address))?;
        let maxarenas = of_size(4).find(|&address| self.is_maxarenas(address))?;
        let raw_allocated_blocks = of_size(8).find(|&address| address != arenas).unwrap_or(0);
        Some(Found { arenas, maxarenas, raw_allocated_blocks })
    }

    /// 3.8: by looking at all data. `maxarenas` lies beside `arenas`: both are static variables of one file.
    fn in_data(&self) -> Option<Found> {
        let arenas = self.elf.writable_ranges().into_iter().find_map(|range| {
            let mut data = vec![0; usize::try_from((range.end - range.start).min(MAX_DATA)).ok()?];
            self.memory.read_sparse(range.start, &mut data);
            let words = data.as_chunks().0.iter().map(|&word| u64::from_le_bytes(word));
            let pointers = words.enumerate().filter(|(_, word)| *word != 0 && word.is_multiple_of(16));
            pointers.map(|(index, _)| range.start + 8 * index as u64).find(|&address| self.is_arenas(address))
        })?;
        let near = (1..=NEAR).flat_map(|i| [arenas.wrapping_sub(4 * i), arenas.wrapping_add(4 + 4 * i)]);
        let maxarenas = near.into_iter().find(|&address| self.is_maxarenas(address))?;
        Some(Found { arenas, maxarenas, raw_allocated_blocks: 0 })
    }

    /// Whether the word at `address` points at an array whose entries are the arenas that the known pools name.
    fn is_arenas(&self, address: u64) -> bool {
        let Ok(array) = self.memory.u64(address) else { return false };
        let state = self.state;
        let in_arena = |pool: u64| {
            let entry = array.checked_add(u64::from(self.arena_of(pool)?) * u64::from(state.arena.size))?;
            let address = self.memory.u64(entry.checked_add(u64::from(state.arena.address))?).ok()?;
            (address <= pool && pool - address < state.arena_size).then_some(())
        };
        // Most words are no pointers at all: the first pool settles those.
        self.pools.first().is_some_and(|(_, pool)| in_arena(*pool).is_some())
            && most(self.pools.iter().filter(|(_, pool)| in_arena(*pool).is_some()).count(), self.pools.len())
    }

    /// Whether the number at `address` may be the length of that array: it starts at 16 (`INITIAL_ARENA_OBJECTS`) and doubles.
    fn is_maxarenas(&self, address: u64) -> bool {
        let highest = self.pools.iter().filter_map(|(_, pool)| self.arena_of(*pool)).max().unwrap_or(0);
        let plausible = |n: u32| n > highest && (16..=MAX_ARENAS).contains(&n) && n.is_power_of_two();
        self.memory.u32(address).is_ok_and(plausible)
    }

    fn arena_of(&self, pool: u64) -> Option<u32> {
        self.memory.u32(pool + u64::from(self.state.pool.arenaindex)).ok()
    }
}

/// Addresses that instructions read by a constant address, with the size read, each once.
fn data_references(code: &[u8], address: u64) -> Vec<(u64, usize)> {
    let mut found = Vec::new();
    for instruction in &mut Decoder::with_ip(64, code, address, DecoderOptions::NONE) {
        let constant = match (instruction.memory_base(), instruction.memory_index()) {
            (Register::RIP, _) => instruction.ip_rel_memory_address(),
            (Register::None, Register::None) => instruction.memory_displacement64(),
            _ => continue,
        };
        let reference = (constant, instruction.memory_size().size());
        if has_memory(&instruction) && !found.contains(&reference) {
            found.push(reference);
        }
    }
    found
}

fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|op| instruction.op_kind(op) == OpKind::Memory)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::cpython::testing::{Script, pythons};

    #[test]
    fn one_pair_may_be_about_to_change() {
        let state = PymallocState { pool_size: 1 << 14, ..PymallocState::default() };
        let (at, pool) = (0x5000u64, 0x7000_4000u64);
        let empty = |class: u64| at + 16 * class - 16;
        let even = [empty(0), empty(0), pool, pool, empty(2), empty(2)];
        assert!(are_pairs(&even, at, &state));
        let mut words = even;
        words[1] = pool;
        assert!(are_pairs(&words, at, &state), "a pool is being put into its list");
        words[3] = empty(1);
        assert!(!are_pairs(&words, at, &state), "two at once");
        for wrong in [0, pool + 8, empty(1)] {
            let mut words = even;
            words[0] = wrong;
            assert!(!are_pairs(&words, at, &state), "{wrong:#x}");
        }
    }

    #[test]
    fn the_state_is_where_the_symbols_say() {
        let mut with_symbols = 0;
        for python in pythons() {
            let mut script = Script::start(&python, "import sys; print('ready'); sys.stdin.readline()");
            script.line();
            let (_, found) = script.interpreter();
            let state = found.facts.pymalloc.unwrap();
            assert!(state.arenas != 0 && state.maxarenas != 0, "{}", python.display());
            let fields = [
                ("usedpools", state.usedpools),
                ("arenas", state.arenas),
                ("maxarenas", state.maxarenas),
                ("raw_allocated_blocks", state.raw_allocated_blocks),
            ];
            for (name, address) in fields {
                if let Some(symbol) = found.elf.symbol(name) {
                    assert_eq!(address, symbol.address, "{name} of {}", python.display());
                    with_symbols += 1;
                }
            }
        }
        eprintln!("{with_symbols} addresses compared with symbols");
    }

    #[test]
    fn it_is_found_under_debug_hooks_and_missed_where_it_is_off() {
        for python in pythons() {
            for (mode, on) in [("malloc", false), ("debug", true), ("malloc_debug", false)] {
                let mut command = Command::new(&python);
                command.args(["-c", "import sys; print('ready'); sys.stdin.readline()"]).env("PYTHONMALLOC", mode);
                let mut script = Script::start_with(&mut command, Stdio::inherit());
                script.line();
                let (_, found) = script.interpreter();
                assert_eq!(found.facts.pymalloc.is_some(), on, "{mode} {}", python.display());
            }
        }
    }

    #[test]
    fn all_blocks_are_counted_as_the_interpreter_does() {
        // The count is taken first; then only the bytes of one write and one read come and go.
        let code = "import sys, os\n\
            keep = [bytes(n % 600) for n in range(40000)]\n\
            del keep[::3]\n\
            while True: os.write(1, b'%d\\n' % sys.getallocatedblocks()); os.read(0, 1)";
        for python in pythons() {
            let mut script = Script::start(&python, code);
            for _ in 0..3 {
                let said: i64 = script.line().parse().unwrap();
                let (target, found) = script.interpreter();
                let state = found.facts.pymalloc.unwrap();
                // The program may still be on its way from the write to the read: look until it sleeps there.
                while target.state().unwrap() == 'R' {
                    std::thread::yield_now();
                }
                let pools = state.snapshot(&target.memory()).unwrap();
                if state.raw_allocated_blocks == 0 {
                    // 3.8 counts all together.
                    break;
                }
                let raw = target.memory().u64(state.raw_allocated_blocks).unwrap();
                let ours = (pools.totals().used_blocks + raw) as i64;
                assert!((ours - said).abs() <= 5, "{ours} {said} {}", python.display());
                script.go();
            }
        }
    }
}
