//! The command line.

mod recording;
mod top;

use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::recording::{DiffArgs, ExportArgs, FilterArgs, RecordArgs, ReportArgs, SinceArgs};
pub(crate) use self::top::TopArgs;
use crate::exit::ExitCode;

const EXAMPLES: &str = "\
Examples:
  leaktrace doctor --pid 4242               can this process be traced here, and if not, why?
  leaktrace run --pid 4242                  trace until Ctrl-C, then report
  leaktrace run --pid 4242 --duration 60s --json report.json
  leaktrace run --pid 4242 --duration 5m --fail-on-growth
  leaktrace run --pid 4242 --record a.leaktrace   keep everything; needs no root to read:
  leaktrace top --pid 4242                  look around while it is traced: ? for the keys
  leaktrace top a.leaktrace                 the same of a recording, without root
  leaktrace report a.leaktrace --include '*/app/*' --since 10m
  leaktrace export a.leaktrace --format pprof -o a.pb.gz; go tool pprof a.pb.gz
  leaktrace export a.leaktrace --format flamegraph -o a.svg --value growth
  leaktrace diff before.leaktrace after.leaktrace --by traceback
  leaktrace completions bash > /etc/bash_completion.d/leaktrace
  leaktrace run --pid 4242 --metrics 127.0.0.1:9464   for Prometheus
  leaktrace heap --pid 4242                 what is in the heap, with no probe set
  leaktrace heap --pid 4242 --interval 10s  what grows
  leaktrace heap --pid 4242 --save before.json; leaktrace diff before.json after.json
  leaktrace refs --pid 4242                 which container holds what grows
  leaktrace refs --pid 4242 --type app.Session   who holds the objects of a type
  leaktrace gc --pid 4242                   the collector: settings, generations, garbage
";

/// Finds memory leaks in a running CPython service from outside it.
///
/// The service is not changed, restarted or stopped. Needs root, or CAP_SYS_ADMIN and CAP_SYS_PTRACE.
#[derive(Debug, Parser)]
#[command(name = "leaktrace", version, after_long_help = help(), arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

fn help() -> String {
    format!("{EXAMPLES}\n{}", ExitCode::help())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Trace a process and say which sites grow without bound
    #[command(after_long_help = help())]
    Run(RunArgs),
    /// Trace a process into a recording, without a view
    #[command(after_long_help = help())]
    Record(RecordArgs),
    /// Look around in what is traced, or in a recording, on the whole terminal: sites, types, collector, threads
    #[command(after_long_help = help())]
    Top(Box<TopArgs>),
    /// Show a recording: the report of the run that made it, as of its last look
    #[command(after_long_help = help())]
    Report(ReportArgs),
    /// Write a recording in the format of another tool: pprof, speedscope, flame graph, CSV ...
    #[command(after_long_help = help())]
    Export(ExportArgs),
    /// Say what this kernel, these privileges and an interpreter allow, and why not
    #[command(after_long_help = help())]
    Doctor(DoctorArgs),
    /// Say what is in the heap, and what grows, without any probe
    #[command(after_long_help = help())]
    Heap(HeapArgs),
    /// Compare two recordings, or two censuses that `heap --save` wrote: what is new, gone, grown
    #[command(after_long_help = help())]
    Diff(DiffArgs),
    /// Say who holds objects: paths from modules, frames and the rest to those of a type, or to one
    #[command(after_long_help = help())]
    Refs(RefsArgs),
    /// Say how the garbage collector is set and how it does
    #[command(after_long_help = help())]
    Gc(GcArgs),
    /// Print the completion script of a shell
    #[command(after_help = "Example: leaktrace completions bash > /usr/share/bash-completion/completions/leaktrace")]
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print a manual page
    Man(ManArgs),
    /// Remove what a killed leaktrace leaves behind; started by `run`
    #[command(hide = true, name = leaktrace::tracer::guardian::SUBCOMMAND)]
    Guard { owner: String, tracefs: PathBuf },
}

/// What is traced, and how.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// The process to trace
    #[arg(long)]
    pub(crate) pid: u32,
    #[command(flatten)]
    pub(crate) how: HowArgs,
}

