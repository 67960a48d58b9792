//! What `__sizeof__` of types with memory of their own counts besides the object: arrays, buffers, decimals.
//!
//! The layouts are data (`offsets/sizeof.toml`).

use std::sync::LazyLock;

use serde::Deserialize;

use crate::cpython::offsets::Offsets;
use crate::target::Memory;

use super::object::{MAX_BYTES, count_of};
use super::regions::AddressMap;
use crate::target::words::u64_at;

/// Most units that are remembered: each is of a static table.
const MAX_UNITS: usize = 1024;
/// Bytes of a block that is looked into.
const BLOCK: usize = 64;

/// The layout of one type, see the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layout {
    names: Vec<String>,
    #[serde(default)]
    plus: u64,
    #[serde(default)]
    each: u64,
    #[serde(default)]
    object: bool,
    unit_at: Option<UnitAt>,
    block: Option<Field>,
    #[serde(flatten)]
    field: Field,
}

/// A pointer to a block and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Field {
    pointer: u32,
    count: Option<u32>,
    #[serde(default = "one")]
    unit: u64,
    inline: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct UnitAt {
    pointer: u32,
    field: u64,
}

fn one() -> u64 {
    1
}

/// The layouts.
static LAYOUTS: LazyLock<Vec<Layout>> = LazyLock::new(|| {
    #[derive(Deserialize)]
    struct File {
        r#type: Vec<Layout>,
    }
    // The text is part of the program; a test parses it.
    toml::from_str::<File>(include_str!("../../offsets/sizeof.toml")).map(|file| file.r#type).unwrap_or_default()
});

/// The layout of a type by its qualified name.
pub(super) fn layout(name: &str) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|layout| layout.names.iter().any(|of| of == name))
}

/// Bytes besides an object, and the blocks that they are in, (address, bytes).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Extent {
    pub(super) bytes: u64,
    pub(super) blocks: [(u64, u64); 2],
}

/// Sizes of items by the address of what describes them.
pub(super) type Units = AddressMap<u64>;

impl Layout {
    /// Measures the object at `address`, whose first bytes are `object` and whose `len()` is `length`.
    pub(super) fn measure(
        &self,
        memory: &dyn Memory,
        offsets: &Offsets,
        units: &mut Units,
        (address, object, length): (u64, &[u8], u64),
    ) -> Option<Extent> {
        let each = length.checked_mul(self.each)?;
        // As if the object began where its header would be as long as the layouts have it.
        let (object, address) = (object.get(offsets.shift() as usize..)?, address.checked_add(offsets.shift().into())?);
        let mut field = self.field;
        if let Some(unit) = self.unit_at {
            field.unit = Self::unit(memory, units, u64_at(object, unit.pointer)?.checked_add(unit.field)?)?;
        }
        let (block, bytes) = field.block(object, address)?;
        if block == 0 {
            return Some(Extent { bytes: each.min(MAX_BYTES), ..Extent::default() });
        }
        if self.object {
            return Self::of_bytes(memory, offsets, block);
        }
        let bytes = bytes.checked_add(self.plus)?;
        let mut blocks = [(block, bytes), (0, 0)];
        if let Some(inner) = self.block {
            let mut head = [0; BLOCK];
            memory.read(block, &mut head).ok()?;
            blocks[1] = inner.block(&head, block)?;
        }
        let bytes = blocks[0].1.checked_add(blocks[1].1)?.checked_add(each)?;
        (bytes < MAX_BYTES).then_some(Extent { bytes, blocks })
    }

    /// `sys.getsizeof` of a bytes object that nothing else refers to.
    fn of_bytes(memory: &dyn Memory, offsets: &Offsets, address: u64) -> Option<Extent> {
        let mut head = [0; BLOCK];
        memory.read(address, &mut head).ok()?;
        if count_of(offsets, &head) != 1 {
            return Some(Extent::default());
        }
        let length = u64_at(&head, offsets.bytes.size).filter(|&length| length < MAX_BYTES)?;
        Some(Extent { bytes: u64::from(offsets.bytes.data) + length + 1, ..Extent::default() })
    }

    fn unit(memory: &dyn Memory, units: &mut Units, at: u64) -> Option<u64> {
        if let Some(&unit) = units.get(&at) {
            return Some(unit);
        }
        let unit = memory.u32(at).ok()?.into();
        if units.len() < MAX_UNITS {
            units.insert(at, unit);
        }
        Some(unit)
    }
}

impl Field {
    /// Address and bytes of the block, both 0 if there is none. `None`: this cannot be.
    fn block(&self, object: &[u8], address: u64) -> Option<(u64, u64)> {
        let pointer = u64_at(object, self.pointer)?;
        if pointer == 0 || self.inline.is_some_and(|inline| address.checked_add(inline) == Some(pointer)) {
            return Some((0, 0));
        }
        let count = self.count.map_or(Some(0), |at| u64_at(object, at))?;
        let bytes = count.checked_mul(self.unit).filter(|&bytes| bytes < MAX_BYTES)?;
        Some((pointer, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::ImageMemory;

    #[test]
    fn layouts_parse_and_measure() {
        let offsets = Offsets::of(3, 11, 0).unwrap();
        let mut memory = ImageMemory::new();
        // An array of 100 items of 4 bytes: the descriptor at 0x5000.
        memory.insert(0x5000, [0u32, 4].iter().flat_map(|word| word.to_le_bytes()).collect());
        let words = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
        let array = layout("array.array").unwrap();
        let measure = |layout: &Layout, object: &[u64]| {
            layout.measure(&memory, &offsets, &mut Units::default(), (0x1000, &words(object), 3))
        };
        let found = measure(array, &[1, 2, 90, 0x8000, 100, 0x5000]).unwrap();
        assert_eq!((found.bytes, found.blocks[0]), (400, (0x8000, 400)));
        assert_eq!(measure(array, &[1, 2, 0, 0, 0, 0x5000]), Some(Extent::default()));
        assert_eq!(measure(array, &[1, 2, 90, 0x8000, u64::MAX, 0x5000]), None);
        assert_eq!(measure(array, &[1, 2]), None);
        let decimal = layout("decimal.Decimal").unwrap();
        assert_eq!(measure(decimal, &[0, 0, 0, 0, 0, 0, 0, 4, 0x1000 + 72]), Some(Extent::default()));
        assert_eq!(layout("list"), None);
    }
}
