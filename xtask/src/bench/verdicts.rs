//! After how long `watch`, at its default budget, names the line that leaks in the bundled services, and whether it accuses others.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::goals::{Goal, table};
use crate::workspace;

/// What the services need beside an interpreter.
pub(crate) const PACKAGES: [&str; 3] = ["flask", "gunicorn", "gevent"];
/// For how many seconds services are watched that leak 50 objects a second and more, that do not, and that leak one a second; the first
/// and the last are the limits for naming the line.
const SECONDS: [u64; 3] = [180, 600, 1200];

/// What was seen of one service.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Verdict {
    /// With its options.
    service: String,
    /// For how long it was watched.
    seconds: u64,
    /// What went wrong; nothing else is known then.
    failure: Option<String>,
    /// Its version.
    pub(crate) python: String,
    leaks: bool,
    /// Seconds from the attach.
    first_named_seconds: Option<f64>,
    /// Looks after that, one in 2 s, and at how many of them its line was the first that was named.
    later_looks: u64,
    later_named: u64,
    /// Lines that were named first, or suspected, at any look, or named in the report, beside the one that leaks. What is kept with what
    /// leaks, as the key of an entry is, belongs to it.
    accused_others: Vec<String>,
    suspected_others: Vec<String>,
    windows: u64,
    /// Shares of the service's CPU time.
    overhead: f64,
    overhead_limit: f64,
}

/// Watches all of them; `python` has [`PACKAGES`].
pub(crate) fn measure(leaktrace: &Path, python: &Path) -> Result<Vec<Verdict>> {
    let script = workspace::root().join("tests/bench/verdicts.py");
    let mut command = Command::new(python);
    command.arg(script).arg(leaktrace).args(SECONDS.map(|seconds| seconds.to_string()));
    let output = command.stderr(Stdio::inherit()).output().context("the benchmark's script cannot be started")?;
    if !output.status.success() {
        bail!("the benchmark's script failed on {} ({})", python.display(), output.status);
    }
    serde_json::from_slice(&output.stdout).context("the benchmark's script says nonsense")
}

/// The part of the page for one interpreter.
pub(crate) fn page(of: &[Verdict]) -> Result<String, std::fmt::Error> {
    let mut page = String::from(
        "| service | watched, s | first named after, s | named first at later looks | others named | others suspected | windows | cost, % |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for one in of {
        if let Some(failure) = &one.failure {
            writeln!(page, "| `{}` | {} | failed: {} |", one.service, one.seconds, failure.replace('\n', " "))?;
            continue;
        }
        let first = one.first_named_seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.0}"));
        let (first, later) = match (one.leaks, one.later_looks) {
            (false, _) => (String::new(), String::new()),
            (true, 0) => (first, String::new()),
            (true, looks) => (first, format!("{} of {looks}", one.later_named)),
        };
        writeln!(
            page,
            "| `{}` | {} | {first} | {later} | {} | {} | {} | {:.2} |",
            one.service,
            one.seconds,
            one.accused_others.join(", "),
            one.suspected_others.join(", "),
            one.windows,
            100.0 * one.overhead
        )?;
    }
    page.push('\n');
    table(&mut page, &goals(of))?;
    Ok(page)
}

fn goals(of: &[Verdict]) -> Vec<Goal> {
    let failed = of.iter().any(|one| one.failure.is_some());
    let leaking = |seconds| of.iter().filter(move |one| one.leaks && one.seconds == seconds);
    let named = |what: &str, limit: u64| {
        let never: Vec<&str> =
            leaking(limit).filter(|one| one.first_named_seconds.is_none()).map(|one| &*one.service).collect();
        let longest = leaking(limit).filter_map(|one| one.first_named_seconds).max_by(f64::total_cmp);
        let longest = longest.map(|seconds| format!("at most {seconds:.0}"));
        let but = (!never.is_empty()).then(|| format!("never: {}", never.join(", ")));
        let measured: Vec<String> = longest.into_iter().chain(but).collect();
        Goal {
            what: format!("seconds until the line is named that leaks {what}"),
            limit: format!("at most {limit}"),
            measured: measured.join("; "),
            met: never.is_empty() && !failed,
        }
    };
    let accused: Vec<&str> =
        of.iter().filter(|one| !one.leaks && !one.accused_others.is_empty()).map(|one| &*one.service).collect();
    let innocent = of.iter().filter(|one| !one.leaks && one.failure.is_none()).count();
    let shares = of.iter().filter(|one| one.failure.is_none()).map(|one| one.overhead / one.overhead_limit);
    let dearest = shares.fold(0.0, f64::max);
    vec![
        named("50 objects a second or more", SECONDS[0]),
        named("one object a second", SECONDS[2]),
        Goal {
            what: format!("services that do not leak and were accused in {} s, of {innocent}", SECONDS[1]),
            limit: "none".to_owned(),
            measured: if accused.is_empty() { "none".to_owned() } else { accused.join(", ") },
            met: accused.is_empty() && !failed,
        },
        Goal {
            what: "cost, of what was allowed".to_owned(),
            limit: "at most 1".to_owned(),
            measured: format!("{dearest:.2}"),
            met: dearest <= 1.0,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(service: &str, leaks: bool, seconds: u64, first: Option<f64>, accused: &[&str]) -> Verdict {
        Verdict {
            service: service.to_owned(),
            seconds,
            failure: None,
            python: "3.11.2".to_owned(),
            leaks,
            first_named_seconds: first,
            later_looks: if first.is_some() { 60 } else { 0 },
            later_named: 58,
            accused_others: accused.iter().map(|line| (*line).to_owned()).collect(),
            suspected_others: Vec::new(),
            windows: 50,
            overhead: 0.009,
            overhead_limit: 0.01,
        }
    }

    #[test]
    fn what_failed_meets_nothing() {
        let failed = Verdict { failure: Some("it ended".to_owned()), ..verdict("calm", false, 600, None, &[]) };
        let page = page(&[failed, verdict("leak", true, 180, Some(52.0), &[])]).unwrap();
        assert!(page.contains("| `calm` | 600 | failed: it ended |"), "{page}");
        assert!(page.contains("in 600 s, of 0 | none | none | **no** |"), "{page}");
    }

    #[test]
    fn a_page() {
        let page = page(&[
            verdict("leak", true, 180, Some(52.0), &[]),
            verdict("slow", true, 1200, None, &[]),
            verdict("calm", false, 600, None, &["calm.py:7"]),
        ]);
        let page = page.unwrap();
        for expected in [
            "| `leak` | 180 | 52 | 58 of 60 |  |  | 50 | 0.90 |",
            "| `slow` | 1200 | never |  |",
            "| `calm` | 600 |  |  | calm.py:7 |",
            "50 objects a second or more | at most 180 | at most 52 | yes |",
            "one object a second | at most 1200 | never: slow | **no** |",
            "in 600 s, of 1 | none | calm | **no** |",
            "| at most 1 | 0.90 | yes |",
        ] {
            assert!(page.contains(expected), "no {expected:?} in {page}");
        }
    }
}
