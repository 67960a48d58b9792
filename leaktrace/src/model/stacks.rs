//! Stacks interned as a prefix tree: each distinct text, frame and stack is held once.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// What kind of code a frame runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameKind {
    Python,
    Native,
}

/// One frame, as the symboliser names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRef<'a> {
    pub kind: FrameKind,
    /// Qualified name.
    pub function: &'a str,
    pub file: &'a str,
    /// 0 where it is not known.
    pub line: u32,
}

/// One frame as reports carry it; the texts are shared with the interner.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Frame {
    pub kind: FrameKind,
    /// Qualified name.
    pub function: Arc<str>,
    pub file: Arc<str>,
    /// 0 where it is not known.
    pub line: u32,
}

impl Frame {
    /// The same, borrowed.
    pub fn as_ref(&self) -> FrameRef<'_> {
        FrameRef { kind: self.kind, function: &self.function, file: &self.file, line: self.line }
    }
}

/// How far a stack reaches outwards. Each is a root of the prefix tree, so a cut stack never equals a whole one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Root {
    /// The outermost frame is the thread's first.
    Whole = 0,
    /// Frames outside the outermost one are missing.
    Truncated = 1,
    /// The stack was never learned: its record was lost.
    Lost = 2,
}

/// How many [`Root`]s there are.
pub const ROOTS: u32 = 3;

/// Handle of a stack in [`Stacks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackId(u32);

impl StackId {
    /// A whole stack without frames.
    pub const EMPTY: Self = Self(Root::Whole as u32);
    /// A stack of which nothing is known.
    pub const LOST: Self = Self(Root::Lost as u32);

    /// Its index in [`Stacks::nodes`].
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Where a stack allocates, whoever called: the innermost Python frame's file and line. Handle, unique in its [`Stacks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineId {
    file: u32,
    line: u32,
}

/// A frame as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackedFrame {
    pub kind: FrameKind,
    /// Indices in [`Stacks::texts`].
    pub function: u32,
    pub file: u32,
    /// 0 where it is not known.
    pub line: u32,
}

/// A stack as it is kept: its innermost frame, and the stack without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Node {
    /// Index in [`Stacks::nodes`], less than the node's own; of a [`Root`] its own.
    pub parent: u32,
    /// Index in [`Stacks::packed_frames`]; none for a [`Root`].
    pub frame: u32,
}

/// What was interned: 8 bytes for each frame of a stack that no other stack has.
#[derive(Debug, Clone)]
struct Tree {
    texts: Vec<Arc<str>>,
    frames: Vec<PackedFrame>,
    nodes: Vec<Node>,
}

impl Tree {
    fn packed(&self, stack: StackId) -> impl Iterator<Item = PackedFrame> + '_ {
        let mut id = stack.0;
        std::iter::from_fn(move || {
            (id >= ROOTS).then(|| {
                let node = self.nodes[id as usize];
                id = node.parent;
                self.frames[node.frame as usize]
            })
        })
    }

    fn text(&self, id: u32) -> &Arc<str> {
        &self.texts[id as usize]
    }

    fn named(&self, frame: PackedFrame) -> Frame {
        Frame {
            kind: frame.kind,
            function: Arc::clone(self.text(frame.function)),
            file: Arc::clone(self.text(frame.file)),
            line: frame.line,
        }
    }
}

/// A stack that can be read without its interner. Many of one interner share its memory.
#[derive(Debug, Clone)]
pub struct Stack {
    tree: Arc<Tree>,
    id: StackId,
}

impl Stack {
    /// The frames, innermost first.
    pub fn frames(&self) -> impl Iterator<Item = Frame> + '_ {
        self.tree.packed(self.id).map(|frame| self.tree.named(frame))
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.tree.packed(self.id).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn texts(&self) -> impl Iterator<Item = (FrameKind, &str, &str, u32)> {
        self.tree.packed(self.id).map(|f| (f.kind, &**self.tree.text(f.function), &**self.tree.text(f.file), f.line))
    }
}

