//! Where the running kernel keeps what the BPF programs read of a task.

use std::path::Path;

use btf_rs::{Btf, Type};

/// The kernel's own type information.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    #[error("cannot read {VMLINUX}: {0}; leaktrace needs a kernel built with CONFIG_DEBUG_INFO_BTF")]
    Btf(btf_rs::Error),
    #[error("{VMLINUX} does not tell where {structure}.{member} is")]
    Member { structure: &'static str, member: &'static str },
}

/// Offset in bytes of `thread.fsbase` in `task_struct`: the user-space fs base of a thread, which is its `pthread_self()`.
pub fn fsbase_offset() -> Result<u32, TaskError> {
    let btf = Btf::from_file(Path::new(VMLINUX)).map_err(TaskError::Btf)?;
    let (thread, _) = member(&btf, "task_struct", "thread")?;
    let (fsbase, _) = member(&btf, "thread_struct", "fsbase")?;
    Ok((thread + fsbase) / 8)
}

/// Bit offset and type of a member of a structure.
fn member(btf: &Btf, structure: &'static str, name: &'static str) -> Result<(u32, Type), TaskError> {
    let unknown = || TaskError::Member { structure, member: name };
    for found in btf.resolve_types_by_name(structure).map_err(TaskError::Btf)? {
        let Type::Struct(found) = found else { continue };
        for m in &found.members {
            if btf.resolve_name(m).is_ok_and(|n| n == name) {
                return Ok((m.bit_offset(), btf.resolve_chained_type(m).map_err(TaskError::Btf)?));
            }
        }
    }
    Err(unknown())
}
