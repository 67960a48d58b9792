//! What references are called: the steps of a path.

use std::collections::HashMap;

use leaktrace_common::walk::ABSENT;

use super::layout::Special;
use super::nodes::{Node, Nodes};
use super::repr::{is_identifier, literal, quoted, shortened};
use super::slot::Slot;
use super::visit::Visitor;
use crate::census::{Shape, Type};
use crate::cpython::Offsets;
use crate::cpython::text::{c_string, string};
use crate::target::Memory as _;

/// Most members of a type that are read, and longest chain of bases.
const MAX_MEMBERS: usize = 1024;
const MAX_BASES: usize = 64;
/// Longest name, characters.
const MAX_NAME: usize = 256;
/// A dict with string keys that has no more entries is a record: its keys are part of a path's shape.
const RECORD: u64 = 24;
/// The same of tuples.
const SHORT_TUPLE: u64 = 8;
/// `Py_TPFLAGS_BASE_EXC_SUBCLASS` (Include/object.h).
const EXCEPTION: u64 = 1 << 30;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// As text: ".history", "[3]".
    pub(super) text: String,
    /// The same for all steps that differ only by a key or an index: "[*]".
    pub(super) shape: String,
    /// As Python, `{}` standing for what it begins with.
    pub(super) python: String,
    /// How many objects of the path it takes.
    pub(super) objects: usize,
}

/// How one object holds some others.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) length: Option<u64>,
    pub(super) slots: HashMap<Node, Slot>,
}

/// Finds names. Keeps what it found of types.
pub(super) struct Namer<'v, 'a> {
    pub(super) visitor: &'v mut Visitor<'a>,
    pub(super) nodes: &'v Nodes,
    members: HashMap<u64, HashMap<u32, String>>,
}

impl<'v, 'a> Namer<'v, 'a> {
    pub(super) fn new(visitor: &'v mut Visitor<'a>, nodes: &'v Nodes) -> Self {
        Self { visitor, nodes, members: HashMap::new() }
    }

    /// How an object holds some others. Of several ways the plainest counts.
    pub(super) fn held(&mut self, parent: Node, children: &[Node]) -> Held {
        let (address, number) = (self.nodes.address(parent), self.nodes.type_of(parent));
        let wanted: HashMap<u64, Node> = children.iter().map(|&child| (self.nodes.address(child), child)).collect();
        let mut held = Held::default();
        let seen = self.visitor.visit(address, number, &mut |slot, address| {
            if let Some(&child) = wanted.get(&address) {
                let known = held.slots.entry(child).or_insert(slot);
                if plainness(slot) < plainness(*known) {
                    *known = slot;
                }
            }
        });
        held.length = seen.and_then(|seen| seen.length);
        held
    }

    /// The name of a type that is an object of the graph.
    pub(super) fn type_name(&self, node: Node) -> String {
        let of = self.visitor.type_at(self.nodes.address(node));
        of.map_or_else(|| "a type".to_owned(), Type::qualified)
    }

    /// Whether an object is the cell of a variable that inner functions use too.
    pub(super) fn is_cell(&self, node: Node) -> bool {
        self.visitor.layout(self.nodes.type_of(node)).special == Special::Cell
    }

    fn type_of(&self, node: Node) -> &Type {
        self.visitor.type_(self.nodes.type_of(node))
    }

    /// The step from the first object of `path` on; `slots[i]` is how `path[i]` holds the one after it, `lengths` are the lengths
    /// of those that have one.
    pub(super) fn step(&mut self, path: &[Node], slots: &[Slot], lengths: &[Option<u64>]) -> Step {
        let (parent, child) = (path[0], path[1]);
        let of = self.type_of(parent).clone();
        match slots[0] {
            // A namespace and a name in it are one step.
            Slot::Dict => match slots.get(1) {
                Some(&Slot::Value(key)) => self.attribute(key, &of),
                // A class gives out only a view of it.
                _ if of.shape == Shape::Type => {
                    let python = "gc.get_referents({}.__dict__)[0]".to_owned();
                    Step { python, ..like(".__dict__".to_owned(), 1) }
                }
                _ => plain(".__dict__".to_owned(), 1),
            },
            Slot::Class => Step { python: "type({})".to_owned(), ..plain(".__class__".to_owned(), 1) },
            Slot::Attribute(index) => match self.shared_key(of.address, index) {
                Some(key) => Step { objects: 1, ..self.attribute(key, &of) },
                None => self.unknown(child),
            },
            Slot::Item(index) => {
                let text = format!("[{index}]");
                let short = of.shape == Shape::Tuple && lengths[0].is_some_and(|length| length <= SHORT_TUPLE);
                let shape = if short { text.clone() } else { "[*]".to_owned() };
                Step { python: format!("{{}}{text}"), text, shape, objects: 1 }
            }
            Slot::Member => Step { python: self.by_id(child, "{}"), ..like("{*}".to_owned(), 1) },
            Slot::Key => Step { python: self.by_id(child, "{}"), ..like(".keys()".to_owned(), 1) },
            Slot::Value(key) => self.item(key, child, lengths[0]),
            Slot::Cached => {
                Step { python: self.by_id(child, "gc.get_referents({})"), ..like(".<cached>".to_owned(), 1) }
            }
            Slot::Local(index) => self.local(parent, child, index, slots.get(1).copied()),
            Slot::Stack(_) | Slot::Frame(_) | Slot::State => self.unknown(child),
            Slot::Field(offset) => self.field(&of, path, slots, offset),
        }
    }

