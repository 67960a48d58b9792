//! Our share of the processors, while the target waits for us.

use rustix::process::{getpriority_process, setpriority_process};

/// Highest priority (setpriority(2)).
const HIGHEST: i32 = -20;

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

#[cfg(test)]
mod tests {
    use super::*;

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