/// How it is traced.
#[derive(Debug, Args)]
pub(crate) struct HowArgs {
    /// How to trace
    #[arg(long, value_enum, default_value_t)]
    pub(crate) mode: Mode,
    /// Share of the process's CPU time that `--mode watch` may cost
    #[arg(long, value_name = "SHARE", value_parser = share, default_value = "1%")]
    pub(crate) overhead: f64,
    /// How many times longer the process's work may take while a window of `--mode watch` is open
    #[arg(long, value_name = "FACTOR", value_parser = slowdown, default_value = "2x")]
    pub(crate) max_slowdown: f64,
    /// How long to trace (30s, 5m, 1h30m); without it until Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// How often to look at what is outstanding; 0.9 s when it is recorded and in `top`, else five seconds
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub(crate) interval: Option<Duration>,
    /// Room for this many outstanding blocks, in watch for those of a window, 262144 at most; more are counted as lost
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u32).range(1000..))]
    pub(crate) max_blocks: u32,
    /// Replace a recording that exists already
    #[arg(long)]
    pub(crate) force: bool,
    /// Serve Prometheus metrics meanwhile on /metrics, and /healthz; :PORT is that of 127.0.0.1, port 0 a free one
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen_address)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Show the diagnostics of the BPF programs
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
    /// How many sites to show; the JSON report has them all
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) top: usize,
    /// Write the report as JSON to a file, or to stdout (-)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<JsonOutput>,
    /// Record to a file, for `report`, `diff` and `export`; each look is in it at once, whatever happens later
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// Exit with 1 when a site grows, with 12 when that cannot be told
    #[arg(long)]
    pub(crate) fail_on_growth: bool,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Look at this process too
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Print each instruction that would be probed
    #[arg(long, requires = "pid")]
    pub(crate) plan: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HeapArgs {
    /// The process to look at
    #[arg(long)]
    pub(crate) pid: u32,
    /// Look again each time and say what grows; without it there is one look
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub(crate) interval: Option<Duration>,
    /// How long to look (30s, 5m, 1h30m); without it until Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "interval")]
    pub(crate) duration: Option<Duration>,
    /// Stop the process during each look, so that the picture is exact; says for how long
    #[arg(long)]
    pub(crate) pause: bool,
    /// How many rows of each table to show; the JSON has them all
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub(crate) top: usize,
    /// Write the census as JSON to a file, or to stdout (-)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<JsonOutput>,
    /// Keep the last census in a file, for `leaktrace diff`
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RefsArgs {
    /// The process to look at
    #[arg(long)]
    pub(crate) pid: u32,
    /// Who holds the objects of this type: module.Class, or Class where that is unique
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "address")]
    pub(crate) type_: Option<String>,
    /// Who holds the object at this address, as id() and `heap` tell it; may be given again
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) address: Vec<u64>,
    /// Look twice and say in which containers the new objects are; so it is when nothing else is asked
    #[arg(long)]
    pub(crate) grown: bool,
    /// Time from the first to the second look of --grown
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "5s")]
    pub(crate) interval: Duration,
    /// A JSON report of `leaktrace run` on the same process: says which lines fill the containers that grow
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// What would be freed with each type, module and container
    #[arg(long)]
    pub(crate) retained: bool,
    /// Of how many objects of the type the paths are looked for, taken evenly
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) samples: usize,
    /// Stop the process while its heap is read, so that the picture is exact; says for how long
    #[arg(long)]
    pub(crate) pause: bool,
    /// How many rows of each table to show; the JSON has them all
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) top: usize,
    /// Write what was found as JSON to a file, or to stdout (-)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<JsonOutput>,
    /// Write the paths as a graph for graphviz
    #[arg(long, value_name = "FILE")]
    pub(crate) dot: Option<PathBuf>,
    /// Draw the paths; needs graphviz (dot)
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// The process to look at
    #[arg(long)]
    pub(crate) pid: u32,
    /// Watch it: pauses, collections and what deserves a warning, shown anew each time; without it there is one look
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub(crate) interval: Option<Duration>,
    /// How long to watch (30s, 5m, 1h30m); without it until Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "interval")]
    pub(crate) duration: Option<Duration>,
    /// Write what was found as JSON to a file, or to stdout (-)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<JsonOutput>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: leaktrace man run | man -l -")]