    /// The name of the type of the object at an address.
    pub(super) fn type_name_at(&self, address: u64) -> String {
        let memory = &self.visitor.memory;
        let of = memory.u64(address.wrapping_add(self.visitor.offsets.object.type_.into()));
        of.ok().and_then(|of| self.visitor.type_at(of)).map_or_else(|| "?".to_owned(), Type::qualified)
    }

    /// The dict of an instance, a module or a type.
    pub(super) fn namespace(&mut self, node: Node) -> Option<Node> {
        let mut dict = None;
        self.visitor.visit(self.nodes.address(node), self.nodes.type_of(node), &mut |slot, address| {
            if slot == Slot::Dict {
                dict = Some(address);
            }
        });
        self.nodes.find(dict?)
    }

    pub(super) fn key(&self, address: u64) -> super::repr::Literal {
        literal(&self.visitor.memory, self.visitor.offsets, &|at| self.visitor.type_at(at), address)
    }

    /// A name in a namespace.
    fn attribute(&self, key: u64, of: &Type) -> Step {
        let name = string(&self.visitor.memory, self.visitor.offsets, key, MAX_NAME);
        match name {
            Some(name) if is_identifier(&name) => {
                // A class gives out what is in its dict by the rules of descriptors.
                let python = if of.shape == Shape::Type {
                    format!("{{}}.__dict__[{}]", quoted(&name))
                } else {
                    format!("{{}}.{name}")
                };
                Step { python, ..like(format!(".{name}"), 2) }
            }
            _ => {
                let key = self.key(key);
                Step {
                    python: format!("{{}}.__dict__[{}]", key.text),
                    ..like(format!(".__dict__[{}]", shortened(&key.text)), 2)
                }
            }
        }
    }

    /// The value for a key of a dict.
    fn item(&self, key: u64, child: Node, length: Option<u64>) -> Step {
        let literal = self.key(key);
        let text = format!("[{}]", shortened(&literal.text));
        let record = literal.text.starts_with('\'') && length.is_some_and(|length| length <= RECORD);
        let shape = if record { text.clone() } else { "[*]".to_owned() };
        let python = if literal.exact {
            // Braces are the place of what it begins with.
            format!("{{}}[{}]", literal.text.replace('{', "\\x7b").replace('}', "\\x7d"))
        } else {
            self.by_id(child, "{}.values()")
        };
        Step { text, shape, python, objects: 1 }
    }

    fn by_id(&self, child: Node, among: &str) -> String {
        format!("next(o for o in {among} if id(o) == {:#x})", self.nodes.address(child))
    }

    /// Something that Python has no name for: by its type.
    fn unknown(&self, child: Node) -> Step {
        let name = self.type_of(child).qualified();
        Step { python: self.by_id(child, "gc.get_referents({})"), ..like(format!(".<{name}>"), 1) }
    }

    /// What a cell holds is what the variable is for Python.
    fn local(&self, frame: Node, child: Node, index: u32, next: Option<Slot>) -> Step {
        let in_cell = self.is_cell(child);
        let of = self.type_of(frame);
        let attribute = match of.name.as_str() {
            "coroutine" => ".cr_frame",
            "async_generator" => ".ag_frame",
            "generator" => ".gi_frame",
            _ => "",
        };
        let frame_offset = self.visitor.offsets.generator.frame;
        let address = self.nodes.address(frame);
        let of = &self.visitor.offsets.frame_object;
        let base = match (attribute.is_empty(), self.visitor.offsets.frame.function == ABSENT) {
            (false, _) => address.wrapping_add(frame_offset.into()),
            (true, true) => address,
            (true, false) => address.wrapping_add(of.data.into()),
        };
        match self.local_name(self.visitor.code_of(base), index) {
            Some(name) if !in_cell || matches!(next, Some(Slot::Field(_))) => {
                let text = format!("{attribute}.f_locals[{}]", quoted(&name));
                plain(text, if in_cell { 2 } else { 1 })
            }
            Some(name) => Step {
                python: self.by_id(child, &format!("gc.get_referents({{}}{attribute})")),
                ..like(format!(".<cell {name}>"), 1)
            },
            None => self.unknown(child),
        }
    }

