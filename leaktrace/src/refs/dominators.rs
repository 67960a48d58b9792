//! Which object alone keeps which alive: the dominator tree, and retained sizes.
//!
//! Semi-NCA (Georgiadis, "Linear-Time Algorithms for Dominators and Related Problems", 2005): near linear in practice, and arrays
//! of 4 bytes an object are all that it needs.

use super::graph::Adjacency;
use super::nodes::{NONE, Node};

/// Objects in the order in which a depth-first walk from the roots meets them, and who dominates them. Number 0 of the walk
/// stands for all roots together.
#[derive(Debug)]
pub struct Dominators {
    /// By number of the walk; the first is [`NONE`].
    order: Vec<Node>,
    /// By number of the walk, the dominator's number: always smaller.
    idom: Vec<u32>,
    /// By object, its number in the walk; 0 where no root leads.
    numbers: Vec<u32>,
}

impl Dominators {
    /// `held` is who holds whom, `holders` the same the other way round.
    pub fn new(held: &Adjacency, holders: &Adjacency, roots: &[Node]) -> Self {
        let mut numbers = vec![0u32; held.nodes()];
        let mut order = vec![NONE];
        let mut parents = vec![0u32];
        // Depth first with an explicit stack: an object and the next of its references.
        let mut stack: Vec<(Node, u32)> = Vec::new();
        for &root in roots {
            if numbers[root as usize] != 0 {
                continue;
            }
            numbers[root as usize] = order.len() as u32;
            order.push(root);
            parents.push(0);
            stack.push((root, 0));
            while let Some((node, next)) = stack.last_mut() {
                let (node, at) = (*node, *next as usize);
                *next += 1;
                let Some(&target) = held.of(node).get(at) else {
                    stack.pop();
                    continue;
                };
                if numbers[target as usize] == 0 {
                    numbers[target as usize] = order.len() as u32;
                    parents.push(numbers[node as usize]);
                    order.push(target);
                    stack.push((target, 0));
                }
            }
        }
        drop(stack);
        let mut is_root = vec![false; order.len()];
        for &root in roots {
            is_root[numbers[root as usize] as usize] = true;
        }
        let idom = immediate(holders, &order, &numbers, parents, &is_root);
        Self { order, idom, numbers }
    }

    /// The only object through which all paths to one lead; `None` if there is none, or no path.
    pub fn dominator(&self, node: Node) -> Option<Node> {
        let number = self.numbers[node as usize] as usize;
        let idom = self.idom[number] as usize;
        (number != 0 && idom != 0).then(|| self.order[idom])
    }

    /// All reached objects, each after its dominator, with that ([`NONE`] for the roots together).
    pub fn down(&self) -> impl DoubleEndedIterator<Item = (Node, Node)> + '_ {
        (1..self.order.len()).map(|number| (self.order[number], self.order[self.idom[number] as usize]))
    }

    /// For each object what would be freed with it, bytes. Those that no root leads to keep nothing.
    pub fn retained(&self, sizes: &[u32]) -> Vec<u64> {
        let mut retained = vec![0u64; sizes.len()];
        for (node, dominator) in self.down().rev() {
            let own = retained[node as usize] + u64::from(sizes[node as usize]);
            retained[node as usize] = own;
            if dominator != NONE {
                retained[dominator as usize] += own;
            }
        }
        retained
    }

    /// The objects in an order in which those that one dominates follow it directly, with how deep each is.
    pub fn nested(&self) -> impl Iterator<Item = (Node, u32)> + '_ {
        let count = self.order.len();
        // Children by counting: where each one's begin.
        let mut starts = vec![0u32; count + 1];
        for &idom in &self.idom[1..] {
            starts[idom as usize + 1] += 1;
        }
        for number in 0..count {
            starts[number + 1] += starts[number];
        }
        let mut fill = starts.clone();
        let mut children = vec![0u32; count.saturating_sub(1)];
        for number in 1..count {
            let at = &mut fill[self.idom[number] as usize];
            children[*at as usize] = number as u32;
            *at += 1;
        }
        drop(fill);
        let mut stack = vec![(0u32, 0u32)];
        std::iter::from_fn(move || {
            let (number, depth) = stack.pop()?;
            let of = starts[number as usize] as usize..starts[number as usize + 1] as usize;
            stack.extend(children[of].iter().map(|&child| (child, depth + 1)));
            Some((self.order[number as usize], depth))
        })
        .skip(1)
    }
}

