//! CPython's allocator: guards, entries of the real functions, refills.

use leaktrace_common::{
    site::{Site, domain, op},
    walk::ReadTarget,
    wire::{counter, window},
};

use crate::{
    blocks::New,
    maps::{BLOCKS, FIRST_POOLS, PyCall, Thread, config, count, py_call},
    stack::attached_thread_state,
    target::{Target, read},
};

/// A `pool_header` (Objects/obmalloc.c, 3.5 to 3.11; pycore_obmalloc.h from 3.12).
#[repr(C)]
#[derive(Clone, Copy)]
struct PoolHeader {
    /// Blocks in use.
    used: u64,
    freeblock: u64,
    nextpool: u64,
    prevpool: u64,
    arenaindex: u32,
    szidx: u32,
    nextoffset: u32,
    maxnextoffset: u32,
}

/// What to enter after an event of CPython's allocator, if its block is known at once.
#[inline(always)]
pub fn event(site: &Site, a: u64, b: u64, thread: &mut Thread) -> Option<New> {
    match site.op {
        op::PY_MALLOC => {
            let (kind, is_realloc) = outer(site, thread);
            allocate(a, kind, is_realloc, thread)
        }
        op::PY_CALLOC => {
            let (kind, is_realloc) = outer(site, thread);
            allocate(a.wrapping_mul(b), kind, is_realloc, thread)
        }
        op::PY_REALLOC | op::PY_REALLOC_INLINED => reallocate(site, a, b, thread),
        op::REFILLED => refilled(a, thread),
        op::PY_WRAPPER => {
            thread.py = PyCall { size: 0, state: py_call::NESTED, domain: site.domain, is_realloc: 0, pad: [0; 5] };
            None
        }
        _ => None,
    }
}

/// Domain of an event, and whether it is the inner part of a reallocation.
#[inline(always)]
fn outer(site: &Site, thread: &mut Thread) -> (u8, bool) {
    if site.domain == domain::RAW {
        return (domain::RAW, false);
    }
    let nested = thread.py.state == py_call::NESTED;
    if nested {
        thread.py.state = py_call::NONE;
    }
    if site.domain != domain::SHARED {
        (site.domain, false)
    } else if nested {
        (thread.py.domain, thread.py.is_realloc != 0)
    } else {
        (domain::OBJ, false)
    }
}

#[inline(always)]
fn allocate(size: u64, kind: u8, is_realloc: bool, thread: &mut Thread) -> Option<New> {
    let config = config();
    if kind != domain::RAW && config.usedpools != 0 && size != 0 && size <= config.small_max {
        let class = (size - 1) >> config.class_shift;
        let Some(usedpools) = usedpools() else {
            count(counter::LOST_ADDRESS);
            return None;
        };
        match next_block(usedpools, class)? {
            0 => pend(thread, py_call::REFILL, size, kind, is_realloc),
            address => return Some(New { address, size, native: 0, domain: kind, in_pool: true, is_realloc }),
        }
    } else {
        pend(thread, py_call::TO_C, size, kind, is_realloc);
    }
    None
}

/// The table of pools that the current thread's interpreter uses; `None` when it cannot be told.
#[inline(always)]
fn usedpools() -> Option<u64> {
    let config = config();
    if config.main_interpreter == 0 || Target.word(config.python.interpreters_head)? == config.main_interpreter {
        // There is no other: the newest is the first in the list.
        return Some(config.usedpools);
    }
    let interpreter = match attached_thread_state() {
        0 => config.main_interpreter,
        tstate => Target.word(tstate + u64::from(config.tstate_interpreter))?,
    };
    if interpreter == config.main_interpreter {
        return Some(config.usedpools);
    }
    let at = interpreter + u64::from(config.interpreter_obmalloc);
    let state = if config.obmalloc_is_pointer != 0 { Target.word(at)? } else { at };
    let own = state + u64::from(config.obmalloc_used);
    // Where an interpreter shares the main one's pools, 3.12 leaves its own state zero.
    Some(if Target.word(own)? == 0 { config.usedpools } else { own })
}

