//! One leaktrace a target: two would pay twice and see each other's cost.

use std::fs::File;
use std::io;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Why a target could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("another leaktrace traces process {pid}")]
    Taken { pid: u32 },
    #[error("cannot claim process {pid}: {source}")]
    Io { pid: u32, source: io::Error },
}

/// The right to trace a process, until it is dropped or this process dies.
///
/// It is a lock on the directory `/proc/PID`: there is no file to leave behind, and it cannot outlive either side.
#[derive(Debug)]
pub struct Claim {
    _directory: File,
}

impl Claim {
    pub fn new(pid: u32) -> Result<Self, ClaimError> {
        let directory = File::open(format!("/proc/{pid}")).map_err(|source| ClaimError::Io { pid, source })?;
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _directory: directory }),
            Err(Errno::WOULDBLOCK) => Err(ClaimError::Taken { pid }),
            Err(e) => Err(ClaimError::Io { pid, source: e.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_claimed_once() {
        let pid = std::process::id();
        let first = Claim::new(pid).unwrap();
        assert!(matches!(Claim::new(pid), Err(ClaimError::Taken { .. })));
        drop(first);
        Claim::new(pid).unwrap();
    }

    #[test]
    fn no_process() {
        assert!(matches!(Claim::new(u32::MAX), Err(ClaimError::Io { .. })));
    }
}
