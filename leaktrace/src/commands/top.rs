//! `leaktrace top`: what grows, on a terminal, live or from a recording.

mod live;
mod replay;
mod terminal;
mod ui;

use std::io::{self, IsTerminal as _};

use anyhow::Result;
use leaktrace::top::Theme;

pub(super) use self::live::LiveTop;
use crate::cli::{RunArgs, SinceArgs, TopArgs, TraceArgs};
use crate::exit::{ExitCode, Failure};

pub(crate) fn run(args: TopArgs) -> Result<ExitCode> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let what = "top needs a terminal, and stdin or stdout is none";
        return Err(Failure::new(ExitCode::Usage, what, "without one: leaktrace run, or leaktrace report").into());
    }
    let TopArgs { file, pid, how, top, record, filter, since } = args;
    match (file, pid) {
        (Some(file), _) => replay::run(&file, &filter, SinceArgs { since }),
        (None, Some(pid)) => {
            let trace = TraceArgs { pid, how };
            super::run::top(&RunArgs { trace, top, json: None, record, fail_on_growth: false, filter })
        }
        (None, None) => Err(Failure::new(ExitCode::Usage, "neither a recording nor --pid", "").into()),
    }
}

/// What this terminal is asked for: no colours under `NO_COLOR`, text alone where nothing else is known to work.
fn theme() -> Theme {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if set("TERM").is_none_or(|term| term == "dumb") {
        Theme::Plain
    } else if set("NO_COLOR").is_some() {
        Theme::Mono
    } else {
        Theme::Colour
    }
}
