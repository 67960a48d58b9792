//! The location table of code objects (CPython 3.11 and later: PEP 657, `Objects/locations.md`).
//!
//! The table is a row of entries. The first byte of each has bit 7 set, its kind in bits 3 to 6 and its length in code
//! units less one in bits 0 to 2; bytes without bit 7 follow, by the kind.

/// Where an instruction comes from. Lines count from 1, columns from 0; `None` where the compiler gave none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Location {
    pub line: Option<u32>,
    pub end_line: Option<u32>,
    pub column: Option<u32>,
    pub end_column: Option<u32>,
}

/// One entry: code units from `start` up to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub start: u32,
    pub end: u32,
    pub location: Location,
}

/// The entries of a table, in the order of the instructions. Ends where the table does or is not well formed.
#[derive(Debug, Clone)]
pub struct LineTable<'a> {
    rest: &'a [u8],
    line: i64,
    unit: u32,
}

impl<'a> LineTable<'a> {
    /// Of a code object's `co_linetable` and `co_firstlineno`.
    pub fn new(table: &'a [u8], first_line: i32) -> Self {
        Self { rest: table, line: i64::from(first_line), unit: 0 }
    }

    /// The location of the instruction at an index in code units (2 bytes each).
    pub fn at(mut self, unit: u32) -> Option<Location> {
        self.find(|entry| entry.end > unit).map(|entry| entry.location)
    }

    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        (first & 0x80 == 0).then(|| {
            self.rest = rest;
            first
        })
    }

    /// Six bits a byte, the lowest first; bit 6 says that another follows.
    fn varint(&mut self) -> Option<u32> {
        let mut value = 0u32;
        for shift in (0..36).step_by(6) {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x3f).checked_shl(shift)?;
            if byte & 0x40 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// The sign is the lowest bit.
    fn signed(&mut self) -> Option<i64> {
        let value = self.varint()?;
        let magnitude = i64::from(value >> 1);
        Some(if value & 1 == 1 { -magnitude } else { magnitude })
    }

    fn read_location(&mut self, kind: u8) -> Option<Location> {
        let (end_line_delta, column, end_column) = match kind {
            // Short forms, on the line of the entry before.
            0..=9 => {
                let byte = u32::from(self.byte()?);
                let column = (u32::from(kind) << 3) | ((byte >> 4) & 7);
                (0, Some(column), Some(column + (byte & 15)))
            }
            // One line, at most two further than that of the entry before.
            10..=12 => {
                self.line += i64::from(kind - 10);
                (0, Some(u32::from(self.byte()?)), Some(u32::from(self.byte()?)))
            }
            13 => {
                self.line += self.signed()?;
                (0, None, None)
            }
            14 => {
                self.line += self.signed()?;
                let (lines, start, end) = (self.varint()?, self.varint()?, self.varint()?);
                // A column is written as one more than it is, 0 for none.
                (i64::from(lines), start.checked_sub(1), end.checked_sub(1))
            }
            _ => return Some(Location::default()),
        };
        let line = |line: i64| u32::try_from(line).ok();
        Some(Location { line: line(self.line), end_line: line(self.line + end_line_delta), column, end_column })
    }
}

impl Iterator for LineTable<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let (&first, rest) = self.rest.split_first()?;
        if first & 0x80 == 0 {
            return None;
        }
        self.rest = rest;
        let start = self.unit;
        self.unit = start.checked_add(u32::from(first & 7) + 1)?;
        let location = self.read_location((first >> 3) & 15)?;
        Some(Entry { start, end: self.unit, location })
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;

    use super::*;
    use crate::cpython::testing::{pythons, version_of};

    /// Prints, for each code object of many modules: first line, table in hex, and what co_positions() says of each
    /// code unit.
    const DUMP: &str = r"
import os, sys
lib = os.path.dirname(os.__file__)
names = sorted(n for n in os.listdir(lib) if n.endswith('.py'))[:int(sys.argv[1])]
names += ['asyncio/tasks.py', 'json/encoder.py', 'email/message.py', 'unittest/mock.py']
extra = '\n' * 3000 + 'x = [\n i for i in (1,\n 2) if i]\n' + 'y = ' + ' ' * 300 + 'f(1,\n' + '\n' * 200 + '2)\n'
def walk(code):
    print(code.co_firstlineno, code.co_linetable.hex() or '-',
          *[','.join('' if n is None else str(n) for n in p) for p in code.co_positions()])
    for const in code.co_consts:
        if hasattr(const, 'co_code'): walk(const)
walk(compile(extra, 'extra', 'exec'))
for name in names:
    with open(os.path.join(lib, name), 'rb') as f: walk(compile(f.read(), name, 'exec'))
";

    #[test]
    fn every_position_equals_that_of_co_positions() {
        for python in pythons().into_iter().filter(|python| version_of(python).minor >= 11) {
            let out = std::process::Command::new(&python).args(["-c", DUMP, "60"]).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let (mut codes, mut positions) = (0, 0);
            for line in out.stdout.lines() {
                let line = line.unwrap();
                let mut words = line.split(' ');
                let first_line: i32 = words.next().unwrap().parse().unwrap();
                let hex = words.next().unwrap().trim_matches('-');
                let byte = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
                let table: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
                let mut entries = LineTable::new(&table, first_line).peekable();
                for (unit, position) in words.enumerate() {
                    while entries.next_if(|e| e.end <= unit as u32).is_some() {}
                    let found = entries.peek().expect("the table covers all code").location;
                    let said: Vec<Option<u32>> = position.split(',').map(|n| n.parse().ok()).collect();
                    assert_eq!(
                        [found.line, found.end_line, found.column, found.end_column],
                        *said,
                        "{line:.60} {unit}"
                    );
                    positions += 1;
                }
                if codes % 50 == 0 {
                    let all: Vec<Entry> = LineTable::new(&table, first_line).collect();
                    for entry in &all {
                        let at = |unit| LineTable::new(&table, first_line).at(unit);
                        assert_eq!((at(entry.start), at(entry.end - 1)), (Some(entry.location), Some(entry.location)));
                    }
                    assert_eq!(LineTable::new(&table, first_line).at(all.last().map_or(0, |e| e.end)), None);
                }
                codes += 1;
            }
            assert!(codes > 1000 && positions > 50_000, "{codes} code objects, {positions} positions");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(
            table in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            first_line in proptest::prelude::any::<i32>(),
            unit in proptest::prelude::any::<u32>(),
        ) {
            let _ = LineTable::new(&table, first_line).at(unit);
            proptest::prop_assert!(LineTable::new(&table, first_line).count() <= table.len());
        }
    }
}
