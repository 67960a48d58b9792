//! Our share of the processors: more while the target waits for us, less while nobody does.

use rustix::process::{getpriority_process, setpriority_process};

/// Highest and lowest priority (setpriority(2)).
const HIGHEST: i32 = -20;
const LOWEST: i32 = 19;

/// While it lives, the calling thread, and threads that it starts for good, run before the target's: to attach to or to let
/// go a target that keeps hundreds of threads busy must not take minutes. Without the right to it nothing changes.
#[derive(Debug)]
pub struct Hurry {
    before: i32,
}

impl Hurry {
    #[must_use]
    pub fn new() -> Self {
        let before = getpriority_process(None).unwrap_or(0);
        let _ = setpriority_process(None, HIGHEST);
        Self { before }
    }
}

impl Default for Hurry {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        let _ = setpriority_process(None, self.before);
    }
}

/// While it lives, the calling thread runs when nobody else wants to: what it reads of the target can wait, and the target's requests
/// cannot. Without the right to come back from that nothing changes.
#[derive(Debug)]
pub struct Leisure {
    before: i32,
}

impl Leisure {
    #[must_use]
    pub fn new() -> Self {
        let before = getpriority_process(None).unwrap_or(0);
        if before < LOWEST && setpriority_process(None, before - 1).is_ok() {
            let _ = setpriority_process(None, LOWEST);
        }
        Self { before }
    }
}

impl Default for Leisure {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Leisure {
    fn drop(&mut self) {
        let _ = setpriority_process(None, self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_come_back_does_not_leave() {
        let before = getpriority_process(None).unwrap();
        let leisure = Leisure::new();
        let lowered = getpriority_process(None).unwrap();
        assert!(lowered == LOWEST || lowered == before, "{lowered}");
        drop(leisure);
        assert_eq!(getpriority_process(None).unwrap(), before);
    }

    #[test]
    fn the_priority_is_given_back() {
        let before = getpriority_process(None).unwrap();
        let hurry = Hurry::new();
        let raised = getpriority_process(None).unwrap();
        assert!(raised == HIGHEST || raised == before, "{raised}");
        drop(hurry);
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
