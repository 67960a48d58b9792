//! How one object holds another.

/// A reference's place in the object that has it. What it is called is found out only for those that are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// The type of an instance.
    Class,
    /// The dict of an instance, a module or a type.
    Dict,
    /// An item of a list, tuple or deque, or of a built-in with items.
    Item(u64),
    /// A member of a set.
    Member,
    /// A key of a dict.
    Key,
    /// The value for the key at this address.
    Value(u64),
    /// A key or result that an `lru_cache` keeps.
    Cached,
    /// An attribute whose value is not in a dict: its number among the keys that the type shares.
    Attribute(u32),
    /// What C code keeps for its module.
    State,
    /// The word at this offset.
    Field(u32),
    /// A local variable of a frame, by its number.
    Local(u32),
    /// A value that an expression of a frame has not done with.
    Stack(u32),
    /// The function, code or namespace of a frame: offset in the frame.
    Frame(u32),
}
