//! `leaktrace run`: trace until the time is up, a signal comes or the target ends; then report.

mod facts;
mod heap;
mod holders;
mod metrics;
mod tape;
mod view;

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use leaktrace::host::claim::Claim;
use leaktrace::host::kernel::{KernelVersion, ReturnProbes};
use leaktrace::host::memory;
use leaktrace::host::priority::Priority;
use leaktrace::host::privileges;
use leaktrace::host::signals::StopSignals;
use leaktrace::host::tracefs::Tracefs;
use leaktrace::model::Criteria;
use leaktrace::report::{Facts, Outlook, Report, Selection, SourceReader, json};
use leaktrace::session::windows::Limits;
use leaktrace::session::{Ended, Options, Session};
use leaktrace::target::process::Target;
use tokio::time::{Instant as Moment, MissedTickBehavior};

use self::heap::HeapWatch;
use self::metrics::Metrics;
use self::tape::Tape;
use self::view::{Kind, View};
use super::diagnostics;
use super::output::Json;
use super::progress::Progress;
use crate::cli::{FilterArgs, HowArgs, JsonOutput, Mode, RecordArgs, RunArgs};
use crate::exit::ExitCode;

/// A look that takes longer than this is announced in the end.
const SLOW: Duration = Duration::from_millis(500);

/// How often the target is asked whether it is still there.
const WATCH: Duration = Duration::from_millis(200);

/// How often is looked when nothing else was asked; and when it is recorded or somebody sits before it. With the time that a
/// look takes it is what a killed collector loses of a recording: a second at most.
const INTERVAL: Duration = Duration::from_secs(5);
const SHORT_INTERVAL: Duration = Duration::from_millis(900);

/// `leaktrace record`: as [`run`], with nothing to see.
pub(crate) fn record(args: RecordArgs) -> Result<ExitCode> {
    let RecordArgs { file, trace } = args;
    let filter = FilterArgs::default();
    let args = RunArgs { trace, top: 0, json: None, record: Some(file), fail_on_growth: false, filter };
    trace_it(&args, Kind::Nothing)
}

pub(crate) fn run(args: &RunArgs) -> Result<ExitCode> {
    trace_it(args, Kind::Table)
}

/// `leaktrace top --pid`: as [`run`], with another view.
pub(crate) fn top(args: &RunArgs) -> Result<ExitCode> {
    trace_it(args, Kind::Top)
}

fn trace_it(run: &RunArgs, kind: Kind) -> Result<ExitCode> {
    let (pid, args) = (run.trace.pid, &run.trace.how);
    if args.verbose {
        diagnostics::to_stderr();
    }
    let json = run.json.as_ref().map(Json::open).transpose()?;
    let selection = run.filter.selection()?;
    // What is wrong with the pid is told to everybody, also to who may not trace.
    let target = Target::open(pid)?;
    let _claim = Claim::new(target.pid())?;
    // Before any thread starts: the mount namespace is a thread's.
    let tracefs = Tracefs::find_or_mount()?;
    let metrics = args.metrics.map(Metrics::listen).transpose()?;
    let tape = run.record.as_ref().map(|path| Tape::create(path, args.force)).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    let inside = runtime.enter();
    // From here on a signal ends the run cleanly instead of this process.
    let signals = StopSignals::new(view::farewell()).context("cannot catch signals")?;
    privileges::raise_memlock();
    let return_probes = match (KernelVersion::running(), target.seccomp()) {
        (Some(kernel), Ok(seccomp)) => ReturnProbes::on(kernel, seccomp) == ReturnProbes::Safe,
        _ => false,
    };
    let begun = Instant::now();
    let limits =
        (args.mode == Mode::Watch).then_some(Limits { overhead: args.overhead, max_slowdown: args.max_slowdown });
    let options =
        Options { tracefs: &tracefs.root, max_blocks: args.max_blocks, verbose: args.verbose, return_probes, limits };
    let hurry = Priority::hurry();
    let progress = Progress::start(format!("attaching to pid {pid}"));
    let mut session = Session::start(target, &options)?;
    drop(progress);
    drop(hurry);
    announce(&session, begun.elapsed());
    drop(inside);
    let view = View::new(kind, pid)?;
    let heap = HeapWatch::new(tape.is_some());
    let mut outputs = Outputs { selection, view, heap, tape, metrics };
    if let Some(tape) = &mut outputs.tape {
        tape.begin(&session);
    }
    outputs.heap.tick(&session);
    outputs.begin(&session)?;
    let ended = runtime.block_on(watch(&mut session, args, signals, &mut outputs));
    let Outputs { selection, mut view, mut heap, tape, mut metrics } = outputs;
    // Whatever happened: first the target gets its full speed back.
    let hurry = Priority::hurry();
    session.disarm();
    drop(hurry);
    view.end()?;
    drop(view);
    let ended = ended?;
    let progress = Progress::start("the process is at full speed again; reading its heap");
    if ended.is_some() {
        session.take_rest()?;
    } else {
        heap.finish(&session);
    }
    let mut facts = facts::of(&session, ended)?;
    let mut report = build(&session, &facts, &heap, &selection);
    if ended.is_none() {
        // Who holds what grows is worth a wait, but no failure.
        let _ = holders::add(&session, &mut report);
        facts.holders = report.holders();
    }
    drop(progress);
    if let Some(metrics) = &mut metrics {
        metrics.publish(&session, &report);
    }
    let recorded = tape.map_or(Ok(()), |tape| tape.finish(&session, &facts, &mut heap, &report));
    // A file that cannot take the report must not cost the reader the text as well.
    let written = json.map_or(Ok(()), |json| json.write(|out| json::write(&report, out)));
    let mut source = SourceReader::new(session.target().proc_path("root"));
    if let (Kind::Nothing, Some(path)) = (kind, &run.record) {
        let line = format!("leaktrace: recorded {} looks in {}", report.capture.scans, path.display());
        let _ = writeln!(std::io::stderr(), "{line}");
    } else {
        view::print(&report, run.top, &mut source, run.json == Some(JsonOutput::Stdout))?;
    }
    written?;
    recorded?;
    Ok(if run.fail_on_growth { gate(report.headline.outlook) } else { ExitCode::Success })
}

