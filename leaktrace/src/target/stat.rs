//! What `/proc/PID/stat` and `/proc/PID/status` say of a process.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::process::TargetError;

/// The fields used of `/proc/PID/stat` (proc_pid_stat(5)).
pub(super) struct Stat {
    pub(super) state: char,
    pub(super) flags: u64,
    pub(super) cpu_ticks: u64,
    pub(super) start_time: u64,
    pub(super) start_code: u64,
    pub(super) start_stack: u64,
}

impl Stat {
    pub(super) fn read(pid: u32) -> Result<Self, TargetError> {
        let bytes = fs::read(proc_path(pid, "stat")).map_err(|e| not_there(pid, e))?;
        Self::parse(&bytes).ok_or(TargetError::Gone { pid })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        // The name, field 2, may hold anything, parentheses too: the last one closes it.
        let after_name = bytes.iter().rposition(|&b| b == b')')? + 1;
        let text = std::str::from_utf8(&bytes[after_name..]).ok()?;
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            flags: number(9)?,
            cpu_ticks: number(14)? + number(15)?,
            start_time: number(22)?,
            start_code: number(26)?,
            start_stack: number(28)?,
        })
    }
}

/// `/proc/PID/status`, which may hold bytes that are not UTF-8 (the name).
pub(super) struct Status(String);

impl Status {
    pub(super) fn read(pid: u32) -> Result<Self, TargetError> {
        let bytes = fs::read(proc_path(pid, "status")).map_err(|e| not_there(pid, e))?;
        Ok(Self(String::from_utf8_lossy(&bytes).into_owned()))
    }

    pub(super) fn numbers(&self, key: &str) -> Vec<u64> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.map_or(Vec::new(), |line| line.split_ascii_whitespace().map_while(|n| n.parse().ok()).collect())
    }

    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.numbers(key).first().copied()
    }
}

pub(super) fn proc_path(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

fn not_there(pid: u32, e: io::Error) -> TargetError {
    match TargetError::from_io(pid, "the state", e) {
        TargetError::Gone { pid } => TargetError::NoSuchProcess { pid },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_parentheses() {
        let fields = (4..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let stat = Stat::parse(format!("7 (a) R 1 (b) S {fields}\n").as_bytes()).unwrap();
        assert_eq!((stat.state, stat.flags, stat.cpu_ticks, stat.start_time), ('S', 9, 29, 22));
        assert!(Stat::parse(b"7 (a").is_none() && Stat::parse(b"7 (a) S 1").is_none());
    }
}
