//! Processes of ours: facts of /proc, lines that they say, signals that end them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::process::{Child, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

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

/// User and system CPU seconds of all children that have ended and been waited for, and of theirs.
pub(crate) fn reaped_cpu_seconds() -> f64 {
    // SAFETY: all zeroes are a value of this structure of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is there to be written to; the call cannot fail otherwise.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
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

/// Waits until a child has ended by itself; one that takes longer is killed, and that is an error.
pub(crate) fn wait_for(child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        sleep(Duration::from_millis(2));
    }
    child.kill()?;
    child.wait()?;
    bail!("it did not end within {} s and was killed", patience.as_secs())
}

/// The next line of a pipe, `None` at its end; an error when nothing comes in time.
pub(crate) fn next_line(pipe: &mut BufReader<impl Read + AsRawFd>, patience: Duration) -> Result<Option<String>> {
    let mut poll = libc::pollfd { fd: pipe.get_ref().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let wait = i32::try_from(patience.as_millis())?;
    // SAFETY: one pollfd is passed, and one is told.
    match if pipe.buffer().is_empty() { unsafe { libc::poll(&raw mut poll, 1, wait) } } else { 1 } {
        0 => bail!("it said nothing for {} s", patience.as_secs()),
        -1 => return Err(std::io::Error::last_os_error()).context("cannot wait for a pipe"),
        _ => {}
    }
    let mut line = String::new();
    Ok((pipe.read_line(&mut line).context("cannot read a pipe")? > 0).then_some(line))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

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
    fn lines_and_ends_in_time() {
        let soon = Duration::from_millis(10);
        let mut command = Command::new("cat");
        let mut cat = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(cat.stdout.take().unwrap());
        assert!(next_line(&mut lines, soon).unwrap_err().to_string().contains("nothing"));
        cat.stdin.as_mut().unwrap().write_all(b"one\ntwo\n").unwrap();
        for expected in ["one\n", "two\n"] {
            assert_eq!(next_line(&mut lines, Duration::from_mins(1)).unwrap().as_deref(), Some(expected));
        }
        assert!(wait_for(&mut cat, soon).is_err());
        assert_eq!(next_line(&mut lines, Duration::from_mins(1)).unwrap(), None);
    }

    #[test]
    fn this_process() {
        let pid = std::process::id();
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
        assert!(kilobytes(&format!("/proc/{pid}/status"), "VmRSS").unwrap() > 100_000);
        assert_eq!((bpf_bytes(pid).unwrap(), mapped_bpf_bytes(pid).unwrap()), (0, 0));
    }
}