/// What `--fail-on-growth` makes of the outlook: what could not be told has not passed.
pub(super) fn gate(outlook: Outlook) -> ExitCode {
    match outlook {
        Outlook::Leaking => ExitCode::Growth,
        Outlook::NotLeaking => ExitCode::Success,
        Outlook::TooEarly | Outlook::Incomplete => ExitCode::Undecided,
    }
}

/// Where what is found goes while it runs.
struct Outputs {
    selection: Selection,
    view: View,
    heap: HeapWatch,
    tape: Option<Tape>,
    metrics: Option<Metrics>,
}

impl Outputs {
    /// Nothing was looked at yet, but scrapes may come, and a recording can be read from now on.
    fn begin(&mut self, session: &Session) -> Result<()> {
        if self.tape.is_none() && self.metrics.is_none() {
            return Ok(());
        }
        let facts = facts::of(session, None)?;
        let report = build(session, &facts, &self.heap, &self.selection);
        self.keep(session, &facts, &report);
        Ok(())
    }

    /// Records a report, and gives it to those who scrape.
    fn keep(&mut self, session: &Session, facts: &Facts, report: &Report) {
        if let Some(tape) = &mut self.tape {
            tape.record(session, facts, &mut self.heap, report);
        }
        if let Some(metrics) = &mut self.metrics {
            metrics.publish(session, report);
        }
    }

    /// Shows and records the last look.
    fn look(&mut self, session: &Session) -> Result<()> {
        let facts = facts::of(session, None)?;
        let report = build(session, &facts, &self.heap, &self.selection);
        self.keep(session, &facts, &report);
        self.view.show(report)?;
        Ok(())
    }
}

/// Scans at each interval until it is over; says how the target ended, if it did.
async fn watch(
    session: &mut Session,
    args: &HowArgs,
    mut signals: StopSignals,
    outputs: &mut Outputs,
) -> Result<Option<Ended>> {
    let begin = Moment::now();
    let deadline = args.duration.map(|duration| begin + duration);
    let interval = args.interval.unwrap_or(if outputs.tape.is_some() || matches!(outputs.view, View::Top(_)) {
        SHORT_INTERVAL
    } else {
        INTERVAL
    });
    let mut interval = tokio::time::interval_at(begin + interval, interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = tokio::time::interval(WATCH);
    watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {
                if let Some(ended) = session.ended() {
                    return Ok(Some(ended));
                }
                if args.mode == Mode::Watch {
                    session.scan_watch(false)?;
                } else {
                    session.scan()?;
                }
                if !StopSignals::came() {
                    outputs.heap.tick(session);
                }
                outputs.look(session)?;
                // A report of many sites is large, and the next one is some seconds away.
                memory::give_back();
                // A look cannot judge what was handed out after it began: who pressed Ctrl-C meanwhile gets another one.
                if StopSignals::came() {
                    break;
                }
            }
            _ = watch.tick() => {
                session.tick();
                if let Some(metrics) = &outputs.metrics {
                    metrics.alive();
                }
                session.settle();
                session.watch(deadline.map(|deadline| deadline.saturating_duration_since(Moment::now())))?;
                if let Some(ended) = session.ended() {
                    return Ok(Some(ended));
                }
            }
            () = super::until(deadline) => break,
            _ = signals.recv() => break,
        }
    }
    if session.last_scan().took > SLOW {
        outputs.view.note("taking a last look; Ctrl-C again ends at once, without a report")?;
    }
    let _hurry = Priority::hurry();
    // While everything is still armed: what is handed out afterwards would pass for what was seen.
    let ended = session.ended();
    if ended.is_none() {
        if args.mode == Mode::Watch {
            session.scan_watch(true)?;
        } else {
            session.scan()?;
        }
    }
    Ok(ended)
}

fn build(session: &Session, facts: &Facts, heap: &HeapWatch, selection: &Selection) -> Report {
    let mut report = Report::of_selection(session.ledger(), facts, &Criteria::default(), selection);
    report.heap = heap.growth();
    report
}

/// One line that says that everything is armed.
fn announce(session: &Session, took: Duration) {
    let line = format!(
        "leaktrace: tracing pid {} (Python {}, {} probes, attached in {} ms); Ctrl-C ends it",
        session.target().pid(),
        session.interpreter().facts.version_text,
        session.plan().probes.len() + session.plan().returns.len(),
        took.as_millis(),
    );
    // A closed stderr is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}
