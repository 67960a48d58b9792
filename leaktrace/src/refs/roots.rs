//! What the interpreter itself holds: where paths begin.

use super::frames::{FrameInfo, Frames};
use super::nodes::{Node, Nodes};
use super::slot::Slot;
use super::visit::Visitor;
use crate::cpython::text::string;
use crate::cpython::threads::InterpreterThreads;
use crate::target::{Maps, Memory};

/// Longest name of a module that is read, characters.
const MAX_NAME: usize = 256;
/// Most bytes of static data of one file that are looked at.
const MAX_STATIC: u64 = 256 << 20;

/// Where a path begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// A module, by its place in [`Roots::modules`].
    Module(u32),
    /// What a frame of a running thread holds, by its place in [`Roots::frames`].
    Frame(u32, Slot),
    /// The dict that C code keeps for a thread (`PyThreadState_GetDict`), by the thread's identifier.
    ThreadDict(u64),
    /// Another field of a thread's state: the exception that is being handled, hooks.
    Thread(u64),
    /// A field of the interpreter's state: codecs, atexit, interned strings, caches.
    Interpreter,
    /// The object is a type that C code defines.
    Type,
    /// A variable of C in a mapped file, by its place in [`Roots::files`].
    Static(u32),
    /// Memory that Python's allocator gave to C code.
    Memory,
    /// References are counted that no object has: C code holds it. How many.
    Held(u32),
}

/// A module of an interpreter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    pub name: String,
    /// Number of the interpreter, 0 for the main one.
    pub interpreter: i64,
}

/// What is known of roots besides the objects they lead to.
#[derive(Debug, Default)]
pub struct Roots {
    pub modules: Vec<Module>,
    pub frames: Vec<FrameInfo>,
    pub files: Vec<String>,
    /// By rank: modules; threads; and those that only count where an object is held by no other.
    pub(super) modules_held: Vec<(Node, Root)>,
    pub(super) threads_held: Vec<(Node, Root)>,
    pub(super) others: Vec<(Node, Root)>,
}

impl Roots {
    pub(super) fn read(
        visitor: &mut Visitor<'_>,
        nodes: &Nodes,
        maps: &Maps,
        interpreters: &[InterpreterThreads],
        pointed_at: &[Node],
        static_types: impl IntoIterator<Item = u64>,
    ) -> Self {
        let mut roots = Self::default();
        for interpreter in interpreters {
            roots.add_modules(visitor, nodes, interpreter);
        }
        let frames = Frames::read(visitor, interpreters);
        for (frame, slot, address) in frames.held {
            if let Some(node) = nodes.find(address) {
                roots.threads_held.push((node, Root::Frame(frame, slot)));
            }
        }
        roots.frames = frames.all;
        for thread in interpreters.iter().flat_map(|interpreter| &interpreter.threads) {
            let of = visitor.offsets.thread;
            let id = thread.thread_id;
            let dict = visitor.memory.u64(thread.address.wrapping_add(of.dict.into())).unwrap_or(0);
            if let Some(node) = nodes.find(dict) {
                roots.threads_held.push((node, Root::ThreadDict(id)));
            }
            roots.words(&visitor.memory, nodes, thread.address, of.size.into(), Root::Thread(id));
        }
        for interpreter in interpreters {
            let size = visitor.offsets.interpreter.size.into();
            roots.words(&visitor.memory, nodes, interpreter.address, size, Root::Interpreter);
        }
        for mapping in maps.iter().filter(|m| m.readable && m.writable && m.file.is_some() && !m.shared) {
            let name = mapping.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let file = roots.files.iter().position(|known| *known == name).unwrap_or_else(|| {
                roots.files.push(name);
                roots.files.len() - 1
            });
            let mapping_len = mapping.len();
            roots.words(&visitor.memory, nodes, mapping.range.start, mapping_len, Root::Static(file as u32));
        }
        let statics = static_types.into_iter().filter_map(|address| Some((nodes.find(address)?, Root::Type)));
        roots.others.extend(statics);
        roots.others.extend(pointed_at.iter().map(|&node| (node, Root::Memory)));
        roots
    }

    /// Modules and their names.
    pub(super) fn modules(&self) -> impl Iterator<Item = (Node, &str)> {
        let of = |root| if let Root::Module(at) = root { self.modules.get(at as usize) } else { None };
        self.modules_held.iter().filter_map(move |&(node, root)| Some((node, of(root)?.name.as_str())))
    }

    /// The modules of an interpreter, those of `sys.modules`.
    fn add_modules(&mut self, visitor: &mut Visitor<'_>, nodes: &Nodes, interpreter: &InterpreterThreads) {
        let offsets = visitor.offsets;
        let at = interpreter.address.wrapping_add(offsets.interpreter.modules.into());
        let Ok(dict) = visitor.memory.u64(at) else { return };
        let word = |offset: u32| visitor.memory.u64(dict.wrapping_add(offset.into())).unwrap_or(0);
        let (keys, values) = (word(offsets.dict.keys), word(offsets.dict.values));
        let mut found = Vec::new();
        visitor.dict(keys, values, &mut |slot, address| {
            if let Slot::Value(key) = slot {
                found.push((key, address));
            }
        });
        for (key, module) in found {
            let (Some(node), Some(name)) = (nodes.find(module), string(&visitor.memory, offsets, key, MAX_NAME)) else {
                continue;
            };
            // One module may have several names: the first is its own.
            if self.modules_held.iter().all(|(known, _)| *known != node) {
                self.modules_held.push((node, Root::Module(self.modules.len() as u32)));
                self.modules.push(Module { name, interpreter: interpreter.id });
            }
        }
        // What a module defines is imported after the module that uses it began to be: so it is found where it is defined.
        self.modules_held.reverse();
        if let Some(node) = nodes.find(dict) {
            self.others.push((node, Root::Interpreter));
        }
    }

    /// Objects that the words of a piece of memory point at.
    fn words(&mut self, memory: &dyn Memory, nodes: &Nodes, start: u64, len: u64, root: Root) {
        let mut buffer = vec![0; len.min(MAX_STATIC) as usize];
        memory.read_sparse(start, &mut buffer);
        for word in buffer.as_chunks().0 {
            if let Some(node) = nodes.find(u64::from_le_bytes(*word)) {
                self.others.push((node, root));
            }
        }
    }
}
