//! Source lines of the target's files, where they can be read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Files larger than this are not read.
const MAX_BYTES: u64 = 4 << 20;
/// Most characters of a line that are shown.
const MAX_CHARS: usize = 200;
/// Most files that are kept.
const MAX_FILES: usize = 64;

/// Reads lines of source through the target's root directory.
#[derive(Debug)]
pub struct SourceReader {
    /// `None`: only what was recorded is shown.
    root: Option<PathBuf>,
    recorded: HashMap<(String, u32), String>,
    files: HashMap<String, Vec<String>>,
}

impl SourceReader {
    /// `root` is put before each absolute path, e.g. `/proc/PID/root`, or `/` for this host's own files.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: Some(root.into()), recorded: HashMap::new(), files: HashMap::new() }
    }

    /// Shows lines that were kept, by file and line.
    pub fn recorded(recorded: HashMap<(String, u32), String>) -> Self {
        Self { root: None, recorded, files: HashMap::new() }
    }

    /// A line (from 1) without indentation. `None` when the file cannot be read or has no such line.
    pub fn line(&mut self, file: &str, line: u32) -> Option<&str> {
        self.indented(file, line).map(str::trim_start).filter(|text| !text.is_empty())
    }

    /// A line (from 1) as it is, tabs as four spaces; an empty one is empty.
    pub fn indented(&mut self, file: &str, line: u32) -> Option<&str> {
        if self.root.is_none() {
            return self.recorded.get(&(file.to_owned(), line)).map(String::as_str);
        }
        if !self.files.contains_key(file) {
            if self.files.len() >= MAX_FILES {
                self.files.clear();
            }
            self.files.insert(file.to_owned(), self.read(file).unwrap_or_default());
        }
        let index = usize::try_from(line.checked_sub(1)?).ok()?;
        self.files.get(file)?.get(index).map(String::as_str)
    }

    /// Lines of a regular file; anything else a target could name (a pipe, a device) would block or never end.
    fn read(&self, file: &str) -> Option<Vec<String>> {
        let relative = Path::new(file).strip_prefix("/").ok()?;
        if relative.components().any(|part| matches!(part, std::path::Component::ParentDir)) {
            return None;
        }
        let path = self.root.as_ref()?.join(relative);
        let metadata = std::fs::metadata(&path).ok()?;
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            return None;
        }
        let mut lines = Vec::new();
        let mut reader = BufReader::new(File::open(&path).ok()?.take(MAX_BYTES));
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).ok()? > 0 {
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end().replace('\t', "    ");
            lines.push(super::words::printable(&text).chars().take(MAX_CHARS).collect());
            line.clear();
        }
        Some(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_below_the_root_only() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("app")).unwrap();
        std::fs::write(root.path().join("app/a.py"), "def f():\n    leak.append(\x1b[31mObject())\n\n").unwrap();
        let mut reader = SourceReader::new(root.path());
        assert_eq!(reader.line("/app/a.py", 1), Some("def f():"));
        assert_eq!(reader.line("/app/a.py", 2), Some("leak.append(\u{fffd}[31mObject())"));
        assert_eq!(reader.indented("/app/a.py", 2), Some("    leak.append(\u{fffd}[31mObject())"));
        assert_eq!(reader.indented("/app/a.py", 3), Some(""));
        for (file, line) in [("/app/a.py", 3), ("/app/a.py", 9), ("/app/a.py", 0), ("/app", 1), ("a.py", 1)] {
            assert_eq!(reader.line(file, line), None, "{file}:{line}");
        }
        assert_eq!(reader.line("/../app/a.py", 1), None);
        assert_eq!(reader.line("<string>", 1), None);
    }
}
