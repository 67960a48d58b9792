//! One mapped ELF file, opened by the very inode that the target has mapped.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lzma_rust2::XzReader;
use memmap2::Mmap;
use object::elf::{PF_R, PF_W, PF_X, PT_LOAD, STT_FUNC, STT_GNU_IFUNC, STT_OBJECT};
use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _, Sym as _};
use object::{LittleEndian, Object as _, ObjectSection as _};

use super::maps::{FileId, Mapping, Maps};
use super::process::{Target, through_root};

const PAGE: u64 = 4096;
/// A table of the functions of a stripped file, as some distributions add it ("MiniDebugInfo"): an ELF file of its own without code,
/// compressed by xz.
const MINI_DEBUG: &str = ".gnu_debugdata";
/// Most KiB of such a file that are unpacked, and that unpacking may take: those of interpreters have some hundred.
const MOST_MINI_KIB: u32 = 64 << 10;

/// Why a mapped file could not be opened as ELF.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    #[error("{path} is not mapped in the target any more")]
    NotMapped { path: String },
    #[error("cannot open {path} as the target maps it: {source}")]
    Open { path: String, source: io::Error },
    #[error("{path} on disk is not the file that the target has mapped, and the mapped one cannot be opened")]
    Replaced { path: String },
    #[error("{path} is not a 64-bit little-endian ELF file: {reason}")]
    NotElf { path: String, reason: String },
}

/// A loadable segment, in the file's own (unbiased) virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub vaddr: u64,
    /// Bytes in memory; those beyond `file_size` are zero at the start (`.bss`).
    pub memory_size: u64,
    pub offset: u64,
    pub file_size: u64,
    pub readable: bool,
    pub writable: bool,
    pub executable: bool,
}

/// A section, in the file's own virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    pub name: String,
    pub vaddr: u64,
    pub size: u64,
    /// Range in the file; `None` for `.bss`.
    pub file: Option<Range<u64>>,
}

/// A defined function or object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    pub name: String,
    /// Address in the target.
    pub address: u64,
    /// 0 where the file does not say.
    pub size: u64,
    pub function: bool,
    /// `STT_GNU_IFUNC`: the address is that of a resolver, not of the function.
    pub indirect: bool,
}

/// One mapped ELF file: its bytes, where it was loaded, what it defines.
#[derive(Debug)]
pub struct ElfFile {
    data: Mmap,
    id: FileId,
    display: PathBuf,
    deleted: bool,
    open_path: PathBuf,
    bias: u64,
    mappings: Vec<Mapping>,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    /// What [`MINI_DEBUG`] unpacks to; empty where there is none.
    mini: OnceLock<Vec<u8>>,
}

impl ElfFile {
    /// Opens the file that `maps` of `target` shows under `id`.
    ///
    /// `/proc/PID/map_files/START-END` comes first: it opens the mapped inode itself, in whatever mount namespace, also
    /// when the file has been deleted or replaced (it needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE). Else the name is
    /// opened through the target's root, and refused unless device and inode agree.
    pub fn open(target: &Target, maps: &Maps, id: FileId) -> Result<Self, ElfError> {
        let mappings: Vec<Mapping> = maps.of_file(id).cloned().collect();
        let shown = |path: &Path| path.display().to_string();
        let Some(first) = mappings.iter().find(|m| m.executable).or_else(|| mappings.first()) else {
            return Err(ElfError::NotMapped { path: format!("inode {}", id.inode) });
        };
        let by_inode = target.proc_path(&format!("map_files/{:x}-{:x}", first.range.start, first.range.end));
        let by_name = through_root(target.pid(), &first.path);
        let path = shown(&first.path);
        let (file, open_path) = if let Ok(file) = File::open(&by_inode) {
            (file, by_inode)
        } else {
            let file = File::open(&by_name).map_err(|source| ElfError::Open { path: path.clone(), source })?;
            let meta = file.metadata().map_err(|source| ElfError::Open { path: path.clone(), source })?;
            if first.deleted || (FileId { dev: meta.dev(), inode: meta.ino() }) != id {
                return Err(ElfError::Replaced { path });
            }
            (file, by_name)
        };
        // SAFETY: the mapping is private and read-only, and the bytes are parsed as untrusted input that may even change
        // between two looks. Programs and libraries are replaced by rename, not cut short in place, while they run.
        let data = unsafe { Mmap::map(&file) }.map_err(|source| ElfError::Open { path, source })?;
        Self::from_parts(data, id, first.path.clone(), first.deleted, open_path, mappings)
    }