fn immediate(holders: &Adjacency, order: &[Node], numbers: &[u32], parents: Vec<u32>, is_root: &[bool]) -> Vec<u32> {
    let count = order.len();
    let mut idom = parents.clone();
    let mut ancestor = parents;
    let mut semi: Vec<u32> = (0..count as u32).collect();
    let mut label: Vec<u32> = semi.clone();
    let mut path = Vec::new();
    for w in (1..count).rev() {
        let mut least = if is_root[w] { 0 } else { idom[w] };
        if !is_root[w] {
            for &holder in holders.of(order[w]) {
                let v = numbers[holder as usize];
                if v != 0 {
                    least = least.min(semi[eval(v, w as u32, &mut ancestor, &mut label, &semi, &mut path) as usize]);
                }
            }
        }
        semi[w] = least;
    }
    for w in 1..count {
        let mut dominator = idom[w];
        while dominator > semi[w] {
            dominator = idom[dominator as usize];
        }
        idom[w] = dominator;
    }
    idom
}

/// The number with the least semidominator on the way from `v` up, as far as `w` has been linked; the way is shortened.
fn eval(v: u32, w: u32, ancestor: &mut [u32], label: &mut [u32], semi: &[u32], path: &mut Vec<u32>) -> u32 {
    if v <= w {
        return v;
    }
    path.clear();
    let mut at = v;
    while ancestor[at as usize] > w {
        path.push(at);
        at = ancestor[at as usize];
    }
    let mut best = label[at as usize];
    let top = ancestor[at as usize];
    while let Some(below) = path.pop() {
        if semi[label[below as usize] as usize] < semi[best as usize] {
            best = label[below as usize];
        } else {
            label[below as usize] = best;
        }
        ancestor[below as usize] = top;
    }
    label[v as usize]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of each node those without which it is not reached: by trying.
    fn naive(held: &Adjacency, roots: &[Node]) -> Vec<Option<Vec<Node>>> {
        let reached = |without: Node| {
            let mut seen = vec![false; held.nodes()];
            let mut stack: Vec<Node> = roots.iter().copied().filter(|&root| root != without).collect();
            while let Some(node) = stack.pop() {
                if !std::mem::replace(&mut seen[node as usize], true) {
                    stack.extend(held.of(node).iter().copied().filter(|&target| target != without));
                }
            }
            seen
        };
        let all = reached(NONE);
        let without: Vec<_> = (0..held.nodes() as Node).map(reached).collect();
        let dominators = |node: usize| {
            let others = (0..held.nodes() as Node).filter(|&other| other as usize != node);
            others.filter(|&other| all[other as usize] && !without[other as usize][node]).collect()
        };
        (0..held.nodes()).map(|node| all[node].then(|| dominators(node))).collect()
    }

    proptest! {
        #[test]
        fn dominators_are_those_without_which_nothing_leads_there(
            edges in prop::collection::vec((0u32..24, 0u32..24), 0..60),
            roots in prop::collection::vec(0u32..24, 0..4),
        ) {
            let held = Adjacency::from_pairs(24, &edges);
            let holders = held.reversed();
            let dominators = Dominators::new(&held, &holders, &roots);
            let retained = dominators.retained(&[1; 24]);
            for (node, expected) in naive(&held, &roots).into_iter().enumerate() {
                let Some(expected) = expected else {
                    prop_assert_eq!((dominators.dominator(node as Node), retained[node]), (None, 0));
                    continue;
                };
                let mut found = Vec::new();
                let mut at = node as Node;
                while let Some(dominator) = dominators.dominator(at) {
                    found.push(dominator);
                    at = dominator;
                }
                found.sort_unstable();
                prop_assert_eq!(found, expected);
            }
            let reached = dominators.down().count() as u64;
            let tops: u64 = dominators.down().filter(|(_, d)| *d == NONE).map(|(n, _)| retained[n as usize]).sum();
            prop_assert_eq!(tops, reached);
            let mut nested: Vec<Node> = dominators.nested().map(|(node, _)| node).collect();
            nested.sort_unstable();
            let mut all: Vec<Node> = dominators.down().map(|(node, _)| node).collect();
            all.sort_unstable();
            prop_assert_eq!(nested, all);
        }
    }
}
