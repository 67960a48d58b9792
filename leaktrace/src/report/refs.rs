//! Who holds what, for people.

use std::fmt::Write as _;

use super::Style;
use super::units::{bytes, bytes_rate, count, percent, span, thousands};
use super::words::printable;
use crate::refs::value::{Answer, Culprit, Garbage, GrownType, Growth, Objects, OneObject, PathGroup, Retained};

/// Paths of one grown type that are shown.
const PATHS: usize = 2;
/// Lines that fill a container that are shown.
const INSERTERS: usize = 3;
/// Bytes of garbage that are worth a word, and the share of what is new that a container's line is.
const WORTH: u64 = 4096;
const WORTH_SHARE: f64 = 0.005;
/// Share of a type's new objects below which a path is not worth a line.
const LEAST: f64 = 0.02;

/// An answer as a page of text.
pub fn page(answer: &Answer, top: usize, style: Style) -> String {
    let mut page = String::new();
    headline(&mut page, answer, style);
    if let Some(objects) = &answer.objects {
        of_type(&mut page, objects, top, style);
    }
    for object in &answer.addresses {
        of_object(&mut page, object, top, style);
    }
    if let Some(growth) = &answer.growth {
        grown(&mut page, growth, &answer.unreachable, top, style);
    }
    if let Some(retained) = &answer.retained {
        kept(&mut page, retained, top, style);
    }
    unreachable(&mut page, &answer.unreachable, top, style);
    page
}

fn headline(page: &mut String, answer: &Answer, style: Style) {
    let coverage = &answer.coverage;
    let stopped = answer.pause_seconds.map_or_else(String::new, |pause| format!(", stopped for {}", span(pause)));
    let text = format!(
        "{} objects and {} references; read in {}{stopped} from pid {} (Python {})",
        count(coverage.objects as f64),
        count(coverage.references as f64),
        span(answer.seconds),
        answer.pid,
        answer.python,
    );
    let _ = writeln!(page, "{}", style.bold(text));
    let mut notes = Vec::new();
    if coverage.held_by_c > 0 {
        notes.push(format!("{} objects are held by C code", count(coverage.held_by_c as f64)));
    }
    if coverage.unknown_bytes > 0 {
        notes.push(format!("{} of memory of C code could not be followed", bytes(coverage.unknown_bytes as f64)));
    }
    if coverage.gone > 0 {
        notes.push(format!("{} objects went away meanwhile", count(coverage.gone as f64)));
    }
    if coverage.collecting {
        notes.push("a collection was running".to_owned());
    }
    if !notes.is_empty() {
        let _ = writeln!(page, "{}", style.dim(notes.join("; ")));
    }
}

fn of_type(page: &mut String, objects: &Objects, top: usize, style: Style) {
    let sampled = if objects.sampled < objects.count {
        format!(", of which {} were looked at", thousands(objects.sampled))
    } else {
        String::new()
    };
    let _ = writeln!(page, "\n{}{sampled}, held by", plural(objects.count, &objects.name));
    for group in objects.paths.iter().take(top) {
        path(page, group, style);
    }
    let more = objects.paths.len().saturating_sub(top);
    if more > 0 {
        let rest: u64 = objects.paths.iter().skip(top).map(|group| group.objects).sum();
        let _ = writeln!(page, "  {}", style.dim(format!("and {more} more paths to {}", plural(rest, "object"))));
    }
    if objects.unreachable > 0 {
        let _ = writeln!(page, "  nothing: {} (see below)", plural(objects.unreachable, "object"));
    }
}

/// `app.cache._seen[*].history[*]: 12,411 objects, 96 %`.
fn path(page: &mut String, group: &PathGroup, style: Style) {
    let line = format!("{}: {}, {}", printable(&group.path), plural(group.objects, "object"), percent(group.share));
    let _ = writeln!(page, "  {line}");
    if group.example != group.path {
        let _ = writeln!(page, "      {}", style.dim(format!("such as {}", printable(&group.example))));
    }
}

