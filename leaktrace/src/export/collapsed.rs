//! Collapsed stacks: `outer;inner value`, as flamegraph.pl reads them; `outer;inner before after` where two are compared.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::stacks::{frames, label, value};
use super::{Export, Value};
use crate::report::Report;

pub(super) fn write(export: &Export<'_>, out: &mut dyn Write) -> io::Result<()> {
    lines(export).iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// A line for each stack that has a value, sorted.
pub(super) fn lines(export: &Export<'_>) -> Vec<String> {
    let now = stacks(export.report, export.value);
    let Some(before) = export.before else {
        return now.into_iter().map(|(stack, value)| format!("{stack} {value}")).collect();
    };
    let before = stacks(before, export.value);
    let mut both: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (stack, value) in &before {
        both.entry(stack).or_default().0 = *value;
    }
    for (stack, value) in &now {
        both.entry(stack).or_default().1 = *value;
    }
    both.into_iter().map(|(stack, (before, now))| format!("{stack} {before} {now}")).collect()
}

fn stacks(report: &Report, kind: Value) -> BTreeMap<String, u64> {
    let mut stacks = BTreeMap::new();
    for site in &report.sites {
        let value = value(site, kind);
        if value > 0 {
            *stacks.entry(frames(site).iter().map(frame).collect::<Vec<_>>().join(";")).or_default() += value;
        }
    }
    stacks
}

/// A frame without what has a meaning in the format.
fn frame(frame: &crate::model::Frame) -> String {
    label(frame)
        .chars()
        .map(|c| {
            if c == ';' {
                ','
            } else if c.is_control() {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}
