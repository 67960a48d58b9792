//! `/proc/PID/maps`: what a process has mapped, and from which files.
//!
//! Parsed here and not by a crate because paths need not be UTF-8, and device, inode and deletion are needed.

use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What tells a file from every other: device number (as `stat` encodes it) and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    pub dev: u64,
    pub inode: u64,
}

/// One line of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Addresses in the target.
    pub range: Range<u64>,
    pub readable: bool,
    pub writable: bool,
    pub executable: bool,
    pub shared: bool,
    /// Offset in the file of the first byte, 0 for anonymous memory.
    pub offset: u64,
    /// `None` for memory that no file backs.
    pub file: Option<FileId>,
    /// File as the target names it, without " (deleted)"; or a name in brackets; empty for anonymous memory.
    pub path: PathBuf,
    /// The file no longer has that name.
    pub deleted: bool,
}

impl Mapping {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// A mapping is never empty; for clippy's sake.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

/// All mappings, by rising address.
#[derive(Debug, Clone, Default)]
pub struct Maps(Vec<Mapping>);

impl Maps {
    /// Lines that are not understood are skipped.
    pub fn parse(text: &[u8]) -> Self {
        let mut mappings: Vec<Mapping> = text.split(|&b| b == b'\n').filter_map(parse_line).collect();
        mappings.sort_by_key(|m| m.range.start);
        Self(mappings)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Mapping> {
        self.0.iter()
    }

    /// The mapping that holds `address`.
    pub fn find(&self, address: u64) -> Option<&Mapping> {
        let after = self.0.partition_point(|m| m.range.start <= address);
        self.0[..after].last().filter(|m| m.range.contains(&address))
    }

    /// The mappings of one file, by rising address.
    pub fn of_file(&self, file: FileId) -> impl Iterator<Item = &Mapping> {
        self.0.iter().filter(move |m| m.file == Some(file))
    }

    /// The files with code, each once, in the order of their first executable mapping.
    pub fn code_files(&self) -> Vec<FileId> {
        let mut files = Vec::new();
        for file in self.0.iter().filter(|m| m.executable).filter_map(|m| m.file) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
        files
    }
}

impl<'a> IntoIterator for &'a Maps {
    type Item = &'a Mapping;
    type IntoIter = std::slice::Iter<'a, Mapping>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// `55d0-55d2 r-xp 00002000 fe:00 10010636      /path (deleted)`
fn parse_line(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let mut word = || {
        let end = rest.iter().position(|&b| b == b' ').unwrap_or(rest.len());
        let word = std::str::from_utf8(&rest[..end]).ok()?;
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(word)
    };
    let (start, end) = word()?.split_once('-')?;
    let range = hex(start)?..hex(end)?;
    let perms = word()?.as_bytes();
    let offset = hex(word()?)?;
    let (major, minor) = word()?.split_once(':')?;
    let dev = rustix::fs::makedev(u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode: u64 = word()?.parse().ok()?;
    if range.is_empty() || perms.len() != 4 {
        return None;
    }
    let path = rest.trim_ascii_start();
    let file = (inode != 0).then_some(FileId { dev, inode });
    let (path, deleted) = match path.strip_suffix(b" (deleted)") {
        Some(name) if file.is_some() => (name, true),
        _ => (path, false),
    };
    Some(Mapping {
        range,
        readable: perms[0] == b'r',
        writable: perms[1] == b'w',
        executable: perms[2] == b'x',
        shared: perms[3] == b's',
        offset,
        file,
        path: PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(path))),
        deleted,
    })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// The kernel writes a newline in a path as `\012` and nothing else so (`fs/proc/task_mmu.c`, `show_map_vma`).
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        if let Some(after) = rest.strip_prefix(b"\\012") {
            out.push(b'\n');
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_kinds() {
        let text = b"555cd5cf7000-555cd5cfc000 r-xp 00002000 fe:01 10010636                   /tmp/a b (deleted)\n\
            7f0000000000-7f0000001000 rw-s 00000000 00:0e 77   /x\\012\xff\n\
            555cd6000000-555cd6021000 rw-p 00000000 00:00 0                          [heap]\n\
            7fff00000000-7fff00001000 ---p 00000000 00:00 0 \n\
            nonsense\n2-1 r--p 0 0:0 0\n1-2 r 0 0:0 0\n";
        let maps = Maps::parse(text);
        let all: Vec<_> = maps.iter().collect();
        assert_eq!(all.len(), 4);
        assert_eq!(all[0].range, 0x555cd5cf7000..0x555cd5cfc000);
        assert_eq!((all[0].offset, all[0].deleted, all[0].executable), (0x2000, true, true));
        assert_eq!(all[0].path.as_os_str(), "/tmp/a b");
        assert_eq!(all[0].file, Some(FileId { dev: 0xfe01, inode: 10010636 }));
        assert_eq!(all[1].path.as_os_str(), "[heap]");
        assert_eq!(all[2].path.as_os_str().as_bytes(), b"/x\n\xff");
        assert!(all[2].shared && all[3].path.as_os_str().is_empty() && !all[3].readable);
        assert_eq!(maps.find(0x555cd5cfbfff), Some(all[0]));
        assert_eq!(maps.find(0x555cd5cfc000), None);
        assert_eq!(maps.find(0), None);
        assert_eq!(maps.code_files().len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = Maps::parse(&text);
        }
    }
}
