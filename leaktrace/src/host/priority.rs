//! Our share of the processors: more while the target waits for us, less while nobody does.

use rustix::process::{getpriority_process, setpriority_process};

/// Highest and lowest priority (setpriority(2)).
const HIGHEST: i32 = -20;
const LOWEST: i32 = 19;

/// Another priority of the calling thread, and of threads that it starts for good, which is given back when this is dropped.
#[derive(Debug)]
pub struct Priority {
    before: i32,
}

impl Priority {
    /// Before the target's threads: to attach to or to let go a target that keeps hundreds of them busy must not take minutes. Without
    /// the right to it nothing changes.
    #[must_use]
    pub fn hurry() -> Self {
        let priority = Self::current();
        let _ = setpriority_process(None, HIGHEST);
        priority
    }

    /// When nobody else wants to run: what is read of the target can wait, and the target's requests cannot. Without the right to come
    /// back from that nothing changes.
    #[must_use]
    pub fn leisure() -> Self {
        let priority = Self::current();
        if priority.before < LOWEST && setpriority_process(None, priority.before - 1).is_ok() {
            let _ = setpriority_process(None, LOWEST);
        }
        priority
    }

    fn current() -> Self {
        Self { before: getpriority_process(None).unwrap_or(0) }
    }
}

impl Drop for Priority {
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
        for (other, priority) in [(HIGHEST, Priority::hurry as fn() -> Priority), (LOWEST, Priority::leisure)] {
            let priority = priority();
            let now = getpriority_process(None).unwrap();
            assert!(now == other || now == before, "{now}");
            drop(priority);
            assert_eq!(getpriority_process(None).unwrap(), before);
        }
    }
}