impl PartialEq for Stack {
    fn eq(&self, other: &Self) -> bool {
        (Arc::ptr_eq(&self.tree, &other.tree) && self.id == other.id) || self.texts().eq(other.texts())
    }
}

impl Eq for Stack {}

impl PartialOrd for Stack {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Stack {
    fn cmp(&self, other: &Self) -> Ordering {
        self.texts().cmp(other.texts())
    }
}

impl Serialize for Stack {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.frames())
    }
}

/// The interner.
#[derive(Debug)]
pub struct Stacks {
    tree: Arc<Tree>,
    text_index: HashMap<Arc<str>, u32>,
    frame_index: HashMap<PackedFrame, u32>,
    node_index: HashMap<Node, u32>,
}

impl Default for Stacks {
    fn default() -> Self {
        let roots = (0..ROOTS).map(|root| Node { parent: root, frame: u32::MAX }).collect();
        Self {
            tree: Arc::new(Tree { texts: Vec::new(), frames: Vec::new(), nodes: roots }),
            text_index: HashMap::new(),
            frame_index: HashMap::new(),
            node_index: HashMap::new(),
        }
    }
}

impl Stacks {
    /// The handle of a stack given innermost frame first.
    pub fn intern(&mut self, frames: &[FrameRef<'_>], root: Root) -> StackId {
        let mut id = root as u32;
        for frame in frames.iter().rev() {
            let frame = self.intern_frame(frame);
            let node = Node { parent: id, frame };
            let next = self.tree.nodes.len() as u32;
            id = *self.node_index.entry(node).or_insert(next);
            if id == next {
                self.tree_mut().nodes.push(node);
            }
        }
        StackId(id)
    }

    /// For writing. Where a [`Stack`] still reads what was interned so far, that is left to it.
    fn tree_mut(&mut self) -> &mut Tree {
        Arc::make_mut(&mut self.tree)
    }

    /// The frames, innermost first.
    pub fn frames(&self, stack: StackId) -> impl Iterator<Item = Frame> + '_ {
        self.tree.packed(stack).map(|frame| self.tree.named(frame))
    }

    /// The stack, to be read apart from this interner.
    pub fn stack(&self, stack: StackId) -> Stack {
        Stack { tree: Arc::clone(&self.tree), id: stack }
    }

    /// How far the stack reaches.
    pub fn root(&self, stack: StackId) -> Root {
        let mut id = stack.0;
        while id >= ROOTS {
            id = self.tree.nodes[id as usize].parent;
        }
        [Root::Whole, Root::Truncated, Root::Lost][id as usize]
    }

    /// The line that the stack allocates in: that of its innermost Python frame, else of its innermost frame. `None`
    /// for a stack without frames.
    pub fn line(&self, stack: StackId) -> Option<LineId> {
        self.allocating(stack).map(|frame| LineId { file: frame.file, line: frame.line })
    }

    /// The frame that [`Self::line`] tells the line of.
    pub fn line_frame(&self, stack: StackId) -> Option<Frame> {
        self.allocating(stack).map(|frame| self.tree.named(frame))
    }

    fn allocating(&self, stack: StackId) -> Option<PackedFrame> {
        let python = self.tree.packed(stack).find(|frame| frame.kind == FrameKind::Python);
        python.or_else(|| self.tree.packed(stack).next())
    }

    /// Puts an interner together again; `nodes` without the roots. `None` where something points to what is not there.
    pub fn restore(texts: Vec<Arc<str>>, frames: Vec<PackedFrame>, nodes: Vec<Node>) -> Option<Self> {
        let mut stacks = Self::default();
        let exists = |text: u32| (text as usize) < texts.len();
        if !frames.iter().all(|frame| exists(frame.function) && exists(frame.file)) {
            return None;
        }
        let known = |(node, id): (&Node, u32)| node.parent < id && (node.frame as usize) < frames.len();
        if !nodes.iter().zip(ROOTS..).all(known) {
            return None;
        }
        stacks.text_index = texts.iter().cloned().zip(0..).collect();
        stacks.frame_index = frames.iter().copied().zip(0..).collect();
        stacks.node_index = nodes.iter().copied().zip(ROOTS..).collect();
        let tree = stacks.tree_mut();
        tree.texts = texts;
        tree.frames = frames;
        tree.nodes.extend(nodes);
        Some(stacks)
    }

