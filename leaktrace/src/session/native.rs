//! Names of native functions by address, from the symbol tables of the mapped files.

use std::{collections::HashMap, sync::Arc};

use crate::target::{ElfFile, FileId, Maps, Target, elf::Symbol};

/// A native function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeFrame {
    pub function: String,
    pub file: String,
}

/// Looks native addresses up, file by file, when they are first asked for.
#[derive(Debug)]
pub struct NativeNames {
    target: Arc<Target>,
    maps: Maps,
    files: HashMap<FileId, Option<Symbols>>,
}

#[derive(Debug)]
struct Symbols {
    elf: ElfFile,
    /// By address.
    functions: Vec<Symbol>,
}

impl NativeNames {
    pub fn new(target: Arc<Target>) -> Self {
        Self { target, maps: Maps::default(), files: HashMap::new() }
    }

    /// The function that an address lies in; where no symbol covers it, the offset in its file.
    pub fn name(&mut self, address: u64) -> NativeFrame {
        let target = &self.target;
        if self.maps.find(address).is_none()
            && let Ok(maps) = target.maps()
        {
            // A library loaded since.
            self.maps = maps;
        }
        let Some(id) = self.maps.find(address).and_then(|m| m.file) else { return unknown(address) };
        let symbols = self.files.entry(id).or_insert_with(|| {
            let elf = ElfFile::open(target, &self.maps, id).ok()?;
            let mut functions = elf.symbols();
            functions.retain(|s| s.function);
            functions.sort_by_key(|s| s.address);
            Some(Symbols { elf, functions })
        });
        let Some(symbols) = symbols else { return unknown(address) };
        let file = symbols.elf.display().display().to_string();
        let after = symbols.functions.partition_point(|s| s.address <= address);
        let covering = symbols.functions[..after].last().filter(|s| s.size == 0 || address - s.address < s.size);
        let function = covering.map_or_else(|| format!("+{:#x}", symbols.elf.vaddr_of(address)), |s| s.name.clone());
        NativeFrame { function, file }
    }
}

fn unknown(address: u64) -> NativeFrame {
    NativeFrame { function: format!("{address:#x}"), file: String::new() }
}
