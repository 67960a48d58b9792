//! Loading the BPF object for one target.

use super::multi::MultiError;
use aya::{
    Ebpf, EbpfLoader,
    maps::Array,
    programs::{ProgramError, RawTracePoint, UProbe},
};
use leaktrace_common::{
    site::{self, Site},
    wire::{self, Config},
};
use object::{Object as _, ObjectSection as _};

/// Why the BPF programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("this build of leaktrace has no BPF programs in it; build it with `cargo xtask build`")]
    NoObject,
    #[error(
        "the BPF programs in this build of leaktrace are of another version than the rest of it; build it anew with `cargo xtask build`"
    )]
    OtherVersion,
    #[error("the kernel refused the BPF maps or relocations: {0}")]
    Object(#[from] aya::EbpfError),
    #[error("the kernel refused the BPF program {name}: {source}")]
    Program { name: &'static str, source: Box<ProgramError> },
    #[error("the BPF object has no {0}; this build of leaktrace is inconsistent")]
    Missing(&'static str),
    #[error("the kernel refused to fill the BPF map {name}: {source}")]
    Map { name: &'static str, source: aya::maps::MapError },
    #[error(transparent)]
    Multi(#[from] MultiError),
}

/// Sizes of the kernel's tables.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Most outstanding blocks.
    pub blocks: u32,
    /// Bytes of the ring to user space, a power of two.
    pub ring_bytes: u32,
}

/// Names of the programs in the object.
pub mod program {
    pub const ENTRY: &str = "entry";
    pub const C_RETURN: &str = "c_return";
    /// As the entry program and that, in one.
    pub const C_SESSION: &str = "c_session";
    pub const REFILL_RETURN: &str = "refill_return";
    pub const GC_RETURN: &str = "gc_return";
    /// As the entry program, for the collector's sites beside windows.
    pub const COLLECTOR: &str = "collector";
    /// Does nothing: measures what a probe costs by itself.
    pub const EMPTY: &str = "empty";
    pub const EXEC: &str = "process_exec";
    pub const THREAD_EXIT: &str = "thread_exit";
    pub const FORK: &str = "process_fork";
}

/// Loads the object with the facts of a target and the table of its sites. Nothing is armed yet, but exec, forks and
/// the ends of threads are watched.
pub fn load(object: &[u8], config: &Config, sites: &[Site], sizes: Sizes, verbose: bool) -> Result<Ebpf, LoadError> {
    check_version(object)?;
    let cpus = aya::util::nr_cpus().map_or(1, |cpus| cpus as u32);
    let log_level: u8 = if verbose { 4 } else { 0 };
    let mut ebpf = EbpfLoader::new()
        .override_global("CONFIG", config, true)
        .override_global("AYA_LOG_LEVEL", &log_level, false)
        .map_max_entries("BLOCKS", sizes.blocks)
        .map_max_entries("RING", sizes.ring_bytes)
        .map_max_entries("ROOMS", cpus * wire::ROOMS_OF_CPU)
        .load(object)?;
    let table = ebpf.map_mut("SITES").ok_or(LoadError::Missing("map SITES"))?;
    let map_error = |source| LoadError::Map { name: "SITES", source };
    let mut table = Array::<_, Site>::try_from(table).map_err(map_error)?;
    for site in sites {
        table.set(site::slot(site.ip, config.site_factor), site, 0).map_err(map_error)?;
    }
    tracepoint(&mut ebpf, program::EXEC, "sched_process_exec")?;
    tracepoint(&mut ebpf, program::THREAD_EXIT, "sched_process_exit")?;
    tracepoint(&mut ebpf, program::FORK, "sched_process_fork")?;
    Ok(ebpf)
}

/// The BPF object must be of the same wire version: it would load, and then count nonsense.
fn check_version(object: &[u8]) -> Result<(), LoadError> {
    if object.is_empty() {
        return Err(LoadError::NoObject);
    }
    let elf = object::File::parse(object).ok();
    let section = elf.as_ref().and_then(|elf| elf.section_by_name(wire::VERSION_SECTION));
    let version = section.and_then(|section| section.data().ok()).and_then(|data| data.first_chunk());
    if version == Some(&wire::VERSION.to_le_bytes()) { Ok(()) } else { Err(LoadError::OtherVersion) }
}

fn tracepoint(ebpf: &mut Ebpf, name: &'static str, event: &str) -> Result<(), LoadError> {
    let failed = |source| LoadError::Program { name, source: Box::new(source) };
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
    let program: &mut RawTracePoint = program.try_into().map_err(failed)?;
    program.load().map_err(failed)?;
    program.attach(event).map_err(failed)?;
    Ok(())
}

/// One of the uprobe programs, loaded when it is first asked for: the verifier takes 0.1 s for each.
pub fn uprobe<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut UProbe, LoadError> {
    let failed = |source| LoadError::Program { name, source: Box::new(source) };
    let program: &mut UProbe = ebpf.program_mut(name).ok_or(LoadError::Missing(name))?.try_into().map_err(failed)?;
    if program.fd().is_err() {
        program.load().map_err(failed)?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracer::object::OBJECT;

    #[test]
    fn an_object_of_another_wire_version_is_refused_before_anything_is_loaded() {
        let refused =
            |object: &[u8]| load(object, &Config::ZERO, &[], Sizes { blocks: 1, ring_bytes: 4096 }, false).unwrap_err();
        assert!(matches!(refused(&[]), LoadError::NoObject));
        assert!(matches!(refused(b"no ELF file"), LoadError::OtherVersion));
        if OBJECT.is_empty() {
            eprintln!("no BPF object in this build: an older one could not be tried");
            return;
        }
        check_version(OBJECT).unwrap();
        let version = wire::VERSION.to_le_bytes();
        let at = OBJECT.windows(version.len()).position(|bytes| bytes == version).unwrap();
        let mut older = OBJECT.to_vec();
        older[at] ^= 1;
        assert!(matches!(refused(&older), LoadError::OtherVersion));
    }
}
