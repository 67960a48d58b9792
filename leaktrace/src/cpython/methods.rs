//! Functions of the interpreter by the names that Python code calls them by, for files without symbols: tables of methods are data
//! (`PyMethodDef`, CPython `Include/methodobject.h`, 3.8 to 3.15).

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions, FlowControl, OpKind};

use crate::target::{ElfFile, Memory};

/// Name, function, flags and documentation, 8 bytes each.
const METHOD_WORDS: usize = 4;
/// Longest name that is read, and most methods of one table.
const MOST_NAME: usize = 64;
const MOST_METHODS: usize = 64;
/// Bytes of a function that are looked at for what it calls first.
const MAX_CODE: usize = 64;
/// Most bytes of a file's writable memory that are searched.
const MAX_DATA: u64 = 64 << 20;

/// The functions of the one table that has all of `names`, by name. `None`: there is none, or several that differ.
pub(crate) fn table(memory: &dyn Memory, elf: &ElfFile, names: &[&str]) -> Option<BTreeMap<String, u64>> {
    let first = names.first()?;
    let mut found: Option<BTreeMap<String, u64>> = None;
    for range in elf.writable_ranges() {
        let mut data = vec![0; usize::try_from(range.end.saturating_sub(range.start).min(MAX_DATA)).ok()?];
        memory.read_sparse(range.start, &mut data);
        let words: Vec<u64> = data.as_chunks().0.iter().map(|&word| u64::from_le_bytes(word)).collect();
        for index in 0..words.len() {
            if method(elf, &words, index).is_none_or(|(name, _)| name != *first) {
                continue;
            }
            let methods = around(elf, &words, index);
            if !names.iter().all(|&name| methods.contains_key(name)) {
                continue;
            }
            if found.as_ref().is_some_and(|other| *other != methods) {
                return None;
            }
            found = Some(methods);
        }
    }
    found
}

/// What a function calls or jumps to first, if nothing but straight-line code leads there.
pub(crate) fn first_callee(elf: &ElfFile, function: u64) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, elf.bytes_at(function, MAX_CODE), function, DecoderOptions::NONE);
    let first = decoder.iter().find(|instruction| instruction.flow_control() != FlowControl::Next)?;
    let leads = matches!(first.flow_control(), FlowControl::Call | FlowControl::UnconditionalBranch);
    (leads && first.op0_kind() == OpKind::NearBranch64).then(|| first.near_branch_target())
}

/// The methods beside the one at `index`, itself included.
fn around(elf: &ElfFile, words: &[u64], index: usize) -> BTreeMap<String, u64> {
    let at = |index: Option<usize>| method(elf, words, index?);
    let before = (1..MOST_METHODS).map_while(|n| at(index.checked_sub(n * METHOD_WORDS)));
    let behind = (0..MOST_METHODS).map_while(|n| at(index.checked_add(n * METHOD_WORDS)));
    before.chain(behind).map(|(name, function)| (name.to_owned(), function)).collect()
}

fn method<'e>(elf: &'e ElfFile, words: &[u64], index: usize) -> Option<(&'e str, u64)> {
    let &[name, function] = words.get(index..index.checked_add(2)?)?.first_chunk()?;
    if !elf.executable().contains(&function) {
        return None;
    }
    let name = elf.bytes_at(name, MOST_NAME);
    let name = std::str::from_utf8(&name[..name.iter().position(|&byte| byte == 0)?]).ok()?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some((name, function))
}
