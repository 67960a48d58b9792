//! The object that lies in a block, and whether it can be what the block was asked for: who asked for 50 bytes has not got a dict.
//! That was put there by another, who was handed the same address unseen.
//!
//! Sizes are those that CPython asks for (`_PyObject_SIZE` and `_PyObject_VAR_SIZE`, Include/objimpl.h and
//! Include/cpython/objimpl.h; `PyUnicode_New`, Objects/unicodeobject.c; `PyBytes_FromStringAndSize`, Objects/bytesobject.c), with
//! what is before the object.

use std::collections::HashMap;

use leaktrace_common::wire::Block;

use super::{
    mark::{TYPE_BEHIND_POINTERS, word},
    units::LeftOut,
};
use crate::{
    census::{
        Shape, Type, Types,
        object::{HEAP_TYPE, measure},
    },
    cpython::offsets::Offsets,
    target::Memory,
};

/// Offsets of `ob_type`: in an object without and with a head of the collector before it (16 bytes, 3.8 to 3.15), and with more.
const TYPES_AT: [usize; 3] = [8, 24, TYPE_BEHIND_POINTERS];
/// Types of the interpreter's own whose objects are always asked for as their layout says. That of a datetime is not: without a time
/// zone it ends before the field for it (Modules/_datetimemodule.c); nor that of an EncodingMap (Objects/unicodeobject.c).
const JUDGED: [&str; 22] = [
    "str",
    "bytes",
    "int",
    "float",
    "complex",
    "tuple",
    "list",
    "dict",
    "set",
    "frozenset",
    "bytearray",
    "slice",
    "range",
    "function",
    "method",
    "cell",
    "generator",
    "coroutine",
    "async_generator",
    "property",
    "classmethod",
    "staticmethod",
];
/// Addresses of which it is remembered whether there is a type, and types whose layout is.
const MOST_ADDRESSES: usize = 1 << 16;
const MOST_TYPES: usize = 1 << 12;

/// What is known of the types of objects that lay in blocks, by address.
#[derive(Debug, Default)]
pub(super) struct Occupants {
    is_type: HashMap<u64, bool>,
    /// `None`: it is none of [`JUDGED`].
    types: HashMap<u64, Option<Type>>,
}

/// Bytes that are asked for an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Exactly(u64),
    /// It may have been given more than it uses.
    AtLeast(u64),
}

impl Occupants {
    /// Where the object at the start of a block with these first bytes notes its type.
    pub(super) fn type_at(&mut self, memory: &dyn Memory, head: &[u8]) -> Option<usize> {
        TYPES_AT.into_iter().find(|&at| self.is_type(memory, word(head, at)))
    }

    /// Whether there is a type: the types of types end, after few steps, at `type`, which is its own.
    fn is_type(&mut self, memory: &dyn Memory, address: u64) -> bool {
        if address == 0 || !address.is_multiple_of(8) {
            return false;
        }
        if let Some(known) = self.is_type.get(&address) {
            return *known;
        }
        let type_of = |address: u64| {
            let mut bytes = [0; 8];
            memory.read(address.checked_add(8)?, &mut bytes).ok()?;
            Some(u64::from_le_bytes(bytes)).filter(|of| *of != 0 && of.is_multiple_of(8))
        };
        let mut at = address;
        let mut found = false;
        for _ in 0..3 {
            match type_of(at) {
                Some(of) if of == at => {
                    found = true;
                    break;
                }
                Some(of) => at = of,
                None => break,
            }
        }
        if self.is_type.len() < MOST_ADDRESSES {
            self.is_type.insert(address, found);
        }
        found
    }

    /// Whether the object at the start of a block, with these first bytes and its type noted so many bytes from there, cannot be what the
    /// block was asked for, and somebody who was left out may have put it there.
    pub(super) fn is_anothers(
        &mut self,
        memory: &dyn Memory,
        offsets: &Offsets,
        block: &Block,
        left_out: LeftOut,
        (head, type_at): (&[u8], usize),
    ) -> bool {
        if left_out == LeftOut::Nobody || block.is_of_free_list() {
            return false;
        }
        if self.types.len() >= MOST_TYPES {
            self.types.clear();
        }
        let address = word(head, type_at);
        let type_ = self.types.entry(address).or_insert_with(|| own_type(memory, offsets, address));
        match type_.as_ref().and_then(|type_| need(offsets, type_, left_out, (head, type_at))) {
            Some(Need::Exactly(need)) => need != block.size(),
            Some(Need::AtLeast(need)) => need > block.size(),
            None => false,
        }
    }
}

/// One of [`JUDGED`] at an address.
fn own_type(memory: &dyn Memory, offsets: &Offsets, address: u64) -> Option<Type> {
    // To read a class takes long, and what is taken for a type may be an instance of one.
    let flags = memory.u64(address.checked_add(offsets.type_object.flags.into())?).ok()?;
    if flags & HEAP_TYPE != 0 {
        return None;
    }
    let mut types = Types::new(memory, offsets);
    types.resolve(&mut vec![address]);
    let found = types.find(address).and_then(|number| types.get(number));
    found.filter(|type_| !type_.heap && JUDGED.contains(&type_.qualified().as_str())).cloned()
}