    /// The name of a local variable, cell or free variable of a function.
    pub(super) fn local_name(&self, code: u64, index: u32) -> Option<String> {
        let of = self.visitor.offsets.code;
        let memory = &self.visitor.memory;
        let tuple = |offset: u32| memory.u64(code.wrapping_add(offset.into())).ok();
        if of.localsplusnames != ABSENT {
            return self.item_text(tuple(of.localsplusnames)?, index);
        }
        let mut index = index;
        for offset in [of.varnames, of.cellvars, of.freevars] {
            let names = tuple(offset)?;
            let count = memory.u64(names.wrapping_add(self.visitor.offsets.var_object.size.into())).ok()?;
            if u64::from(index) < count {
                return self.item_text(names, index);
            }
            index -= count as u32;
        }
        None
    }

    fn item_text(&self, tuple: u64, index: u32) -> Option<String> {
        let at = tuple.wrapping_add(self.visitor.offsets.tuple.items.into()).wrapping_add(8 * u64::from(index));
        let item = self.visitor.memory.u64(at).ok()?;
        string(&self.visitor.memory, self.visitor.offsets, item, MAX_NAME)
    }

    /// A key that the instances of a type share.
    fn shared_key(&self, type_: u64, index: u32) -> Option<u64> {
        let (memory, offsets) = (&self.visitor.memory, self.visitor.offsets);
        let keys = memory.u64(type_.wrapping_add(offsets.heap_type.cached_keys.into())).ok()?;
        let header = memory.bytes(keys, offsets.dict_keys.indices as usize).ok()?;
        let size = crate::census::object::dict_keys(offsets, &header)?;
        let (entry, key, _) = crate::census::object::entry_of(offsets, &header);
        memory.u64(keys.wrapping_add(size.entries_at + u64::from(index) * entry + u64::from(key))).ok()
    }

    /// A word of an object.
    fn field(&mut self, of: &Type, path: &[Node], slots: &[Slot], offset: u32) -> Step {
        let child = path[1];
        let layout = self.visitor.layout(self.nodes.type_of(path[0]));
        let (special, shape) = (layout.special, layout.shape);
        let offsets = self.visitor.offsets;
        if special == Special::Function
            && offset == offsets.function.closure
            && let (Some(&Slot::Item(cell)), Some(&Slot::Field(_))) = (slots.get(1), slots.get(2))
            && let Some(name) = self.closure_name(path[0], path[1], cell)
        {
            let python = format!("{{}}.__closure__[{cell}].cell_contents");
            return Step { python, ..like(format!(".<closure {name}>"), 3) };
        }
        // `threading.local`: a dict for each thread, by what stands for the thread.
        if special == Special::ThreadLocal
            && let (Some(&Slot::Value(_)), Some(&Slot::Value(key))) = (slots.get(1), slots.get(2))
        {
            let child = path[3];
            let name = string(&self.visitor.memory, offsets, key, MAX_NAME).unwrap_or_default();
            let python = format!(
                "next(o for d in gc.get_referents({{}}) if type(d) is dict for e in d.values() for o in \
                 gc.get_referents(e) if id(o) == {:#x})",
                self.nodes.address(child)
            );
            return Step { python, ..like(format!(".{name}"), 3) };
        }
        if of.name == "Task" && self.type_of(child).name == "coroutine" {
            return plain(".get_coro()".to_owned(), 1);
        }
        let known = self
            .member(of.address, offset)
            .or_else(|| known_field(offsets, special, shape, of, offset).map(str::to_owned));
        match known {
            Some(name) => plain(format!(".{name}"), 1),
            None if self.is_exception(of.address) => match exception_field(offsets, offset) {
                Some(name) => plain(format!(".{name}"), 1),
                None => self.unknown(child),
            },
            None => self.unknown(child),
        }
    }

    fn is_exception(&self, type_: u64) -> bool {
        let flags = self.visitor.memory.u64(type_.wrapping_add(self.visitor.offsets.type_object.flags.into()));
        flags.is_ok_and(|flags| flags & EXCEPTION != 0)
    }

    /// The name of a free variable by its place in the closure.
    fn closure_name(&self, function: Node, closure: Node, cell: u64) -> Option<String> {
        let (memory, offsets) = (&self.visitor.memory, self.visitor.offsets);
        let code = memory.u64(self.nodes.address(function).wrapping_add(offsets.function.code.into())).ok()?;
        let size = self.nodes.address(closure).wrapping_add(offsets.var_object.size.into());
        let free = memory.u64(size).ok()?;
        let all = self.visitor.local_count(code);
        self.local_name(code, u32::try_from(all.checked_sub(free)?.checked_add(cell)?).ok()?)
    }

