//! Objects of the target as Python writes them: keys of dicts, mostly.

use std::fmt::Write as _;

use crate::census::{Shape, Type};
use crate::cpython::Offsets;
use crate::cpython::text::string;
use crate::target::Memory;
use crate::target::words::{i64_at, u64_at};

/// Longest string or bytes that is written out, characters.
const MAX_TEXT: usize = 4096;
/// Characters of a string that are shown where it need not be whole.
pub(super) const SHORT: usize = 40;
/// Most items of a tuple, and how deep tuples in tuples are written out.
const MAX_ITEMS: u64 = 16;
const MAX_DEPTH: u32 = 3;

/// An object as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Literal {
    pub(super) text: String,
    /// Python reads the text as an equal object.
    pub(super) exact: bool,
}

/// What an object is, from its own type.
pub(super) type TypeOf<'t> = &'t dyn Fn(u64) -> Option<&'t Type>;

/// The object at an address.
pub(super) fn literal(memory: &dyn Memory, offsets: &Offsets, type_of: TypeOf<'_>, address: u64) -> Literal {
    one(memory, offsets, type_of, address, 0)
}

fn one(memory: &dyn Memory, offsets: &Offsets, type_of: TypeOf<'_>, address: u64, depth: u32) -> Literal {
    let type_address = memory.u64(address.wrapping_add(offsets.object.type_.into())).unwrap_or(0);
    let Some(of) = type_of(type_address) else { return Literal { text: "?".to_owned(), exact: false } };
    let opaque = || Literal { text: format!("<{}>", of.qualified()), exact: false };
    let exact = |text| Literal { text, exact: !of.heap };
    let found = match (of.shape, of.name.as_str()) {
        (Shape::Str, _) => string(memory, offsets, address, MAX_TEXT).map(|text| exact(quoted(&text))),
        (Shape::Int, "bool") if !of.heap => {
            int(memory, offsets, address).map(|value| exact(if value == 0 { "False" } else { "True" }.to_owned()))
        }
        (Shape::Int, _) => int(memory, offsets, address).map(|value| exact(value.to_string())),
        (Shape::Bytes, _) => bytes(memory, offsets, address).map(exact),
        (Shape::Tuple, "tuple") if depth < MAX_DEPTH => tuple(memory, offsets, type_of, address, depth),
        (Shape::Plain, "NoneType") if !of.heap => Some(exact("None".to_owned())),
        (Shape::Plain, "float") if !of.heap => {
            // `ob_fval` is the only member (Include/cpython/floatobject.h).
            memory
                .u64(address.wrapping_add(16))
                .ok()
                .map(f64::from_bits)
                .filter(|v| v.is_finite())
                .map(|v| exact(format!("{v:?}")))
        }
        _ => None,
    };
    found.unwrap_or_else(opaque)
}

fn int(memory: &dyn Memory, offsets: &Offsets, address: u64) -> Option<i128> {
    let size = memory.u64(address.wrapping_add(offsets.long.size.into())).ok()?;
    let shift = offsets.instance.long_size_shift;
    // From 3.12 on the low bits are the sign: 0 positive, 1 zero, 2 negative.
    let (digits, negative) = match shift {
        0 => ((size as i64).unsigned_abs(), (size as i64) < 0),
        _ => (size >> shift, size & 3 == 2),
    };
    if digits > 4 {
        return None;
    }
    let mut value: i128 = 0;
    for digit in (0..digits).rev() {
        let at = address.wrapping_add(u64::from(offsets.long.digits) + 4 * digit);
        value = value << 30 | i128::from(memory.u32(at).ok()? & ((1 << 30) - 1));
    }
    if shift != 0 && size & 3 == 1 {
        value = 0;
    }
    Some(if negative { -value } else { value })
}

fn bytes(memory: &dyn Memory, offsets: &Offsets, address: u64) -> Option<String> {
    let length = memory.u64(address.wrapping_add(offsets.bytes.size.into())).ok()?;
    let length = usize::try_from(length).ok().filter(|&length| length <= MAX_TEXT)?;
    let bytes = memory.bytes(address.wrapping_add(offsets.bytes.data.into()), length).ok()?;
    let mut text = String::from("b'");
    for byte in bytes {
        match byte {
            b'\'' | b'\\' => text.extend(['\\', byte.into()]),
            b' '..=b'~' => text.push(byte.into()),
            _ => {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text.push('\'');
    Some(text)
}

fn tuple(memory: &dyn Memory, offsets: &Offsets, type_of: TypeOf<'_>, address: u64, depth: u32) -> Option<Literal> {
    let head = memory.bytes(address, 24).ok()?;
    let count = i64_at(&head, offsets.var_object.size)?;
    let count = u64::try_from(count).ok().filter(|&count| count <= MAX_ITEMS)?;
    let items = memory.bytes(address.wrapping_add(offsets.tuple.items.into()), 8 * count as usize).ok()?;
    let mut whole = true;
    let mut texts = Vec::new();
    for index in 0..count as u32 {
        let item = one(memory, offsets, type_of, u64_at(&items, 8 * index)?, depth + 1);
        whole &= item.exact;
        texts.push(item.text);
    }
    let comma = if count == 1 { "," } else { "" };
    Some(Literal { text: format!("({}{comma})", texts.join(", ")), exact: whole })
}

/// A string as Python writes it in quotes.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("'");
    for c in text.chars() {
        match c {
            '\'' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // What a terminal would obey, or would show as nothing.
            c if c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                let _ = write!(out, "\\U{:08x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// Cut to what a line can bear.
pub(super) fn shortened(text: &str) -> String {
    if text.chars().count() <= SHORT {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(SHORT - 1).collect();
    short.push('…');
    short
}

/// Whether Python reads it as a name.
pub(super) fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    let starts = chars.next().is_some_and(|c| c == '_' || c.is_alphabetic());
    starts && chars.all(|c| c == '_' || c.is_alphanumeric())
}
