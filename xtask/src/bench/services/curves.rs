//! How leaktrace's own cost grows: with the rate of events, the heap and the threads of the process, and what a million
//! survivors take.

use std::io::BufReader;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::bench::leaktrace::{self, Leaktrace};
use crate::bench::machine::Machine;
use crate::bench::memory::Sample;
use crate::bench::process;
use crate::bench::spread::Spread;
use crate::workspace;

/// Objects a second, objects in the heap, and threads, where it is another of the three that is looked at.
const BASE: [u32; 3] = [60_000, 500_000, 1];
/// Of the last objects, how many are kept: survivors are as many at every point.
const KEPT: u32 = 50_000;
/// Longest wait for a process to fill its heap.
const START: Duration = Duration::from_mins(2);
/// Seconds from the attach to the first measurement: the first looks are over.
const SETTLE_SECONDS: u64 = 3;

/// At the end of a measurement memory is looked at so many times, with so many seconds between.
const LATE_LOOKS: u64 = 5;
const LATE_SECONDS: u64 = 3;

/// Survivors that the collector is to follow in watch mode.
const SURVIVORS: f64 = 1e6;
/// Objects a second that are all kept, and how tracing is to see as many of them as it can.
const SURVIVOR_RATE: u32 = 300_000;
const SURVIVOR_OPTIONS: [&str; 6] = ["--mode", "watch", "--overhead", "50%", "--max-slowdown", "100x"];
/// Seconds after which there are that many: the more there are, the longer a look at them takes, and the rarer windows are.
const SURVIVOR_SECONDS: u64 = 450;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Curves {
    pub(super) machine: Machine,
    /// Of leaktrace.
    pub(super) version: String,
    /// Of the interpreter.
    pub(super) python: String,
    pub(super) rounds: u32,
    /// Of a measurement.
    pub(super) seconds: u64,
    /// Minutes that all of it took.
    pub(super) minutes: f64,
    pub(super) lines: Vec<Curve>,
    pub(super) survivors: Survivors,
}

/// One mode along one axis.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Curve {
    /// "watch" or "exact".
    pub(super) mode: String,
    pub(super) axis: Axis,
    pub(super) points: Vec<Point>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Axis {
    Events,
    Heap,
    Threads,
}

/// What one size costs leaktrace.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Point {
    /// Objects made a second, objects in the heap, or threads.
    pub(super) size: u32,
    /// CPU seconds until it has attached.
    pub(super) attach_cpu_seconds: Spread,
    /// CPU seconds a second while it traces.
    pub(super) cores: Spread,
    /// CPU seconds from Ctrl-C to its end.
    pub(super) end_cpu_seconds: Spread,
    /// Largest resident set until Ctrl-C, bytes, without mapped BPF maps.
    pub(super) resident_bytes: Spread,
    /// Kernel memory of its BPF maps and programs, bytes.
    pub(super) bpf_bytes: Spread,
}

/// Watch with very many blocks to follow.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Survivors {
    pub(super) blocks: u64,
    /// Objects in the heap by then, at most: what the process is late with it leaves out.
    pub(super) objects: f64,
    pub(super) cores: f64,
    /// Resident set, bytes, without mapped BPF maps: at most times, and at its largest, when a census of the heap is taken.
    pub(super) resident_bytes: f64,
    pub(super) peak_bytes: f64,
    pub(super) bpf_bytes: f64,
}

impl Survivors {
    pub(super) fn are_enough(&self) -> bool {
        self.blocks as f64 >= SURVIVORS
    }
}

impl Axis {
    pub(super) const ALL: [Self; 3] = [Self::Events, Self::Heap, Self::Threads];

    fn sizes(self) -> [u32; 3] {
        match self {
            Self::Events => [20_000, 60_000, 180_000],
            Self::Heap => [1_000_000, 4_000_000, 16_000_000],
            Self::Threads => [1, 4, 16],
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Events => "objects made a second",
            Self::Heap => "objects in the heap",
            Self::Threads => "threads",
        }
    }
}

impl Curve {
    /// How steeply a cost grows from the first point to the last: 1 is linear, 0 not at all.
    pub(super) fn exponent(&self, cost: impl Fn(&Point) -> f64) -> Option<f64> {
        let (first, last) = (self.points.first()?, self.points.last()?);
        let exponent = (cost(last) / cost(first)).ln() / (f64::from(last.size) / f64::from(first.size)).ln();
        exponent.is_finite().then_some(exponent)
    }
}

