//! `plain_read PID`: reads all writable memory of no file of a process by `process_vm_readv` and does nothing with it. The
//! benchmark sets the census beside it. Prints bytes and seconds.

use std::time::Instant;

use anyhow::{Context as _, Result};
use leaktrace::target::{Memory as _, Target};

/// Bytes of one call.
const PIECE: u64 = 1 << 20;

fn main() -> Result<()> {
    let pid = std::env::args().nth(1).and_then(|pid| pid.parse().ok()).context("give a pid")?;
    let target = Target::open(pid)?;
    let (maps, memory) = (target.maps()?, target.memory());
    let mut buffer = vec![0; PIECE as usize];
    let begun = Instant::now();
    let mut bytes = 0;
    for mapping in maps.iter().filter(|m| m.readable && m.writable && m.file.is_none()) {
        for start in (mapping.range.start..mapping.range.end).step_by(PIECE as usize) {
            let len = (mapping.range.end - start).min(PIECE) as usize;
            memory.read_sparse(start, &mut buffer[..len]);
            bytes += len;
        }
    }
    eprintln!("{bytes} {}", begun.elapsed().as_secs_f64());
    Ok(())
}
