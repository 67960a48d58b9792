//! Function boundaries of a stripped file, from its unwind table, or from its symbols where that tells little (musl).

use std::ops::Range;

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection as _};

use crate::target::ElfFile;

/// Address ranges of functions and of their out-of-line parts, in the target's addresses, by rising start.
///
/// A function that the compiler split (`f` and `f.cold`) is two ranges.
#[derive(Debug, Default)]
pub struct Functions(Vec<Range<u64>>);

impl Functions {
    /// Reads `.eh_frame`, which the ABI asks of every x86-64 file, also of stripped ones. Entries that cannot be read
    /// end the list: what follows them has no boundaries to trust.
    pub fn read(file: &ElfFile) -> Self {
        let told = Self::sorted(unwound(file));
        let exported = exported(file);
        let untold: Vec<_> = exported.iter().filter(|e| told.containing(e.start).is_none()).cloned().collect();
        // A table with entries for some hand-written code alone.
        if untold.len() <= exported.len() / 2 {
            return told;
        }
        Self::sorted([told.0, untold].concat())
    }

    fn sorted(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.sort_by_key(|r| (r.start, r.end));
        ranges.dedup_by_key(|r| r.start);
        // Overlaps would have the same code decoded again and again.
        for i in 1..ranges.len() {
            ranges[i - 1].end = ranges[i - 1].end.min(ranges[i].start);
        }
        Self(ranges)
    }

    /// The range that holds `address`.
    pub fn containing(&self, address: u64) -> Option<Range<u64>> {
        let after = self.0.partition_point(|r| r.start <= address);
        self.0[..after].last().filter(|r| r.contains(&address)).cloned()
    }

    /// All ranges, by rising start.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }
}

/// As `.eh_frame` has them.
fn unwound(file: &ElfFile) -> Vec<Range<u64>> {
    let Some(section) = file.section(".eh_frame") else { return Vec::new() };
    let frames = EhFrame::new(file.section_data(section), LittleEndian);
    let mut bases = BaseAddresses::default().set_eh_frame(section.vaddr);
    if let Some(text) = file.section(".text") {
        bases = bases.set_text(text.vaddr);
    }
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut entries = frames.entries(&bases);
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let Ok(fde) = partial.parse(|_, bases, offset| frames.cie_from_offset(bases, offset)) else { continue };
        let start = file.address_of(fde.initial_address());
        if let Some(end) = start.checked_add(fde.len()).filter(|&end| end > start) {
            ranges.push(start..end);
        }
    }
    ranges
}

/// From each exported function to the next: what is not exported lies behind one that is.
fn exported(file: &ElfFile) -> Vec<Range<u64>> {
    let executable = file.executable();
    let symbols = file.symbols().into_iter().map(|symbol| symbol.address).filter(|start| executable.contains(start));
    symbols.map(|start| start..executable.end).collect()
}
