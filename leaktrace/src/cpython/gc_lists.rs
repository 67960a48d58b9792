//! The collector's lists of tracked objects: doubly linked through the heads before the objects.

use crate::target::words::u64_at;
use crate::target::{CachedMemory, Memory};

use super::offsets::Offsets;

/// Most objects of one list that are followed.
const MAX_NODES: u64 = 1 << 32;

/// Bytes at the start of a head that hold both links (all of it from 3.8 on).
const LINKS_BYTES: usize = 16;

/// How a walk over a list ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Walk {
    /// Objects seen.
    pub objects: u64,
    /// It came back to the head of the list: nothing is missing. A list that changes while it is walked may not.
    pub closed: bool,
}

/// Walks the list whose head is at `head` and calls `visit` with the address of each object. A torn list ends, and a ring
/// that does not lead back to the head is left after at most three times round.
pub fn walk(memory: &dyn Memory, offsets: &Offsets, head: u64, mut visit: impl FnMut(u64)) -> Walk {
    let memory = CachedMemory::new(memory);
    let next = |node: u64| {
        let at = node.wrapping_add(offsets.gc_head.next.into());
        // The low bits are flags while a collection runs.
        memory.u64(at).ok().map(|next| next & !3).filter(|&next| next != 0)
    };
    let mut walk = Walk::default();
    // Brent's cycle detection: a mark that moves on at powers of two.
    let (mut mark, mut moves_at) = (head, 1);
    let mut node = head;
    while let Some(after) = next(node) {
        if after == head {
            walk.closed = true;
            break;
        }
        if after == mark || walk.objects >= MAX_NODES {
            break;
        }
        visit(after.wrapping_add(offsets.gc_head.size.into()));
        walk.objects += 1;
        if walk.objects == moves_at {
            (mark, moves_at) = (after, 2 * moves_at);
        }
        node = after;
    }
    walk
}

/// Why the members of a list are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlisted {
    TooMany,
    /// It was changed while it was read: one does not name the one before as its previous, or cannot be read.
    Changed,
}

/// The objects of the list whose head is at `head`, the one that was added first at the front; at most so many.
pub fn members(memory: &dyn Memory, offsets: &Offsets, head: u64, most: usize) -> Result<Vec<u64>, Unlisted> {
    // Both links at once: an object that is freed and made anew in between would have moved to the end.
    let (next, prev) = (offsets.gc_head.next, offsets.gc_head.prev);
    let links = |node: u64| {
        let mut head = [0; LINKS_BYTES];
        memory.read(node, &mut head).map_err(|_| Unlisted::Changed)?;
        let link = |offset| u64_at(&head, offset).map(|link| link & !3).ok_or(Unlisted::Changed);
        Ok((link(next)?, link(prev)?))
    };
    let (mut objects, mut before, (mut node, _)) = (Vec::new(), head, links(head)?);
    while node != head {
        let (after, previous) = links(node)?;
        if previous != before {
            return Err(Unlisted::Changed);
        }
        if objects.len() >= most {
            return Err(Unlisted::TooMany);
        }
        objects.push(node.wrapping_add(offsets.gc_head.size.into()));
        (before, node) = (node, after);
    }
    Ok(objects)
}

/// The object that was added last to the list whose head is at `head`; of an empty one the head.
pub fn last(memory: &dyn Memory, offsets: &Offsets, head: u64) -> Option<u64> {
    memory.u64(head.wrapping_add(offsets.gc_head.prev.into())).ok().map(|last| last & !3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpython::gc;
    use crate::cpython::testing::{Script, pythons};
    use crate::cpython::threads::main_interpreter;
    use crate::target::ImageMemory;

    /// Nodes at 16, 32, ... that lead to the given numbers.
    fn list(nexts: &[u64]) -> (Walk, Vec<u64>) {
        let offsets = Offsets::of(3, 11, 0).unwrap();
        let mut image = ImageMemory::new();
        let bytes = nexts.iter().flat_map(|next| [next * 16, 0]).flat_map(u64::to_le_bytes).collect();
        image.insert(16, bytes);
        let mut seen = Vec::new();
        let walk = walk(&image, &offsets, 16, |object| seen.push(object / 16 - 1));
        (walk, seen)
    }

    #[test]
    fn lists_closed_torn_and_looped() {
        assert_eq!(list(&[1]), (Walk { objects: 0, closed: true }, vec![]));
        assert_eq!(list(&[3, 1, 2]), (Walk { objects: 2, closed: true }, vec![3, 2]));
        assert_eq!(list(&[2, 3, 0]).0, Walk { objects: 2, closed: false });
        assert!(!list(&[2, 3, 99]).0.closed);
        let (walk, seen) = list(&[2, 3, 4, 5, 3]);
        assert!(!walk.closed && seen.len() < 20);
    }

    #[test]
    fn members_of_a_list_that_holds_together() {
        let offsets = Offsets::of(3, 11, 0).unwrap();
        // Nodes at 16, 32, ... with the numbers of their next and previous.
        let members = |links: &[(u64, u64)], most: usize| {
            let mut image = ImageMemory::new();
            let words = links.iter().flat_map(|(next, prev)| [(next * 16) | 1, (prev * 16) | 2]);
            image.insert(16, words.flat_map(u64::to_le_bytes).collect());
            members(&image, &offsets, 16, most)
        };
        assert_eq!(members(&[(1, 1)], 0), Ok(vec![]));
        assert_eq!(members(&[(3, 2), (1, 3), (2, 1)], 2), Ok(vec![64, 48]));
        assert_eq!(members(&[(3, 2), (1, 3), (2, 1)], 1), Err(Unlisted::TooMany));
        assert_eq!(members(&[(3, 2), (1, 3), (1, 2)], 9), Err(Unlisted::Changed), "one was left out");
        assert_eq!(members(&[(2, 2), (2, 1)], 9), Err(Unlisted::Changed), "in a circle");
        assert_eq!(members(&[(99, 99)], 9), Err(Unlisted::Changed), "unreadable");
    }

    #[test]
    fn young_objects_are_those_that_were_made_since_a_collection() {
        let code = "import gc, os\n\
            gc.disable()\n\
            def made():\n \
                gc.collect(); return [[] for _ in range(50)]\n\
            for keep in [made(), made()]:\n \
                print(' '.join([str(id(each)) for each in keep])); os.read(0, 1)";
        for python in pythons() {
            let mut script = Script::start(&python, code);
            for is_young in [false, true] {
                let ids: Vec<u64> = script.line().split(' ').map(|id| id.parse().unwrap()).collect();
                let (target, found) = script.interpreter();
                let (memory, offsets) = (target.memory(), &found.offsets);
                if offsets.has_gc_heads() {
                    let main = main_interpreter(&memory, offsets, found.runtime).unwrap();
                    let [young, ..] = gc::list_heads(offsets, found.runtime, main);
                    let young = members(&memory, offsets, young, 1000).unwrap();
                    let at = young.iter().position(|object| *object == ids[0]);
                    let found = at.map(|at| &young[at..at + ids.len()]);
                    assert_eq!(found, is_young.then_some(&ids[..]), "{}", python.display());
                }
                script.go();
            }
        }
    }
}
