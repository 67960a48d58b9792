//! `recorded_day FILE [HOURS]`: records a simulated service for a day, a look a second, at the shape of a large one: 10,000 stacks
//! of 25 frames, 1,000 of them busy in each second, a hundred that leak, collections, and a census of 3,000 types every ten
//! minutes. Prints what the file takes, and how long it takes to open.

#![allow(clippy::default_trait_access, reason = "parts of the census that are not simulated")]
#![allow(clippy::print_stdout, reason = "a program that prints its measurement")]

use std::collections::VecDeque;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use leaktrace::census::{Census, SCHEMA, TypeCount};
use leaktrace::model::{Collection, Criteria, FrameKind, FrameRef, Ledger, Root, ScanEnd};
use leaktrace::recording::{Origin, Recorder, Recording};
use leaktrace::report::{Facts, Report, Selection};
use leaktrace_common::site::domain;
use leaktrace_common::wire::{Block, StackTotals};

const SECOND: u64 = 1_000_000_000;
const STACKS: u32 = 10_000;
const DEPTH: u32 = 25;
/// Stacks that allocate in a second.
const BUSY: u32 = 1_000;
/// Stacks below this leak a block each minute.
const LEAKS: u32 = 100;
/// Seconds that other blocks live.
const LIFE: usize = 5;
const CENSUS_EVERY: u64 = 600;
const TYPES: u64 = 3_000;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("give a file")?;
    let hours: u64 = arguments.next().map_or(Ok(24), |hours| hours.parse()).context("hours are a number")?;
    let path = Path::new(&path);
    let mut ledger = Ledger::new(SECOND, 50 << 20);
    let mut recorder = Recorder::create(path, false)?;
    recorder.begin(&Origin { leaktrace: "0".into(), started_at: 0.0, start_ns: SECOND, rss_bytes: 50 << 20 })?;
    let begun = Instant::now();
    let facts = simulate(hours * 3600, &mut ledger, &mut recorder)?;
    recorder.finish(&ledger, &facts, None)?;
    println!("{hours} h recorded in {:.1?}: {} bytes", begun.elapsed(), path.metadata()?.len());
    let begun = Instant::now();
    let recording = Recording::open(path)?;
    println!("opened in {:.2?}", begun.elapsed());
    let report = recording.report(&Selection::default());
    println!(
        "with its report {:.2?}: {} sites, {} growing",
        begun.elapsed(),
        report.sites.len(),
        report.headline.growing_sites
    );
    let live = Report::build(&ledger, &facts, &Criteria::default());
    anyhow::ensure!(report == live, "the recording differs from what was recorded");
    Ok(())
}

fn simulate(seconds: u64, ledger: &mut Ledger, recorder: &mut Recorder) -> Result<Facts> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut totals = vec![StackTotals::default(); STACKS as usize];
    let mut leaked: Vec<Block> = Vec::new();
    let mut young: VecDeque<Vec<Block>> = VecDeque::new();
    let mut facts = Facts { mode: "exact".into(), ..Facts::default() };
    (0..STACKS).for_each(|stack| learn(ledger, stack));
    for second in 1..=seconds {
        let now = SECOND * (second + 1);
        let mut block = |stack: u32, random: &mut fastrand::Rng| {
            let size = random.u64(32..512);
            totals[stack as usize].blocks += 1;
            totals[stack as usize].bytes += size;
            Block::new(size, domain::OBJ, true, now - random.u64(1..SECOND), stack, 7)
        };
        young.push_back(
            (0..BUSY)
                .map(|_| random.u32(LEAKS..STACKS))
                .collect::<Vec<_>>()
                .into_iter()
                .map(|s| block(s, &mut random))
                .collect(),
        );
        if young.len() > LIFE {
            young.pop_front();
        }
        leaked.extend(
            (0..LEAKS)
                .filter(|stack| (second + u64::from(*stack)).is_multiple_of(60))
                .map(|s| block(s, &mut random))
                .collect::<Vec<_>>(),
        );
        let mut pass = ledger.scan(now);
        leaked.iter().chain(young.iter().flatten()).for_each(|block| pass.observe(block));
        pass.finish(&ScanEnd { totals: &totals, rss_bytes: (50 << 20) + second * 512 });
        let generation = if second.is_multiple_of(600) { 2 } else { u8::from(second.is_multiple_of(11)) };
        let full = generation == 2;
        ledger.gc_mut().record(Collection { generation, full, start_ns: now, pause_ns: Some(1_000_000) });
        facts.events.alloc += u64::from(BUSY);
        recorder.record(ledger, &facts, None)?;
        if second.is_multiple_of(CENSUS_EVERY) {
            recorder.census(&census(second))?;
        }
    }
    Ok(facts)
}

/// Callers are shared as in a service: few at the root, more and more towards the leaves.
fn learn(ledger: &mut Ledger, stack: u32) {
    let names: Vec<(String, String, u32)> = (0..DEPTH)
        .map(|depth| {
            let id = stack >> (depth / 2).min(13);
            (
                format!("Class{}.method{id}", id % 97),
                format!("/srv/app/package/module{}.py", id % 211),
                1 + id % 900 + depth,
            )
        })
        .collect();
    let frames: Vec<_> = names
        .iter()
        .map(|(function, file, line)| FrameRef { kind: FrameKind::Python, function, file, line: *line })
        .collect();
    ledger.learn(stack, domain::OBJ, &frames, Root::Whole);
}

fn census(second: u64) -> Census {
    let type_ = |n: u64| {
        let count = 10 + n + (second / CENSUS_EVERY) * (n % 7);
        TypeCount {
            name: format!("app.module{}.Class{n}", n % 211),
            count,
            bytes: count * 56,
            tracked: count,
            free_listed: 0,
        }
    };
    Census {
        schema: SCHEMA.into(),
        pid: 1,
        process_start: 1,
        python: "3.11.2".into(),
        taken_at: second as f64,
        seconds: 1.0,
        pause_seconds: None,
        totals: Default::default(),
        consistency: Default::default(),
        kinds: Default::default(),
        types: (0..TYPES).map(type_).collect(),
        containers: Vec::new(),
        duplicates: Default::default(),
        parts: Vec::new(),
        size_classes: Vec::new(),
        arenas: Default::default(),
        memory: Default::default(),
        c_allocator: None,
    }
}
