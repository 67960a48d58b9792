//! The garbage collector for people.

use std::fmt::Write as _;

use super::Style;
use super::units::{count, percent, span};
use super::words::{number, printable};
use crate::census::collector::{Collector, Garbage, InterpreterCollector};
use crate::census::watched::{LONG_PAUSE, Pauses, Warning, Watched};

/// Objects of `gc.garbage` that are listed.
const SHOWN: usize = 10;
/// Pauses that are named.
const SHOWN_PAUSES: usize = 3;
/// Columns of the longest bar.
const BAR: u64 = 40;

/// The collectors of a process as a page of text.
pub fn page(collector: &Collector, style: Style) -> String {
    let mut page = String::new();
    for interpreter in &collector.interpreters {
        if collector.interpreters.len() > 1 {
            let _ = writeln!(page, "interpreter {}", interpreter.id);
        }
        one(&mut page, interpreter, style);
    }
    if let Some(watched) = &collector.watched {
        page.push('\n');
        self::watched(&mut page, watched, style);
    }
    page
}

/// What is shown while a watch goes on.
pub fn watched_page(watched: &Watched) -> String {
    let mut page = String::new();
    self::watched(&mut page, watched, Style::PLAIN);
    page
}

/// The same in a line.
pub fn watched_line(watched: &Watched) -> String {
    let pauses = watched.pauses.as_ref().map_or_else(String::new, |pauses| {
        format!("; pauses {}, longest {}", span(pauses.total_seconds), span(pauses.max_seconds))
    });
    let warnings = number(watched.warnings.len(), "warning");
    format!("{:>8}  collections {}{pauses}; {warnings}", span(watched.seconds), collections(watched))
}

/// "120 + 11 + 1".
fn collections(watched: &Watched) -> String {
    watched.collections.map(|count| count.to_string()).join(" + ")
}

fn watched(page: &mut String, watched: &Watched, style: Style) {
    let title = format!("Watched for {}: {} collections (young to old)", span(watched.seconds), collections(watched));
    let _ = writeln!(page, "{}", style.bold(title));
    for warning in &watched.warnings {
        let _ = writeln!(page, "{}", style.warning(sentence(warning)));
    }
    match (&watched.pauses, &watched.without_pauses) {
        (Some(pauses), _) => histogram(page, pauses, watched.seconds, style),
        (None, Some(why)) => {
            let _ = writeln!(page, "Pauses are not known: {why}.");
        }
        (None, None) => {}
    }
}

fn sentence(warning: &Warning) -> String {
    match *warning {
        Warning::Disabled { seconds } => {
            format!("It was disabled all the time ({}): reference cycles are not freed.", span(seconds))
        }
        Warning::OldGenerationGrows { first, last, full_collections } => format!(
            "The oldest generation grew at each full collection: {} objects, after {full_collections} of them {}.",
            count(first as f64),
            count(last as f64),
        ),
        Warning::Uncollectable { objects } => {
            format!("{} could not be freed while it was watched.", number(objects as usize, "object"))
        }
        Warning::LongPauses { count, max_seconds } => format!(
            "{} of more than {}, the longest of {}.",
            number(count as usize, "pause"),
            span(LONG_PAUSE),
            span(max_seconds)
        ),
    }
}

fn histogram(page: &mut String, pauses: &Pauses, seconds: f64, style: Style) {
    if pauses.count == 0 {
        let _ = writeln!(page, "No collection ended: no pauses.");
        return;
    }
    let _ = writeln!(
        page,
        "{} took {} ({} of the time), the longest {}",
        number(pauses.count as usize, "pause"),
        span(pauses.total_seconds),
        percent(pauses.total_seconds / seconds.max(1e-9)),
        span(pauses.max_seconds),
    );
    let _ = writeln!(page, "{}", style.dim(format!("{:>12} {:>10}", "up to", "pauses")));
    let most = pauses.histogram.iter().map(|bucket| bucket.count).max().unwrap_or(1).max(1);
    for bucket in &pauses.histogram {
        let bar = "\u{2588}".repeat((bucket.count * BAR).div_ceil(most) as usize);
        let row = format!("{:>12} {:>10}  {bar}", span(bucket.up_to), count(bucket.count as f64));
        let _ = writeln!(page, "{}", row.trim_end());
    }
    let longest = pauses.longest.iter().take(SHOWN_PAUSES);
    let longest: Vec<String> = longest
        .map(|p| {
            let whose = if p.other_interpreter { " of another interpreter" } else { "" };
            format!("{} (generation {}{whose}, at {})", span(p.seconds), p.generation, span(p.at))
        })
        .collect();
    let _ = writeln!(page, "longest: {}", longest.join(", "));
    if pauses.other_interpreters > 0 {
        let _ =
            writeln!(page, "of these in other interpreters: {}", number(pauses.other_interpreters as usize, "pause"));
    }
}

