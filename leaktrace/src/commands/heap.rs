//! `leaktrace heap`: what is in the heap, once or again and again.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use leaktrace::census::growth::{Growth, Watch};
use leaktrace::census::{self, Census, ProcessMemoryUse, Subject};
use leaktrace::cpython::Interpreter;
use leaktrace::host::freeze::Frozen;
use leaktrace::host::signals::StopSignals;
use leaktrace::report::heap;
use leaktrace::target::process::Target;
use serde::Serialize;
use tokio::time::{Instant as Moment, MissedTickBehavior};

use super::output::{Json, Page};
use super::progress::Progress;
use super::screen::Screen;
use crate::cli::{HeapArgs, JsonOutput};
use crate::exit::ExitCode;

/// What a second Ctrl-C says: nothing was armed, nothing is left behind.
const FAREWELL: &str = "leaktrace: ended at once\n";

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    census: &'a Census,
    /// With `--interval`.
    #[serde(skip_serializing_if = "Option::is_none")]
    growth: Option<Growth>,
}

pub(crate) fn run(args: &HeapArgs) -> Result<ExitCode> {
    let json = args.json.as_ref().map(Json::open).transpose()?;
    let save = args.save.as_ref().map(|path| Json::open(&JsonOutput::File(path.clone()))).transpose()?;
    let target = Target::open(args.pid)?;
    let interpreter = Interpreter::find(&target)?;
    let page = Page { to_stderr: args.json == Some(JsonOutput::Stdout) };
    let progress = Progress::start(format!("reading the heap of pid {}", args.pid));
    let first = look(&target, &interpreter, args.pause)?;
    drop(progress);
    let (last, growth) = match args.interval {
        None => (first, None),
        Some(interval) => {
            let (last, growth) = watch(&target, &interpreter, args, interval, first)?;
            (last, Some(growth))
        }
    };
    let mut text = heap::census(&last, args.top, page.style());
    if let Some(growth) = &growth {
        text.push('\n');
        text.push_str(&heap::growth(growth, args.top, page.style()));
    }
    let document = Document { census: &last, growth };
    // What was asked for in several places goes to all of them, also when one cannot take it.
    let results = [
        json.map_or(Ok(()), |json| json.write_value(&document)),
        save.map_or(Ok(()), |save| save.write_value(&document)),
        page.print(&text),
    ];
    results.into_iter().collect::<Result<(), _>>()?;
    Ok(ExitCode::Success)
}

/// One census with the memory of the process.
pub(super) fn look(target: &Target, interpreter: &Interpreter, pause: bool) -> Result<Census> {
    let maps = target.maps()?;
    let memory = target.memory();
    let subject = Subject::of(target, interpreter, &maps, &memory);
    let frozen = if pause { Some(Frozen::stop(target.pid())?) } else { None };
    let census = census::take(&subject);
    let pause_seconds = frozen.as_ref().map(|frozen| frozen.elapsed().as_secs_f64());
    drop(frozen);
    let mut census = census?;
    census.pause_seconds = pause_seconds;
    census.memory = ProcessMemoryUse::parse(&target.memory_rollup()?);
    Ok(census)
}

/// Looks at each interval until the time is up, a signal comes or the target ends.
fn watch(
    target: &Target,
    interpreter: &Interpreter,
    args: &HeapArgs,
    interval: Duration,
    first: Census,
) -> Result<(Census, Growth)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    runtime.block_on(async {
        let mut signals = StopSignals::new(FAREWELL).context("cannot catch signals")?;
        let begin = Moment::now();
        let deadline = args.duration.map(|duration| begin + duration);
        let mut ticks = tokio::time::interval_at(begin + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch::default();
        watch.add(&first);
        let mut last = first;
        let mut screen = Screen::new()?;
        loop {
            let over = tokio::select! {
                _ = ticks.tick() => false,
                () = super::until(deadline) => true,
                _ = signals.recv() => true,
            };
            // A target that ends does not cost what was known of it.
            match look(target, interpreter, args.pause) {
                Ok(census) if target.still_same() => {
                    watch.add(&census);
                    last = census;
                }
                Err(error) if target.still_same() && !target.has_exited() => return Err(error),
                _ => {
                    screen.end()?;
                    let _ = writeln!(std::io::stderr(), "leaktrace: the process has ended");
                    break;
                }
            }
            if over {
                break;
            }
            let growth = watch.growth();
            screen.show(|| heap::live(&last, &growth, args.top), || heap::line(&last, &growth))?;
        }
        screen.end()?;
        Ok((last, watch.growth()))
    })
}
