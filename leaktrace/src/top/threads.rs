//! Threads, by whose blocks were seen alive.

use std::collections::BTreeMap;

use ratatui::style::Style;

use super::app::{App, Picture};
use super::rows::{Key, Row};
use crate::model::Verdict;
use crate::report::units::{bytes, count, thousands};
use crate::report::words::printable;

/// So many threads of a site are told; who else allocates there is not known.
const KNOWN: usize = 16;

/// What is known of a thread.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Share {
    stacks: u64,
    growing: u64,
    shared: u64,
    own_bytes: u64,
    own_blocks: u64,
}

/// The columns' names.
pub(super) fn titles() -> String {
    format!(
        "  {:>8} {:<16} {:>7} {:>8} {:>7}  {:>10} {:>8}",
        "thread", "name", "stacks", "growing", "shared", "only here", "blocks"
    )
}

fn shares(picture: &Picture) -> BTreeMap<u32, Share> {
    let mut shares: BTreeMap<u32, Share> = BTreeMap::new();
    for site in &picture.report.sites {
        for &tid in &site.threads {
            let share = shares.entry(tid).or_default();
            share.stacks += 1;
            share.growing += u64::from(site.verdict == Verdict::Growing);
            if site.threads.len() == 1 {
                share.own_bytes += site.live_bytes;
                share.own_blocks += site.live_blocks;
            } else {
                share.shared += 1;
            }
        }
    }
    shares
}

/// The table: most bytes of its own first.
pub(super) fn rows(app: &App, picture: &Picture, _width: usize) -> Vec<Row> {
    let mut shares: Vec<(u32, Share)> = shares(picture).into_iter().collect();
    shares.sort_by_key(|(tid, share)| (std::cmp::Reverse((share.own_bytes, share.stacks)), *tid));
    if app.is_reversed() {
        shares.reverse();
    }
    let filter = app.filter.to_lowercase();
    let mut rows = Vec::new();
    for (tid, share) in shares {
        let name = printable(picture.names.get(&tid).map_or("", String::as_str));
        if !filter.is_empty() && !format!("{tid} {name}").to_lowercase().contains(&filter) {
            continue;
        }
        let short: String = name.chars().take(16).collect();
        let text = format!(
            " {tid:>8} {short:<16} {:>7} {:>8} {:>7}  {:>10} {:>8}",
            count(share.stacks as f64),
            count(share.growing as f64),
            count(share.shared as f64),
            bytes(share.own_bytes as f64),
            count(share.own_blocks as f64),
        );
        rows.push(Row {
            key: Key::Thread(tid),
            spans: vec![(text, if share.growing > 0 { app.theme.alarm() } else { Style::new() })],
            text: format!("{tid} {name}"),
            details: vec![
                format!(
                    "here: {} B live in {} blocks, of stacks of this thread alone",
                    thousands(share.own_bytes),
                    thousands(share.own_blocks),
                ),
                format!("by blocks seen alive; of a stack the first {KNOWN} threads are known"),
            ],
            parent: None,
        });
    }
    if rows.is_empty() {
        rows.push(Row::text(0, " no thread matches, or no block was seen alive in one", app.theme.dim()));
    }
    rows
}