    /// The stack with this number, if there is one.
    pub fn id(&self, number: u32) -> Option<StackId> {
        ((number as usize) < self.tree.nodes.len()).then_some(StackId(number))
    }

    /// Every text, frame and stack in the order in which they came; the first [`ROOTS`] nodes are the roots.
    pub fn texts(&self) -> &[Arc<str>] {
        &self.tree.texts
    }

    pub fn packed_frames(&self) -> &[PackedFrame] {
        &self.tree.frames
    }

    pub fn nodes(&self) -> &[Node] {
        &self.tree.nodes
    }

    /// Number of distinct stacks and their prefixes.
    pub fn len(&self) -> usize {
        self.tree.nodes.len() - ROOTS as usize
    }

    /// Whether no stack with a frame was interned.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn intern_frame(&mut self, frame: &FrameRef<'_>) -> u32 {
        let packed = PackedFrame {
            kind: frame.kind,
            function: self.intern_text(frame.function),
            file: self.intern_text(frame.file),
            line: frame.line,
        };
        let next = self.tree.frames.len() as u32;
        let id = *self.frame_index.entry(packed).or_insert(next);
        if id == next {
            self.tree_mut().frames.push(packed);
        }
        id
    }

    fn intern_text(&mut self, text: &str) -> u32 {
        if let Some(id) = self.text_index.get(text) {
            return *id;
        }
        let id = self.tree.texts.len() as u32;
        let text: Arc<str> = text.into();
        self.tree_mut().texts.push(Arc::clone(&text));
        self.text_index.insert(text, id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &'static str, line: u32) -> FrameRef<'static> {
        FrameRef { kind: FrameKind::Python, function, file: "app.py", line }
    }

    #[test]
    fn equal_stacks_share_a_handle_and_prefixes_share_nodes() {
        let mut stacks = Stacks::default();
        let a = stacks.intern(&[frame("leak", 3), frame("handle", 9), frame("<module>", 20)], Root::Whole);
        let b = stacks.intern(&[frame("other", 5), frame("handle", 9), frame("<module>", 20)], Root::Whole);
        assert_ne!(a, b);
        assert_eq!(a, stacks.intern(&[frame("leak", 3), frame("handle", 9), frame("<module>", 20)], Root::Whole));
        assert_eq!(stacks.len(), 4);
        let names: Vec<_> = stacks.frames(a).map(|f| (f.function.to_string(), f.line)).collect();
        assert_eq!(names, [("leak".into(), 3), ("handle".into(), 9), ("<module>".into(), 20)]);
    }

    #[test]
    fn a_cut_stack_is_not_a_whole_one() {
        let mut stacks = Stacks::default();
        let whole = stacks.intern(&[frame("f", 1)], Root::Whole);
        let cut = stacks.intern(&[frame("f", 1)], Root::Truncated);
        assert_ne!(whole, cut);
        assert_eq!((stacks.root(whole), stacks.root(cut)), (Root::Whole, Root::Truncated));
        assert_eq!(stacks.root(StackId::LOST), Root::Lost);
        assert_eq!(stacks.line(whole), stacks.line(cut));
    }

    #[test]
    fn the_line_is_that_of_the_innermost_python_frame() {
        let mut stacks = Stacks::default();
        let native = FrameRef { kind: FrameKind::Native, function: "strdup", file: "libc.so.6", line: 0 };
        let through = stacks.intern(&[native, frame("f", 7)], Root::Whole);
        let direct = stacks.intern(&[frame("f", 7), frame("caller", 1)], Root::Whole);
        assert_eq!(stacks.line(through), stacks.line(direct));
        assert_eq!(stacks.line(StackId::EMPTY), None);
        let alone = stacks.intern(&[native], Root::Whole);
        assert!(stacks.line(alone).is_some());
    }
}
