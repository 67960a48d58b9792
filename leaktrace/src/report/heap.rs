//! Censuses, their growth and their difference for people.

use std::fmt::Write as _;

use super::Style;
use super::units::{bytes, bytes_rate, count, percent, span};
use super::words::printable;
use crate::census::diff::{Diff, Difference};
use crate::census::growth::{Grown, Growth};
use crate::census::memory::{Cause, Shares};
use crate::census::{Census, Consistency, Container, TypeCount};
use crate::model::Rate;

/// Size classes that are named as holding free space.
const CLASSES: usize = 3;

/// One census as a page of text.
pub fn census(census: &Census, top: usize, style: Style) -> String {
    let mut page = String::new();
    headline(&mut page, census, style);
    memory(&mut page, census, style);
    let columns = format!("{:>10} {:>10} {:>6}  type", "objects", "bytes", "share");
    let _ = writeln!(page, "\n{}", style.dim(columns));
    for row in census.types.iter().filter(|row| row.count > 0).take(top) {
        type_row(&mut page, row, census.totals.bytes);
    }
    let more = census.types.iter().filter(|row| row.count > 0).count().saturating_sub(top);
    if more > 0 {
        let _ = writeln!(page, "{}", style.dim(format!("{:>28}  and {more} more types", "")));
    }
    if !census.containers.is_empty() {
        let _ = writeln!(page, "\n{}", style.dim(format!("{:>10}  longest containers", "length")));
        for container in census.containers.iter().filter(|c| is_container(c)).take(top.min(10)) {
            let Container { name, address, length } = container;
            let _ = writeln!(page, "{:>10}  {} at {address:#x}", count(*length as f64), printable(name));
        }
    }
    let duplicates = &census.duplicates;
    if duplicates.bytes > 0 {
        let wasted = format!("{} in {} objects", bytes(duplicates.bytes as f64), count(duplicates.objects as f64));
        let _ = writeln!(
            page,
            "\n{}",
            style.dim(format!("{:>10} {:>10}  equal contents: {wasted} more than needed", "objects", "bytes each"))
        );
        for group in duplicates.groups.iter().take(top.min(5)) {
            let each = bytes(group.bytes as f64);
            let what = format!("{} {:?}", group.name, group.preview);
            let _ = writeln!(page, "{:>10} {each:>10}  {}", count(group.count as f64), printable(&what));
        }
    }
    page
}

/// Strings are listed by content, not as containers.
fn is_container(container: &Container) -> bool {
    !matches!(container.name.as_str(), "str" | "bytes")
}

fn headline(page: &mut String, census: &Census, style: Style) {
    let totals = &census.totals;
    let took = span(census.seconds);
    let stopped = census.pause_seconds.map_or_else(String::new, |pause| format!(", stopped for {}", span(pause)));
    let text = format!(
        "{} objects of {} types, {}; read in {took}{stopped} from pid {} (Python {})",
        count(totals.objects as f64),
        census.types.iter().filter(|row| row.count > 0).count(),
        bytes(totals.bytes as f64),
        census.pid,
        census.python,
    );
    let _ = writeln!(page, "{}", style.bold(text));
    let kinds = &census.kinds;
    let kinds = [
        (kinds.modules, "modules"),
        (kinds.classes, "classes"),
        (kinds.functions, "functions"),
        (kinds.frames, "frames"),
        (kinds.generators, "generators"),
        (kinds.coroutines, "coroutines"),
        (kinds.tasks, "tasks"),
        (kinds.threads, "threads"),
    ];
    let kinds: Vec<String> =
        kinds.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{} {name}", count(*n as f64))).collect();
    let _ = writeln!(page, "{}", kinds.join(", "));
    let consistency = &census.consistency;
    let unsettled = consistency.unsettled_bytes + consistency.unreadable_bytes;
    if consistency.lists_closed == Some(false) || unsettled > 0 {
        let lists = match consistency {
            Consistency { lists_closed: Some(true) | None, .. } => "",
            Consistency { collecting: true, .. } => "; a collection was running",
            _ => "; objects came and went during the look",
        };
        let text = format!("the heap moved: {} could not be told{lists}", bytes(unsettled as f64));
        let _ = writeln!(page, "{}", style.warning(text));
    }
}

