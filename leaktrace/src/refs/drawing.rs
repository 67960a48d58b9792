//! The paths as a graph, in the language of graphviz.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use super::value::{Answer, PathGroup};

/// Paths that are drawn.
const MAX_PATHS: usize = 40;
/// Characters of a label.
const MAX_LABEL: usize = 60;

/// A digraph: roots on the left, a box for each piece of the paths, what they lead to on the right.
pub fn dot(answer: &Answer) -> String {
    let mut text = String::from(
        "digraph refs {\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", fillcolor=\"#f4f6f8\", color=\"#8795a1\", \
         fontname=\"Helvetica\", fontsize=11];\n  edge [color=\"#606f7b\", fontname=\"Helvetica\", fontsize=10];\n",
    );
    let mut nodes: BTreeMap<String, usize> = BTreeMap::new();
    for (paths, end) in sets(answer) {
        for group in paths.iter().take(MAX_PATHS) {
            let mut before: Option<usize> = None;
            let mut so_far = String::new();
            for piece in pieces(&group.path) {
                so_far.push_str(&piece);
                let known = nodes.len();
                let number = *nodes.entry(so_far.clone()).or_insert(known);
                if number == known {
                    let root = if before.is_none() { ", fillcolor=\"#d6e9f8\"" } else { "" };
                    let _ = writeln!(text, "  n{number} [label=\"{}\"{root}];", label(&piece));
                    if let Some(before) = before {
                        let _ = writeln!(text, "  n{before} -> n{number};");
                    }
                }
                before = Some(number);
            }
            let known = nodes.len();
            let number = *nodes.entry(format!("\u{0}{end}")).or_insert(known);
            if number == known {
                let _ = writeln!(text, "  n{number} [label=\"{}\", fillcolor=\"#fbdcd4\"];", label(&end));
            }
            if let Some(before) = before {
                let width = 1.0 + 3.0 * group.share;
                let _ = writeln!(text, "  n{before} -> n{number} [label=\"{}\", penwidth={width:.1}];", group.objects);
            }
        }
    }
    text.push_str("}\n");
    text
}

/// Paths, and what is at their end.
fn sets(answer: &Answer) -> Vec<(Vec<PathGroup>, String)> {
    let mut sets = Vec::new();
    if let Some(objects) = &answer.objects {
        sets.push((objects.paths.clone(), objects.name.clone()));
    }
    for object in &answer.addresses {
        sets.push((object.path.iter().cloned().collect(), format!("{} at {:#x}", object.name, object.address)));
    }
    if let Some(growth) = &answer.growth {
        for grown in growth.types.iter().filter(|grown| !grown.paths.is_empty()).take(1) {
            sets.push((grown.paths.clone(), grown.name.clone()));
        }
    }
    sets
}

/// A path cut before each `.name` and `[key]`, outside of quotes and brackets.
fn pieces(path: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let (mut depth, mut quoted, mut escaped) = (0u32, false, false);
    for c in path.chars() {
        if !quoted && depth == 0 && matches!(c, '.' | '[' | '{') && pieces.last().is_some_and(|piece| !piece.is_empty())
        {
            pieces.push(String::new());
        }
        match c {
            '\'' if !escaped => quoted = !quoted,
            '[' | '(' | '{' if !quoted => depth += 1,
            ']' | ')' | '}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        if let Some(piece) = pieces.last_mut() {
            piece.push(c);
        }
    }
    pieces
}

fn label(text: &str) -> String {
    let short: String = text.chars().take(MAX_LABEL).collect();
    short.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Draws a graph with graphviz.
pub fn svg(dot: &str) -> io::Result<Vec<u8>> {
    let started = Command::new("dot").arg("-Tsvg").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = started.map_err(|error| io::Error::new(error.kind(), format!("cannot start dot: {error}")))?;
    let stdin = child.stdin.take();
    let text = dot.to_owned();
    // Another thread writes: the picture may fill its pipe before all is read.
    let writer = std::thread::spawn(move || stdin.map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes())));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(io::Error::other(format!("dot ended with {}", output.status)))
    }
}

#[cfg(test)]
mod tests {
    use super::pieces;

    #[test]
    fn paths_are_cut_at_names_and_keys() {
        let cut = pieces("app.cache[('a.b', 1)].history[*]");
        assert_eq!(cut, ["app", ".cache", "[('a.b', 1)]", ".history", "[*]"]);
        assert_eq!(pieces("local x of f (a.py:3) → [3]"), ["local x of f (a.py:3) → ", "[3]"]);
    }
}
