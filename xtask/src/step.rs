//! A long step of the set-up: says what it does, shows progress on a terminal, keeps the output for when it fails.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// Lines of a failed step's output that its error shows.
const TAIL: usize = 15;

/// Runs `command` under `title`. Its output goes to the end of `log`, its latest line beside the spinner.
pub(crate) fn run(title: &str, command: &mut Command, log: &Path) -> Result<()> {
    let shown = display(command);
    eprintln!("==> {title}: {shown}");
    let started = Instant::now();
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("    {spinner} {elapsed:>4} {wide_msg}")?);
    bar.enable_steady_tick(Duration::from_millis(100));

    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let mut log_file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write the log {}", log.display()))?;
    writeln!(log_file, "==> {shown}")?;
    // One pipe for both streams keeps their order.
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
    // Command keeps the writing ends; without this the reader would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let mut tail = VecDeque::with_capacity(TAIL);
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        writeln!(log_file, "{line}")?;
        bar.set_message(line.clone());
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    let status = child.wait()?;
    bar.finish_and_clear();
    if !status.success() {
        let tail: Vec<String> = tail.into();
        bail!("{title} failed ({status}): {shown}\n{}\nthe whole output is in {}", tail.join("\n"), log.display());
    }
    eprintln!("    done in {} s", started.elapsed().as_secs());
    Ok(())
}

/// The command as a person would type it.
pub(crate) fn display(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