    fn from_parts(
        data: Mmap,
        id: FileId,
        display: PathBuf,
        deleted: bool,
        open_path: PathBuf,
        mappings: Vec<Mapping>,
    ) -> Result<Self, ElfError> {
        let not_elf = |reason: String| ElfError::NotElf { path: display.display().to_string(), reason };
        let elf = ElfFile64::<LittleEndian>::parse(&*data).map_err(|e| not_elf(e.to_string()))?;
        let segments = read_segments(&elf);
        let sections = elf
            .sections()
            .map(|s| Section {
                name: s.name().unwrap_or_default().to_owned(),
                vaddr: s.address(),
                size: s.size(),
                file: s.file_range().map(|(start, len)| start..start.saturating_add(len)),
            })
            .collect();
        let bias = load_bias(&segments, &mappings).ok_or_else(|| not_elf("no mapping fits its segments".to_owned()))?;
        Ok(Self { data, id, display, deleted, open_path, bias, mappings, segments, sections, mini: OnceLock::new() })
    }

    /// Device and inode as the target's map shows them.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Path as the target names it.
    pub fn display(&self) -> &Path {
        &self.display
    }

    /// Whether the file no longer has its name.
    pub fn deleted(&self) -> bool {
        self.deleted
    }

    /// Path by which this process and the kernel can open the mapped inode, as long as the target has it mapped.
    ///
    /// A `map_files` path is also good for `uprobe_events`, for files that are deleted, replaced, in another mount
    /// namespace or with blanks in their name (tracefs splits at blanks; tried on Linux 6.18). The path through
    /// `/proc/PID/root`, used without the privilege for `map_files`, works there only if it has no blank.
    pub fn open_path(&self) -> &Path {
        &self.open_path
    }

    /// The whole file.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// What was added to the file's virtual addresses when it was loaded; 0 for a fixed-address executable.
    pub fn bias(&self) -> u64 {
        self.bias
    }

