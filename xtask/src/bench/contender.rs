//! What is measured: ways to trace a target, each to be armed and disarmed again.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::leaktrace::{Leaktrace, Report};
use super::target::Target;
use super::{peers, process};

/// Longest wait for a tool to attach or to detach.
const PATIENCE: Duration = Duration::from_mins(1);
/// For tools that do not say that they have attached: when their number of perf events has stood still for so long.
const SETTLED: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Exact,
    Empty,
    /// Frames that it keeps.
    Tracemalloc(u32),
    Memray {
        python_allocators: bool,
    },
    Memleak,
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("leaktrace, exact"),
            Self::Empty => f.write_str("an empty BPF program on the same probes"),
            Self::Tracemalloc(frames) => write!(f, "tracemalloc.start({frames})"),
            Self::Memray { python_allocators: false } => f.write_str("memray attach"),
            Self::Memray { python_allocators: true } => f.write_str("memray attach --trace-python-allocators"),
            Self::Memleak => f.write_str("memleak (libbpf-tools)"),
        }
    }
}

/// Where the tools are.
pub(crate) struct Tools {
    pub(crate) leaktrace: PathBuf,
    /// The example that arms a plan with a program that does nothing.
    pub(crate) empty_probes: PathBuf,
    pub(crate) memleak: Option<Vec<String>>,
    /// For reports and recordings.
    pub(crate) scratch: PathBuf,
}

/// A contender at work on a target.
pub(crate) enum Armed {
    Leaktrace(Leaktrace),
    Empty(Helper),
    Tracemalloc,
    /// memray's command.
    Memray(PathBuf),
    Memleak(Helper),
}

impl Contender {
    /// Lets it trace the target, which is idle; `python` is what the target runs on.
    pub(crate) fn arm(self, tools: &Tools, python: &Path, target: &mut Target) -> Result<Armed> {
        let pid = target.pid();
        match self {
            Self::Exact => Ok(Armed::Leaktrace(Leaktrace::attach(&tools.leaktrace, pid, &tools.scratch)?)),
            Self::Empty => arm_empty(&tools.empty_probes, pid).map(Armed::Empty),
            Self::Tracemalloc(frames) => target.tracemalloc(frames).map(|()| Armed::Tracemalloc),
            Self::Memray { python_allocators } => {
                let memray = peers::memray(python);
                let recording = tools.scratch.join("memray.bin");
                let mut options = vec!["attach".as_ref(), "--method=gdb".as_ref(), "--force".as_ref()];
                options.extend(python_allocators.then_some(OsStr::new("--trace-python-allocators")));
                options.extend(["--output".as_ref(), recording.as_os_str()]);
                // gdb gets in at a call of the allocator, so the target must be at work.
                target.storm(|pid| run_patiently(&memray, &options, pid))?;
                Ok(Armed::Memray(memray))
            }
            Self::Memleak => {
                let words = tools.memleak.as_ref().context("memleak is not here")?;
                let (program, arguments) = words.split_first().context("the command of memleak is empty")?;
                let mut command = Command::new(program);
                // An hour to its first table.
                command.args(arguments).arg("-p").arg(pid.to_string()).arg("3600");
                let helper = Helper::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))?;
                helper.wait_for_perf_events()?;
                Ok(Armed::Memleak(helper))
            }
        }
    }
}

impl Armed {
    /// Ends the tracing; the report, if it was leaktrace.
    pub(crate) fn disarm(self, target: &mut Target) -> Result<Option<Report>> {
        match self {
            Self::Leaktrace(leaktrace) => return Ok(Some(leaktrace.detach()?.0)),
            Self::Empty(mut helper) => {
                drop(helper.0.stdin.take());
                helper.0.wait()?;
            }
            Self::Tracemalloc => target.tracemalloc(0)?,
            Self::Memray(memray) => {
                let options = [OsStr::new("detach"), OsStr::new("--method=gdb")];
                target.storm(|pid| run_patiently(&memray, &options, pid))?;
            }
            Self::Memleak(mut helper) => {
                process::interrupt(&helper.0);
                helper.0.wait()?;
            }
        }
        Ok(None)
    }

    pub(crate) fn leaktrace(&self) -> Option<&Leaktrace> {
        if let Self::Leaktrace(leaktrace) = self { Some(leaktrace) } else { None }
    }
}

fn arm_empty(executable: &Path, pid: u32) -> Result<Helper> {
    let mut command = Command::new(executable);
    let mut helper = Helper::start(command.arg(pid.to_string()).stdin(Stdio::piped()).stderr(Stdio::piped()))?;
    let mut line = String::new();
    BufReader::new(helper.0.stderr.take().context("no stderr")?).read_line(&mut line)?;
    if !line.starts_with("armed") {
        bail!("the empty program was not armed: {}", line.trim_end());
    }
    Ok(helper)
}

fn run_patiently(program: &Path, options: &[&OsStr], pid: u32) -> Result<()> {
    let mut command = Command::new("timeout");
    command.arg(PATIENCE.as_secs().to_string()).arg(program).args(options).arg(pid.to_string());
    let output = command.stdin(Stdio::null()).output().context("cannot run timeout")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} {}: {}",
            options[0].display(),
            output.status,
            said.trim_end().lines().last().unwrap_or("it said nothing")
        );
    }
    Ok(())
}

/// A process that is killed when dropped.
pub(crate) struct Helper(Child);

impl Helper {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn();
        Ok(Self(child.with_context(|| format!("cannot start {}", command.get_program().display()))?))
    }

    fn wait_for_perf_events(&self) -> Result<()> {
        let begun = Instant::now();
        let mut last = (0, Instant::now());
        while begun.elapsed() < PATIENCE {
            sleep(Duration::from_millis(50));
            let events = perf_events(self.0.id());
            if events != last.0 {
                last = (events, Instant::now());
            } else if events > 0 && last.1.elapsed() > SETTLED {
                return Ok(());
            }
        }
        bail!("it set no probe within {} s", PATIENCE.as_secs())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended already; both calls then do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Perf events that a process holds open.
fn perf_events(pid: u32) -> usize {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().contains("[perf_event]")).count()
}
