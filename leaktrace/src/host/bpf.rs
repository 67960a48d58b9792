//! What the kernel's BPF lets this process do, found by doing it.

use std::error::Error;
use std::io;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{is_map_supported, is_program_supported};

/// Answer to "can this be loaded here?".
#[derive(Debug)]
pub enum Support {
    Yes,
    /// The kernel does not know it.
    No,
    /// The kernel will not do it for us.
    Refused(io::ErrorKind, String),
}

/// Loads an empty uprobe program and drops it.
pub fn uprobe_programs() -> Support {
    answer(is_program_supported(ProgramType::KProbe))
}

/// Loads an empty raw tracepoint program and drops it.
pub fn raw_tracepoint_programs() -> Support {
    answer(is_program_supported(ProgramType::RawTracePoint))
}

/// Makes a small ring buffer and drops it.
pub fn ring_buffers() -> Support {
    answer(is_map_supported(MapType::RingBuf))
}

fn answer<E: Error + 'static>(result: Result<bool, E>) -> Support {
    match result {
        Ok(true) => Support::Yes,
        Ok(false) => Support::No,
        Err(error) => Support::Refused(os_error(&error).unwrap_or(io::ErrorKind::Other), innermost(&error)),
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn os_error(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    chain(error).find_map(|e| e.downcast_ref::<io::Error>()).map(io::Error::kind)
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map_or_else(String::new, ToString::to_string)
}