pub(crate) struct ManArgs {
    /// Of this subcommand; without it of leaktrace as a whole
    pub(crate) command: Option<String>,
    /// Write all pages into this folder instead
    #[arg(long = "all", value_name = "FOLDER", conflicts_with = "command")]
    pub(crate) folder: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Short windows of tracing at random moments, within a budget; what survives them is followed by reading memory
    #[default]
    Watch,
    /// Every allocation from the start on, and what became of it: for a short while, it costs much
    Exact,
}

/// Where the JSON report goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JsonOutput {
    Stdout,
    File(PathBuf),
}

impl From<OsString> for JsonOutput {
    fn from(value: OsString) -> Self {
        if value == "-" { Self::Stdout } else { Self::File(value.into()) }
    }
}

impl fmt::Display for JsonOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// "1%" or "0.01".
fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
    let share = number.trim().parse::<f64>().map_err(|e| format!("{e}; write it as 1% or 0.01"))? * unit;
    if (0.0005..=0.5).contains(&share) { Ok(share) } else { Err("must be from 0.05% to 50%".to_owned()) }
}

/// "2x" or "2".
fn slowdown(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('x').unwrap_or(text);
    let factor = number.trim().parse::<f64>().map_err(|e| format!("{e}; write it as 2x"))?;
    if (1.1..=100.0).contains(&factor) { Ok(factor) } else { Err("must be from 1.1x to 100x".to_owned()) }
}

/// "127.0.0.1:9464", "[::1]:9464", ":9464". A port alone is never that of all interfaces: the metrics name files of the
/// target, and nobody is asked for a password.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let address = text.strip_prefix(':').map_or_else(
        || text.parse().ok(),
        |port| port.parse().ok().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
    );
    address.ok_or_else(|| "write it as 127.0.0.1:9464 or :9464".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    at_least(text, Duration::from_millis(1))
}

/// As `id()` gives it: decimal, or hexadecimal after 0x.
fn address(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
    number.map_err(|e| format!("{e}; write it as id() gives it, or in hexadecimal with 0x before it"))
}

/// Each look at the table costs the collector time in proportion to the blocks in it.
fn interval(text: &str) -> Result<Duration, String> {
    at_least(text, Duration::from_millis(100))
}

fn at_least(text: &str, least: Duration) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|e| format!("{e}; write it as 500ms, 30s, 5m or 1h30m"))?;
    if duration < least {
        return Err(format!("must be at least {}", humantime::format_duration(least)));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn run(arguments: &[&str]) -> Result<RunArgs, clap::Error> {
        let cli = Cli::try_parse_from(["leaktrace", "run"].iter().chain(arguments))?;
        let Command::Run(args) = cli.command else { panic!("not run") };
        Ok(args)
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let args = run(&["--pid", "7"]).unwrap();
        assert_eq!((args.trace.pid, args.trace.how.mode, args.trace.how.duration), (7, Mode::Watch, None));
        assert_eq!((args.trace.how.interval, args.top, args.json), (None, 10, None));
    }

    #[test]
    fn durations() {
        let duration = |text| run(&["--pid", "7", "--duration", text]).map(|args| args.trace.how.duration.unwrap());
        assert_eq!(duration("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        for bad in ["", "30", "0s", "-5s", "soon"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(run(&["--pid", "7", "--interval", "10ms"]).is_err());
    }

    #[test]
    fn listen_addresses() {
        let metrics =
            |text| run(&["--pid", "7", "--metrics", text]).map(|args| args.trace.how.metrics.unwrap().to_string());
        assert_eq!(metrics("127.0.0.1:9464").unwrap(), "127.0.0.1:9464");
        assert_eq!(metrics(":0").unwrap(), "127.0.0.1:0");
        assert_eq!(metrics("[::]:9464").unwrap(), "[::]:9464");
        for bad in ["", "9464", ":", ":x", ":70000", "127.0.0.1", "localhost"] {
            assert!(metrics(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_outputs() {
        let json = |text| run(&["--pid", "7", "--json", text]).unwrap().json.unwrap();
        assert_eq!(json("-"), JsonOutput::Stdout);
        assert_eq!(json("a.json"), JsonOutput::File("a.json".into()));
    }

    #[test]
    fn bad_arguments() {
        for bad in [&[][..], &["--pid"], &["--pid", "-1"], &["--pid", "x"], &["--pid", "7", "--overhead", "0"]] {
            assert!(run(bad).is_err(), "{bad:?}");
        }
        assert!(Cli::try_parse_from(["leaktrace", "doctor", "--plan"]).is_err());
    }
}
