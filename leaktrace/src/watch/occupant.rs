//! The object that lies in a block, and whether it can be what the block was asked for: who asked for 50 bytes has not got a dict.
//! That was put there by another, who was handed the same address unseen.
//!
//! Sizes are those that CPython asks for (`_PyObject_SIZE` and `_PyObject_VAR_SIZE`, Include/objimpl.h and
//! Include/cpython/objimpl.h; `PyUnicode_New`, Objects/unicodeobject.c; `PyBytes_FromStringAndSize`, Objects/bytesobject.c), with
//! what is before the object.

use std::collections::HashMap;

use super::mark::{TYPE_BEHIND_POINTERS, word};
use crate::{
    census::{Shape, Type, Types, object::measure},
    cpython::offsets::Offsets,
    target::Memory,
};

/// Offsets of `ob_type`: in an object without and with a head of the collector before it (16 bytes, 3.8 to 3.15), and with more.
const TYPES_AT: [usize; 3] = [8, 24, TYPE_BEHIND_POINTERS];
/// Addresses of which it is remembered whether there is a type, and types whose layout is.
const MOST_ADDRESSES: usize = 1 << 16;
const MOST_TYPES: usize = 1 << 12;

/// What is known of the types of objects that lay in blocks, by address.
#[derive(Debug, Default)]
pub(super) struct Occupants {
    is_type: HashMap<u64, bool>,
    /// `None`: it says too little of itself.
    types: HashMap<u64, Option<Type>>,
}

/// What a block was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) bytes: u64,
    /// It may have been resized where it is by somebody whom the window did not see.
    pub(super) is_resized: bool,
    /// Where the object in it notes its type, bytes from its start.
    pub(super) type_at: usize,
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

    /// Whether the object at the start of a block, with these first bytes, cannot be what the block was asked for.
    pub(super) fn is_anothers(&mut self, memory: &dyn Memory, offsets: &Offsets, head: &[u8], of: Asked) -> bool {
        let address = word(head, of.type_at);
        if self.types.len() >= MOST_TYPES {
            self.types.clear();
        }
        let type_ = self.types.entry(address).or_insert_with(|| {
            let mut types = Types::new(memory, offsets);
            types.resolve(&mut vec![address]);
            types.find(address).and_then(|number| types.get(number)).cloned()
        });
        match type_.as_ref().and_then(|type_| need(offsets, type_, head, of)) {
            Some(Need::Exactly(need)) => need != of.bytes,
            Some(Need::AtLeast(need)) => need > of.bytes,
            None => false,
        }
    }
}

/// What is asked for an object of a type. `None`: it is not where such an object is, or that cannot be told.
fn need(offsets: &Offsets, type_: &Type, head: &[u8], of: Asked) -> Option<Need> {
    let at = of.type_at.checked_sub(offsets.object.type_ as usize)?;
    // With the debug hooks it is behind a head of theirs. Others than the interpreter's own types may take more than their layout says,
    // or less: a datetime without a time zone ends before the field for it (Modules/_datetimemodule.c).
    if at as u64 != type_.preheader || type_.heap || type_.module != "builtins" {
        return None;
    }
    let (own, is_fixed) = match type_.shape {
        Shape::Str | Shape::Bytes | Shape::Tuple if of.is_resized => return None,
        // Some are made longer than they turn out to be.
        Shape::Str | Shape::Bytes | Shape::Tuple | Shape::Int => (measure(offsets, type_, head, at)?.own, false),
        // There is more of it than is looked at.
        Shape::Type => return None,
        Shape::Frame => (type_.basicsize, false),
        _ => (type_.basicsize, type_.itemsize == 0),
    };
    let bytes = type_.preheader.checked_add(own)?;
    Some(if is_fixed { Need::Exactly(bytes) } else { Need::AtLeast(bytes) })
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::{super::mark::HEAD, *};
    use crate::cpython::testing::{Script, pythons};
    use crate::target::words::u64_at;

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
            let (mut exact, mut others) = (0, 0);
            for line in &lines {
                let about = || format!("{}: {line}", python.display());
                let mut words = line.splitn(3, ' ');
                let object: u64 = words.next().unwrap().parse().unwrap();
                let sizes: Vec<u64> = words.next().unwrap().split(',').map(|size| size.parse().unwrap()).collect();
                let mut occupants = Occupants::default();
                // Where the block begins is not known here: it is told where it makes sense.
                let heads = TYPES_AT.into_iter().filter_map(|type_at| {
                    let begin = object.checked_sub(type_at.checked_sub(offsets.object.type_ as usize)? as u64)?;
                    Some((type_at, memory.bytes(begin, HEAD).ok()?))
                });
                let mut told = Vec::new();
                for (type_at, head) in heads {
                    let mut is_anothers = |bytes| {
                        let asked = Asked { bytes, is_resized: false, type_at };
                        occupants.is_anothers(&memory, offsets, &head, asked)
                    };
                    // Nothing is so small, unless nothing is told.
                    if is_anothers(1) {
                        told.push((sizes.iter().any(|&size| !is_anothers(size)), is_anothers(1 << 20)));
                    }
                    assert_ne!(u64_at(&head, type_at as u32), Some(0), "{}", about());
                }
                assert!(told.len() <= 1, "{}: it has one head: {told:?}", about());
                for (fits, is_exact) in told {
                    assert!(fits || sizes == [0], "{}", about());
                    exact += usize::from(is_exact);
                    others += usize::from(!is_exact);
                }
            }
            assert!(exact >= 20 && others >= 15, "{}: {exact} and {others} of {}", python.display(), lines.len());
        }
    }
}