fn of_object(page: &mut String, object: &OneObject, top: usize, style: Style) {
    let _ = writeln!(
        page,
        "\n{} at {:#x}: {}, {} with all that only it keeps alive",
        printable(&object.name),
        object.address,
        bytes(object.bytes as f64),
        bytes(object.retained_bytes as f64),
    );
    match object.reference_count {
        None => {
            let _ = writeln!(page, "It is immortal, or went away meanwhile.");
        }
        Some(counted) => {
            let found = object.references_found;
            let _ = write!(page, "{} counted, {} found", plural(counted, "reference"), thousands(found));
            let _ = match counted.checked_sub(found) {
                Some(gap) if gap > 0 => writeln!(page, ": C code, or a function that is just running, holds {gap}."),
                _ => writeln!(page, "."),
            };
        }
    }
    match &object.path {
        Some(group) => {
            let _ = writeln!(page, "{}\n  {}", style.dim("path"), printable(&group.example));
        }
        None => {
            let _ = writeln!(page, "No root leads to it.");
        }
    }
    if !object.referrers.is_empty() {
        let _ = writeln!(page, "{}", style.dim("held by"));
    }
    for referrer in object.referrers.iter().take(top) {
        let _ = writeln!(
            page,
            "  {} at {:#x}, as {}",
            printable(&referrer.name),
            referrer.address,
            printable(&referrer.by)
        );
    }
    let more = object.referrers.len().saturating_sub(top);
    if more > 0 {
        let _ = writeln!(page, "  {}", style.dim(format!("and {more} more")));
    }
}

fn grown(page: &mut String, growth: &Growth, garbage: &Garbage, top: usize, style: Style) {
    let _ = writeln!(
        page,
        "\nIn {}: {} that {} still there, {}.",
        span(growth.seconds),
        plural(growth.new_objects, "new object"),
        if growth.new_objects == 1 { "is" } else { "are" },
        bytes(growth.new_bytes as f64),
    );
    if garbage.new_bytes >= WORTH && garbage.new_bytes * 2 > growth.new_bytes {
        let _ = writeln!(page, "Most of it nothing holds: unreachable cycles that are not collected (below).");
    }
    let culprits: Vec<&Culprit> = growth.culprits.iter().take(top).collect();
    let culprits: Vec<&Culprit> = culprits.into_iter().filter(|culprit| culprit.share >= WORTH_SHARE).collect();
    if culprits.is_empty() {
        let _ = writeln!(page, "No container of Python grew.");
    } else {
        let columns = format!("{:>6} {:>10} {:>10} {:>10}  held through", "share", "new", "rate", "retained");
        let _ = writeln!(page, "\n{}", style.dim(columns));
    }
    for culprit in culprits {
        let rate = culprit.rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", count(rate)));
        let retained = bytes(culprit.retained_bytes as f64);
        let _ = writeln!(
            page,
            "{:>6} {:>10} {rate:>10} {retained:>10}  {}",
            percent(culprit.share),
            bytes(culprit.new_bytes as f64),
            style.bold(printable(&culprit.path)),
        );
        let _ = writeln!(page, "{:>41}{}", "", style.dim(printable(&description(culprit))));
        for inserter in culprit.inserted_by.iter().take(INSERTERS) {
            let rate = bytes_rate(inserter.bytes_per_second);
            let line = format!("filled by {}:{} {}, {rate}", inserter.file, inserter.line, inserter.function);
            let _ = writeln!(page, "{:>41}{}", "", printable(&line));
        }
    }
    let types: Vec<&GrownType> =
        growth.types.iter().filter(|grown| !grown.paths.is_empty() || grown.unreachable > 0).collect();
    if !types.is_empty() {
        let columns = format!("\n{:>10} {:>10} {:>10}  types that grew", "before", "now", "new");
        let _ = writeln!(page, "{}", style.dim(columns));
    }
    for grown in types {
        let numbers = (count(grown.before as f64), count(grown.now as f64), bytes(grown.new_bytes as f64));
        let _ = writeln!(page, "{:>10} {:>10} {:>10}  {}", numbers.0, numbers.1, numbers.2, printable(&grown.name));
        for group in grown.paths.iter().filter(|group| group.share >= LEAST).take(PATHS) {
            let held = format!("{}, {}", printable(&group.path), percent(group.share));
            let _ = writeln!(page, "{:>36}{}", "", style.dim(held));
        }
        if grown.unreachable > 0 {
            let held = format!("nothing: {}", plural(grown.unreachable, "object"));
            let _ = writeln!(page, "{:>36}{}", "", style.dim(held));
        }
    }
}

