//! Loading the BPF object for one target.

use aya::{
    Ebpf, EbpfLoader,
    maps::Array,
    programs::{ProgramError, RawTracePoint, UProbe},
};
use leaktrace_common::{
    site::{self, Site},
    wire::Config,
};

/// Why the BPF programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("this build of leaktrace has no BPF programs in it; build it with `cargo xtask build`")]
    NoObject,
    #[error("the kernel refused the BPF maps or relocations: {0}")]
    Object(#[from] aya::EbpfError),
    #[error("the kernel refused the BPF program {name}: {source}")]
    Program { name: &'static str, source: Box<ProgramError> },
    #[error("the BPF object has no {0}; this build of leaktrace is inconsistent")]
    Missing(&'static str),
    #[error("the kernel refused to fill the BPF map {name}: {source}")]
    Map { name: &'static str, source: aya::maps::MapError },
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
    pub const REFILL_RETURN: &str = "refill_return";
    pub const GC_RETURN: &str = "gc_return";
    /// Does nothing: measures what a probe costs by itself.
    pub const EMPTY: &str = "empty";
    pub const EXEC: &str = "process_exec";
    pub const THREAD_EXIT: &str = "thread_exit";
}

/// Loads the object with the facts of a target and the table of its sites. Nothing is armed yet, but exec and the
/// ends of threads are watched.
pub fn load(object: &[u8], config: &Config, sites: &[Site], sizes: Sizes, verbose: bool) -> Result<Ebpf, LoadError> {
    if object.is_empty() {
        return Err(LoadError::NoObject);
    }
    let log_level: u8 = if verbose { 4 } else { 0 };
    let mut ebpf = EbpfLoader::new()
        .override_global("CONFIG", config, true)
        .override_global("AYA_LOG_LEVEL", &log_level, false)
        .map_max_entries("BLOCKS", sizes.blocks)
        .map_max_entries("RING", sizes.ring_bytes)
        .load(object)?;
    let table = ebpf.map_mut("SITES").ok_or(LoadError::Missing("map SITES"))?;
    let map_error = |source| LoadError::Map { name: "SITES", source };
    let mut table = Array::<_, Site>::try_from(table).map_err(map_error)?;
    for site in sites {
        table.set(site::slot(site.ip, config.site_factor), site, 0).map_err(map_error)?;
    }
    tracepoint(&mut ebpf, program::EXEC, "sched_process_exec")?;
    tracepoint(&mut ebpf, program::THREAD_EXIT, "sched_process_exit")?;
    Ok(ebpf)
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
