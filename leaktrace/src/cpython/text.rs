//! Strings of the target: `str` objects and C strings.

use crate::target::Memory;

use super::code::decode;
use super::offsets::Offsets;

const PAGE: usize = 4096;

/// The characters of the `str` at an address; `None` if it is none of at most `longest` characters. Only the compact
/// form is read, which is that of every string that was not made from a subclass.
pub fn string(memory: &dyn Memory, offsets: &Offsets, address: u64, longest: usize) -> Option<String> {
    let at = |offset: u32| address.wrapping_add(offset.into());
    let unicode = &offsets.unicode;
    let length = usize::try_from(memory.u64(at(unicode.length)).ok()?).ok().filter(|&length| length <= longest)?;
    let state = memory.u32(at(unicode.state)).ok()?;
    let bit = |bit: u32| state.checked_shr(bit).unwrap_or(0) & 1 != 0;
    if !bit(unicode.compact_bit) {
        return None;
    }
    let kind = (state.checked_shr(unicode.kind_bit).unwrap_or(0) & 7) as u8;
    let data = if bit(unicode.ascii_bit) { unicode.ascii_data } else { offsets.compact_unicode.data };
    decode(&memory.bytes(at(data), length * usize::from(kind.min(4))).ok()?, kind)
}

/// The C string at an address, cut after `longest` bytes; `None` if it cannot be read or is not UTF-8.
pub fn c_string(memory: &dyn Memory, address: u64, longest: usize) -> Option<String> {
    let mut bytes = Vec::new();
    while bytes.len() < longest {
        // Not beyond the page: the next may not be mapped.
        let at = address.checked_add(bytes.len() as u64)?;
        let len = (PAGE - at as usize % PAGE).min(longest - bytes.len()).min(64);
        let piece = memory.bytes(at, len).ok()?;
        match piece.iter().position(|&byte| byte == 0) {
            Some(end) => {
                bytes.extend_from_slice(&piece[..end]);
                break;
            }
            None => bytes.extend_from_slice(&piece),
        }
    }
    String::from_utf8(bytes).ok()
}
