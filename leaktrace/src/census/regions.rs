//! What lies where in the target: a look-up by address that costs a byte.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use crate::target::{Mapping, Maps};

/// Addresses of user space end here on x86-64 with four levels of page tables.
const END: u64 = 1 << 47;
/// log2 of the bytes that one entry of the table stands for.
const GRANULE_SHIFT: u32 = 20;
/// log2 of the bytes of a page.
const PAGE_SHIFT: u32 = 12;
const PAGES: usize = 1 << (GRANULE_SHIFT - PAGE_SHIFT);

/// A map keyed by addresses. Their low bits are alike, so one multiplication has to spread them.
pub type AddressMap<T> = HashMap<u64, T, BuildHasherDefault<AddressHasher>>;

/// See [`AddressMap`].
#[derive(Debug, Clone, Copy, Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u64(&mut self, value: u64) {
        // Fibonacci hashing; the table takes bits from both ends.
        let product = u128::from(self.0 ^ value) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

/// What an address may point at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// A pool of pymalloc.
    Arena,
    /// Writable private memory of no file: what the C allocator and the program itself hold.
    Native,
    /// Writable memory of a file: static data.
    Static,
    /// Nothing that an object may be in.
    Elsewhere,
}

/// The writable memory of a process, arenas apart.
#[derive(Debug)]
pub struct Regions {
    /// By granule: what is there, or the table of its pages. Untouched pages of this table take no memory.
    granules: Vec<u16>,
    /// By page of a granule that is not all of one kind.
    pages: Vec<[u8; PAGES]>,
    /// By rising address.
    arenas: Vec<Range<u64>>,
    native: Vec<Range<u64>>,
    statics: Vec<Range<u64>>,
}

/// What the tables say of a granule or page: one kind, or that the ranges must be asked.
const NOTHING: u8 = 0;
const ARENA: u8 = 1;
const NATIVE: u8 = 2;
const STATIC: u8 = 3;
const MIXED: u8 = 4;
/// Granules from here on have a table of pages.
const TABLES: u16 = 5;

impl Regions {
    /// `arenas` by rising address, without overlap.
    pub fn new(maps: &Maps, arenas: Vec<Range<u64>>) -> Self {
        let ranges = |wanted: fn(&Mapping) -> bool| -> Vec<Range<u64>> {
            let writable = maps.iter().filter(|m| m.readable && m.writable && m.range.end <= END);
            writable.filter(|m| wanted(m)).map(|m| m.range.clone()).collect()
        };
        let (native, statics) = (ranges(|m| m.file.is_none()), ranges(|m| m.file.is_some() && !m.shared));
        let mut regions = Self {
            granules: vec![NOTHING.into(); (END >> GRANULE_SHIFT) as usize],
            pages: Vec::new(),
            arenas: Vec::new(),
            native: Vec::new(),
            statics: Vec::new(),
        };
        // Arenas lie in native mappings: they come last, and what they cover is theirs.
        for (ranges, kind) in [(&statics, STATIC), (&native, NATIVE), (&arenas, ARENA)] {
            ranges.iter().filter(|range| range.end <= END).for_each(|range| regions.mark(range, kind));
        }
        (regions.arenas, regions.native, regions.statics) = (arenas, native, statics);
        regions
    }

    /// Where an address is.
    #[inline]
    pub fn of(&self, address: u64) -> Region {
        let Some(&granule) = self.granules.get((address >> GRANULE_SHIFT) as usize) else { return Region::Elsewhere };
        let kind = match granule.checked_sub(TABLES) {
            None => granule as u8,
            Some(table) => self.pages[usize::from(table)][(address >> PAGE_SHIFT) as usize % PAGES],
        };
        match kind {
            NOTHING => Region::Elsewhere,
            ARENA => Region::Arena,
            NATIVE => Region::Native,
            STATIC => Region::Static,
            _ => self.ask(address),
        }
    }

    fn ask(&self, address: u64) -> Region {
        if find(&self.arenas, address).is_some() {
            Region::Arena
        } else if find(&self.native, address).is_some() {
            Region::Native
        } else if find(&self.statics, address).is_some() {
            Region::Static
        } else {
            Region::Elsewhere
        }
    }

    /// How many bytes from an address on are in its native region.
    pub fn native_after(&self, address: u64) -> u64 {
        find(&self.native, address).map_or(0, |range| range.end - address)
    }

    /// Marks what a range covers as of a kind, and pages that it covers in part as mixed.
    fn mark(&mut self, range: &Range<u64>, kind: u8) {
        const SIZE: u64 = 1 << GRANULE_SHIFT;
        const PAGE: u64 = 1 << PAGE_SHIFT;
        for granule in range.start >> GRANULE_SHIFT..range.end.div_ceil(SIZE) {
            let start = granule << GRANULE_SHIFT;
            let (from, to) = (range.start.max(start), range.end.min(start + SIZE));
            let entry = &mut self.granules[granule as usize];
            if to - from == SIZE {
                *entry = kind.into();
                continue;
            }
            if *entry < TABLES && self.pages.len() < usize::from(u16::MAX - TABLES) {
                let fill = *entry as u8;
                *entry = TABLES + self.pages.len() as u16;
                self.pages.push([fill; PAGES]);
            }
            let Some(table) = entry.checked_sub(TABLES) else {
                *entry = MIXED.into();
                continue;
            };
            let pages = &mut self.pages[usize::from(table)];
            for page in from >> PAGE_SHIFT..to.div_ceil(PAGE) {
                let whole = from <= page * PAGE && (page + 1) * PAGE <= to;
                pages[page as usize % PAGES] = if whole { kind } else { MIXED };
            }
            if pages.iter().all(|&page| page == kind) {
                // Arenas of which one begins where the other ends; the table is of no more use.
                *entry = kind.into();
            }
        }
    }
}

fn find(ranges: &[Range<u64>], address: u64) -> Option<&Range<u64>> {
    let after = ranges.partition_point(|range| range.start <= address);
    ranges[..after].last().filter(|range| range.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_those_of_the_map() {
        let maps = Maps::parse(
            b"00400000-00500000 r-xp 00000000 fe:00 7 /python\n\
              00500000-00600000 rw-p 00100000 fe:00 7 /python\n\
              00800000-00900000 rw-p 00000000 00:00 0 [heap]\n\
              7f0000000000-7f0000200000 rw-p 00000000 00:00 0 \n\
              7f0000300000-7f0000301000 rw-s 00000000 00:01 9 /shared\n",
        );
        let arena = 0x7f00_0000_1000..0x7f00_0010_1000;
        let regions = Regions::new(&maps, [arena].into());
        let cases = [
            (0, Region::Elsewhere),
            (0x40_0000, Region::Elsewhere),
            (0x50_0000, Region::Static),
            (0x8f_ffff, Region::Native),
            (0x90_0000, Region::Elsewhere),
            (0x7f00_0000_0fff, Region::Native),
            (0x7f00_0000_1000, Region::Arena),
            (0x7f00_0010_0fff, Region::Arena),
            (0x7f00_0010_1000, Region::Native),
            (0x7f00_0030_0000, Region::Elsewhere),
            (u64::MAX, Region::Elsewhere),
        ];
        for (address, region) in cases {
            assert_eq!(regions.of(address), region, "{address:#x}");
        }
        assert_eq!(regions.native_after(0x8f_fff0), 16);
        assert_eq!(regions.native_after(0), 0);
    }
}
