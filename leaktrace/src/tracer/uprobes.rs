//! The programs that are armed on instructions, and the two ways to arm them.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::{Ebpf, util::KernelVersion};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};

use super::{
    attach::{AttachError, Group, Point},
    cost::Runs,
    load::{self, LoadError, program},
    multi::{self, Link, Told},
    object,
};

/// From this version on a link lets go of all its instructions before it waits, once, for who is still at one of them
/// (`uprobe_unregister_nosync`, `kernel/trace/bpf_trace.c`, 6.12), and its filter knows all threads of a process (6.10).
const LINKS_SINCE: KernelVersion = KernelVersion::new(6, 12, 0);
/// From this one on links know sessions (`BPF_TRACE_UPROBE_SESSION`, `include/uapi/linux/bpf.h`). Older ones load such a program and refuse
/// the link.
const SESSIONS_SINCE: KernelVersion = KernelVersion::new(6, 13, 0);

/// How instructions are armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A tracefs event and a perf event on it. The breakpoints that a fork copies go as soon as the child hits them.
    Group,
    /// A link for each file, let go of three times as fast. A child keeps its copies until then, so it is for moments.
    Link,
}

/// Armed instructions. Dropping it disarms them.
#[derive(Debug)]
pub enum Armed {
    Group(Group),
    Links(Vec<Link>),
}

impl Armed {
    /// The parts that can be let go of at the same time: the kernel has one for each file, and waits with each for its threads.
    pub fn into_parts(self) -> Vec<Self> {
        match self {
            Self::Group(_) => vec![self],
            Self::Links(links) => links.into_iter().map(|link| Self::Links(vec![link])).collect(),
        }
    }
}

/// Loaded programs.
#[derive(Debug)]
pub struct Uprobes {
    way: Way,
    programs: Vec<(&'static str, OwnedFd)>,
}

impl Uprobes {
    /// Loads the programs `names` of the object that `ebpf` was made of, which still has all of its maps. Where the kernel does not
    /// know links (6.6) or is slow with them, it is groups.
    pub fn load(ebpf: &mut Ebpf, names: &[&'static str], way: Way) -> Result<Self, LoadError> {
        if way == Way::Link && KernelVersion::current().is_ok_and(|version| version >= LINKS_SINCE) {
            let programs = multi::Programs::of(object::OBJECT, ebpf)?;
            let load = |&name: &&'static str| Ok((name, programs.load(name, Told::Entries)?));
            let mut loaded = names.iter().map(load).collect::<Result<Vec<_>, LoadError>>()?;
            let knows_sessions = KernelVersion::current().is_ok_and(|version| version >= SESSIONS_SINCE);
            if knows_sessions && names.contains(&program::C_RETURN) {
                match programs.load(program::C_SESSION, Told::Sessions) {
                    Ok(session) => loaded.push((program::C_SESSION, session)),
                    Err(error) => log::debug!("no sessions: {error}"),
                }
            }
            return Ok(Self { way, programs: loaded });
        }
        let mut programs = Vec::new();
        for &name in names {
            let failed = |source| LoadError::Program { name, source: Box::new(source) };
            let fd = load::uprobe(ebpf, name)?.fd().map_err(failed)?.as_fd();
            programs.push((name, fd.try_clone_to_owned().map_err(|source| failed(source.into()))?));
        }
        Ok(Self { way: Way::Group, programs })
    }

    pub fn way(&self) -> Way {
        self.way
    }

    /// Whether functions can be armed with [`Told::Sessions`], by the program [`program::C_SESSION`].
    pub fn has_sessions(&self) -> bool {
        self.program(program::C_SESSION).is_some()
    }

    /// Arms `points` of process `pid` with the program `name`, for what that is to be `told` of them. `event` names a group in
    /// `tracefs`.
    pub fn arm(
        &self,
        name: &'static str,
        tracefs: &Path,
        event: &str,
        points: &[Point<'_>],
        told: Told,
        pid: u32,
    ) -> Result<Armed, AttachError> {
        let program = self.program(name).ok_or(AttachError::NoProgram(name))?;
        if self.way == Way::Group {
            return Group::arm(tracefs, event, points, told == Told::Returns, program, pid).map(Armed::Group);
        }
        let mut rest: Vec<Point<'_>> = points.to_vec();
        let mut links = Vec::new();
        while let Some(file) = rest.first().map(|point| point.file) {
            let offsets: Vec<u64> = rest.extract_if(.., |point| point.file == file).map(|point| point.offset).collect();
            links.push(Link::arm(file, &offsets, told, program, pid)?);
        }
        Ok(Armed::Links(links))
    }

    /// Runs of all programs but the empty one while statistics were on, and the time they took; `of_sessions`: how often sessions were
    /// told of a return meanwhile. See [`super::cost::enable_statistics`].
    pub fn runs(&self, of_sessions: u64) -> Runs {
        let mut runs = Runs::default();
        for (name, fd) in self.programs.iter().filter(|(name, _)| *name != program::EMPTY) {
            let Some(info) = info(fd.as_fd()) else { continue };
            if *name == program::C_SESSION {
                let returns = of_sessions.min(info.run_cnt);
                runs.returns += returns;
                runs.entries += info.run_cnt - returns;
                runs.nanos += info.run_time_ns;
                continue;
            }
            let of_kind = match *name {
                program::ENTRY | program::COLLECTOR => &mut runs.entries,
                program::REFILL_RETURN => &mut runs.lone_returns,
                _ => &mut runs.returns,
            };
            *of_kind += info.run_cnt;
            runs.nanos += info.run_time_ns;
        }
        runs
    }

    fn program(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.programs.iter().find(|(of, _)| *of == name).map(|(_, fd)| fd.as_fd())
    }
}

fn info(program: BorrowedFd<'_>) -> Option<bpf_prog_info> {
    // SAFETY: both are made of integers; all zero asks for no lists.
    let (mut info, mut attr): (bpf_prog_info, bpf_attr) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    attr.info.bpf_fd = program.as_raw_fd() as u32;
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    // SAFETY: `attr` is a whole bpf_attr that points to a whole bpf_prog_info.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_OBJ_GET_INFO_BY_FD as libc::c_int,
            &raw mut attr,
            size_of::<bpf_attr>(),
        )
    };
    (result == 0).then_some(info)
}
