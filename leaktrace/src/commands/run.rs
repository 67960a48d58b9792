//! `leaktrace run`: trace until the time is up, a signal comes or the target ends; then report.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use leaktrace::host::claim::Claim;
use leaktrace::host::kernel::{KernelVersion, ReturnProbes};
use leaktrace::host::privileges;
use leaktrace::host::signals::StopSignals;
use leaktrace::host::tracefs::Tracefs;
use leaktrace::session::{Ended, Options, Session};
use leaktrace::target::process::Target;
use tokio::time::MissedTickBehavior;

use super::output::Json;
use crate::cli::RunArgs;
use crate::exit::ExitCode;

/// How often the target is asked whether it is still there.
const WATCH: Duration = Duration::from_millis(200);

pub(crate) fn run(args: RunArgs) -> Result<ExitCode> {
    let json = args.json.as_ref().map(Json::open).transpose()?;
    // Before any thread starts: the mount namespace is a thread's.
    let tracefs = Tracefs::find_or_mount()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    let _inside = runtime.enter();
    // From here on a signal ends the run cleanly instead of this process.
    let signals = StopSignals::new().context("cannot catch signals")?;
    privileges::raise_memlock();
    let target = Target::open(args.pid)?;
    let _claim = Claim::new(target.pid())?;
    let return_probes = match (KernelVersion::running(), target.seccomp()) {
        (Some(kernel), Ok(seccomp)) => ReturnProbes::on(kernel, seccomp) == ReturnProbes::Safe,
        _ => false,
    };
    let begun = Instant::now();
    let options = Options {
        tracefs: &tracefs.root,
        max_blocks: args.max_blocks,
        verbose: args.verbose,
        return_probes,
    };
    let mut session = Session::start(target, &options)?;
    say(&format!(
        "tracing pid {} (Python {}, {} probes, attached in {} ms); {}",
        session.target().pid(),
        session.interpreter().facts.version_text,
        session.plan().probes.len() + session.plan().returns.len(),
        begun.elapsed().as_millis(),
        if args.duration.is_some() { "Ctrl-C ends it early" } else { "Ctrl-C ends it" },
    ));
    runtime.block_on(watch(&mut session, &args, signals))?;
    Ok(ExitCode::Success)
}

/// Scans at each interval until it is over.
async fn watch(session: &mut Session, args: &RunArgs, mut signals: StopSignals) -> Result<()> {
    let deadline = args.duration.map(|d| tokio::time::Instant::now() + d);
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + args.interval, args.interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = tokio::time::interval(WATCH);
    watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ended = None;
    loop {
        tokio::select! {
            _ = interval.tick() => {
                session.scan()?;
                show(session);
            }
            _ = watch.tick() => {
                ended = session.ended();
                if ended.is_some() {
                    break;
                }
            }
            () = until(deadline) => break,
            _ = signals.recv() => break,
        }
    }
    if ended.is_none() {
        session.scan()?;
        show(session);
    }
    session.disarm();
    let _ = ended == Some(Ended::Exited);
    Ok(())
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn show(session: &Session) {
    let s = session.last_scan();
    eprintln!("{s:?}");
    let c = session.counters().unwrap();
    eprintln!("{}", leaktrace_common::wire::counter::NAMES.iter().zip(c).map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" "));
    let mut sites: Vec<_> = session.ledger().sites().iter().collect();
    sites.sort_by_key(|s| std::cmp::Reverse(s.trail.live.bytes));
    for s in sites.iter().take(6) {
        let f: Vec<String> = session.ledger().stacks().frames(s.stack).take(3).map(|f| format!("{}:{} {}", f.file, f.line, f.function)).collect();
        eprintln!("  {:?} {:?} d{} {}", s.trail.live, s.trail.allocated, s.domain, f.join(" < "));
    }
}

/// A line on stderr.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "leaktrace: {line}");
    let _ = std::io::stderr().is_terminal();
}
