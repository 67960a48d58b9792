//! Who puts things into the containers that grow: a report of `leaktrace run` says which lines allocate what they hold.

use serde::Deserialize;

use super::value::{Culprit, Inserter};

/// Share of a line's blocks that must be held through a container.
const LEAST: f64 = 0.05;

/// What is read of a report (`leaktrace.report/1`).
#[derive(Debug, Deserialize)]
pub struct Traced {
    target: Target,
    lines: Vec<TracedLine>,
}

#[derive(Debug, Deserialize)]
struct Target {
    pid: u32,
}

#[derive(Debug, Deserialize)]
struct TracedLine {
    function: String,
    file: String,
    line: u64,
    growth: Growth,
    #[serde(default)]
    holders: Vec<Holder>,
}

#[derive(Debug, Deserialize)]
struct Growth {
    bytes_per_second: Rate,
}

#[derive(Debug, Deserialize)]
struct Rate {
    estimate: f64,
}

#[derive(Debug, Deserialize)]
struct Holder {
    path: Option<String>,
    share: f64,
}

impl Traced {
    /// Of which process it is.
    pub fn pid(&self) -> u32 {
        self.target.pid
    }

    /// Adds the lines that fill containers, by the containers' paths.
    pub fn join(&self, culprits: &mut [Culprit]) {
        for culprit in culprits {
            let begins = |holder: &&Holder| {
                let rest = holder.path.as_deref().and_then(|path| path.strip_prefix(culprit.path.as_str()));
                rest.is_some_and(|rest| rest.starts_with(['[', '{', '.'])) && holder.share >= LEAST
            };
            let mut inserters: Vec<Inserter> = Vec::new();
            for line in &self.lines {
                if let Some(holder) = line.holders.iter().find(begins) {
                    inserters.push(Inserter {
                        function: line.function.clone(),
                        file: line.file.clone(),
                        line: line.line,
                        bytes_per_second: line.growth.bytes_per_second.estimate * holder.share,
                    });
                }
            }
            inserters.sort_by(|a, b| b.bytes_per_second.total_cmp(&a.bytes_per_second));
            culprit.inserted_by = inserters;
        }
    }
}
