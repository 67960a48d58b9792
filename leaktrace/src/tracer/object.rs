<<<<<<< HEAD
//! The BPF programs, inside this executable.

/// The BPF object, empty in a build that was made without it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LEAKTRACE_BPF_OBJECT"));
=======
//! The BPF programs, embedded in the executable.

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LEAKTRACE_BPF_OBJECT"));

/// leaktrace was compiled by cargo alone, without the BPF programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this build of leaktrace has no BPF programs: build it with `cargo xtask build`")]
pub struct MissingObject;

/// The ELF object with the programs and maps, aligned as aya's loader needs it.
pub fn embedded() -> Result<&'static [u8], MissingObject> {
    if OBJECT.is_empty() { Err(MissingObject) } else { Ok(OBJECT) }
}
>>>>>>> b6b6ced (CLI, doctor and the host room: kernel, privileges, tracefs, claim on a target, stop signals)