/// Measures on an interpreter on which `watch` works.
pub(super) fn measure(executable: &Path, python: &Path, rounds: u32, seconds: u64, scratch: &Path) -> Result<Curves> {
    let begun = Instant::now();
    let mut machine = Machine::look()?;
    let mut lines = Vec::new();
    let mut version = String::new();
    for axis in Axis::ALL {
        for (mode, options) in [("watch", leaktrace::WATCH), ("exact", leaktrace::EXACT)] {
            let mut points = Vec::new();
            for size in axis.sizes() {
                eprintln!("==> {mode}: {size} {}", axis.name());
                let mut costs = Vec::new();
                for _ in 0..rounds {
                    let mut load = BASE;
                    load[axis as usize] = size;
                    let paced = Paced::start(python, load, KEPT)?;
                    let cost = Cost::of(executable, &paced, options, seconds, scratch)?;
                    version.clone_from(&cost.python);
                    costs.push(cost);
                }
                points.push(point(size, &costs)?);
            }
            lines.push(Curve { mode: mode.to_owned(), axis, points });
        }
    }
    eprintln!("==> watch: a million survivors");
    let paced = Paced::start(python, [SURVIVOR_RATE, BASE[1], BASE[2]], u32::MAX)?;
    let cost = Cost::of(executable, &paced, &SURVIVOR_OPTIONS, SURVIVOR_SECONDS, scratch)?;
    let survivors = Survivors {
        blocks: cost.followed,
        objects: f64::from(BASE[1]) + f64::from(SURVIVOR_RATE) * SURVIVOR_SECONDS as f64,
        cores: cost.cores,
        resident_bytes: cost.usual,
        peak_bytes: cost.memory.peak,
        bpf_bytes: cost.memory.bpf,
    };
    machine.finish();
    Ok(Curves {
        machine,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        python: version,
        rounds,
        seconds,
        minutes: begun.elapsed().as_secs_f64() / 60.0,
        lines,
        survivors,
    })
}

fn point(size: u32, costs: &[Cost]) -> Result<Point> {
    let spread = |of: fn(&Cost) -> f64| Spread::of(costs.iter().map(of)).context("nothing was measured");
    Ok(Point {
        size,
        attach_cpu_seconds: spread(|cost| cost.attach)?,
        cores: spread(|cost| cost.cores)?,
        end_cpu_seconds: spread(|cost| cost.end)?,
        resident_bytes: spread(|cost| cost.memory.peak)?,
        bpf_bytes: spread(|cost| cost.memory.bpf)?,
    })
}

/// What one run of leaktrace cost.
struct Cost {
    attach: f64,
    cores: f64,
    end: f64,
    memory: Sample,
    /// Resident set at most times of the last quarter of a minute, bytes.
    usual: f64,
    followed: u64,
    python: String,
}

impl Cost {
    fn of(executable: &Path, paced: &Paced, options: &[&str], seconds: u64, scratch: &Path) -> Result<Self> {
        let reaped = process::reaped_cpu_seconds();
        let leaktrace = Leaktrace::attach(executable, paced.0.id(), options, scratch)?;
        let attach = leaktrace.cpu_seconds()?;
        sleep(Duration::from_secs(SETTLE_SECONDS));
        let (before, begun) = (leaktrace.cpu_seconds()?, Instant::now());
        let late = seconds.min(LATE_LOOKS * LATE_SECONDS);
        sleep(Duration::from_secs(seconds - late));
        let mut resident = Vec::new();
        for _ in 0..late / LATE_SECONDS {
            sleep(Duration::from_secs(LATE_SECONDS));
            resident.push(Sample::take(leaktrace.pid())?.resident);
        }
        let after = leaktrace.cpu_seconds()?;
        let cores = (after - before) / begun.elapsed().as_secs_f64();
        let memory = Sample::take(leaktrace.pid())?;
        let usual = Spread::of(resident).map_or(memory.resident, |of| of.median);
        let (report, _) = leaktrace.detach()?;
        let end = process::reaped_cpu_seconds() - reaped - after;
        let followed = report.capture.watch.map_or(0, |watch| watch.followed_blocks);
        Ok(Self { attach, cores, end, memory, usual, followed, python: report.target.python.version })
    }
}

/// A process that makes objects at a steady rate. Dropping it ends it; it also ends when this process does.
struct Paced(Child);

impl Paced {
    fn start(python: &Path, [rate, objects, threads]: [u32; 3], kept: u32) -> Result<Self> {
        let child = Command::new(python)
            .arg("-sB")
            .arg(workspace::root().join("tests/bench/paced.py"))
            .args([rate, objects, threads, kept].map(|number| number.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut paced = Self(child.with_context(|| format!("cannot start {}", python.display()))?);
        let mut stdout = BufReader::new(paced.0.stdout.take().context("paced.py has no output")?);
        let line = process::next_line(&mut stdout, START)?;
        if !line.as_ref().is_some_and(|line| line.starts_with("READY")) {
            bail!("paced.py did not start: {line:?}");
        }
        Ok(paced)
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        // It may have ended already; both calls then do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents() {
        let same = |value| Spread { median: value, min: value, max: value };
        let point = |size, cores| Point {
            size,
            attach_cpu_seconds: same(1.0),
            cores: same(cores),
            end_cpu_seconds: same(1.0),
            resident_bytes: same(1.0),
            bpf_bytes: same(1.0),
        };
        let points = vec![point(1, 0.1), point(4, 0.2), point(16, 1.6)];
        let curve = Curve { mode: "watch".to_owned(), axis: Axis::Threads, points };
        assert!((curve.exponent(|point| point.cores.median).unwrap() - 1.0).abs() < 1e-9);
        assert!(curve.exponent(|point| point.bpf_bytes.median).unwrap().abs() < 1e-9);
    }
}