/// The block that pymalloc hands out next for a size class, 0 when it has no pool with a free one.
///
/// The pools of a class with free blocks are a ring that begins at a header within `usedpools`. Its first pool is remembered,
/// which saves a read: a pool whose `prevpool` is that header, which has free blocks and used ones, is the first. (One that
/// left the ring keeps its `prevpool`, but it is full, so it has no free block, or it is empty.)
#[inline(always)]
fn next_block(usedpools: u64, class: u64) -> Option<u64> {
    let ring = usedpools + class * 16 - 16;
    let first = FIRST_POOLS.get_ptr_mut(class as u32)?;
    // SAFETY: a map value; a pool that another thread changes meanwhile is not taken on trust.
    let pool = unsafe { *first };
    let is_main = usedpools == config().usedpools;
    if is_main
        && pool != 0
        && let Some(head) = read::<[u64; 4]>(pool)
        && head[3] == ring
        && head[1] != 0
        && head[0] as u32 != 0
    {
        return Some(head[1]);
    }
    let pool = Target.word(ring + 16)?;
    if pool == ring {
        return Some(0);
    }
    if is_main {
        // SAFETY: as above.
        unsafe { *first = pool };
    }
    Target.word(pool + 8)
}

/// Notes a request whose block another event will tell. A request of mem or obj that goes on to the raw domain and to the C
/// allocator keeps its own domain.
#[inline(always)]
fn pend(thread: &mut Thread, state: u8, size: u64, kind: u8, is_realloc: bool) {
    let call = PyCall { size, state, domain: kind, is_realloc: is_realloc.into(), pad: [0; 5] };
    if kind == domain::RAW {
        if thread.window & window::NO_C != 0 {
            return;
        }
        if is_refilling(thread) {
            // pymalloc's own table of arenas grows: that is no one's request.
            return;
        }
        // Debug hooks add a head to it, and a tail that is no longer, once more.
        let added = size.wrapping_sub(thread.py.size);
        if thread.py.state == py_call::TO_C && added <= 2 * u64::from(config().block_head) {
            thread.py.size = size;
        } else {
            thread.raw = call;
        }
        return;
    }
    let missing = if state == py_call::REFILL { window::NO_REFILL } else { window::NO_C };
    if thread.window & missing != 0 {
        return;
    }
    if thread.py.state == py_call::REFILL || thread.py.state == py_call::TO_C {
        crate::window::unlearned(thread);
    }
    thread.py = call;
}

/// Whether the thread is taking a new pool for a request.
#[inline(always)]
pub fn is_refilling(thread: &Thread) -> bool {
    thread.py.state == py_call::REFILL
}

#[inline(always)]
pub fn refilled(address: u64, thread: &mut Thread) -> Option<New> {
    if thread.py.state != py_call::REFILL {
        return None;
    }
    if address == 0 {
        // No arena to be had: the request goes on to the C allocator.
        thread.py.state = py_call::TO_C;
        return None;
    }
    thread.py.state = py_call::NONE;
    Some(New {
        address,
        size: thread.py.size,
        native: 0,
        domain: thread.py.domain,
        in_pool: true,
        is_realloc: thread.py.is_realloc != 0,
    })
}

/// What pymalloc's realloc will do follows from the pool that the block lies in (`pymalloc_realloc`, Objects/obmalloc.c):
/// it stays when it still fits and shrinks by at most a quarter; else a nested malloc follows, and tells the new block.
#[inline(always)]
fn reallocate(site: &Site, address: u64, size: u64, thread: &mut Thread) -> Option<New> {
    let config = config();
    let (kind, _) = outer(site, thread);
    // realloc(NULL, n) is an allocation.
    let is_realloc = address != 0;
    let class = match address {
        0 => Some(0),
        _ if kind == domain::RAW || config.usedpools == 0 => None,
        _ => match BLOCKS.get_ptr(address) {
            // SAFETY: a map value of this type.
            Some(block) if !unsafe { (*block).in_pool() } => None,
            _ => pool_class(address, config.pool_size, config.class_shift),
        },
    };
    match class {
        // The C allocator's realloc follows (or the raw domain's malloc, for no block).
        None => {
            pend(thread, py_call::TO_C, size, kind, is_realloc);
            None
        }
        Some(class) if size <= class && 4 * size > 3 * class => {
            // Where it is not followed what its pool hands out, the next to have this address would not be seen.
            let is_seen = thread.window & window::PARTIAL == 0 || crate::window::is_for(class);
            is_seen.then_some(New { address, size, native: 0, domain: kind, in_pool: true, is_realloc: true })
        }
        Some(_) if kind == domain::RAW || is_alone(site, thread) => allocate(size, kind, is_realloc, thread),
        Some(_) => {
            thread.py =
                PyCall { size, state: py_call::NESTED, domain: kind, is_realloc: is_realloc.into(), pad: [0; 5] };
            None
        }
    }
}

