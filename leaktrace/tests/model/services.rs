//! Simulated services whose truth is known because we wrote them, and what is asked of the verdicts on them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use leaktrace::model::{Judgement, Verdict};

use crate::simulator::{SECOND, World};

pub(crate) const SEEDS: u64 = 2;

pub(crate) type Service = Box<dyn FnMut(&mut World)>;

/// Runs a service under several seeds; `check` sees time in seconds and the judgement after each scan.
pub(crate) fn watch(
    make: &dyn Fn() -> Service,
    seconds: u64,
    interval: u64,
    check: &mut dyn FnMut(u64, f64, &Judgement),
) {
    for seed in 1..=SEEDS {
        let mut world = World::new(seed);
        let mut service = make();
        world.run(seconds, interval, &mut |world| service(world), &mut |world| {
            check(seed, world.seconds(), &world.judge(0, true));
        });
    }
}

/// Growing at 60 s and at every scan after, with a rate whose interval holds the true one or is within 10 % of it.
pub(crate) fn assert_leak(name: &str, blocks_per_second: f64, make: &dyn Fn() -> Service) {
    for interval in [1, 5, 10] {
        watch(make, 120, interval, &mut |seed, time, judgement| {
            if time < 59.0 {
                return;
            }
            let rate = judgement.growth.blocks_per_second;
            assert_eq!(
                judgement.verdict,
                Verdict::Growing,
                "{name} seed {seed} every {interval} s at {time}: {judgement:#?}"
            );
            let near = (rate.estimate - blocks_per_second).abs() <= 0.1 * blocks_per_second;
            let covered = rate.low <= blocks_per_second && blocks_per_second <= rate.high;
            assert!(near || covered, "{name} seed {seed} at {time}: {rate:?} for {blocks_per_second}");
        });
    }
}

/// Not growing at any scan from `after` seconds on.
pub(crate) fn assert_innocent(name: &str, after: f64, make: &dyn Fn() -> Service) {
    for interval in [2, 5] {
        watch(make, 150, interval, &mut |seed, time, judgement| {
            let accused = judgement.verdict == Verdict::Growing && time >= after;
            assert!(!accused, "{name} seed {seed} every {interval} s at {time}: {judgement:#?}");
        });
    }
}

pub(crate) fn leak(rate: f64) -> Service {
    Box::new(move |world| {
        for _ in 0..world.random.events(rate) {
            world.alloc(0, 100);
        }
    })
}

/// `rate` blocks per second, each freed after `lifetime` seconds (times 0.5 to 1.5 when `random`).
pub(crate) fn lifetimes(rate: f64, lifetime: f64, random: bool) -> Service {
    let mut pending = BTreeSet::new();
    Box::new(move |world| {
        while let Some(&(due, address)) = pending.first().filter(|(due, _)| *due <= world.now) {
            world.free(address);
            pending.remove(&(due, address));
        }
        for _ in 0..world.random.events(rate) {
            let factor = if random { 0.5 + world.random.unit() } else { 1.0 };
            let due = world.now + (lifetime * factor * SECOND as f64) as u64;
            pending.insert((due, world.alloc(0, 100)));
        }
    })
}

/// A cache of `capacity` entries over `keys` keys; the entry unused for longest is dropped.
pub(crate) fn lru(rate: f64, capacity: usize, keys: u64, skewed: bool) -> Service {
    let (mut entries, mut order, mut use_count) = (HashMap::new(), BTreeMap::new(), 0u64);
    Box::new(move |world| {
        for _ in 0..world.random.events(rate) {
            let unit = world.random.unit();
            let key = (keys as f64 * if skewed { unit.powi(4) } else { unit }) as u64;
            use_count += 1;
            let (address, last_use) = entries.remove(&key).unwrap_or_else(|| (world.alloc(0, 200), 0));
            order.remove(&last_use);
            entries.insert(key, (address, use_count));
            order.insert(use_count, key);
            if entries.len() > capacity {
                let (_, oldest) = order.pop_first().unwrap();
                world.free(entries.remove(&oldest).unwrap().0);
            }
        }
    })
}

/// `rate` blocks per second, all dropped every `period` seconds.
pub(crate) fn sawtooth(rate: f64, period: f64) -> Service {
    let (mut held, mut next) = (Vec::new(), period);
    Box::new(move |world| {
        if world.seconds() >= next {
            next += period;
            held.drain(..).for_each(|address| world.free(address));
        }
        for _ in 0..world.random.events(rate) {
            held.push(world.alloc(0, 64));
        }
    })
}

/// Garbage cycles at `rate` per second that young collections miss; a full one every `period` seconds frees them.
pub(crate) fn cycles(rate: f64, period: f64) -> Service {
    let (mut garbage, mut next_young, mut next_full) = (Vec::new(), 1.0, period);
    Box::new(move |world| {
        let now = world.seconds();
        if now >= next_young {
            next_young += 1.0;
            world.collect(0);
        }
        if now >= next_full {
            next_full += period;
            world.collect(2);
            garbage.drain(..).for_each(|address| world.free(address));
        }
        for _ in 0..world.random.events(rate) {
            garbage.push(world.alloc(0, 64));
        }
    })
}

pub(crate) fn both(a: fn() -> Service, b: fn() -> Service) -> impl Fn() -> Service {
    move || {
        let (mut a, mut b) = (a(), b());
        Box::new(move |world| {
            a(world);
            b(world);
        })
    }
}
