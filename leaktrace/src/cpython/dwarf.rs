//! Makes a table of offsets (`leaktrace/offsets/*.toml`) from the DWARF of a CPython built with debug information.
//!
//! This runs when a table is made (`cargo xtask offsets`), never on a target.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;

use gimli::{AttributeValue, DebuggingInformationEntry, EndianSlice, LittleEndian, UnitOffset};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

mod members;

use self::members::Ask::{self, AnyBit, Bit, Maybe, MaybeSize, Offset, Since, Size};
use self::members::{DEBUG_OFFSETS, GROUPS, Group, MIMALLOC_CONSTANTS, MIMALLOC_GROUPS, constants};
use super::version::Version;

type Reader<'a> = EndianSlice<'a, LittleEndian>;
type Unit<'a> = gimli::Unit<Reader<'a>>;
type Entry<'a, 'u> = DebuggingInformationEntry<'u, 'u, Reader<'a>>;

/// Why no table could be made.
#[derive(Debug, thiserror::Error)]
pub enum DwarfError {
    #[error("the file cannot be parsed as ELF: {0}")]
    Elf(#[from] object::Error),
    #[error("the debug information cannot be parsed: {0}")]
    Dwarf(#[from] gimli::Error),
    #[error("the file does not tell its version, as that of a CPython before 3.11: say which it is")]
    NoVersion,
    #[error("the debug information does not have {0}")]
    Missing(String),
}

/// A table of offsets.
#[derive(Debug, Clone)]
pub struct Made {
    /// Of the file without its ending: "3.14", for builds without the GIL "3.14t".
    pub name: String,
    pub version: Version,
    pub toml: String,
    /// The same of its mimalloc, which several versions share.
    pub mimalloc: Option<(String, String)>,
}

/// The table for the CPython in `elf` (an executable or libpython with DWARF):
/// `told` is the version of a file that does not tell its own.
///
/// Fails if the file is no CPython, or if its debug information lacks one of the structs.
pub fn offsets_toml(elf: &[u8], told: Option<Version>) -> Result<Made, DwarfError> {
    let file = object::File::parse(elf)?;
    let version = file_version(&file).or(told).ok_or(DwarfError::NoVersion)?;
    let dwarf = gimli::DwarfSections::load(|id| -> Result<Cow<'_, [u8]>, object::Error> {
        file.section_by_name(id.name()).map_or(Ok(Cow::Borrowed(&[][..])), |s| s.uncompressed_data())
    })?;
    let dwarf = dwarf.borrow(|section| EndianSlice::new(section, LittleEndian));
    let found = find(&dwarf, GROUPS, version)?;
    let free_threaded = is_free_threaded(&dwarf)?;
    let mut toml = format!(
        "# Offsets in bytes of the fields that leaktrace reads of CPython {}, x86-64. Made by\n\
         #     cargo xtask offsets {}\n\
         # from the DWARF of {version}; not to be edited. A row holds from `first_patch` up to the next row.\n\n\
         [[release]]\nfirst_patch = 0\n{}",
        table_name(version, free_threaded),
        if free_threaded { "--free-threaded HEADERS" } else { "LIBPYTHON" },
        if free_threaded { "free_threaded = true\n" } else { "" },
    );
    toml.push_str(&text(GROUPS, found, "release.")?);
    toml.push_str(&constants(version.minor, free_threaded));
    toml.push_str(&debug_offsets(&dwarf)?);
    let mimalloc = mimalloc_toml(&file, &dwarf, version)?;
    Ok(Made { name: table_name(version, free_threaded), version, toml, mimalloc })
}

/// Name and text of the table of the mimalloc of a build without the GIL, where the file tells its version as our own does
/// (`xtask/src/offsets.c`).
fn mimalloc_toml(
    file: &object::File<'_>,
    dwarf: &gimli::Dwarf<Reader<'_>>,
    version: Version,
) -> Result<Option<(String, String)>, DwarfError> {
    let Some(number) = number(file, "Mimalloc_Version") else { return Ok(None) };
    let mut toml = format!(
        "# Offsets in bytes of the fields that leaktrace reads of mimalloc {number} (`MI_MALLOC_VERSION`) in CPython without the GIL, \
         x86-64. Made by\n#     cargo xtask offsets --free-threaded HEADERS\n# from those of {version}; not to be edited.\n\n"
    );
    toml.push_str(MIMALLOC_CONSTANTS);
    toml.push_str(&text(MIMALLOC_GROUPS, find(dwarf, MIMALLOC_GROUPS, version)?, "")?);
    Ok(Some((format!("mimalloc-{number}"), toml)))
}

/// What was found of a group: which of its structs, and its keys' values.
type Found = Option<(usize, Vec<Option<u64>>)>;

/// Looks through all units for the structs of groups.
fn find(dwarf: &gimli::Dwarf<Reader<'_>>, groups: &[Group], version: Version) -> Result<Vec<Found>, DwarfError> {
    let mut found: Vec<Found> = vec![None; groups.len()];
    let mut units = dwarf.units();
    while found.iter().any(|group| group.as_ref().is_none_or(|(rank, _)| *rank > 0))
        && let Some(header) = units.next()?
    {
        let structs = Structs::of(dwarf, dwarf.unit(header)?)?;
        for ((_, names, keys), found) in groups.iter().zip(&mut found) {
            let rank = names.iter().position(|name| structs.by_name.contains_key(*name));
            if let Some(rank) = rank.filter(|&rank| found.as_ref().is_none_or(|(known, _)| rank < *known)) {
                let offset = structs.by_name[names[rank]];
                let values = keys.iter().map(|(_, ask)| structs.answer(offset, names[rank], *ask, version.minor));
                *found = Some((rank, values.collect::<Result<_, _>>()?));
            }
        }
    }
    Ok(found)
}

/// The tables of groups, whose names `prefix` goes before.
fn text(groups: &[Group], found: Vec<Found>, prefix: &str) -> Result<String, DwarfError> {
    let mut toml = String::new();
    for ((group, names, keys), found) in groups.iter().zip(found) {
        let Some((rank, values)) = found else {
            if keys.iter().all(|(_, ask)| matches!(ask, Maybe(_) | MaybeSize)) {
                continue;
            }
            return Err(DwarfError::Missing(format!("struct {}", names[0])));
        };
        let _ = write!(toml, "\n# {}\n[{prefix}{group}]\n", names[rank]);
        for ((key, _), value) in keys.iter().zip(values) {
            if let Some(value) = value {
                let _ = writeln!(toml, "{key} = {value}");
            }
        }
    }
    Ok(toml)
}

/// "3.14", "3.14t".
fn table_name(version: Version, free_threaded: bool) -> String {
    format!("{}.{}{}", version.major, version.minor, if free_threaded { "t" } else { "" })
}

/// Whether objects name the thread that owns them, as they do in builds without the GIL (`Include/object.h`, 3.13 and later).
fn is_free_threaded(dwarf: &gimli::Dwarf<Reader<'_>>) -> Result<bool, DwarfError> {
    let mut units = dwarf.units();
    while let Some(header) = units.next()? {
        let structs = Structs::of(dwarf, dwarf.unit(header)?)?;
        if let Some(&object) = structs.by_name.get("_object") {
            return Ok(structs.member(object, "ob_tid")?.is_some());
        }
    }
    Ok(false)
}

/// Where the file's `_Py_DebugOffsets` holds what; nothing in versions that do not have it.
fn debug_offsets(dwarf: &gimli::Dwarf<Reader<'_>>) -> Result<String, DwarfError> {
    let mut toml = String::new();
    let mut units = dwarf.units();
    while let Some(header) = units.next()? {
        let structs = Structs::of(dwarf, dwarf.unit(header)?)?;
        let Some(&offset) = structs.by_name.get("_Py_DebugOffsets") else { continue };
        for (group, keys) in DEBUG_OFFSETS {
            let _ = write!(toml, "\n# _Py_DebugOffsets\n[release.debug.{group}]\n");
            for (key, path) in *keys {
                let (at, _) = structs.member(offset, path)?.ok_or_else(|| DwarfError::Missing((*path).to_owned()))?;
                let _ = writeln!(toml, "{key} = {at}");
            }
        }
        break;
    }
    Ok(toml)
}

/// `Py_Version` as the file holds it (3.11 and later).
fn file_version(file: &object::File<'_>) -> Option<Version> {
    number(file, "Py_Version").and_then(Version::from_hex)
}

/// A constant that the file exports.
fn number(file: &object::File<'_>, name: &str) -> Option<u32> {
    let symbol = file.dynamic_symbols().chain(file.symbols()).find(|s| s.name() == Ok(name))?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let bytes = section.data_range(symbol.address(), 4).ok()??;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The structs that one compilation unit defines.
struct Structs<'a, 'd> {
    dwarf: &'d gimli::Dwarf<Reader<'a>>,
    unit: Unit<'a>,
    /// Structs by tag, and by the typedef that names them.
    by_name: HashMap<String, UnitOffset>,
}

impl<'a, 'd> Structs<'a, 'd> {
    fn of(dwarf: &'d gimli::Dwarf<Reader<'a>>, unit: Unit<'a>) -> Result<Self, gimli::Error> {
        let mut this = Self { dwarf, unit, by_name: HashMap::new() };
        let mut by_name = HashMap::new();
        let mut tree = this.unit.entries_tree(None)?;
        let mut children = tree.root()?.children();
        while let Some(child) = children.next()? {
            let entry = child.entry();
            let target = match entry.tag() {
                gimli::DW_TAG_structure_type => Some(entry.offset()),
                gimli::DW_TAG_typedef => this.type_of(entry)?,
                _ => None,
            };
            if let (Some(name), Some(target)) = (this.name(entry)?, target)
                && this.size(target)?.is_some()
            {
                by_name.entry(name).or_insert(target);
            }
        }
        this.by_name = by_name;
        Ok(this)
    }

    /// `None`: this version does not have the member, and need not.
    fn answer(&self, offset: UnitOffset, name: &str, ask: Ask, minor: u8) -> Result<Option<u64>, DwarfError> {
        let first = |paths: &str| paths.split('|').find_map(|path| self.member(offset, path).transpose()).transpose();
        let answer = match ask {
            Size | MaybeSize => self.size(offset)?,
            Since(from, _) if minor < from => None,
            Offset(paths) | Maybe(paths) | Since(_, paths) => first(paths)?.map(|(bytes, _)| bytes),
            Bit(paths) => first(paths)?.and_then(|(_, bit)| bit),
            AnyBit(paths) => first(paths)?.map(|(bytes, bit)| bit.unwrap_or(8 * bytes)),
        };
        match (answer, ask) {
            (None, Size) => Err(DwarfError::Missing(format!("the size of {name}"))),
            (None, Offset(paths) | Bit(paths) | AnyBit(paths)) => Err(DwarfError::Missing(format!("{name}.{paths}"))),
            (answer, _) => Ok(answer),
        }
    }

    /// Offset in bytes of a member by its path through nested structs, and in bits if it is a bit field.
    fn member(&self, struct_: UnitOffset, path: &str) -> Result<Option<(u64, Option<u64>)>, gimli::Error> {
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let mut tree = self.unit.entries_tree(Some(struct_))?;
        let mut children = tree.root()?.children();
        while let Some(child) = children.next()? {
            let entry = child.entry();
            if entry.tag() != gimli::DW_TAG_member {
                continue;
            }
            let name = self.name(entry)?;
            if name.is_none() {
                // The members of an unnamed struct or union are those of the one that it is in.
                let here =
                    entry.attr_value(gimli::DW_AT_data_member_location)?.and_then(|v| v.udata_value()).unwrap_or(0);
                if let Some(inner) = self.type_of(entry)?
                    && let Some((bytes, bit)) = self.member(inner, path)?
                {
                    return Ok(Some((here + bytes, bit)));
                }
            }
            if name.as_deref() != Some(first) {
                continue;
            }
            let number = |at| entry.attr_value(at).map(|value| value.and_then(|v| v.udata_value()));
            let here = number(gimli::DW_AT_data_member_location)?.unwrap_or(0);
            let Some(rest) = rest else { return Ok(Some((here, number(gimli::DW_AT_data_bit_offset)?))) };
            let Some(inner) = self.type_of(entry)? else { return Ok(None) };
            return Ok(self.member(inner, rest)?.map(|(bytes, bit)| (here + bytes, bit)));
        }
        Ok(None)
    }

    fn name(&self, entry: &Entry<'a, '_>) -> Result<Option<String>, gimli::Error> {
        let Some(value) = entry.attr_value(gimli::DW_AT_name)? else { return Ok(None) };
        Ok(Some(self.dwarf.attr_string(&self.unit, value)?.to_string_lossy().into_owned()))
    }

    fn size(&self, offset: UnitOffset) -> Result<Option<u64>, gimli::Error> {
        let entry = self.unit.entry(offset)?;
        Ok(entry.attr_value(gimli::DW_AT_byte_size)?.and_then(|v| v.udata_value()))
    }

    /// The struct behind an entry's type, through typedefs and qualifiers.
    fn type_of(&self, entry: &Entry<'a, '_>) -> Result<Option<UnitOffset>, gimli::Error> {
        let mut value = entry.attr_value(gimli::DW_AT_type)?;
        while let Some(AttributeValue::UnitRef(offset)) = value {
            let entry = self.unit.entry(offset)?;
            match entry.tag() {
                gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type => return Ok(Some(offset)),
                gimli::DW_TAG_typedef | gimli::DW_TAG_const_type | gimli::DW_TAG_volatile_type => {
                    value = entry.attr_value(gimli::DW_AT_type)?;
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use crate::cpython::offsets::Offsets;
    use crate::cpython::testing;

    #[test]
    fn the_embedded_table_is_what_the_debug_information_says() {
        let with_dwarf = testing::libpythons_with_dwarf();
        for path in &with_dwarf {
            let python = path.parent().unwrap().with_file_name("bin").join("python3");
            let told = testing::version_of(&python);
            let super::Made { version, toml, .. } =
                super::offsets_toml(&std::fs::read(path).unwrap(), Some(told)).unwrap();
            assert_eq!(version, told);
            let row = Offsets::parse(&toml, version.patch).unwrap();
            let known = Offsets::of(version.major, version.minor, version.patch);
            assert_eq!(Some(row), known, "{}", path.display());
        }
        if with_dwarf.is_empty() {
            eprintln!("skipped: no CPython with debug information here");
        }
        assert!(super::offsets_toml(b"no elf", None).is_err());
    }
}