fn memory(page: &mut String, census: &Census, style: Style) {
    let (arenas, use_) = (&census.arenas, &census.memory);
    let b = |value: u64| bytes(value as f64);
    if use_.rss > 0 {
        let swap = if use_.swap > 0 { format!(", swap {}", b(use_.swap)) } else { String::new() };
        let _ = writeln!(
            page,
            "\nRSS {} (PSS {}, USS {}{swap}): anonymous {}, files {}, shared {}",
            b(use_.rss),
            b(use_.pss),
            b(use_.uss),
            b(use_.anonymous),
            b(use_.file),
            b(use_.shared),
        );
    }
    let share = |part: u64| percent(part as f64 / arenas.bytes.max(1) as f64);
    let _ = writeln!(
        page,
        "{} arenas, {}: objects {}, their parts {}, not understood {}, kept for reuse {}, free {}, overhead {}",
        arenas.count,
        b(arenas.bytes),
        share(arenas.objects),
        share(arenas.parts),
        share(arenas.unknown),
        share(arenas.free_listed),
        share(arenas.free()),
        share(arenas.overhead + arenas.unsettled),
    );
    let large = census.large_live_bytes();
    let _ = writeln!(
        page,
        "{} large objects and {} of their parts from the C allocator: {}",
        count(census.totals.large_objects as f64),
        count(census.parts.iter().map(|part| part.large_blocks).sum::<u64>() as f64),
        b(large),
    );
    let c_allocator = census.c_allocator.map_or_else(
        || "what it holds is not known: not glibc's malloc, or it changed at each look".to_owned(),
        |heap| {
            format!(
                "heaps {} (free {}, at the end {}), chunks with a mapping of their own {}",
                b(heap.heap_bytes),
                b(heap.free_bytes),
                b(heap.top_bytes),
                b(heap.mapped_bytes),
            )
        },
    );
    let _ = writeln!(page, "C allocator: {c_allocator}");
    if use_.rss > 0 {
        let _ = writeln!(page, "{}", style.bold(cause_sentence(census)));
    }
}

/// What most of the memory is.
fn cause_sentence(census: &Census) -> String {
    let shares = Shares::of(census);
    let b = |value: u64| bytes(value as f64);
    match shares.cause() {
        Cause::Objects => format!("Most of it is live Python objects: {}.", b(shares.objects)),
        Cause::Fragmentation => {
            format!("Most of it is free space inside arenas: {}{}.", b(shares.fragmentation), pinned(census))
        }
        Cause::Native => {
            let kept = census.c_allocator.map_or_else(String::new, |heap| {
                format!(", of which the C allocator keeps {} free", b(heap.free_bytes.min(shares.native)))
            });
            format!(
                "Most of it is native memory, held by C extensions or by the C allocator: {}{kept}.",
                b(shares.native)
            )
        }
        Cause::File => format!("Most of it is mapped files, code included: {}.", b(shares.file)),
    }
}

/// The size classes whose blocks keep most free space from going back.
fn pinned(census: &Census) -> String {
    let mut classes: Vec<_> = census.size_classes.iter().filter(|class| class.free > 0).collect();
    classes.sort_by_key(|class| std::cmp::Reverse(class.free * class.size));
    let names: Vec<String> = classes.iter().take(CLASSES).map(|class| format!("{} B", class.size)).collect();
    if names.is_empty() { String::new() } else { format!(", pinned by live blocks of {}", names.join(", ")) }
}

fn type_row(page: &mut String, row: &TypeCount, total: u64) {
    let _ = writeln!(
        page,
        "{:>10} {:>10} {:>6}  {}",
        count(row.count as f64),
        bytes(row.bytes as f64),
        percent(row.bytes as f64 / total.max(1) as f64),
        printable(&row.name),
    );
}

