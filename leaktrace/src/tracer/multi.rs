//! Arming many instructions of a file as one link (`uprobe_multi`, Linux 6.6), where the kernel has it.
//!
//! A perf event on a group of probes ([`super::attach`]) lets go of them more slowly: of 464 breakpoints in an idle process the last
//! is gone 26 to 45 ms after the close, a link's after 9 to 12 ms (6.18; `docs/watch-measured.md`).
//! aya 0.14 has no programs for it, so they are loaded here from the same object, on the same maps.

use std::{
    collections::HashSet,
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use aya::{Ebpf, maps::Map};
use aya_obj::{
    Object,
    generated::{bpf_attr, bpf_cmd, bpf_prog_type},
};

use super::attach::AttachError;

/// `BPF_F_UPROBE_MULTI_RETURN` (`include/uapi/linux/bpf.h`, Linux 6.6).
const RETURN: u32 = 1;
/// `BPF_TRACE_UPROBE_MULTI` and `BPF_TRACE_UPROBE_SESSION` of `bpf_attach_type` (`include/uapi/linux/bpf.h`, Linux 6.6 and 6.13).
const UPROBE_MULTI: u32 = 48;
const UPROBE_SESSION: u32 = 57;
/// Bytes kept of what the verifier says of a program that it refuses.
const LOG_BYTES: usize = 1 << 16;

/// The object's programs, ready to be loaded for links.
pub struct Programs {
    object: Object,
    /// Type information of the object, which the kernel asks for where a program has global functions.
    btf: Option<OwnedFd>,
}

impl std::fmt::Debug for Programs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Programs").field("btf", &self.btf).finish_non_exhaustive()
    }
}

/// What of an instruction, or of the function that begins there, a link tells a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Entries,
    Returns,
    /// Entries, and the returns of those for which the program gives 0 (Linux 6.13).
    Sessions,
}

impl Told {
    fn attach_type(self) -> u32 {
        if self == Self::Sessions { UPROBE_SESSION } else { UPROBE_MULTI }
    }
}

/// Why a program cannot be loaded for links.
#[derive(Debug, thiserror::Error)]
pub enum MultiError {
    #[error("the BPF object cannot be read again: {0}")]
    Object(String),
    #[error("the BPF object has no program {0}; this build of leaktrace is inconsistent")]
    Missing(&'static str),
    #[error("the kernel refused the BPF program {name}: {source}; its last words: {log}")]
    Refused { name: &'static str, source: io::Error, log: String },
}

impl Programs {
    /// The programs of `object` on the maps of `ebpf`, which was made of the same bytes and still has all of them.
    pub fn of(object: &[u8], ebpf: &Ebpf) -> Result<Self, MultiError> {
        let unreadable = |error: &dyn std::fmt::Display| MultiError::Object(error.to_string());
        let mut object = Object::parse(object).map_err(|e| unreadable(&e))?;
        let features = aya::features();
        let btf = match features.btf() {
            Some(features) => object.fixup_and_sanitize_btf(features).map_err(|e| unreadable(&e))?,
            None => None,
        };
        let btf = btf.and_then(|btf| load_btf(&btf.to_bytes()).ok());
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let maps = std::mem::take(&mut object.maps);
        let known = maps.iter().filter_map(|(name, map)| Some((name.as_str(), map_fd(ebpf.map(name)?)?, map)));
        object.relocate_maps(known, &sections).map_err(|e| unreadable(&e))?;
        object.relocate_calls(&sections).map_err(|e| unreadable(&e))?;
        object.sanitize_functions(features);
        Ok(Self { object, btf })
    }

    /// Loads a program so that [`Link::arm`] takes it for what it is to be `told`.
    pub fn load(&self, name: &'static str, told: Told) -> Result<OwnedFd, MultiError> {
        let program = self.object.programs.get(name).ok_or(MultiError::Missing(name))?;
        let function = self.object.functions.get(&program.function_key()).ok_or(MultiError::Missing(name))?;
        let (functions, lines) = (function.func_info.func_info_bytes(), function.line_info.line_info_bytes());
        let mut log = vec![0u8; LOG_BYTES];
        let mut try_it = |log_level: u32| {
            let mut attr = zeroed();
            // SAFETY: the part of the union that BPF_PROG_LOAD reads, all of it zero before.
            let load = unsafe { &mut attr.__bindgen_anon_3 };
            for (to, from) in load.prog_name.iter_mut().zip(name.bytes().take(15)) {
                *to = from as libc::c_char;
            }
            load.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
            load.expected_attach_type = told.attach_type();
            load.insns = function.instructions.as_ptr() as u64;
            load.insn_cnt = function.instructions.len() as u32;
            load.license = program.license.as_ptr() as u64;
            if let Some(btf) = &self.btf {
                load.prog_btf_fd = btf.as_raw_fd() as u32;
                if function.line_info_rec_size > 0 {
                    load.line_info = lines.as_ptr() as u64;
                    load.line_info_cnt = function.line_info.len() as u32;
                    load.line_info_rec_size = function.line_info_rec_size as u32;
                }
                if function.func_info_rec_size > 0 {
                    load.func_info = functions.as_ptr() as u64;
                    load.func_info_cnt = function.func_info.len() as u32;
                    load.func_info_rec_size = function.func_info_rec_size as u32;
                }
            }
            if log_level > 0 {
                load.log_level = log_level;
                load.log_buf = log.as_mut_ptr() as u64;
                load.log_size = log.len() as u32;
            }
            // SAFETY: `attr` points to instructions, texts and tables that live until the call returns.
            unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &attr) }
        };
        try_it(0).or_else(|_| try_it(1)).map_err(|source| {
            let text = String::from_utf8_lossy(&log);
            let text = text.trim_end_matches(['\0', '\n']).lines().rev().take(3).collect::<Vec<_>>();
            MultiError::Refused { name, source, log: text.join("; ") }
        })
    }
}

