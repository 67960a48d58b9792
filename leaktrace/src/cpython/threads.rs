//! Interpreters and threads, from the runtime's lists.

use leaktrace_common::walk::ABSENT;

use crate::target::{Memory, MemoryError};

use super::offsets::Offsets;

/// Most interpreters, and most threads of one, that are followed: the lists are the target's and may be torn.
const MAX_INTERPRETERS: usize = 1 << 10;
const MAX_THREADS: usize = 1 << 16;

/// A `PyThreadState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread {
    /// Address of the thread state.
    pub address: u64,
    /// `pthread_self()`.
    pub thread_id: u64,
    /// Kernel thread id in the target's own pid namespace; 0 before 3.11, which does not keep it.
    pub native_id: u64,
    /// Address of the innermost frame, 0 when the thread runs no Python.
    pub frame: u64,
}

/// A `PyInterpreterState`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterpreterThreads {
    /// Address of the interpreter state.
    pub address: u64,
    pub id: i64,
    /// Newest first.
    pub threads: Vec<Thread>,
}

/// All interpreters of the runtime at `runtime`, newest first, with their threads.
///
/// The lists may change while they are read: a thread that ends then cuts its list short.
pub fn interpreters(
    memory: &dyn Memory,
    offsets: &Offsets,
    runtime: u64,
) -> Result<Vec<InterpreterThreads>, MemoryError> {
    let each = states(memory, offsets, runtime)?.into_iter().map(|address| {
        let id = memory.u64(at(address, offsets.interpreter.id))? as i64;
        let head = memory.u64(at(address, offsets.interpreter.threads_head))?;
        Ok(InterpreterThreads { address, id, threads: threads(memory, offsets, head) })
    });
    each.collect()
}

/// Addresses of the states of all interpreters, newest first.
pub fn states(memory: &dyn Memory, offsets: &Offsets, runtime: u64) -> Result<Vec<u64>, MemoryError> {
    let mut found = Vec::new();
    let mut address = memory.u64(at(runtime, offsets.runtime.interpreters_head))?;
    while address != 0 && found.len() < MAX_INTERPRETERS && !found.contains(&address) {
        found.push(address);
        address = memory.u64(at(address, offsets.interpreter.next))?;
    }
    Ok(found)
}

/// Address of the main interpreter's state.
pub fn main_interpreter(memory: &dyn Memory, offsets: &Offsets, runtime: u64) -> Result<u64, MemoryError> {
    memory.u64(at(runtime, offsets.runtime.interpreters_main))
}

fn threads(memory: &dyn Memory, offsets: &Offsets, head: u64) -> Vec<Thread> {
    let mut threads = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut address = head;
    while address != 0 && threads.len() < MAX_THREADS && seen.insert(address) {
        let Ok((thread, next)) = thread(memory, offsets, address) else { break };
        threads.push(thread);
        address = next;
    }
    threads
}

fn thread(memory: &dyn Memory, offsets: &Offsets, address: u64) -> Result<(Thread, u64), MemoryError> {
    let frame = memory.u64(at(address, offsets.thread.frame))?;
    let thread = Thread {
        address,
        thread_id: memory.u64(at(address, offsets.thread.thread_id))?,
        native_id: match offsets.thread.native_thread_id {
            ABSENT => 0,
            offset => memory.u64(at(address, offset))?,
        },
        frame: match offsets.cframe.current_frame {
            ABSENT => frame,
            // A thread that is just being made or undone may have none.
            offset => memory.u64(at(frame, offset)).unwrap_or(0),
        },
    };
    Ok((thread, memory.u64(at(address, offsets.thread.next))?))
}

/// Address of a field; the base is the target's word and may be anything.
fn at(base: u64, offset: u32) -> u64 {
    base.wrapping_add(u64::from(offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpython::testing::{Script, pythons, version_of};

    #[test]
    fn threads_are_those_that_python_started() {
        let code = "import threading, sys\n\
            go = threading.Event()\n\
            ready = threading.Barrier(4)\n\
            def work():\n ready.wait()\n go.wait()\n\
            ts = [threading.Thread(target=work, daemon=True) for _ in range(3)]\n\
            for t in ts: t.start()\n\
            ready.wait()\n\
            print(sorted([t.ident, t.native_id] for t in threading.enumerate()))\n\
            sys.stdin.readline()";
        for python in pythons() {
            let mut script = Script::start(&python, code);
            let said = script.line();
            let (target, found) = script.interpreter();
            let all = interpreters(&target.memory(), &found.offsets, found.runtime).unwrap();
            assert_eq!(all.len(), 1);
            assert_eq!(all[0].id, 0);
            assert_eq!(main_interpreter(&target.memory(), &found.offsets, found.runtime), Ok(all[0].address));
            // Before 3.11 the thread state does not keep the kernel's id.
            let known = version_of(&python).minor >= 11;
            let said: Vec<(u64, u64)> = serde_json::from_str(&said).unwrap();
            let said: Vec<_> = said.into_iter().map(|(id, native)| (id, if known { native } else { 0 })).collect();
            let mut ids: Vec<_> = all[0].threads.iter().map(|t| (t.thread_id, t.native_id)).collect();
            ids.sort_unstable();
            assert_eq!(ids, said, "{}", python.display());
            assert!(all[0].threads.iter().all(|t| t.frame != 0));
        }
    }

    #[test]
    fn sub_interpreters_are_listed() {
        let code = "import sys\n\
            try: import _interpreters as s\n\
            except ImportError: import _xxsubinterpreters as s\n\
            ids = [s.create(), s.create()]\n\
            print(*sorted([0] + [int(i) for i in ids]))\n\
            sys.stdin.readline()";
        for python in pythons() {
            let mut script = Script::start(&python, code);
            let said = script.line();
            let (target, found) = script.interpreter();
            let all = interpreters(&target.memory(), &found.offsets, found.runtime).unwrap();
            let mut ids: Vec<_> = all.iter().map(|i| i.id).collect();
            ids.sort_unstable();
            assert_eq!(ids.iter().map(i64::to_string).collect::<Vec<_>>().join(" "), said);
        }
    }
}
