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

/// Resident bytes of the BPF maps that a process has mapped: part of its resident set, and of [`bpf_bytes`] as well.
pub(crate) fn mapped_bpf_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps");
    Ok(mapped_bpf(&fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?))
}

fn mapped_bpf(smaps: &str) -> u64 {
    let mut kilobytes = 0;
    let mut is_bpf = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") if is_bpf => kilobytes += words.next().and_then(|rss| rss.parse().ok()).unwrap_or(0),
            // A mapping's head: "START-END PERMISSIONS OFFSET DEVICE INODE NAME".
            Some(range) if !range.ends_with(':') => is_bpf = words.nth(4).is_some_and(|name| name.contains("bpf-map")),
            _ => {}
        }
    }
    kilobytes * 1024
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
    fn mapped_maps() {
        let smaps = "\
7f718adff000-7f718ce00000 r--s 00001000 00:10 1038                       anon_inode:bpf-map
Size:              32772 kB
Rss:               32772 kB
7f718ce00000-7f718d200000 rw-p 00000000 00:00 0
Rss:                4096 kB
7f718dc2b000-7f718dc2c000 rw-s 00000000 00:10 1038                       anon_inode:bpf-map
Rss:                   4 kB
";
        assert_eq!(mapped_bpf(smaps), 32776 * 1024);
    }

    #[test]
    fn this_process() {
        let pid = std::process::id();
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
        assert!(kilobytes(&format!("/proc/{pid}/status"), "VmRSS").unwrap() > 100_000);
        assert_eq!((bpf_bytes(pid).unwrap(), mapped_bpf_bytes(pid).unwrap()), (0, 0));
    }
}
