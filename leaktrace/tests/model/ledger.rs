//! The ledger against a naive model, under any order of events and any loss.

use std::collections::HashMap;

use leaktrace::model::{FrameKind, FrameRef, Ledger, Root, ScanEnd, StackId};
use leaktrace_common::wire::{Block, StackTotals};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Action {
    Alloc {
        stack: u32,
        size: u64,
    },
    /// Frees a live block, chosen by the number.
    Free(usize),
    /// A free that never reaches the table: the block lingers until the next sweep.
    LostFree(usize),
    /// An allocation that the table had no room for: totals alone know it.
    LostBlock {
        stack: u32,
        size: u64,
    },
    /// An update of the totals that was lost.
    LostTotal {
        stack: u32,
        size: u64,
    },
    Tick(u64),
    Sweep,
    Scan,
}

fn action() -> impl Strategy<Value = Action> {
    let (stack, size) = (0u32..12, 1u64..5000);
    prop_oneof![
        8 => (stack.clone(), size.clone()).prop_map(|(stack, size)| Action::Alloc { stack, size }),
        5 => any::<usize>().prop_map(Action::Free),
        1 => any::<usize>().prop_map(Action::LostFree),
        1 => (stack.clone(), size.clone()).prop_map(|(stack, size)| Action::LostBlock { stack, size }),
        1 => (stack, size).prop_map(|(stack, size)| Action::LostTotal { stack, size }),
        3 => (1u64..9_000_000_000).prop_map(Action::Tick),
        1 => Just(Action::Sweep),
        2 => Just(Action::Scan),
    ]
}

/// The table and the totals as the kernel keeps them, by the book.
#[derive(Default)]
struct Naive {
    table: Vec<(Block, bool)>,
    totals: Vec<StackTotals>,
}

impl Naive {
    fn total(&mut self, stack: u32, size: u64) {
        self.totals.resize(12, StackTotals::default());
        self.totals[stack as usize].blocks += 1;
        self.totals[stack as usize].bytes += size;
    }
}

/// Stacks 0 to 7 are known; pairs of them mean the same site.
fn learn(ledger: &mut Ledger) {
    for dense in 0..8u32 {
        let frame = FrameRef { kind: FrameKind::Python, function: "f", file: "a.py", line: 1 + dense / 2 };
        ledger.learn(dense, 2, &[frame], Root::Whole);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equals_the_naive_model(actions in prop::collection::vec(action(), 1..400)) {
        let mut now = 1_000_000_000;
        let mut ledger = Ledger::new(now, 0);
        learn(&mut ledger);
        let mut naive = Naive::default();
        for action in actions {
            match action {
                Action::Alloc { stack, size } => {
                    naive.table.push((Block::new(size, 2, true, now, stack, stack), true));
                    naive.total(stack, size);
                }
                Action::Free(n) if !naive.table.is_empty() => {
                    let index = n % naive.table.len();
                    naive.table.swap_remove(index);
                }
                Action::LostFree(n) if !naive.table.is_empty() => {
                    let index = n % naive.table.len();
                    naive.table[index].1 = false;
                }
                Action::Free(_) | Action::LostFree(_) => (),
                Action::LostBlock { stack, size } => naive.total(stack, size),
                Action::LostTotal { stack, size } => {
                    naive.table.push((Block::new(size, 2, true, now, stack, stack), true));
                }
                Action::Tick(time) => now += time,
                Action::Sweep => naive.table.retain(|(_, alive)| *alive),
                Action::Scan => {
                    let mut pass = ledger.scan(now);
                    naive.table.iter().for_each(|(block, _)| pass.observe(block));
                    pass.finish(&ScanEnd { totals: &naive.totals, rss_bytes: 1 });
                    check(&ledger, &naive)?;
                }
            }
        }
    }
}

fn check(ledger: &Ledger, naive: &Naive) -> Result<(), TestCaseError> {
    let mut live: HashMap<u32, (u64, u64, u64)> = HashMap::new();
    let key = |dense: u32| if dense < 8 { dense / 2 } else { 99 };
    for (block, _) in &naive.table {
        let entry = live.entry(key(block.stack)).or_insert((0, 0, u64::MAX));
        *entry = (entry.0 + 1, entry.1 + block.size(), entry.2.min(block.time_ns));
    }
    let mut allocated: HashMap<u32, (u64, u64)> = HashMap::new();
    for (dense, total) in naive.totals.iter().enumerate() {
        let entry = allocated.entry(key(dense as u32)).or_default();
        *entry = (entry.0 + total.blocks, entry.1 + total.bytes);
    }
    for site in ledger.sites() {
        let key = match ledger.stacks().frames(site.stack).next() {
            Some(frame) => frame.line - 1,
            None => 99,
        };
        prop_assert_eq!(site.stack == StackId::LOST, key == 99);
        let (blocks, bytes, oldest) = live.remove(&key).unwrap_or((0, 0, u64::MAX));
        let trail = &site.trail;
        prop_assert_eq!((trail.live.blocks, trail.live.bytes), (blocks, bytes));
        prop_assert_eq!(trail.oldest_ns.unwrap_or(u64::MAX), oldest);
        let total = allocated.remove(&key).unwrap_or_default();
        prop_assert_eq!((trail.allocated.blocks, trail.allocated.bytes), (total.0.max(blocks), total.1.max(bytes)));
        prop_assert!(trail.freed().blocks <= trail.allocated.blocks && (0.0..=1.0).contains(&trail.freed_share()));
        let cells: u64 = trail.cells().iter().map(|cell| u64::from(cell.live)).sum();
        prop_assert_eq!(cells, blocks);
        prop_assert_eq!(trail.cells().iter().map(|cell| cell.live_bytes).sum::<u64>(), bytes);
        prop_assert!(trail.cells().is_empty() || trail.cells().len() == ledger.timeline().cohorts());
        prop_assert!(trail.series().is_empty() || trail.series().len() == ledger.timeline().samples().len());
    }
    prop_assert!(live.is_empty(), "blocks without a site");
    prop_assert!(allocated.values().all(|(blocks, _)| *blocks == 0), "totals without a site");
    prop_assert_eq!(ledger.rss().len(), ledger.timeline().samples().len());
    Ok(())
}

#[test]
fn a_stack_learned_late_takes_its_blocks_along() {
    let mut ledger = Ledger::new(0, 0);
    let totals = [StackTotals { blocks: 1, bytes: 10, lost: 0 }];
    let block = Block::new(10, 2, true, 5, 0, 1);
    for learned in [false, true] {
        if learned {
            learn(&mut ledger);
        }
        assert_eq!(ledger.knows(0), learned);
        let mut pass = ledger.scan(1000);
        pass.observe(&block);
        pass.finish(&ScanEnd { totals: &totals, rss_bytes: 0 });
        let holders: Vec<_> = ledger.sites().iter().filter(|s| s.trail.live.blocks == 1).map(|s| s.stack).collect();
        assert_eq!(holders.len(), 1);
        assert_eq!(holders[0] == StackId::LOST, !learned);
    }
    assert_eq!(ledger.contradictions(), 0);
}

#[test]
fn a_dying_process_keeps_its_last_resident_set() {
    let mut ledger = Ledger::new(0, 100);
    for (scan, rss_bytes) in [(1, 300), (2, 0)] {
        ledger.scan(scan).finish(&ScanEnd { totals: &[], rss_bytes });
    }
    assert_eq!(ledger.rss(), [100, 300, 300]);
}
