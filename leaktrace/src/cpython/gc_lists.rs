//! The collector's lists of tracked objects (3.8 to 3.13: doubly linked through the heads before the objects).

use crate::target::{CachedMemory, Memory};

use super::offsets::Offsets;

/// Most objects of one list that are followed.
const MAX_NODES: u64 = 1 << 32;

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

#[cfg(test)]
mod tests {
    use super::*;
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
}
