//! Censuses of images: a real interpreter's memory, whole and with errors in it.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Census, CensusError, Subject, collector, take};
use crate::cpython::Interpreter;
use crate::cpython::testing::{Script, pythons};
use crate::target::{ImageMemory, Maps, Memory as _, Target};

const CODE: &str = "\
import collections, gc, os\n\
class Node:\n  def __init__(self): self.self = self; self.text = 'abc'\n\
keep = [Node() for _ in range(200)], [{i: str(i)} for i in range(200)], [set(range(n % 40)) for n in range(100)]\n\
long = ['x' * 1000 for _ in range(50)], collections.deque(range(500)), bytearray(5000), tuple(range(1000)), 2 ** 9000\n\
gc.collect(); gc.garbage.extend([[], 'text']); os.write(1, b'ready\\n'); os.read(0, 1)";

/// The memory of a process that waits, as segments, those that can be written first.
pub(crate) fn image(target: &Target, maps: &Maps) -> Vec<(u64, Vec<u8>)> {
    let memory = target.memory();
    let readable = maps.iter().filter(|m| m.readable && !m.path.starts_with("[vvar]"));
    let segment = |m: &crate::target::Mapping| {
        let mut bytes = vec![0; m.len() as usize];
        memory.read_sparse(m.range.start, &mut bytes);
        (m.range.start, bytes)
    };
    let (writable, constant): (Vec<_>, Vec<_>) = readable.partition(|m| m.writable);
    writable.into_iter().chain(constant).map(segment).collect()
}

fn census(memory: &ImageMemory, maps: &Maps, interpreter: &Interpreter) -> Result<Census, CensusError> {
    let subject = subject(memory, maps, interpreter);
    // The collector's lists are walked on their own.
    let _ = collector::look(&subject);
    take(&subject)
}

pub(crate) fn subject<'a>(memory: &'a ImageMemory, maps: &'a Maps, interpreter: &'a Interpreter) -> Subject<'a> {
    Subject {
        pid: 1,
        process_start: 0,
        python: "3.11.2",
        memory,
        maps,
        offsets: &interpreter.offsets,
        runtime: interpreter.runtime,
        pymalloc: interpreter.facts.pymalloc,
    }
}

pub(crate) fn memory(segments: &[(u64, Vec<u8>)]) -> ImageMemory {
    let mut memory = ImageMemory::new();
    for (start, bytes) in segments {
        memory.insert(*start, bytes.clone());
    }
    memory
}

#[test]
fn the_parts_of_an_image_add_up() {
    for python in pythons() {
        let mut script = Script::start(&python, CODE);
        script.line();
        let (target, interpreter) = script.interpreter();
        let maps = target.maps().unwrap();
        let census = census(&memory(&image(&target, &maps)), &maps, &interpreter).unwrap();
        assert_ne!(census.consistency.lists_closed, Some(false), "{}: {:?}", python.display(), census.totals);
        assert_eq!(census.count_of("__main__.Node"), 200);
        let a = &census.arenas;
        assert_eq!(a.used() + a.free() + a.unsettled + a.overhead, a.bytes, "{a:?}");
        assert_eq!(census.types.iter().map(|t| t.count).sum::<u64>(), census.totals.objects);
        let large = |name: &str, length| census.containers.iter().any(|c| c.name == name && c.length == length);
        assert!(large("tuple", 1000) && large("bytearray", 5000) && large("collections.deque", 500));
        assert!(census.types.iter().find(|t| t.name == "str").unwrap().bytes > 50 * 1000, "large strings are found");
    }
}

/// Words that hurt: lists that become rings, sizes beyond all bounds, pointers to the wrong place.
pub(crate) fn hostile_word() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), Just(1 << 46), Just(i64::MAX as u64), any::<u64>(), 0u64..4096]
}

#[test]
fn corrupted_images_give_a_census_or_an_error() {
    let python = pythons().remove(0);
    let mut script = Script::start(&python, CODE);
    script.line();
    let (target, interpreter) = script.interpreter();
    let maps = target.maps().unwrap();
    let clean = image(&target, &maps);
    let writable = maps.iter().filter(|m| m.readable && m.writable).count();
    drop(script);
    let told = Cell::new(0);
    let damage = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), hostile_word(), any::<bool>());
    // Memory that is unmapped under the read.
    let holes = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    let mut runner = TestRunner::new(Config { cases: 60, max_shrink_iters: 0, ..Config::default() });
    let result = runner.run(&(prop::collection::vec(damage, 1..3000), holes), |(damage, holes)| {
        let mut segments = clean.clone();
        for (segment, place, word, copy) in damage {
            let bytes = &mut segments[segment.index(writable)].1;
            let words = bytes.len() / 8;
            let at = place.index(words) * 8;
            // A word of the image itself, or one that hurts.
            let word =
                if copy { bytes[word as usize % words * 8..][..8].try_into().unwrap() } else { word.to_le_bytes() };
            bytes[at..at + 8].copy_from_slice(&word);
        }
        for hole in holes {
            segments.remove(hole.index(segments.len()));
        }
        if let Ok(census) = census(&memory(&segments), &maps, &interpreter) {
            told.set(told.get() + 1);
            let a = &census.arenas;
            prop_assert_eq!(a.used() + a.free() + a.unsettled + a.overhead, a.bytes);
        }
        Ok(())
    });
    result.unwrap();
    assert!(told.get() > 30, "most of an image can be told in spite of some errors: {}", told.get());
}