/// Armed instructions of one file. Dropping it disarms them.
#[derive(Debug)]
pub struct Link(#[expect(dead_code, reason = "held for its end: closing it disarms")] OwnedFd);

impl Link {
    /// Arms the instructions at `offsets` of `file` in process `pid`, in all its threads, for what is to be `told` of them.
    pub fn arm(
        file: &Path,
        offsets: &[u64],
        told: Told,
        program: BorrowedFd<'_>,
        pid: u32,
    ) -> Result<Self, AttachError> {
        let refused = |source| AttachError::Link { file: file.display().to_string(), count: offsets.len(), source };
        let path = CString::new(file.as_os_str().as_bytes()).map_err(|e| refused(e.into()))?;
        let mut attr = zeroed();
        // SAFETY: the part of the union that BPF_LINK_CREATE reads, all of it zero before.
        unsafe {
            attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
            attr.link_create.attach_type = told.attach_type();
            let multi = &mut attr.link_create.__bindgen_anon_3.uprobe_multi;
            multi.path = path.as_ptr() as u64;
            multi.offsets = offsets.as_ptr() as u64;
            multi.cnt = offsets.len() as u32;
            multi.flags = if told == Told::Returns { RETURN } else { 0 };
            multi.pid = pid;
        }
        // SAFETY: `attr` points to a path and to offsets that live until the call returns.
        unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, &attr) }.map(Self).map_err(refused)
    }
}

fn load_btf(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: the part of the union that BPF_BTF_LOAD reads, all of it zero before.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = bytes.as_ptr() as u64;
    load.btf_size = bytes.len() as u32;
    // SAFETY: `attr` points to bytes that live until the call returns.
    unsafe { bpf(bpf_cmd::BPF_BTF_LOAD, &attr) }
}

/// The descriptor that a command of bpf(2) makes.
///
/// # Safety
///
/// What `attr` points to must be as the command says, until this returns.
unsafe fn bpf(command: bpf_cmd, attr: &bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is a whole bpf_attr; the rest is the caller's.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_int, std::ptr::from_ref(attr), size_of::<bpf_attr>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn zeroed() -> bpf_attr {
    // SAFETY: bpf_attr is a union of structs of integers.
    unsafe { std::mem::zeroed() }
}

/// The descriptor of a map of any of the kinds that the object has.
fn map_fd(map: &Map) -> Option<i32> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::PerCpuArray(data)
        | Map::ProgramArray(data)
        | Map::PerfEventArray(data)
        | Map::RingBuf(data) => Some(data.fd().as_fd().as_raw_fd()),
        _ => None,
    }
}
