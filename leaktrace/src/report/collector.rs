//! The garbage collector for people.

use std::fmt::Write as _;

use super::Style;
use super::units::count;
use super::words::{number, printable};
use crate::census::collector::{Collector, Garbage, InterpreterCollector};

/// Objects of `gc.garbage` that are listed.
const SHOWN: usize = 10;

/// The collectors of a process as a page of text.
pub fn page(collector: &Collector, style: Style) -> String {
    let mut page = String::new();
    for interpreter in &collector.interpreters {
        if collector.interpreters.len() > 1 {
            let _ = writeln!(page, "interpreter {}", interpreter.id);
        }
        one(&mut page, interpreter, style);
    }
    page
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
        let objects = if row.whole { count(row.objects as f64) } else { format!("> {}", count(row.objects as f64)) };
        let _ = writeln!(
            page,
            "{:>14}{objects:>14}{:>14}{:>14}{:>14}{:>14}{:>14}",
            row.generation, row.count, row.threshold, row.collections, row.collected, row.uncollectable,
        );
    }
    let _ = writeln!(
        page,
        "\nfrozen {}, old objects at the last full collection {}, come to the oldest generation since {}",
        count(gc.frozen as f64),
        count(gc.long_lived_total as f64),
        count(gc.long_lived_pending as f64),
    );
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
    if gc.long_lived_pending > gc.long_lived_total && gc.long_lived_pending > 10_000 {
        warnings.push(format!(
            "The oldest generation has more than doubled since its last full collection: {} objects came to it.",
            count(gc.long_lived_pending as f64)
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
