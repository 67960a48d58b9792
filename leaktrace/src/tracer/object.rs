//! The BPF programs, inside this executable.

/// The BPF object, empty in a build that was made without it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LEAKTRACE_BPF_OBJECT"));
