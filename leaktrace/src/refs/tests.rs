//! Graphs of images: a real interpreter's memory, whole and with errors in it.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::value::{Answer, Coverage, RootKind};
use super::{Before, Look, RefsError, drawing};
use crate::census::Subject;
use crate::census::tests::{hostile_word, image, memory, subject};
use crate::cpython::testing::{Script, pythons};

const CODE: &str = "\
import collections, functools, gc, os, threading\n\
class Node:\n  def __init__(self): self.self = self; self.text = ['abc']\n\
keep = {'nodes': [Node() for _ in range(200)]}, [{i: str(i)} for i in range(200)], [set(range(n % 40)) for n in range(100)]\n\
long = [['x'] * 1000 for _ in range(50)], collections.deque([[i] for i in range(500)])\n\
local = threading.local(); local.x = [Node()]\n\
@functools.lru_cache(50)\n\
def cached(n): return [n]\n\
for i in range(99): cached(i)\n\
def gen(value):\n  yield value\n\
g = gen(Node()); next(g)\n\
gc.disable(); Node()\n\
def wait(kept): os.write(1, b'ready\\n'); os.read(0, 1)\n\
wait(Node())";

/// Everything that can be asked.
fn ask(subject: &Subject<'_>) -> Result<(Look, Answer), RefsError> {
    let before = Before::take(subject)?;
    let look = Look::take(subject)?;
    let mut answer = Answer::new(1, 0, "3.11.2", Coverage::of(&look));
    answer.objects = look.of_type(subject, "__main__.Node", 1000).ok();
    let some: Vec<u64> =
        (0..look.graph.nodes.len() as u32).step_by(997).map(|node| look.graph.nodes.address(node)).collect();
    answer.addresses = look.of_objects(subject, &some)?;
    answer.growth = Some(look.growth(subject, &before, 1.0));
    answer.retained = Some(look.retained(subject));
    answer.unreachable = look.garbage(subject, Some(&before));
    let _ = (drawing::dot(&answer), crate::report::refs::page(&answer, 10, crate::report::Style::PLAIN));
    Ok((look, answer))
}

#[test]
fn objects_are_held_as_the_program_says() {
    for python in pythons() {
        let mut script = Script::start(&python, CODE);
        script.line();
        let (target, interpreter) = script.interpreter();
        let maps = target.maps().unwrap();
        let image = memory(&image(&target, &maps));
        let (_, answer) = ask(&subject(&image, &maps, &interpreter)).unwrap();
        let objects = answer.objects.unwrap();
        assert_eq!((objects.count, objects.sampled, objects.unreachable), (204, 204, 1), "{}", python.display());
        let paths: Vec<(RootKind, &str, u64)> =
            objects.paths.iter().map(|p| (p.root, p.path.as_str(), p.objects)).collect();
        assert_eq!(paths[0], (RootKind::Module, "__main__.keep[0]['nodes'][*]", 200), "{}", python.display());
        assert!(paths.contains(&(RootKind::Module, "__main__.local.x[0]", 1)), "{paths:?}");
        assert!(paths.contains(&(RootKind::Module, "__main__.g.gi_frame.f_locals['value']", 1)), "{paths:?}");
        let local = paths.iter().find(|(root, ..)| *root == RootKind::Local).unwrap();
        assert_eq!((local.1, local.2), ("local kept of wait (<string>:14)", 1), "{}", python.display());
        assert_eq!(answer.unreachable.cycles.iter().filter(|cycle| cycle.cycle == "__main__.Node.self").count(), 1);
        assert_eq!(answer.unreachable.collector_enabled, Some(false));
        let growth = answer.growth.unwrap();
        assert_eq!((growth.new_objects, growth.culprits.len()), (0, 0));
    }
}

#[test]
fn corrupted_images_give_an_answer_or_an_error() {
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
    let holes = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    let mut runner = TestRunner::new(Config { cases: 40, max_shrink_iters: 0, ..Config::default() });
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
        told.set(told.get() + usize::from(ask(&subject(&memory(&segments), &maps, &interpreter)).is_ok()));
        Ok(())
    });
    result.unwrap();
    assert!(told.get() > 20, "most of an image can be told in spite of some errors: {}", told.get());
}