/// What is asked for an object of a type. `None`: it is not where such an object is, or that cannot be told.
fn need(offsets: &Offsets, type_: &Type, left_out: LeftOut, (head, type_at): (&[u8], usize)) -> Option<Need> {
    let at = type_at.checked_sub(offsets.object.type_ as usize)?;
    // With the debug hooks it is behind a head of theirs.
    if at as u64 != type_.preheader {
        return None;
    }
    let (own, is_fixed) = match type_.shape {
        Shape::Str | Shape::Bytes | Shape::Tuple if left_out == LeftOut::SomeWhoResize => return None,
        // Some are made longer than they turn out to be.
        Shape::Str | Shape::Bytes | Shape::Tuple | Shape::Int => (measure(offsets, type_, head, at)?.own, false),
        Shape::Frame => (type_.basicsize, false),
        _ => (type_.basicsize, type_.itemsize == 0),
    };
    let bytes = type_.preheader.checked_add(own)?;
    Some(if is_fixed { Need::Exactly(bytes) } else { Need::AtLeast(bytes) })
}

#[cfg(test)]
mod tests {
    use std::iter;

    use leaktrace_common::site::domain;

    use super::{super::mark::HEAD, *};
    use crate::cpython::testing::{Script, pythons};

    /// Makes 2500 objects of each kind, more than wait on any free list, and prints of each kind the address of the last one, and
    /// for how many bytes tracemalloc saw blocks asked for more than 300 times meanwhile.
    const CODE: &str = r#"
import array, collections, datetime, decimal, os, re, sys, threading, tracemalloc, types, weakref
class Plain:
    def __init__(self): self.a = self.b = 1
class Slots:
    __slots__ = "a", "b"
class Text(str): pass
class Row(tuple): pass
class Number(int): pass
def generator(): yield
async def coroutine(): pass
kinds = ['"a%03d" % n', '"%d" % (n + 10**40)', '"é%03d" % n', '"€%03d" % n', '"😀%03d" % n', 'b"%03d" % n', 'n + 2**29',
    'n + 2**200', 'n + 0.5', 'complex(n, 1)', '[]', '[n, n]', '{}', '{n: n}', 'set()', 'frozenset((n,))', '(n,)', '(n, n, n)',
    'bytearray(20)', 'Plain()', 'Slots()', 'Text("x")', 'Row((n, n))', 'Number(n)', 'generator()', 'collections.deque()',
    'collections.OrderedDict()', 'collections.defaultdict(int)', 'datetime.datetime(2000, 1, 1)', 'array.array("i", [n])',
    'decimal.Decimal(n)', 'threading.Lock()', 'ValueError()', 'KeyError(n)', 'range(n, n + 9)', 'slice(n)', 'lambda: n',
    'Slots.__init__.__get__(n)', 'types.SimpleNamespace()', 'property()', 'memoryview(b"x")', 'types.MethodType(len, n)',
    'iter([n])', 'iter({})', 'object()', 'types.ModuleType("m")', 'classmethod(len)', 'enumerate([])', 'zip()', 'map(len, [])',
    'str(n).encode() * 9', '", ".join("%d" % n for n in range(n, n + 9))', 'list(range(n % 7)) * 2', 'tuple(x for x in range(20))']
kept = []
for kind in kinds:
    make = eval(compile("lambda: [%s for n in range(1000, 3500)]" % kind, "<made>", "eval"))
    tracemalloc.start()
    made = make()
    traces = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "<made>")]).traces
    sizes = collections.Counter(trace.size for trace in traces)
    tracemalloc.stop()
    kept.append(made)
    print(id(made[-1]), ",".join(str(size) for size, count in sizes.items() if count > 300) or 0, kind)
print("ready", flush=True)
sys.stdin.read(1)
"#;

    #[test]
    fn what_is_asked_for_an_object_is_what_tracemalloc_saw_asked() {
        for python in pythons() {
            let mut script = Script::start(&python, CODE);
            let lines: Vec<String> = iter::repeat_with(|| script.line()).take_while(|line| line != "ready").collect();
            let (target, interpreter) = script.interpreter();
            let (memory, offsets) = (target.memory(), &interpreter.offsets);
            let (mut exact, mut longer) = (0, 0);
            for line in &lines {
                let about = || format!("{}: {line}", python.display());
                let mut words = line.splitn(3, ' ');
                let object: u64 = words.next().unwrap().parse().unwrap();
                let sizes: Vec<u64> = words.next().unwrap().split(',').map(|size| size.parse().unwrap()).collect();
                let kind = words.next().unwrap();
                let mut occupants = Occupants::default();
                // Where the block begins is not known here: it is told where it makes sense.
                let heads = TYPES_AT.into_iter().filter_map(|type_at| {
                    let begin = object.checked_sub(type_at.checked_sub(offsets.object.type_ as usize)? as u64)?;
                    Some((type_at, memory.bytes(begin, HEAD).ok()?))
                });
                let mut told = 0;
                for (type_at, head) in heads {
                    let mut may_be = |bytes| {
                        let block = Block::new(bytes, domain::OBJ, true, 0, 0, 0);
                        !occupants.is_anothers(&memory, offsets, &block, LeftOut::Some, (&head, type_at))
                    };
                    // Nothing is so small, unless nothing is told.
                    let Some(need) = (1..1 << 12).find(|&bytes| may_be(bytes)).filter(|&need| need > 1) else {
                        continue;
                    };
                    told += 1;
                    let is_exact = !may_be(need + 1);
                    // Numbers may have room for one digit more, and generators have their frame behind them.
                    if is_exact || !["n + 2**", "generator", "coroutine"].iter().any(|longer| kind.starts_with(longer))
                    {
                        assert!(sizes.contains(&need), "{}: {need}", about());
                    } else {
                        assert!(sizes.iter().any(|&size| size >= need), "{}: {need}", about());
                    }
                    exact += usize::from(is_exact);
                    longer += usize::from(!is_exact);
                }
                assert!(told <= 1, "{}: it has one head", about());
            }
            assert!(exact >= 14 && longer >= 12, "{}: {exact} and {longer} of {}", python.display(), lines.len());
        }
    }
}
