//! Sites as stacks with a value.

use std::sync::Arc;

use super::Value;
use crate::model::{Frame, FrameKind, Verdict};
use crate::report::SiteReport;

/// The value of a site.
pub(super) fn value(site: &SiteReport, value: Value) -> u64 {
    match value {
        Value::LiveBytes => site.live_bytes,
        Value::LiveBlocks => site.live_blocks,
        Value::AllocatedBytes => site.allocated_bytes,
        Value::AllocatedBlocks => site.allocated_blocks,
        Value::Growth if site.verdict == Verdict::Growing => {
            // Rates are finite.
            (site.growth.bytes_per_second.estimate.max(0.0) * 3600.0).round() as u64
        }
        Value::Growth => 0,
    }
}

/// Frames outermost first. Where some are missing a frame says so, so that none seems to be called by nobody.
pub(super) fn frames(site: &SiteReport) -> Vec<Frame> {
    let missing = |what: &str| Frame { kind: FrameKind::Native, function: what.into(), file: "".into(), line: 0 };
    let mut frames: Vec<Frame> = site.stack.frames().collect();
    if site.stack_lost {
        frames.push(missing("[stack lost]"));
    } else if frames.is_empty() {
        frames.push(missing("[no Python frame]"));
    } else if site.truncated {
        frames.push(missing("[outer frames missing]"));
    }
    frames.reverse();
    frames
}

/// "function (file:line)".
pub(super) fn label(frame: &Frame) -> String {
    match (&*frame.file, frame.line) {
        ("", _) => frame.function.to_string(),
        (file, 0) => format!("{} ({file})", frame.function),
        (file, line) => format!("{} ({file}:{line})", frame.function),
    }
}

/// Numbers texts, or whatever else is kept once.
#[derive(Debug)]
pub(super) struct Table<T>(std::collections::HashMap<T, usize>, Vec<T>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(std::collections::HashMap::new(), Vec::new())
    }
}

impl<T: std::hash::Hash + Eq + Clone> Table<T> {
    pub(super) fn index(&mut self, item: &T) -> usize {
        if let Some(index) = self.0.get(item) {
            return *index;
        }
        self.0.insert(item.clone(), self.1.len());
        self.1.push(item.clone());
        self.1.len() - 1
    }

    pub(super) fn items(&self) -> &[T] {
        &self.1
    }
}

impl Table<Arc<str>> {
    pub(super) fn text(&mut self, text: &str) -> usize {
        self.index(&Arc::from(text))
    }
}
