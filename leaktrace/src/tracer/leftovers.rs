//! What a killed leaktrace leaves behind, and its removal.
//!
//! Its perf events die with it, and nearly always that takes the breakpoints out. Two things can stay:
//!
//! * the definitions in tracefs, which are inert;
//! * some breakpoints, if SIGKILL came while the kernel was setting or removing them: to change a page of the target, the
//!   kernel looks it up with `get_user_pages_remote`, which gives up (`-EINTR`) as soon as the *caller* has a fatal signal;
//!   so the rest of the group, and the way back, fail too ("failed to unregister, leaking uprobe", kernel/events/uprobes.c,
//!   Linux 6.18). The target then goes on, but pays for each of them. Setting the same breakpoints anew and removing them
//!   mends that: the definitions tell which.
//!
//! This is done at once by the [guardian](super::guardian), and by the next leaktrace for one that was killed with it.

use std::{
    fmt, fs,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use super::attach::{perf_event, undefine};
use crate::target::{Maps, Memory, ProcessMemory, process::start_time};

/// Group names start with this; [`Owner`] is the rest.
const PREFIX: &str = "leaktrace";
/// `int3`, which the kernel writes over the first byte of a probed instruction.
const BREAKPOINT: u8 = 0xcc;
/// How long another process that is mending the same event may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// A process that cannot be taken for a later one with its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    pid: u32,
    /// Clock ticks since boot.
    started: u64,
}

impl Identity {
    fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: start_time(pid)? })
    }

    fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// The leaktrace that defined an event, and its target. As text it is the name of the event's group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    maker: Identity,
    target: Identity,
}

impl Owner {
    /// This process, tracing process `target`.
    #[must_use]
    pub fn here(target: u32) -> Self {
        let identity = |pid| Identity::of(pid).unwrap_or(Identity { pid, started: 0 });
        Self { maker: identity(std::process::id()), target: identity(target) }
    }

    /// The inverse of its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.strip_prefix(PREFIX)?.strip_prefix('_')?.split('_').map(str::parse::<u64>);
        let mut identity =
            || Some(Identity { pid: fields.next()?.ok()?.try_into().ok()?, started: fields.next()?.ok()? });
        let owner = Self { maker: identity()?, target: identity()? };
        fields.next().is_none().then_some(owner)
    }

    /// Pid of the leaktrace.
    #[must_use]
    pub fn maker(&self) -> u32 {
        self.maker.pid
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { maker, target } = self;
        write!(f, "{PREFIX}_{}_{}_{}_{}", maker.pid, maker.started, target.pid, target.started)
    }
}

/// Removes what leaktraces that have died left behind.
pub fn sweep_dead(tracefs: &Path) {
    sweep(tracefs, |owner| !owner.maker.lives());
}

/// Removes what one leaktrace left behind, which is known to be dead though its parent may not have noticed yet.
pub fn sweep_of(tracefs: &Path, dead: Owner) {
    sweep(tracefs, |owner| *owner == dead);
}

fn sweep(tracefs: &Path, is_dead: impl Fn(&Owner) -> bool) {
    let Ok(text) = fs::read_to_string(tracefs.join("uprobe_events")) else { return };
    let mut events: Vec<Event<'_>> = Vec::new();
    for (name, offset) in text.lines().filter_map(definition) {
        if let Some(event) = events.iter_mut().find(|event| event.name == name) {
            event.offsets.extend(offset);
        } else if let Some(owner) = name.split('/').next().and_then(Owner::parse).filter(|owner| is_dead(owner)) {
            events.push(Event { name, target: owner.target, offsets: Vec::from_iter(offset) });
        }
    }
    for event in events {
        event.remove(tracefs);
    }
}

/// `GROUP/EVENT` and the offset in the file, of a line `p:GROUP/EVENT PATH:0xOFFSET` of `uprobe_events`.
fn definition(line: &str) -> Option<(&str, Option<u64>)> {
    let (name, place) = line.split_once(':')?.1.split_once(' ')?;
    let offset = place.rsplit_once(":0x").map(|(_, digits)| digits.split(['(', ' ', '%']).next().unwrap_or(digits));
    Some((name, offset.and_then(|digits| u64::from_str_radix(digits, 16).ok())))
}

/// A definition whose maker is dead.
struct Event<'a> {
    name: &'a str,
    target: Identity,
    offsets: Vec<u64>,
}

impl Event<'_> {
    fn remove(&self, tracefs: &Path) {
        if self.target.lives() && self.is_armed() {
            // Setting them again, by a process that nobody has killed, and closing: nothing to do with the result.
            drop(perf_event(tracefs, self.name, self.target.pid));
        }
        let begin = Instant::now();
        // Busy: another process is at it.
        while undefine(tracefs, self.name).is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY))
            && begin.elapsed() < PATIENCE
        {
            sleep(Duration::from_millis(10));
        }
    }

    /// Whether one of its breakpoints is in the target's text.
    fn is_armed(&self) -> bool {
        let pid = self.target.pid;
        let Ok(maps) = fs::read(format!("/proc/{pid}/maps")) else { return false };
        let memory = ProcessMemory::new(pid);
        Maps::parse(&maps).iter().filter(|mapping| mapping.executable && mapping.file.is_some()).any(|mapping| {
            let range = &mapping.range;
            let file = format!("/proc/{pid}/map_files/{:x}-{:x}", range.start, range.end);
            let Ok(file) = File::open(file) else { return false };
            self.offsets.iter().any(|&offset| {
                let Some(inside) = offset.checked_sub(mapping.offset).filter(|&inside| inside < mapping.len()) else {
                    return false;
                };
                let (mut seen, mut truth) = ([0], [0]);
                let read: io::Result<()> = file.read_exact_at(&mut truth, offset);
                let read = read.is_ok() && memory.read(range.start + inside, &mut seen).is_ok();
                read && seen[0] == BREAKPOINT && truth[0] != BREAKPOINT
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_its_text() {
        let owner = Owner::here(1);
        assert_eq!(Owner::parse(&owner.to_string()), Some(owner));
        assert!(owner.maker.lives());
        for other in ["leaktrace_1_2_3", "leaktrace_1_2_3_4_5", "leaktrace1_2_3_4", "sched", "leaktrace_a_2_3_4", ""] {
            assert_eq!(Owner::parse(other), None, "{other}");
        }
        let later = Owner { maker: Identity { started: owner.maker.started + 1, ..owner.maker }, ..owner };
        assert!(!later.maker.lives());
    }

    #[test]
    fn definitions_as_the_kernel_prints_them() {
        let line = "p:leaktrace_1_2_3_4/entry /usr/bin/python3.11:0x00000000000fb54e";
        assert_eq!(definition(line), Some(("leaktrace_1_2_3_4/entry", Some(0xfb54e))));
        let line = "r:leaktrace_1_2_3_4/gc_return /opt/a b/x:0x10";
        assert_eq!(definition(line), Some(("leaktrace_1_2_3_4/gc_return", Some(0x10))));
        assert_eq!(definition("p:kprobes/p_x 0x10"), Some(("kprobes/p_x", None)));
        assert_eq!(definition("nonsense"), None);
    }
}
