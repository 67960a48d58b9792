//! How long `leaktrace refs` takes to name the container that leaks, in heaps of two sizes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::spread::Spread;
use crate::workspace;

/// Objects beside the leaking service's own, and the seconds that the answer may take, with the 5 s between its two looks.
const SIZES: [(u64, f64); 2] = [(1_000_000, 10.0), (20_000_000, 60.0)];

#[derive(Debug, Deserialize)]
struct Answer {
    /// Its version.
    python: String,
    service: String,
    expected: String,
    named: Option<String>,
    seconds: f64,
    cpu_seconds: f64,
    peak_rss_bytes: f64,
    objects: f64,
    references: f64,
}

/// What was measured in heaps of one size, over all leaking services.
#[derive(Debug, Serialize)]
pub(crate) struct Holders {
    pub(crate) python: String,
    objects: Spread,
    references: Spread,
    seconds: Spread,
    goal_seconds: f64,
    cpu_seconds: Spread,
    /// Peak memory of the command for each object and each reference.
    bytes_per_item: Spread,
    /// Services whose container was named first, of how many.
    named_first: usize,
    asked: usize,
    /// What was named instead.
    wrong: BTreeMap<String, Option<String>>,
}

pub(crate) fn measure(leaktrace: &Path, python: &Path, repeats: u32) -> Result<Vec<Holders>> {
    SIZES.into_iter().map(|(objects, goal)| of_size(leaktrace, python, repeats, objects, goal)).collect()
}

fn of_size(leaktrace: &Path, python: &Path, repeats: u32, objects: u64, goal_seconds: f64) -> Result<Holders> {
    let script = workspace::root().join("tests/bench/holders.py");
    let mut command = Command::new(python);
    command.arg(script).arg(leaktrace).args([objects.to_string(), repeats.to_string()]);
    let output = command.stderr(Stdio::inherit()).output().context("the benchmark's script cannot be started")?;
    if !output.status.success() {
        bail!("the benchmark's script failed on {} ({})", python.display(), output.status);
    }
    let answers: Vec<Answer> =
        serde_json::from_slice(&output.stdout).context("the benchmark's script says nonsense")?;
    let spread = |value: fn(&Answer) -> f64| Spread::of(answers.iter().map(value)).context("nothing was measured");
    let is_wrong = |answer: &&Answer| answer.named.as_ref() != Some(&answer.expected);
    Ok(Holders {
        python: answers.first().context("no service was measured")?.python.clone(),
        objects: spread(|a| a.objects)?,
        references: spread(|a| a.references)?,
        seconds: spread(|a| a.seconds)?,
        goal_seconds,
        cpu_seconds: spread(|a| a.cpu_seconds)?,
        bytes_per_item: spread(|a| a.peak_rss_bytes / (a.objects + a.references))?,
        named_first: answers.len() - answers.iter().filter(is_wrong).count(),
        asked: answers.len(),
        wrong: answers.iter().filter(is_wrong).map(|a| (a.service.clone(), a.named.clone())).collect(),
    })
}

/// As a table of the page, a row for each size.
pub(crate) fn table(measured: &[Holders]) -> String {
    let mut text = String::from(
        "| objects, references | named first | seconds, with 5 between the looks | wanted | CPU seconds | bytes for each object and reference (wanted: 40) |\n\
         |---|---|---|---|---|---|\n",
    );
    for of in measured {
        let _ = writeln!(
            text,
            "| {:.1}, {:.1} million | {} of {} | {} | {:.0} | {} | {} |",
            of.objects.median / 1e6,
            of.references.median / 1e6,
            of.named_first,
            of.asked,
            of.seconds,
            of.goal_seconds,
            of.cpu_seconds,
            of.bytes_per_item
        );
    }
    text
}