/// Whether no other site will tell the block to which a reallocation moves. In a window the function that it calls is not
/// armed: what it hands out is foretold here.
#[inline(always)]
fn is_alone(site: &Site, thread: &Thread) -> bool {
    site.op == op::PY_REALLOC_INLINED || thread.window & window::PARTIAL != 0
}

/// Bytes that a site of CPython's asks for, or those of the block that it takes from a free list; if pymalloc serves so many (it does
/// not where a block of the C allocator becomes that small).
#[inline(always)]
pub fn asked_for(site: &Site, a: u64, b: u64) -> Option<u64> {
    let size = match site.op {
        op::PY_MALLOC => a,
        op::PY_CALLOC => a.wrapping_mul(b),
        op::PY_REALLOC | op::PY_REALLOC_INLINED => b,
        op::PY_REUSED => block_of(a.wrapping_sub(u64::from(config().block_head)))?.1,
        _ => return None,
    };
    (site.domain != domain::RAW && size != 0 && size <= config().small_max).then_some(size)
}

/// Whether a request is under way whose block another event will tell.
#[inline(always)]
pub fn is_pending(thread: &Thread) -> bool {
    thread.py.state != py_call::NONE || thread.raw.state != py_call::NONE
}

/// The block of pymalloc that an object lies in, which may have a head of the collector before it; its address and size.
#[inline(always)]
pub fn block_of(object: u64) -> Option<(u64, u64)> {
    let config = config();
    if config.usedpools == 0 {
        return None;
    }
    let size = pool_class(object, config.pool_size, config.class_shift)?;
    let offset = object - (object & !(config.pool_size - 1)) - size_of::<PoolHeader>() as u64;
    // The verifier does not divide by what may be 0.
    let size = if size == 0 { return None } else { size };
    match offset % size {
        0 => Some((object, size)),
        crate::blocks::GC_HEAD => Some((object - crate::blocks::GC_HEAD, size)),
        _ => None,
    }
}

/// Block size of the pool that `address` lies in, `None` when what is there cannot be a pool's header. The fields bind each
/// other so tightly that memory of the C allocator does not pass by chance.
#[inline(always)]
fn pool_class(address: u64, pool_size: u64, class_shift: u32) -> Option<u64> {
    let pool = address & !(pool_size - 1);
    let head = read::<PoolHeader>(pool)?;
    if head.szidx >= 64 {
        return None;
    }
    let size = u64::from(head.szidx + 1) << class_shift;
    let last = pool_size - size;
    let consistent = u64::from(head.maxnextoffset) == last
        && u64::from(head.nextoffset) <= last + size
        && head.used != 0
        && head.used * size <= pool_size
        && address - pool >= size_of::<PoolHeader>() as u64;
    consistent.then_some(size)
}

/// CPython's request that led to a block of the C allocator, told by the size.
#[inline(always)]
pub fn claim(thread: &mut Thread, c_size: u64) -> Option<PyCall> {
    take(&mut thread.raw, c_size).or_else(|| take(&mut thread.py, c_size))
}

#[inline(always)]
fn take(call: &mut PyCall, c_size: u64) -> Option<PyCall> {
    // PyMem_RawMalloc turns 0 into 1.
    if call.state == py_call::TO_C && (call.size == c_size || (call.size == 0 && c_size == 1)) {
        let claimed = *call;
        call.state = py_call::NONE;
        return Some(claimed);
    }
    None
}
