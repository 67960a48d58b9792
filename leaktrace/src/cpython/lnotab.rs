//! The line tables of code objects before 3.11. Both are rows of pairs of bytes: how far the code goes on, and by how much
//! the line changes then.

/// The line of the instruction at an offset in bytes, by `co_lnotab` (CPython 3.8, 3.9: `Objects/lnotab_notes.txt`).
pub fn line_by_lnotab(table: &[u8], first_line: i32, offset: u32) -> Option<u32> {
    let (mut line, mut reached) = (i64::from(first_line), 0u64);
    for &[bytes, lines] in table.as_chunks().0 {
        reached += u64::from(bytes);
        if reached > u64::from(offset) {
            break;
        }
        line += i64::from(lines.cast_signed());
    }
    u32::try_from(line).ok()
}

/// The same by `co_linetable` of CPython 3.10 (PEP 626): each pair is a range of code, -128 says that it has no line.
pub fn line_by_ranges(table: &[u8], first_line: i32, offset: u32) -> Option<u32> {
    /// `Objects/lnotab_notes.txt` of 3.10.
    const NO_LINE: i8 = -128;
    let (mut line, mut end) = (i64::from(first_line), 0u64);
    for &[bytes, lines] in table.as_chunks().0 {
        let lines = lines.cast_signed();
        end += u64::from(bytes);
        line += if lines == NO_LINE { 0 } else { i64::from(lines) };
        if end > u64::from(offset) {
            return if lines == NO_LINE { None } else { u32::try_from(line).ok() };
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;

    use super::*;
    use crate::cpython::testing::{pythons, version_of};

    /// Prints, for each code object of many modules: first line, table in hex, and the line of each code unit as `dis` has it.
    const DUMP: &str = r"
import dis, os, sys
lib = os.path.dirname(os.__file__)
names = sorted(n for n in os.listdir(lib) if n.endswith('.py'))[:60] + ['asyncio/tasks.py', 'unittest/mock.py']
extra = '\n' * 3000 + 'x = [\n i for i in (1,\n 2) if i]\n' + 'y = ' + ' ' * 300 + 'f(1,\n' + '\n' * 200 + '2)\n'
def walk(code):
    table = code.co_lnotab if sys.version_info < (3, 10) else code.co_linetable
    lines = []
    if sys.version_info < (3, 10):
        starts = dict(dis.findlinestarts(code))
        line = code.co_firstlineno
        for at in range(0, len(code.co_code), 2):
            line = starts.get(at, line)
            lines.append(line)
    else:
        for start, end, line in code.co_lines():
            lines += [line or 0] * ((end - start) // 2)
    print(code.co_firstlineno, table.hex() or '-', *lines)
    for const in code.co_consts:
        if hasattr(const, 'co_code'): walk(const)
walk(compile(extra, 'extra', 'exec'))
for name in names:
    with open(os.path.join(lib, name), 'rb') as f: walk(compile(f.read(), name, 'exec'))
";

    #[test]
    fn every_line_is_the_one_that_python_tells() {
        for python in pythons() {
            let line_by = match version_of(&python).minor {
                ..10 => line_by_lnotab,
                10 => line_by_ranges,
                _ => continue,
            };
            let out = std::process::Command::new(&python).args(["-c", DUMP]).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let mut units = 0;
            for line in out.stdout.lines() {
                let line = line.unwrap();
                let mut words = line.split(' ');
                let first_line: i32 = words.next().unwrap().parse().unwrap();
                let hex = words.next().unwrap().trim_matches('-');
                let byte = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
                let table: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
                for (unit, said) in words.enumerate() {
                    let found = line_by(&table, first_line, 2 * unit as u32).unwrap_or(0);
                    assert_eq!(found, said.parse::<u32>().unwrap(), "{} {line:.60} {unit}", python.display());
                    units += 1;
                }
            }
            assert!(units > 50_000, "{units} code units");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(
            table in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            first_line in proptest::prelude::any::<i32>(),
            offset in proptest::prelude::any::<u32>(),
        ) {
            let _ = (line_by_lnotab(&table, first_line, offset), line_by_ranges(&table, first_line, offset));
        }
    }
}