    /// The file's mappings in the target, by rising address.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// `PT_LOAD` segments.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Addresses from the first to the last byte that may be executed.
    pub fn executable(&self) -> Range<u64> {
        let code = || self.segments.iter().filter(|s| s.executable);
        let start = code().map(|s| s.vaddr).min().unwrap_or(0);
        let end = code().map(|s| s.vaddr.saturating_add(s.file_size)).max().unwrap_or(0);
        self.address_of(start)..self.address_of(end)
    }

    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.name == name)
    }

    /// Bytes of a section as the file holds them; empty for `.bss`.
    pub fn section_data(&self, section: &Section) -> &[u8] {
        section.file.as_ref().map_or(&[], |range| slice(&self.data, range.start, range.end - range.start))
    }

    /// The parsed file, for what this type does not offer.
    pub fn object(&self) -> Option<ElfFile64<'_, LittleEndian>> {
        ElfFile64::parse(&*self.data).ok()
    }

    /// Whether the file has a full symbol table (`.symtab`).
    pub fn has_symtab(&self) -> bool {
        self.section(".symtab").is_some_and(|s| s.size > 0)
    }

    /// Address in the target to the file's virtual address.
    pub fn vaddr_of(&self, address: u64) -> u64 {
        address.wrapping_sub(self.bias)
    }

    /// The file's virtual address to the address in the target.
    pub fn address_of(&self, vaddr: u64) -> u64 {
        vaddr.wrapping_add(self.bias)
    }

    /// File offset of a virtual address; `None` for `.bss` and for what is not loaded.
    pub fn offset_of_vaddr(&self, vaddr: u64) -> Option<u64> {
        self.segments.iter().find_map(|s| {
            let into = vaddr.checked_sub(s.vaddr).filter(|&into| into < s.file_size)?;
            s.offset.checked_add(into)
        })
    }

    /// File offset of an address in the target: what a uprobe is set at.
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        self.offset_of_vaddr(self.vaddr_of(address))
    }

    /// Virtual address of a file offset.
    pub fn vaddr_of_offset(&self, offset: u64) -> Option<u64> {
        self.segments.iter().find_map(|s| {
            let into = offset.checked_sub(s.offset).filter(|&into| into < s.file_size)?;
            s.vaddr.checked_add(into)
        })
    }

    /// Up to `len` bytes as the file holds them at an address in the target; shorter at the segment's end.
    pub fn bytes_at(&self, address: u64, len: usize) -> &[u8] {
        let vaddr = self.vaddr_of(address);
        let segment = self.segments.iter().find(|s| vaddr.checked_sub(s.vaddr).is_some_and(|into| into < s.file_size));
        segment.map_or(&[], |s| {
            let into = vaddr - s.vaddr;
            slice(&self.data, s.offset.saturating_add(into), (len as u64).min(s.file_size - into))
        })
    }

    /// Where bytes are in what the file has of constant data, in the target's addresses.
    pub fn find_constant(&self, wanted: &[u8]) -> Vec<u64> {
        let constant = self.segments.iter().filter(|s| s.readable && !s.writable);
        let found = constant.flat_map(|segment| {
            let start = self.address_of(segment.vaddr);
            let windows = self.bytes_at(start, usize::MAX).windows(wanted.len().max(1)).enumerate();
            windows.filter(|(_, bytes)| *bytes == wanted).map(move |(into, _)| start.wrapping_add(into as u64))
        });
        found.collect()
    }

    /// Whether the address lies in one of the file's segments as loaded, `.bss` included.
    pub fn contains(&self, address: u64) -> bool {
        let vaddr = self.vaddr_of(address);
        self.segments.iter().any(|s| vaddr.checked_sub(s.vaddr).is_some_and(|into| into < s.memory_size))
    }

    /// Writable memory of the file as loaded, `.bss` included, in the target's addresses.
    pub fn writable_ranges(&self) -> Vec<Range<u64>> {
        let writable = self.segments.iter().filter(|s| s.writable && s.memory_size > 0);
        writable.map(|s| self.address_of(s.vaddr)..self.address_of(s.vaddr.saturating_add(s.memory_size))).collect()
    }

    /// The defined symbol of that name: `.dynsym` first, then `.symtab`, then that of `.gnu_debugdata`.
    pub fn symbol(&self, name: &str) -> Option<Symbol> {
        self.dynamic_symbol(name).or_else(|| self.find(name, Table::Full)).or_else(|| self.find(name, Table::Mini))
    }

    /// The defined dynamic symbol of that name.
    pub fn dynamic_symbol(&self, name: &str) -> Option<Symbol> {
        self.find(name, Table::Dynamic)
    }

    /// All defined functions and objects of `.symtab`, or where the file is stripped of `.dynsym` and `.gnu_debugdata`, which has what
    /// that lacks.
    pub fn symbols(&self) -> Vec<Symbol> {
        let mut symbols = self.collect(Table::Full, |_| true);
        if symbols.is_empty() {
            symbols = self.collect(Table::Dynamic, |_| true);
            symbols.extend(self.collect(Table::Mini, |_| true));
        }
        symbols
    }

    fn mini(&self) -> &[u8] {
        self.mini.get_or_init(|| {
            let Some(section) = self.section(MINI_DEBUG) else { return Vec::new() };
            let mut bytes = Vec::new();
            let packed = XzReader::new_mem_limit(self.section_data(section), false, MOST_MINI_KIB);
            let unpacked = packed.take(u64::from(MOST_MINI_KIB) << 10).read_to_end(&mut bytes);
            // What came before an error is no whole file.
            if unpacked.is_ok() { bytes } else { Vec::new() }
        })
    }

    fn find(&self, name: &str, table: Table) -> Option<Symbol> {
        self.collect(table, |n| n == name.as_bytes()).into_iter().next()
    }

    fn collect(&self, table: Table, wanted: impl Fn(&[u8]) -> bool) -> Vec<Symbol> {
        let data = if let Table::Mini = table { self.mini() } else { &self.data };
        let Ok(elf) = ElfFile64::<LittleEndian>::parse(data) else { return Vec::new() };
        let symbols = match table {
            Table::Dynamic => elf.elf_dynamic_symbol_table(),
            Table::Full | Table::Mini => elf.elf_symbol_table(),
        };
        let defined = symbols
            .iter()
            .filter(|s| !s.is_undefined(LittleEndian) && matches!(s.st_type(), STT_FUNC | STT_OBJECT | STT_GNU_IFUNC));
        let named = defined.filter_map(|s| Some((s, s.name(LittleEndian, symbols.strings()).ok()?)));
        named
            .filter(|(_, name)| wanted(name))
            .map(|(s, name)| Symbol {
                name: String::from_utf8_lossy(name).into_owned(),
                address: self.address_of(s.st_value(LittleEndian)),
                size: s.st_size(LittleEndian),
                function: s.st_type() != STT_OBJECT,
                indirect: s.st_type() == STT_GNU_IFUNC,
            })
            .collect()
    }
}