    /// The member of a type (`tp_members`, slots of a class among them) at an offset.
    fn member(&mut self, type_: u64, offset: u32) -> Option<String> {
        if !self.members.contains_key(&type_) {
            let found = self.read_members(type_);
            self.members.insert(type_, found);
        }
        self.members.get(&type_)?.get(&offset).cloned()
    }

    fn read_members(&self, type_: u64) -> HashMap<u32, String> {
        let (memory, t) = (&self.visitor.memory, self.visitor.offsets.type_object);
        let mut found = HashMap::new();
        let mut at = type_;
        for _ in 0..MAX_BASES {
            let mut member = memory.u64(at.wrapping_add(t.members.into())).unwrap_or(0);
            for _ in 0..MAX_MEMBERS {
                // `PyMemberDef`: name, type, offset, flags, doc, 8 bytes each (Include/descrobject.h, structmember.h).
                let word = |index: u64| memory.u64(member.wrapping_add(8 * index)).unwrap_or(0);
                let (name, kind, offset) = (word(0), word(1) as u32, word(2));
                if member == 0 || name == 0 {
                    break;
                }
                // `Py_T_OBJECT_EX` and `_Py_T_OBJECT`.
                if matches!(kind, 6 | 16)
                    && let (Some(name), Ok(offset)) = (c_string(memory, name, MAX_NAME), u32::try_from(offset))
                {
                    found.entry(offset).or_insert(name);
                }
                member = member.wrapping_add(40);
            }
            at = memory.u64(at.wrapping_add(t.base.into())).unwrap_or(0);
            if at == 0 {
                break;
            }
        }
        found
    }
}

/// The plainer the smaller.
fn plainness(slot: Slot) -> u8 {
    match slot {
        Slot::Dict | Slot::Item(_) | Slot::Value(_) | Slot::Attribute(_) | Slot::Member => 0,
        Slot::Field(_) | Slot::Local(_) => 1,
        Slot::Cached => 2,
        Slot::Key | Slot::Class | Slot::Stack(_) | Slot::Frame(_) | Slot::State => 3,
    }
}

fn plain(text: String, objects: usize) -> Step {
    Step { python: format!("{{}}{text}"), ..like(text, objects) }
}

fn like(text: String, objects: usize) -> Step {
    Step { shape: text.clone(), text, python: String::new(), objects }
}

fn exception_field(offsets: &Offsets, offset: u32) -> Option<&'static str> {
    let of = &offsets.exception;
    let names = [
        (of.args, "args"),
        (of.traceback, "__traceback__"),
        (of.context, "__context__"),
        (of.cause, "__cause__"),
        (of.notes, "__notes__"),
    ];
    names.into_iter().find(|(at, _)| *at == offset).map(|(_, name)| name)
}

/// Fields that Python code can ask for and that are no members.
fn known_field(offsets: &Offsets, special: Special, shape: Shape, of: &Type, offset: u32) -> Option<&'static str> {
    let (function, heap, t) = (&offsets.function, &offsets.heap_type, &offsets.type_object);
    let names: &[(u32, &'static str)] = match special {
        Special::Function => &[
            (function.code, "__code__"),
            (function.globals, "__globals__"),
            (function.defaults, "__defaults__"),
            (function.kwdefaults, "__kwdefaults__"),
            (function.closure, "__closure__"),
            (function.annotations, "__annotations__"),
            (function.builtins, "__builtins__"),
        ],
        Special::Cell => &[(offsets.cell.contents, "cell_contents")],
        Special::Frame => &[(offsets.frame_object.back, "f_back"), (offsets.frame_object.code, "f_code")],
        Special::Generator if offsets.generator.state == ABSENT => {
            let name = match of.name.as_str() {
                "coroutine" => "cr_frame",
                "async_generator" => "ag_frame",
                _ => "gi_frame",
            };
            return (offset == offsets.generator.frame).then_some(name);
        }
        _ if shape == Shape::Type => &[
            (t.base, "__base__"),
            (t.bases, "__bases__"),
            (t.mro, "__mro__"),
            (heap.name, "__name__"),
            (heap.qualname, "__qualname__"),
            (heap.slots, "__slots__"),
        ],
        _ if of.name == "traceback" && !of.heap => {
            &[(offsets.traceback.next, "tb_next"), (offsets.traceback.frame, "tb_frame")]
        }
        _ => return None,
    };
    names.iter().find(|(at, _)| *at == offset).map(|(_, name)| *name)
}