/// `list of dict, 620 → 1,620`.
fn description(culprit: &Culprit) -> String {
    let mut text = culprit.name.clone();
    if culprit.containers > 1 {
        text = format!("{} × {text}", thousands(culprit.containers));
    }
    let kinds = |kinds: &[String]| kinds.join(" | ");
    match (culprit.key_types.is_empty(), culprit.value_types.is_empty()) {
        (false, false) => {
            let _ = write!(text, " of {} to {}", kinds(&culprit.key_types), kinds(&culprit.value_types));
        }
        (_, false) => {
            let _ = write!(text, " of {}", kinds(&culprit.value_types));
        }
        _ => {}
    }
    if let (Some(before), Some(now)) = (culprit.length_before, culprit.length_now) {
        let _ = write!(text, ", {} → {}", thousands(before), thousands(now));
    }
    if !culprit.sample_keys.is_empty() {
        let _ = write!(text, ", new keys such as {}", culprit.sample_keys.join(", "));
    }
    text
}

fn kept(page: &mut String, retained: &Retained, top: usize, style: Style) {
    let _ = writeln!(page, "\n{}", style.dim(format!("{:>10} {:>10}  type", "retained", "objects")));
    for sum in retained.types.iter().take(top) {
        let (bytes, objects) = (bytes(sum.retained_bytes as f64), count(sum.objects as f64));
        let _ = writeln!(page, "{bytes:>10} {objects:>10}  {}", printable(&sum.name));
    }
    let _ = writeln!(page, "\n{}", style.dim(format!("{:>10}  module", "retained")));
    for sum in retained.modules.iter().take(top) {
        let _ = writeln!(page, "{:>10}  {}", bytes(sum.retained_bytes as f64), printable(&sum.name));
    }
    let _ = writeln!(page, "\n{}", style.dim(format!("{:>10}  container", "retained")));
    for container in retained.containers.iter().take(top) {
        let text = format!("{} ({})", container.path, container.name);
        let _ = writeln!(page, "{:>10}  {}", bytes(container.retained_bytes as f64), printable(&text));
    }
}

fn unreachable(page: &mut String, garbage: &Garbage, top: usize, style: Style) {
    // A few cycles that the collector has not come to yet are everywhere.
    if garbage.bytes < 4 * WORTH || garbage.cycles.is_empty() {
        return;
    }
    let why = match garbage.collector_enabled {
        Some(false) => "the collector is switched off",
        Some(true) => "the collector has not come to it",
        None => "not collected",
    };
    let new = if garbage.new_objects > 0 {
        format!(", {} of them new", count(garbage.new_objects as f64))
    } else {
        String::new()
    };
    let _ = writeln!(
        page,
        "\nNothing holds {} ({}{new}) in reference cycles: {why}.",
        plural(garbage.objects, "object"),
        bytes(garbage.bytes as f64),
    );
    for cycle in garbage.cycles.iter().take(top.min(5)) {
        let text = format!("{} → itself", cycle.cycle);
        let _ = writeln!(page, "{:>10}  {}", format!("{} ×", count(cycle.cycles as f64)), style.bold(printable(&text)));
    }
    for sum in garbage.types.iter().take(top.min(5)) {
        let _ = writeln!(
            page,
            "{:>10} {:>10}  {}",
            count(sum.objects as f64),
            bytes(sum.bytes as f64),
            style.dim(printable(&sum.name))
        );
    }
}

fn plural(number: u64, name: &str) -> String {
    if name.contains('.') || !name.ends_with("object") && !name.ends_with("reference") {
        return format!("{} object{} of {name}", thousands(number), if number == 1 { "" } else { "s" });
    }
    format!("{} {name}{}", thousands(number), if number == 1 { "" } else { "s" })
}