/// What grew, as a page of text.
pub fn growth(growth: &Growth, top: usize, style: Style) -> String {
    let mut page = String::new();
    let title = format!(
        "Growth over {} in {} looks: live objects {}, RSS {}",
        span(growth.seconds),
        growth.censuses,
        bytes_rate(growth.live_rate.estimate),
        bytes_rate(growth.rss_rate.estimate),
    );
    let _ = writeln!(page, "{}", style.bold(title));
    if let Some(cause) = growth.cause {
        let _ = writeln!(page, "{}", cause_of_growth(cause));
    }
    if growth.warm_up {
        page.push_str("It did so in the first half of this time and stands still since: a warm-up.\n");
    }
    let table = |page: &mut String, rows: &[Grown], what: &str| {
        if rows.is_empty() {
            return;
        }
        let columns = format!("{:>10} {:>10} {:>12} {:<22}  {what}", "change", "now", "a second", "95 %");
        let _ = writeln!(page, "{}", style.dim(columns));
        for row in rows.iter().take(top) {
            let Rate { estimate, low, high } = row.rate;
            let interval = format!("{} to {}", count(low), count(high));
            let _ = writeln!(
                page,
                "{:>10} {:>10} {:>12} {interval:<22}  {}",
                signed(row.delta()),
                count(row.last as f64),
                count(estimate),
                printable(&row.name),
            );
        }
    };
    let grown: Vec<Grown> = growth.types.iter().filter(|row| row.delta() > 0).cloned().collect();
    if grown.is_empty() {
        let _ = writeln!(page, "No type has more objects than at first.");
    }
    table(&mut page, &grown, "type");
    table(&mut page, &growth.containers, "container");
    page
}

fn cause_of_growth(cause: Cause) -> &'static str {
    match cause {
        Cause::Objects => "The resident memory grew with live Python objects.",
        Cause::Fragmentation => {
            "The resident memory grew with free space inside arenas, not with live objects: fragmentation."
        }
        Cause::Native => {
            "The resident memory grew with native memory, not with Python objects: C extensions or the C allocator."
        }
        Cause::File => "The resident memory grew with mapped files, not with Python objects.",
    }
}

/// What is shown while a watch goes on: the last census in two lines, and what grew so far.
pub fn live(census: &Census, growth: &Growth, top: usize) -> String {
    let totals = &census.totals;
    let title = format!(
        "{} objects, {}; RSS {}; arenas {}, of which free {}; pid {}",
        count(totals.objects as f64),
        bytes(totals.bytes as f64),
        bytes(census.memory.rss as f64),
        bytes(census.arenas.bytes as f64),
        bytes(census.arenas.free() as f64),
        census.pid,
    );
    format!("{title}\n{}", self::growth(growth, top, Style::PLAIN))
}

/// One line for each look.
pub fn line(census: &Census, growth: &Growth) -> String {
    let worst = growth.types.first().filter(|row| row.delta() > 0);
    let worst = worst.map_or_else(
        || "nothing grew".to_owned(),
        |row| format!("{} {} ({} a second)", signed(row.delta()), printable(&row.name), count(row.rate.estimate)),
    );
    format!(
        "{:>8}  {} objects, {}, RSS {}; {worst}",
        span(growth.seconds),
        count(census.totals.objects as f64),
        bytes(census.totals.bytes as f64),
        bytes(census.memory.rss as f64),
    )
}

/// Two censuses compared, as a page of text.
pub fn diff(diff: &Diff, top: usize, style: Style) -> String {
    let mut page = String::new();
    let process = if diff.same_process { "" } else { ", of two processes" };
    let title = format!(
        "{} apart{process}: RSS {} to {}",
        span(diff.seconds.abs()),
        bytes(diff.old_rss as f64),
        bytes(diff.new_rss as f64)
    );
    let _ = writeln!(page, "{}", style.bold(title));
    if let Some(cause) = diff.cause {
        let _ = writeln!(page, "{}", cause_of_growth(cause));
    }
    for (rows, what) in [(&diff.types, "type"), (&diff.size_classes, "size class")] {
        if rows.is_empty() {
            let _ = writeln!(page, "No {what} changed.");
            continue;
        }
        let columns = format!("{:>11} {:>10} {:>10} {:>8}  {what}", "bytes", "objects", "now", "");
        let _ = writeln!(page, "\n{}", style.dim(columns));
        rows.iter().take(top).for_each(|row| difference(&mut page, row));
    }
    page
}

/// One row of a comparison.
pub(super) fn difference(page: &mut String, row: &Difference) {
    let delta = row.bytes_delta();
    let sign = if delta > 0 { "+" } else { "" };
    let _ = writeln!(
        page,
        "{:>11} {:>10} {:>10} {:>8}  {}",
        format!("{sign}{}", bytes(delta as f64)),
        signed(row.count_delta()),
        count(row.new_count as f64),
        row.change.name(),
        printable(&row.name),
    );
}

pub(super) fn signed(value: i64) -> String {
    let text = count(value as f64);
    if value > 0 { format!("+{text}") } else { text }
}
