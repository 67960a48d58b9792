//! One pass over the table of blocks: shows the live ones and removes those that pymalloc has taken back.
//!
//! Small blocks have no probe on free. A block is known to be dead when its pool says so; the pass removes it, and the
//! table stays the size of the live heap. The target runs on meanwhile and may be handed the same address again between the
//! reading of the pool and the removal; therefore:
//!
//! 1. the pools are read before the pass, and only blocks older than that reading are judged by it;
//! 2. while the pass runs, the BPF side replaces blocks under the bucket's lock instead of writing in place;
//! 3. a removal gives the value that it removed, and a newer one is put back (unless a still newer one is there).

use std::{collections::HashMap, io};

use leaktrace_common::wire::{Block, TICK_NS};

use super::{Tracer, TracerError};

/// What the pools say of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// In use, or it cannot be told.
    Live,
    /// Free.
    Dead,
    /// At the head of its pool's free list: free, or just being handed out by a thread that stands between our probe and
    /// the allocator's own book-keeping. That thread holds the GIL, so this can be its youngest block only, and none of another
    /// thread's is younger.
    DeadUnlessYoungest,
}

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blocks shown as live.
    pub live: u64,
    /// Blocks found dead and removed.
    pub removed: u64,
}

impl Tracer {
    /// Shows every live block to `live`. `fate` judges by the pools, which must have been read before this call, and
    /// [`TICK_NS`] or more after the moment `judged_until_ns` (CLOCK_MONOTONIC): younger blocks are not judged.
    ///
    /// Blocks handed out during the pass may or may not be shown.
    pub fn sweep(
        &mut self,
        judged_until_ns: u64,
        fate: &dyn Fn(u64, &Block) -> Fate,
        live: &mut dyn FnMut(u64, &Block),
    ) -> Result<Swept, TracerError> {
        self.set_sweeping(true)?;
        wait_for_running_programs();
        let swept = self.pass(judged_until_ns, fate, live);
        self.set_sweeping(false)?;
        swept
    }

    fn pass(
        &self,
        judged_until_ns: u64,
        fate: &dyn Fn(u64, &Block) -> Fate,
        live: &mut dyn FnMut(u64, &Block),
    ) -> Result<Swept, TracerError> {
        let failed = |source: io::Error| TracerError::Map { name: "BLOCKS", source };
        let table = self.blocks()?;
        let mut swept = Swept::default();
        let mut dead: Vec<(u64, Block, Fate)> = Vec::new();
        let mut youngest = Youngest::default();
        table
            .for_each(|&address, block| {
                let mut judged = Fate::Live;
                if block.in_pool() && block.time_ns < judged_until_ns {
                    youngest.see(block);
                    judged = fate(address, block);
                }
                if judged == Fate::Live {
                    swept.live += 1;
                    live(address, block);
                } else {
                    dead.push((address, *block, judged));
                }
            })
            .map_err(failed)?;
        for (address, block, judged) in dead {
            if judged == Fate::DeadUnlessYoungest && youngest.may_be(&block) {
                swept.live += 1;
                live(address, &block);
                continue;
            }
            match table.take(&address).map_err(failed)? {
                Some(newer) if newer != block => {
                    table.add(&address, &newer).map_err(failed)?;
                    swept.live += 1;
                    live(address, &newer);
                }
                Some(_) => swept.removed += 1,
                None => {}
            }
        }
        Ok(swept)
    }
}

/// The youngest blocks. Between threads, times tell apart no more than ticks.
#[derive(Default)]
struct Youngest {
    of_thread: HashMap<u32, u64>,
    of_all: u64,
}

impl Youngest {
    fn see(&mut self, block: &Block) {
        // Few blocks come in order, so most are looked up once; almost all are far older than the youngest.
        if block.time_ns + TICK_NS >= self.of_all {
            let of_thread = self.of_thread.entry(block.tid).or_default();
            *of_thread = (*of_thread).max(block.time_ns);
            self.of_all = self.of_all.max(block.time_ns);
        }
    }

    /// Whether no younger block is known for certain.
    fn may_be(&self, block: &Block) -> bool {
        block.time_ns + TICK_NS >= self.of_all && self.of_thread.get(&block.tid) == Some(&block.time_ns)
    }
}

/// Waits until every BPF program that was running has ended: they run in an RCU read section.
fn wait_for_running_programs() {
    /// `linux/membarrier.h`: `MEMBARRIER_CMD_GLOBAL`, which is `synchronize_rcu`.
    const GLOBAL: libc::c_int = 1;
    // SAFETY: plain numbers. On failure (a kernel without membarrier or with nohz_full) the pass is still right but for a
    // block that is written in place during the microsecond of its removal.
    unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
}

/// CLOCK_MONOTONIC in nanoseconds: the clock of [`Block::time_ns`].
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
