//! Facts of /proc about a process of ours, and the signal that ends it.

use std::collections::BTreeMap;
use std::fs;
use std::process::Child;

use anyhow::{Context, Result};

/// User and system CPU seconds so far, all threads (`/proc/PID/stat`, fields 14 and 15).
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let after_name = stat.rsplit_once(')').context("no name in stat")?.1;
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // SAFETY: sysconf has no preconditions.
    let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(ticks as f64 / hertz as f64)
}

/// A line of `/proc/PID/status` or `/proc/meminfo` that is given in kB, in bytes.
pub(crate) fn kilobytes(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kilobytes: u64 = line
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no {name} in {path}"))?;
    Ok(kilobytes * 1024)
}

/// Kernel memory of the BPF maps and programs that a process holds, bytes: `memlock` of `/proc/PID/fdinfo/*`, each once.
pub(crate) fn bpf_bytes(pid: u32) -> Result<u64> {
    let folder = format!("/proc/{pid}/fdinfo");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
    // A descriptor may be closed meanwhile.
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let objects: BTreeMap<String, u64> = texts.filter_map(|text| bpf_object(&text)).collect();
    Ok(objects.values().sum())
}

/// Identity and bytes of the BPF object that a descriptor names.
fn bpf_object(fdinfo: &str) -> Option<(String, u64)> {
    let field = |name: &str| fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let identity = ["map_id", "prog_id"].iter().find_map(|kind| Some(format!("{kind} {}", field(kind)?.trim())))?;
    Some((identity, field("memlock")?.trim().parse().ok()?))
}

/// Asks a child to end as Ctrl-C does.
pub(crate) fn interrupt(child: &Child) {
    // SAFETY: the pid is that of a child which has not been waited for, so it names no other process.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpf_objects_of_descriptors() {
        let map = "pos:\t0\nflags:\t02000002\nmap_type:\t1\nmemlock:\t8192\nmap_id:\t7\nfrozen:\t0\n";
        assert_eq!(bpf_object(map), Some(("map_id 7".to_owned(), 8192)));
        assert_eq!(bpf_object("pos:\t0\nflags:\t02\n"), None);
    }

    #[test]
    fn this_process() {
        let pid = std::process::id();
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
        assert!(kilobytes(&format!("/proc/{pid}/status"), "VmRSS").unwrap() > 100_000);
        assert_eq!(bpf_bytes(pid).unwrap(), 0);
    }
}
