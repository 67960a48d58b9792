//! A mapped file as machine code: instructions by address, pointers as the loader left them, who jumps where.

use std::collections::HashMap;
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Formatter as _, GasFormatter, Instruction, Mnemonic, OpKind};
use object::elf::{R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT, R_X86_64_RELATIVE};
use object::read::elf::{Rela as _, SectionHeader as _, Sym as _};
use object::{LittleEndian, SymbolIndex};

use super::functions::Functions;
use crate::target::ElfFile;

/// Longest x86-64 instruction, bytes.
const MAX_INSTRUCTION: usize = 15;

/// One file's code, in the target's addresses.
#[derive(Debug)]
pub struct Code<'a> {
    pub file: &'a ElfFile,
    pub functions: Functions,
    /// Pointers that the loader fills in: address of the word, value if the file itself defines it.
    pointers: HashMap<u64, u64>,
    /// Words that the loader fills with the address of a named symbol.
    imports: HashMap<String, Vec<u64>>,
}

impl<'a> Code<'a> {
    pub fn new(file: &'a ElfFile) -> Self {
        let mut code =
            Self { file, functions: Functions::read(file), pointers: HashMap::new(), imports: HashMap::new() };
        code.read_relocations();
        code
    }

    fn read_relocations(&mut self) {
        let endian = LittleEndian;
        let Some(elf) = self.file.object() else { return };
        let symbols = elf.elf_dynamic_symbol_table();
        for section in elf.elf_section_table().iter() {
            // Packed ones (DT_RELR): the word itself is the addend.
            if let Ok(Some(packed)) = section.relr(endian, elf.data()) {
                for address in packed.map(|vaddr| self.file.address_of(vaddr)) {
                    if let Some(&word) = self.file.bytes_at(address, 8).first_chunk() {
                        self.pointers.insert(address, self.file.address_of(u64::from_le_bytes(word)));
                    }
                }
            }
            let Ok(Some((relocations, _))) = section.rela(endian, elf.data()) else { continue };
            for rela in relocations {
                let address = self.file.address_of(rela.r_offset(endian));
                let addend = rela.r_addend(endian) as u64;
                match rela.r_type(endian, false) {
                    R_X86_64_RELATIVE => {
                        self.pointers.insert(address, self.file.address_of(addend));
                    }
                    R_X86_64_64 | R_X86_64_GLOB_DAT | R_X86_64_JUMP_SLOT => {
                        let index = SymbolIndex(rela.r_sym(endian, false) as usize);
                        let Ok(symbol) = symbols.symbol(index) else { continue };
                        if !symbol.is_undefined(endian) {
                            let value = self.file.address_of(symbol.st_value(endian));
                            self.pointers.insert(address, value.wrapping_add(addend));
                        }
                        if let Ok(name) = symbol.name(endian, symbols.strings()) {
                            let name = String::from_utf8_lossy(name).into_owned();
                            self.imports.entry(name).or_default().push(address);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Words (GOT entries) that the loader fills with the address of `symbol`.
    pub fn imports(&self, symbol: &str) -> &[u64] {
        self.imports.get(symbol).map_or(&[], Vec::as_slice)
    }

    /// Whether an instruction goes through a word that the loader fills with the address of one of `symbols`.
    pub fn goes_through(&self, instruction: &Instruction, symbols: &[&str]) -> bool {
        let word = instruction.ip_rel_memory_address();
        instruction.is_ip_rel_memory_operand() && symbols.iter().any(|symbol| self.imports(symbol).contains(&word))
    }

    /// Whether what lies at `stub` is an entry of the procedure linkage table that leads to one of `symbols`.
    pub fn is_stub_of(&self, stub: u64, symbols: &[&str]) -> bool {
        let Some(mut jump) = self.decode(stub) else { return false };
        if jump.mnemonic() == Mnemonic::Endbr64
            && let Some(next) = self.decode(jump.next_ip())
        {
            jump = next;
        }
        jump.flow_control() == FlowControl::IndirectBranch && self.goes_through(&jump, symbols)
    }

    /// The pointer that the loader put at `address`, when it is one that the loader fills in.
    pub fn relocated(&self, address: u64) -> Option<u64> {
        self.pointers.get(&address).copied()
    }

    /// The u64 at `address` as the program starts with it; `None` outside the file's bytes.
    pub fn initial_word(&self, address: u64) -> Option<u64> {
        self.relocated(address).or_else(|| Some(u64::from_le_bytes(self.file.bytes_at(address, 8).try_into().ok()?)))
    }

    /// Bytes at `address` that may be executed; shorter than `len` at the segment's end.
    pub fn text(&self, address: u64, len: usize) -> &'a [u8] {
        let vaddr = self.file.vaddr_of(address);
        let mut segments = self.file.segments().iter().filter(|s| s.executable);
        match segments.find(|s| vaddr.checked_sub(s.vaddr).is_some_and(|into| into < s.file_size)) {
            Some(_) => self.file.bytes_at(address, len),
            None => &[],
        }
    }

    pub fn is_code(&self, address: u64) -> bool {
        !self.text(address, 1).is_empty()
    }

    /// The instruction at `address`, if there is a valid one.
    pub fn decode(&self, address: u64) -> Option<Instruction> {
        let bytes = self.text(address, MAX_INSTRUCTION);
        let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
        Some(decoder.decode()).filter(|i| !i.is_invalid())
    }

    /// The instructions of a range, in order. Invalid bytes yield invalid instructions.
    pub fn instructions(&self, range: &Range<u64>) -> Decoder<'a> {
        let len = usize::try_from(range.end - range.start).unwrap_or(0);
        Decoder::with_ip(64, self.text(range.start, len), range.start, DecoderOptions::NONE)
    }

    /// Whether decoding the function from its first byte arrives at `address`: proof of an instruction boundary.
    pub fn is_boundary(&self, address: u64) -> bool {
        self.functions.containing(address).is_some_and(|range| {
            let until = range.start..address.saturating_add(1);
            self.instructions(&until).into_iter().any(|i| i.ip() == address) && self.decode(address).is_some()
        })
    }
}

/// The target of a direct jump or call.
pub fn direct_target(instruction: &Instruction) -> Option<u64> {
    matches!(instruction.op0_kind(), OpKind::NearBranch64).then(|| instruction.near_branch_target())
}

/// AT&T syntax, one line.
pub fn format(instruction: &Instruction) -> String {
    let mut formatter = GasFormatter::new();
    let options = formatter.options_mut();
    options.set_space_after_operand_separator(false);
    options.set_uppercase_hex(false);
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_gas_show_mnemonic_size_suffix(false);
    options.set_branch_leading_zeros(false);
    options.set_rip_relative_addresses(false);
    let mut text = String::new();
    formatter.format(instruction, &mut text);
    text
}

/// What one pass over all code tells.
#[derive(Debug, Default)]
pub struct Sweep {
    /// (target, source) of every direct jump, sorted.
    jumps: Vec<(u64, u64)>,
    /// (callee, call) of every direct call, sorted.
    calls: Vec<(u64, u64)>,
    /// Functions with an instruction that the caller's filter wanted.
    pub wanted: Vec<Range<u64>>,
}

impl Sweep {
    /// Decodes every function once. `wanted` picks the functions to look at closer, by their instructions.
    pub fn new(code: &Code<'_>, wanted: impl Fn(&Instruction) -> bool) -> Self {
        let mut sweep = Self::default();
        let mut instruction = Instruction::default();
        for range in code.functions.ranges() {
            let mut decoder = code.instructions(range);
            let mut picked = false;
            while decoder.can_decode() {
                decoder.decode_out(&mut instruction);
                picked |= wanted(&instruction);
                let Some(target) = direct_target(&instruction) else { continue };
                match instruction.flow_control() {
                    FlowControl::Call => sweep.calls.push((target, instruction.ip())),
                    FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                        sweep.jumps.push((target, instruction.ip()));
                    }
                    _ => {}
                }
            }
            if picked {
                sweep.wanted.push(range.clone());
            }
        }
        sweep.jumps.sort_unstable();
        sweep.calls.sort_unstable();
        sweep
    }

    /// Addresses of the direct jumps to `target`.
    pub fn jumps_to(&self, target: u64) -> impl Iterator<Item = u64> {
        select(&self.jumps, target)
    }

    /// What direct jumps lead to, each once.
    pub fn jumped_to(&self) -> impl Iterator<Item = u64> {
        keys(&self.jumps)
    }

    /// What direct calls lead to, each once.
    pub fn callees(&self) -> impl Iterator<Item = u64> {
        keys(&self.calls)
    }

    /// Addresses of the direct calls of `callee`.
    pub fn calls_of(&self, callee: u64) -> impl Iterator<Item = u64> {
        select(&self.calls, callee)
    }
}

fn keys(pairs: &[(u64, u64)]) -> impl Iterator<Item = u64> {
    pairs.chunk_by(|one, other| one.0 == other.0).map(|pairs| pairs[0].0)
}

fn select(pairs: &[(u64, u64)], key: u64) -> impl Iterator<Item = u64> {
    let from = pairs.partition_point(|&(k, _)| k < key);
    pairs[from..].iter().take_while(move |&&(k, _)| k == key).map(|&(_, source)| source)
}