#[derive(Clone, Copy)]
enum Table {
    Dynamic,
    Full,
    Mini,
}

/// A part of the file, shorter where the file ends; the numbers are the file's own claims.
fn slice(data: &[u8], start: u64, len: u64) -> &[u8] {
    let end = usize::try_from(start.saturating_add(len)).unwrap_or(usize::MAX).min(data.len());
    usize::try_from(start).ok().and_then(|start| data.get(start..end)).unwrap_or_default()
}

fn read_segments(elf: &ElfFile64<'_, LittleEndian>) -> Vec<Segment> {
    let endian = LittleEndian;
    let headers = elf.elf_header().program_headers(endian, elf.data()).unwrap_or_default();
    let loads = headers.iter().filter(|h| h.p_type(endian) == PT_LOAD);
    loads
        .map(|h| Segment {
            vaddr: h.p_vaddr(endian),
            memory_size: h.p_memsz(endian),
            offset: h.p_offset(endian),
            file_size: h.p_filesz(endian).min(h.p_memsz(endian)),
            readable: h.p_flags(endian) & PF_R != 0,
            writable: h.p_flags(endian) & PF_W != 0,
            executable: h.p_flags(endian) & PF_X != 0,
        })
        .collect()
}

/// The one bias by which a mapping of the file agrees with a segment; the executable one is asked first, since data
/// segments share a page of the file with their neighbours.
fn load_bias(segments: &[Segment], mappings: &[Mapping]) -> Option<u64> {
    let fits = |mapping: &Mapping| {
        segments.iter().filter(|s| s.executable == mapping.executable).find_map(|s| {
            let start = s.offset - s.offset % PAGE;
            let end = s.offset.checked_add(s.file_size)?;
            let vaddr = s.vaddr.wrapping_add(mapping.offset.wrapping_sub(s.offset));
            (start..end).contains(&mapping.offset).then(|| mapping.range.start.wrapping_sub(vaddr))
        })
    };
    let executable = mappings.iter().filter(|m| m.executable).find_map(fits);
    executable.or_else(|| mappings.iter().find_map(fits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Memory;

    fn files() -> (Target, Vec<ElfFile>) {
        let target = Target::open(std::process::id()).unwrap();
        let maps = target.maps().unwrap();
        let files = maps.code_files().into_iter().map(|id| ElfFile::open(&target, &maps, id).unwrap()).collect();
        (target, files)
    }

    #[test]
    fn our_own_functions_are_where_the_symbols_say() {
        let (target, files) = files();
        let libc = files.iter().find(|f| f.dynamic_symbol("getenv").is_some()).expect("libc is mapped");
        let getenv = libc.dynamic_symbol("getenv").unwrap();
        assert_eq!(getenv.address, libc::getenv as *const () as u64);
        let file = libc.bytes_at(getenv.address, 16);
        assert_eq!(target.memory().bytes(getenv.address, 16).unwrap(), file);
        let offset = libc.offset_of(getenv.address).unwrap();
        assert_eq!(libc.address_of(libc.vaddr_of_offset(offset).unwrap()), getenv.address);
        assert!(libc.contains(getenv.address) && !libc.contains(0));
        assert!(libc.symbol("no_such_symbol").is_none());
        assert_eq!(std::fs::read(libc.open_path()).unwrap(), libc.data());
    }

    #[test]
    fn statics_lie_in_writable_memory_of_the_executable() {
        static COUNTER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let (target, files) = files();
        let exe = files.iter().find(|f| f.id() == target.exe_id()).expect("the executable is mapped");
        let address = COUNTER.as_ptr() as u64;
        assert!(exe.contains(address));
        assert!(exe.writable_ranges().iter().any(|range| range.contains(&address)));
        assert!(exe.has_symtab() && exe.symbols().iter().any(|s| s.function && s.name.contains("writable_memory")));
        let text = exe.section(".text").unwrap();
        assert_eq!(exe.section_data(text).len() as u64, text.size);
        assert_eq!(exe.section_data(exe.section(".bss").unwrap()), b"");
    }

    #[test]
    fn a_stripped_file_may_bring_a_packed_table_of_its_functions() {
        use std::io::{BufRead as _, BufReader};
        use std::process::{Command, Stdio};
        let dir = tempfile::tempdir().unwrap();
        let source = r#"#include <stdio.h>
            static __attribute__((noinline)) void hidden(void) { printf("%p\n", (void *)hidden); fflush(stdout); getchar(); }
            int main(void) { hidden(); return 0; }
        "#;
        std::fs::write(dir.path().join("a.c"), source).unwrap();
        // As Fedora's packages are made (find-debuginfo.sh).
        let script = r#"set -e; cd "$0"; gcc -O1 -o a a.c; objcopy --only-keep-debug a mini; strip --strip-all a
            python3 -c 'import lzma; open("mini.xz", "wb").write(lzma.compress(open("mini", "rb").read()))'
            objcopy --add-section .gnu_debugdata=mini.xz a"#;
        assert!(Command::new("sh").args(["-c", script]).arg(dir.path()).status().unwrap().success());
        let mut child =
            Command::new(dir.path().join("a")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        let target = Target::open(child.id()).unwrap();
        let file = ElfFile::open(&target, &target.maps().unwrap(), target.exe_id()).unwrap();
        let hidden = file.symbol("hidden").unwrap();
        assert!(!file.has_symtab() && file.dynamic_symbol("hidden").is_none() && hidden.function);
        assert_eq!(format!("{:#x}", hidden.address), said.trim());
        assert!(file.symbols().contains(&hidden) && file.symbol("no_such_symbol").is_none());
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_deleted_file_opens_by_its_inode_or_says_why() {
        use std::io::{Read as _, Write as _};
        use std::process::{Command, Stdio};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my cat");
        std::fs::copy("/bin/cat", &path).unwrap();
        let mut child = Command::new(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        std::fs::write(dir.path().join("other"), b"other").unwrap();
        std::fs::rename(dir.path().join("other"), &path).unwrap();
        let target = Target::open(child.id()).unwrap();
        let maps = target.maps().unwrap();
        match ElfFile::open(&target, &maps, target.exe_id()) {
            Ok(file) => {
                assert!(file.deleted() && file.display() == path);
                assert_eq!(file.data(), std::fs::read("/bin/cat").unwrap());
            }
            Err(error) => assert!(matches!(error, ElfError::Replaced { .. }), "without the privilege: {error}"),
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
