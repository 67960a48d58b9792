//! Functions of a file without symbols, by the names that Python code calls them by: tables of methods are data
//! (`PyMethodDef`, CPython `Include/methodobject.h`, 3.8 to 3.15).

use std::collections::BTreeMap;

use super::code::Code;

/// Name, function, flags and documentation, 8 bytes each.
const METHOD_BYTES: u64 = 32;
/// Longest name that is read, and most methods of one table.
const MOST_NAME: usize = 64;
const MOST_METHODS: usize = 64;

/// The functions of the one table that has all of `names`, by name. `None`: there is none, or several.
pub(super) fn table(code: &Code<'_>, names: &[&str]) -> Option<BTreeMap<String, u64>> {
    let first = names.first()?;
    let mut found: Option<BTreeMap<String, u64>> = None;
    for segment in code.file.segments().iter().filter(|s| s.writable && !s.executable) {
        let start = code.file.address_of(segment.vaddr.saturating_add(7) & !7);
        let len = code.file.bytes_at(start, usize::MAX).len() as u64;
        for address in (0..len).step_by(8).map(|into| start.wrapping_add(into)) {
            if method(code, address).is_none_or(|(name, _)| name != *first) {
                continue;
            }
            let methods = around(code, address);
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

/// The methods beside the one at `address`, itself included.
fn around(code: &Code<'_>, address: u64) -> BTreeMap<String, u64> {
    let at = |n: u64| method(code, address.wrapping_add(n.wrapping_mul(METHOD_BYTES)));
    let before = (1..MOST_METHODS as u64).map_while(|n| at(n.wrapping_neg()));
    before.chain((0..MOST_METHODS as u64).map_while(at)).map(|(name, function)| (name.to_owned(), function)).collect()
}

fn method<'a>(code: &Code<'a>, address: u64) -> Option<(&'a str, u64)> {
    let function = code.initial_word(address.wrapping_add(8)).filter(|&function| code.is_code(function))?;
    let name = code.file.bytes_at(code.initial_word(address)?, MOST_NAME);
    let name = std::str::from_utf8(&name[..name.iter().position(|&byte| byte == 0)?]).ok()?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some((name, function))
}
