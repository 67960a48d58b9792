//! `leaktrace refs`: who holds it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use leaktrace::census::Subject;
use leaktrace::cpython::Interpreter;
use leaktrace::host::freeze::Frozen;
use leaktrace::host::signals::StopSignals;
use leaktrace::refs::inserters::Traced;
use leaktrace::refs::value::{Answer, Coverage};
use leaktrace::refs::{Before, Look, drawing};
use leaktrace::report::refs;
use leaktrace::target::process::Target;

use super::output::{Json, Page};
use super::progress::Progress;
use crate::cli::{JsonOutput, RefsArgs};
use crate::exit::{ExitCode, Failure};

/// What a second Ctrl-C says: nothing was armed, nothing is left behind.
const FAREWELL: &str = "leaktrace: ended at once\n";

pub(crate) fn run(args: &RefsArgs) -> Result<ExitCode> {
    let json = args.json.as_ref().map(Json::open).transpose()?;
    let dot = args.dot.as_ref().map(|path| Json::open(&JsonOutput::File(path.clone()))).transpose()?;
    let svg = args.svg.as_ref().map(|path| Json::open(&JsonOutput::File(path.clone()))).transpose()?;
    let traced = args.report.as_deref().map(|path| traced(path, args.pid)).transpose()?;
    let target = Target::open(args.pid)?;
    let interpreter = Interpreter::find(&target)?;
    let maps = target.maps()?;
    let memory = target.memory();
    let subject = Subject::of(&target, &interpreter, &maps, &memory);
    let grown = args.type_.is_none() && args.address.is_empty() && !args.retained;
    let before = if grown || args.grown { Some(first(&subject, &target, args)?) } else { None };
    // The memory map of now: what was mapped since the first look counts too.
    let maps = target.maps()?;
    let subject = Subject { maps: &maps, ..subject };
    let begun = Instant::now();
    let frozen = if args.pause { Some(Frozen::stop(target.pid())?) } else { None };
    let progress = Progress::start(format!("reading the heap of pid {}, and who holds what in it", args.pid));
    let answer = answer(&subject, args, before.as_ref());
    drop(progress);
    let pause_seconds = frozen.as_ref().map(|frozen| frozen.elapsed().as_secs_f64());
    drop(frozen);
    let mut answer = answer?;
    answer.pause_seconds = pause_seconds;
    if let (Some(traced), Some(growth)) = (&traced, &mut answer.growth) {
        traced.join(&mut growth.culprits);
    }
    answer.seconds = begun.elapsed().as_secs_f64();
    let page = Page { to_stderr: args.json == Some(JsonOutput::Stdout) };
    let picture = drawing::dot(&answer);
    let results = [
        json.map_or(Ok(()), |json| json.write_value(&answer)),
        dot.map_or(Ok(()), |dot| dot.write(|out| out.write_all(picture.as_bytes()))),
        page.print(&refs::page(&answer, args.top, page.style())),
    ];
    results.into_iter().collect::<Result<(), _>>()?;
    if let Some(svg) = svg {
        let drawn = drawing::svg(&picture).map_err(|error| {
            Failure::new(ExitCode::Output, format!("cannot draw: {error}"), "install graphviz, or use --dot")
        })?;
        svg.write(|out| out.write_all(&drawn))?;
    }
    Ok(ExitCode::Success)
}

/// A report of `leaktrace run` on the process.
fn traced(path: &Path, pid: u32) -> Result<Traced> {
    let unusable = |what: String| Failure::new(ExitCode::Usage, what, "give what `leaktrace run --json FILE` wrote");
    let text = std::fs::read(path).map_err(|error| unusable(format!("cannot read {}: {error}", path.display())))?;
    let traced: Traced = serde_json::from_slice(&text)
        .map_err(|error| unusable(format!("{} is no report of leaktrace run: {error}", path.display())))?;
    if traced.pid() != pid {
        return Err(unusable(format!("{} is of process {}, not {pid}", path.display(), traced.pid())).into());
    }
    Ok(traced)
}

/// The first of two looks, and the wait for the second. A signal ends the wait.
fn first(subject: &Subject<'_>, target: &Target, args: &RefsArgs) -> Result<Before> {
    let frozen = if args.pause { Some(Frozen::stop(target.pid())?) } else { None };
    let progress = Progress::start(format!("reading the heap of pid {}", args.pid));
    let before = Before::take(subject);
    drop(frozen);
    drop(progress);
    let before = before?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    runtime.block_on(async {
        let mut signals = StopSignals::new(FAREWELL).context("cannot catch signals")?;
        let rest = args.interval.saturating_sub(before.taken().elapsed()).max(Duration::from_millis(1));
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            _ = signals.recv() => {}
        }
        anyhow::Ok(())
    })?;
    Ok(before)
}

fn answer(subject: &Subject<'_>, args: &RefsArgs, before: Option<&Before>) -> Result<Answer> {
    let now = Instant::now();
    let look = Look::take(subject)?;
    let mut answer = Answer::new(subject.pid, subject.process_start, subject.python, Coverage::of(&look));
    if let Some(name) = &args.type_ {
        answer.objects = Some(look.of_type(subject, name, args.samples)?);
    }
    if !args.address.is_empty() {
        answer.addresses = look.of_objects(subject, &args.address)?;
    }
    if let Some(before) = before {
        let seconds = now.duration_since(before.taken()).as_secs_f64();
        answer.growth = Some(look.growth(subject, before, seconds));
    }
    if args.retained {
        answer.retained = Some(look.retained(subject));
    }
    answer.unreachable = look.garbage(subject, before);
    Ok(answer)
}
