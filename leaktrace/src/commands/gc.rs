//! `leaktrace gc`: how the garbage collector is set and how it does, once or watched.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use leaktrace::census::watched::{Pause, Watch, Watched};
use leaktrace::census::{CensusError, Subject, collector};
use leaktrace::cpython::Interpreter;
use leaktrace::host::claim::Claim;
use leaktrace::host::kernel::{KernelVersion, ReturnProbes};
use leaktrace::host::privileges;
use leaktrace::host::signals::StopSignals;
use leaktrace::host::tracefs::Tracefs;
use leaktrace::report::collector as view;
use leaktrace::session::pauses::PauseProbes;
use leaktrace::target::process::Target;
use leaktrace::tracer::sweep::now_ns;
use tokio::time::{Instant as Moment, MissedTickBehavior};

use super::output::{Json, Page};
use super::screen::Screen;
use crate::cli::{GcArgs, JsonOutput};
use crate::exit::ExitCode;

/// What a second Ctrl-C says. The guardian disarms what was armed.
const FAREWELL: &str = "leaktrace: ended at once\n";

pub(crate) fn run(args: &GcArgs) -> Result<ExitCode> {
    let json = args.json.as_ref().map(Json::open).transpose()?;
    let target = Arc::new(Target::open(args.pid)?);
    let interpreter = Interpreter::find(&target)?;
    let mut last = look(&target, &interpreter)?;
    if let Some(interval) = args.interval {
        let (watched, end) = watch(&target, &interpreter, args, interval)?;
        // Of a target that has ended the first look is what there is.
        last = end.unwrap_or(last);
        last.watched = Some(watched);
    }
    let page = Page { to_stderr: args.json == Some(JsonOutput::Stdout) };
    if let Some(json) = json {
        json.write_value(&last)?;
    }
    page.print(&view::page(&last, page.style()))?;
    Ok(ExitCode::Success)
}

fn look(target: &Target, interpreter: &Interpreter) -> Result<collector::Collector> {
    let (maps, memory) = (target.maps()?, target.memory());
    Ok(collector::look(&Subject::of(target, interpreter, &maps, &memory)).map_err(CensusError::from)?)
}

/// Probes on the collector, and the right to set them.
struct Armed {
    probes: PauseProbes,
    _claim: Claim,
    // Unmounted at its end where leaktrace mounted it.
    _tracefs: Tracefs,
}

/// Arms the probes, or says why pauses stay unknown: all else is told by memory alone.
fn arm(target: &Arc<Target>, interpreter: &Interpreter, tracefs: Result<Tracefs>) -> Result<Armed, String> {
    let told = |error: anyhow::Error| format!("{error:#}");
    let claim = Claim::new(target.pid()).map_err(|error| error.to_string())?;
    let tracefs = tracefs.map_err(told)?;
    privileges::raise_memlock();
    let return_probes = match (KernelVersion::running(), target.seccomp()) {
        (Some(kernel), Ok(seccomp)) => ReturnProbes::on(kernel, seccomp) == ReturnProbes::Safe,
        _ => false,
    };
    match PauseProbes::start(target, interpreter, &tracefs.root, return_probes) {
        Ok(Some(probes)) => Ok(Armed { probes, _claim: claim, _tracefs: tracefs }),
        Ok(None) => Err("the collector's function was not found in this build".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Watches until the time is up, a signal comes or the target ends; then looks at all once more, if it is still there.
fn watch(
    target: &Arc<Target>,
    interpreter: &Interpreter,
    args: &GcArgs,
    interval: Duration,
) -> Result<(Watched, Option<collector::Collector>)> {
    // Before any thread starts: the mount namespace is a thread's.
    let tracefs = Tracefs::find_or_mount().map_err(anyhow::Error::from);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    let inside = runtime.enter();
    let mut signals = StopSignals::new(FAREWELL).context("cannot catch signals")?;
    drop(inside);
    let (maps, memory) = (target.maps()?, target.memory());
    let subject = Subject::of(target, interpreter, &maps, &memory);
    let counters = || collector::counters(&subject).map_err(CensusError::from);
    let mut armed = arm(target, interpreter, tracefs);
    let why = armed.as_ref().err().cloned();
    if let Some(why) = &why {
        let _ = writeln!(std::io::stderr(), "leaktrace: pauses are not known: {why}");
    }
    let mut watch = Watch::new(counters()?);
    let begin_ns = now_ns();
    let mut screen = Screen::new()?;
    let gone = runtime.block_on(async {
        let begin = Moment::now();
        let deadline = args.duration.map(|duration| begin + duration);
        let mut ticks = tokio::time::interval_at(begin + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let over = tokio::select! {
                _ = ticks.tick() => false,
                () = super::until(deadline) => true,
                _ = signals.recv() => true,
            };
            if let Ok(armed) = &armed {
                take(&armed.probes, begin_ns, &mut watch);
            }
            match counters() {
                Ok(counters) if target.still_same() => watch.add(counters, begin.elapsed().as_secs_f64()),
                Err(error) if target.still_same() && !target.has_exited() => return Err(error.into()),
                _ => return Ok(true),
            }
            if over {
                return Ok(false);
            }
            let watched = watch.watched(why.as_deref());
            screen.show(|| view::watched_page(&watched), || view::watched_line(&watched))?;
        }
    });
    // Whatever happened: first the target gets its full speed back.
    if let Ok(armed) = &mut armed {
        armed.probes.disarm();
        take(&armed.probes, begin_ns, &mut watch);
    }
    screen.end()?;
    drop(screen);
    let gone: Result<bool> = gone;
    let gone = gone?;
    if gone {
        let _ = writeln!(std::io::stderr(), "leaktrace: the process has ended");
    }
    let end = if gone { None } else { Some(look(target, interpreter)?) };
    Ok((watch.watched(why.as_deref()), end))
}

/// Takes the collections that ended.
fn take(probes: &PauseProbes, begin_ns: u64, watch: &mut Watch) {
    for record in probes.take() {
        watch.pause(Pause {
            generation: record.generation,
            seconds: record.end_ns.saturating_sub(record.start_ns) as f64 / 1e9,
            at: record.start_ns.saturating_sub(begin_ns) as f64 / 1e9,
            other_interpreter: record.other != 0,
        });
    }
}
