//! Where threads of CPython 3.12 and later keep the pointer to their thread state: `_Py_tss_tstate`, a thread-local variable
//! (`Python/pystate.c`) that is set while the thread is attached to its interpreter.
//!
//! The exported `_PyThreadState_GetCurrent` does nothing but read it, in one of the ways of the x86-64 ABI for thread-local storage.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::methods;
use super::threads::Thread;
use crate::target::{ElfFile, Memory};

/// Longest code of the function that is looked at, bytes.
const MAX_CODE: usize = 64;
/// Bytes of an entry of a thread's vector of modules: glibc, musl.
const VECTOR_ENTRIES: [u64; 2] = [16, 8];

/// Distance of the variable from the thread pointer, the same in each thread; `None` where it cannot be told.
///
/// `threads` prove it: each has there its own thread state or nothing.
pub(super) fn thread_state_offset(memory: &dyn Memory, elf: &ElfFile, threads: &[Thread]) -> Option<i64> {
    let functions = match elf.symbol("_PyThreadState_GetCurrent") {
        Some(symbol) => vec![symbol.address],
        None => readers(memory, elf),
    };
    proved(memory, elf, threads, &functions)
}

/// The offset that one of the functions uses.
fn proved(memory: &dyn Memory, elf: &ElfFile, threads: &[Thread], functions: &[u64]) -> Option<i64> {
    let right = |&offset: &i64| {
        let states =
            threads.iter().map(|thread| (thread.address, memory.u64(thread.thread_id.wrapping_add_signed(offset))));
        offset != 0 && states.into_iter().all(|(own, found)| found.is_ok_and(|state| state == 0 || state == own))
    };
    let of = |&function: &u64| candidates(memory, elf.bytes_at(function, MAX_CODE), function, threads);
    functions.iter().flat_map(of).find(right)
}

/// Without symbols: `sys.get_coroutine_origin_tracking_depth` and what it calls first
/// (`_PyEval_GetCoroutineOriginTrackingDepth`, CPython `Python/ceval.c`, 3.12 to 3.15). One of them reads the number from the current
/// thread state.
fn readers(memory: &dyn Memory, elf: &ElfFile) -> Vec<u64> {
    let name = "get_coroutine_origin_tracking_depth";
    let methods = methods::table(memory, elf, &[name, "getallocatedblocks", "setswitchinterval"]);
    let Some(function) = methods.and_then(|methods| methods.get(name).copied()) else { return Vec::new() };
    std::iter::once(function).chain(methods::first_callee(elf, function)).collect()
}

fn candidates(memory: &dyn Memory, code: &[u8], address: u64, threads: &[Thread]) -> Vec<i64> {
    let mut found = Vec::new();
    // The word that a register was loaded from, or the address that it was given.
    let (mut loaded, mut given) = (None, None);
    // A register with a constant, and the one that holds the thread pointer.
    let mut fixed = None;
    let mut pointer = None;
    for instruction in &mut Decoder::with_ip(64, code, address, DecoderOptions::NONE) {
        if has_memory(&instruction) {
            let constant = instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address());
            match (instruction.segment_prefix(), instruction.memory_base(), constant) {
                // Local exec: the offset is in the instruction, or the thread pointer itself is loaded and the offset in what
                // follows, as linkers write it for other ways.
                (Register::FS, Register::None, _) => {
                    let offset = instruction.memory_displacement64() as i64;
                    pointer = (offset == 0).then(|| instruction.op0_register());
                    found.extend((offset != 0).then_some(offset));
                }
                (Register::None, base, _) if base != Register::None && pointer == Some(base) => {
                    found.push(instruction.memory_displacement64() as i64);
                    pointer = None;
                }
                // Initial exec: the loader wrote the offset into the GOT, or the linker into an instruction.
                (Register::FS, base, _) => {
                    let word = loaded.and_then(|at| memory.u64(at).ok()).map(|word| word as i64);
                    found.extend(fixed.filter(|(register, _)| *register == base).map(|(_, offset)| offset).or(word));
                }
                (_, _, Some(constant)) if instruction.mnemonic() == Mnemonic::Lea => given = Some(constant),
                (_, _, Some(constant)) => loaded = Some(constant),
                _ => {}
            }
        }
        if instruction.mnemonic() == Mnemonic::Mov
            && let Ok(constant) = instruction.try_immediate(1)
        {
            fixed = Some((instruction.op0_register(), constant as i64));
        }
        match (instruction.flow_control(), given) {
            // General dynamic: `__tls_get_addr` gets a pair of module and offset.
            (FlowControl::Call | FlowControl::IndirectCall, Some(pair)) => {
                found.extend(threads.first().into_iter().flat_map(|thread| dynamic(memory, pair, thread.thread_id)));
            }
            (FlowControl::Return, _) => break,
            _ => {}
        }
    }
    found
}

/// Offsets of a variable that the loader finds by module, from the vector of a thread: libraries that were there at the start
/// have the same in all threads.
fn dynamic(memory: &dyn Memory, pair: u64, thread_pointer: u64) -> Vec<i64> {
    let word = |address: u64| memory.u64(address).ok();
    let (Some(module), Some(offset), Some(vector)) =
        (word(pair), word(pair.wrapping_add(8)), word(thread_pointer.wrapping_add(8)))
    else {
        return Vec::new();
    };
    let blocks = VECTOR_ENTRIES.iter().filter_map(|size| word(vector.wrapping_add(module.wrapping_mul(*size))));
    blocks.map(|block| block.wrapping_add(offset).wrapping_sub(thread_pointer) as i64).collect()
}

fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|op| instruction.op_kind(op) == OpKind::Memory)
}

#[cfg(test)]
mod tests {
    use super::{proved, readers};
    use crate::cpython::testing::{Script, pythons, version_of};
    use crate::cpython::threads::interpreters;
    use crate::target::Memory as _;

    #[test]
    fn the_running_thread_has_its_state_there() {
        let code = "import sys, threading\n\
            go = threading.Event()\n\
            for _ in range(3): threading.Thread(target=go.wait, daemon=True).start()\n\
            print('ready')\n\
            while True: pass";
        for python in pythons() {
            let mut script = Script::start(&python, code);
            script.line();
            let (target, found) = script.interpreter();
            let memory = target.memory();
            if version_of(&python).minor < 12 {
                assert_eq!(found.facts.layout.tstate_tls, 0);
                continue;
            }
            assert_ne!(found.facts.layout.tstate_tls, 0, "{}", python.display());
            let threads = &interpreters(&memory, &found.offsets, found.runtime).unwrap()[0].threads;
            // What is found without symbols is the same. Calls within a library go by way of a table.
            if found.elf.bias() == 0 {
                let unnamed = proved(&memory, &found.elf, threads, &readers(&memory, &found.elf));
                assert_eq!(unnamed, Some(found.facts.layout.tstate_tls), "{}", python.display());
            }
            let main = threads.last().unwrap();
            let read = || memory.u64(main.thread_id.wrapping_add_signed(found.facts.layout.tstate_tls)).unwrap();
            // The main thread computes, but for the moments in which it lets another have the GIL.
            assert!((0..10_000).any(|_| read() == main.address), "{}", python.display());
        }
    }
}
