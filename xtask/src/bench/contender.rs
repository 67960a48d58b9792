//! What is measured: ways to trace a target, each to be armed and disarmed again.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::leaktrace::{self, Leaktrace, Report};
use super::subject::Subject;
use super::{peers, process};

/// Longest wait for a tool to attach or to detach.
const PATIENCE: Duration = Duration::from_mins(1);
/// For tools that do not say that they have attached: when their number of perf events has stood still for so long.
const SETTLED: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// At its default budget.
    Watch,
    Exact,
    Empty,
    /// Frames that it keeps.
    Tracemalloc(u32),
    Memray {
        python_allocators: bool,
    },
    Memleak,
    PySpy,
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Watch => f.write_str("leaktrace, watch"),
            Self::Exact => f.write_str("leaktrace, exact"),
            Self::Empty => f.write_str("an empty BPF program on the same probes"),
            Self::Tracemalloc(frames) => write!(f, "tracemalloc.start({frames})"),
            Self::Memray { python_allocators: false } => f.write_str("memray attach"),
            Self::Memray { python_allocators: true } => f.write_str("memray attach --trace-python-allocators"),
            Self::Memleak => f.write_str("memleak (libbpf-tools)"),
            Self::PySpy => f.write_str("py-spy record (samples, no memory)"),
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
    PySpy(Helper),
}

impl Contender {
    /// Lets it trace the target, which is idle; `python` is what the target runs on.
    pub(crate) fn arm(self, tools: &Tools, python: &Path, target: &mut dyn Subject) -> Result<Armed> {
        let pid = target.pid();
        let attach =
            |options: &[&str]| Leaktrace::attach(&tools.leaktrace, pid, options, &tools.scratch).map(Armed::Leaktrace);
        match self {
            Self::Watch => attach(leaktrace::WATCH),
            Self::Exact => attach(leaktrace::EXACT),
            Self::Empty => arm_empty(&tools.empty_probes, pid).map(Armed::Empty),
            Self::Tracemalloc(frames) => target.tracemalloc(frames).map(|()| Armed::Tracemalloc),
            Self::Memray { python_allocators } => {
                let memray = peers::memray(python);
                let recording = tools.scratch.join("memray.bin");
                let mut options = vec!["attach".as_ref(), "--method=gdb".as_ref(), "--force".as_ref()];
                options.extend(python_allocators.then_some(OsStr::new("--trace-python-allocators")));
                options.extend(["--output".as_ref(), recording.as_os_str()]);
                // gdb gets in at a call of the allocator, so the target must be at work.
                target.while_working(&mut |pid| run_patiently(&memray, &options, pid))?;
                Ok(Armed::Memray(memray))
            }
            Self::Memleak => {
                let words = tools.memleak.as_ref().context("it is not installed")?;
                let (program, arguments) = words.split_first().context("the command of memleak is empty")?;
                let mut command = Command::new(program);
                // An hour to its first table.
                command.args(arguments).arg("-p").arg(pid.to_string()).arg("3600");
                let mut helper =
                    Helper::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))?;
                helper.wait_for_perf_events()?;
                Ok(Armed::Memleak(helper))
            }
            Self::PySpy => {
                let (output, said) = (tools.scratch.join("py-spy.raw"), tools.scratch.join("py-spy.txt"));
                let mut command = Command::new(peers::py_spy(python));
                command.args(["record", "--format=raw", "--duration=3600", "--output"]).arg(output).arg("--pid");
                let words = File::create(&said).with_context(|| format!("cannot write {}", said.display()))?;
                command.arg(pid.to_string()).stdin(Stdio::null()).stdout(words.try_clone()?).stderr(words);
                let said = || fs::read_to_string(&said).unwrap_or_default();
                let mut helper = Helper::start(&mut command)?;
                helper.wait_until(|_| said().contains("Sampling process")).with_context(said)?;
                Ok(Armed::PySpy(helper))
            }
        }
    }
}

impl Armed {
    /// Ends the tracing; the report, if it was leaktrace.
    pub(crate) fn disarm(self, target: &mut dyn Subject) -> Result<Option<Report>> {
        match self {
            Self::Leaktrace(leaktrace) => return Ok(Some(leaktrace.detach()?.0)),
            Self::Empty(mut helper) => {
                drop(helper.0.stdin.take());
                process::wait_for(&mut helper.0, PATIENCE)?;
            }
            Self::Tracemalloc => target.tracemalloc(0)?,
            Self::Memray(memray) => {
                let options = [OsStr::new("detach"), OsStr::new("--method=gdb")];
                target.while_working(&mut |pid| run_patiently(&memray, &options, pid))?;
            }
            Self::Memleak(mut helper) | Self::PySpy(mut helper) => {
                process::interrupt(&helper.0);
                process::wait_for(&mut helper.0, PATIENCE)?;
            }
        }
        Ok(None)
    }

    pub(crate) fn leaktrace(&self) -> Option<&Leaktrace> {
        if let Self::Leaktrace(leaktrace) = self { Some(leaktrace) } else { None }
    }

    /// The process that traces, where it is not the target itself.
    pub(crate) fn tracer(&self) -> Option<u32> {
        match self {
            Self::Leaktrace(leaktrace) => Some(leaktrace.pid()),
            Self::Empty(helper) | Self::Memleak(helper) | Self::PySpy(helper) => Some(helper.0.id()),
            Self::Tracemalloc | Self::Memray(_) => None,
        }
    }
}

fn arm_empty(executable: &Path, pid: u32) -> Result<Helper> {
    let mut command = Command::new(executable);
    let mut helper = Helper::start(command.arg(pid.to_string()).stdin(Stdio::piped()).stderr(Stdio::piped()))?;
    let mut said = BufReader::new(helper.0.stderr.take().context("no stderr")?);
    let line = process::next_line(&mut said, PATIENCE)?.unwrap_or_default();
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
        let child = child.with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self(child))
    }

    fn wait_for_perf_events(&mut self) -> Result<()> {
        let mut last = (0, Instant::now());
        self.wait_until(|pid| {
            let events = perf_events(pid);
            if events != last.0 {
                last = (events, Instant::now());
            }
            events > 0 && last.1.elapsed() > SETTLED
        })
    }

    /// Waits until it, of a pid, is `ready`.
    fn wait_until(&mut self, mut ready: impl FnMut(u32) -> bool) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            sleep(Duration::from_millis(50));
            if let Some(status) = self.0.try_wait()? {
                bail!("it ended before it had attached ({status})");
            }
            if ready(self.0.id()) {
                return Ok(());
            }
        }
        bail!("it did not attach within {} s", PATIENCE.as_secs())
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