fn one(page: &mut String, gc: &InterpreterCollector, style: Style) {
    let state = if gc.enabled { "enabled" } else { "disabled" };
    let now = if gc.collecting { ", collecting now" } else { "" };
    let _ = writeln!(page, "{}", style.bold(format!("The cyclic garbage collector is {state}{now}.")));
    for warning in warnings(gc) {
        let _ = writeln!(page, "{}", style.warning(warning));
    }
    let columns = ["generation", "objects", "count", "threshold", "collections", "collected", "uncollectable"];
    let columns: Vec<String> = columns.iter().map(|column| format!("{column:>14}")).collect();
    let _ = writeln!(page, "\n{}", style.dim(columns.concat()));
    for row in &gc.generations {
        let objects = match row.objects.map(|objects| count(objects as f64)) {
            Some(objects) if row.whole => objects,
            Some(objects) => format!("> {objects}"),
            None => "-".to_owned(),
        };
        let _ = writeln!(
            page,
            "{:>14}{objects:>14}{:>14}{:>14}{:>14}{:>14}{:>14}",
            row.generation, row.count, row.threshold, row.collections, row.collected, row.uncollectable,
        );
    }
    let frozen = gc.frozen.map_or_else(|| "not known".to_owned(), |frozen| count(frozen as f64));
    let old = gc.long_lived_total.zip(gc.long_lived_pending).map_or_else(
        || "the oldest generation is collected by and by".to_owned(),
        |(total, pending)| {
            let (total, pending) = (count(total as f64), count(pending as f64));
            format!("old objects at the last full collection {total}, come to the oldest generation since {pending}")
        },
    );
    let _ = writeln!(page, "\nfrozen {frozen}, {old}");
    garbage(page, &gc.garbage);
}

fn garbage(page: &mut String, garbage: &Garbage) {
    if garbage.count == 0 {
        let _ = writeln!(page, "gc.garbage is empty");
        return;
    }
    let _ = writeln!(page, "gc.garbage holds {}:", number(garbage.count as usize, "object"));
    for object in garbage.objects.iter().take(SHOWN) {
        let _ = writeln!(page, "  {}", printable(&object.repr));
    }
    if garbage.count as usize > SHOWN {
        let _ = writeln!(page, "  and {} more", count(garbage.count as f64 - SHOWN as f64));
    }
}

/// What one look already tells to be wrong.
pub fn warnings(gc: &InterpreterCollector) -> Vec<String> {
    let mut warnings = Vec::new();
    if !gc.enabled {
        warnings.push("It is disabled: reference cycles are never freed.".to_owned());
    } else if gc.generations.first().is_some_and(|young| young.threshold == 0) {
        warnings
            .push("Its first threshold is 0: it never runs by itself, reference cycles are never freed.".to_owned());
    }
    let doubled = gc.long_lived_total.zip(gc.long_lived_pending).filter(|(total, pending)| pending > total);
    if let Some((_, pending)) = doubled.filter(|(_, pending)| *pending > 10_000) {
        warnings.push(format!(
            "The oldest generation has more than doubled since its last full collection: {} objects came to it.",
            count(pending as f64)
        ));
    }
    let uncollectable: u64 = gc.generations.iter().map(|generation| generation.uncollectable).sum();
    if uncollectable > 0 {
        warnings.push(format!("{} could not be freed.", number(uncollectable as usize, "object")));
    }
    if gc.debug & 32 != 0 {
        // `gc.DEBUG_SAVEALL` (Modules/gcmodule.c).
        warnings.push("gc.DEBUG_SAVEALL is set: all that is collected is kept in gc.garbage.".to_owned());
    }
    warnings
}
