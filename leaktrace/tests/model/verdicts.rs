//! Verdicts on services whose truth is known because we wrote them.

use std::collections::VecDeque;

use leaktrace::model::verdict::{CollectorTest, Reason};
use leaktrace::model::{Judgement, Verdict};

use crate::services::{
    SEEDS, Service, assert_innocent, assert_leak, both, cycles, leak, lifetimes, lru, sawtooth, watch,
};
use crate::simulator::World;

#[test]
fn a_steady_leak_is_growing_within_a_minute() {
    assert_leak("50/s", 50.0, &|| leak(50.0));
    assert_leak("500/s", 500.0, &|| leak(500.0));
}

#[test]
fn a_leak_among_churn_on_the_same_line_is_growing() {
    assert_leak("1 in 20", 50.0, &both(|| leak(50.0), || lifetimes(1000.0, 0.3, true)));
    assert_leak("long requests", 50.0, &both(|| leak(50.0), || lifetimes(100.0, 4.0, true)));
}

#[test]
fn a_leak_beside_a_constant_on_the_same_line_is_growing() {
    let startup = || -> Service {
        let mut done = false;
        Box::new(move |world| {
            if !std::mem::replace(&mut done, true) {
                (0..5000).for_each(|_| _ = world.alloc(0, 100));
            }
        })
    };
    assert_leak("start-up burst", 50.0, &both(|| leak(50.0), startup));
}

#[test]
fn a_leak_beside_a_turning_cache_is_growing_once_the_cache_has_turned_over() {
    let make = both(|| leak(60.0), || lifetimes(140.0, 8.0, false));
    watch(&make, 240, 5, &mut |seed, time, judgement| {
        assert!(time < 119.0 || judgement.verdict == Verdict::Growing, "seed {seed} at {time}: {judgement:#?}");
    });
}

#[test]
fn a_slow_leak_is_growing_in_minutes() {
    let make = both(
        || leak(1.0),
        || {
            let mut next = 10.0;
            Box::new(move |world| {
                if world.seconds() >= next {
                    next += 20.0;
                    world.collect(0);
                }
            })
        },
    );
    watch(&make, 1200, 5, &mut |seed, time, judgement| {
        if time >= 900.0 {
            assert_eq!(judgement.verdict, Verdict::Growing, "seed {seed} at {time}: {judgement:#?}");
            assert!((judgement.growth.blocks_per_second.estimate - 1.0).abs() < 0.2);
        }
    });
}

#[test]
fn a_leak_in_bursts_is_growing_after_a_few() {
    let make = || -> Service {
        let mut next = 3.0;
        Box::new(move |world| {
            if world.seconds() >= next {
                next += 12.0;
                (0..600).for_each(|_| _ = world.alloc(0, 64));
            }
        })
    };
    watch(&make, 300, 5, &mut |seed, time, judgement| {
        assert!(time < 120.0 || judgement.verdict == Verdict::Growing, "seed {seed} at {time}: {judgement:#?}");
    });
}

#[test]
fn a_leak_scattered_over_stacks_is_growing_by_line() {
    for seed in 1..=SEEDS {
        let mut world = World::new(seed);
        let mut service = |world: &mut World| {
            for _ in 0..world.random.events(50.0) {
                let stack = world.random.below(400) as u32 * 100;
                world.alloc(stack, 100);
            }
        };
        world.run(60, 5, &mut service, &mut |_| ());
        assert_eq!(world.judge(0, true).verdict, Verdict::Growing);
        let alone = world.judge(0, false);
        assert!(alone.verdict != Verdict::Growing, "{alone:#?}");
    }
}

#[test]
fn a_buffer_reallocated_ever_larger_is_growing() {
    let make = || -> Service {
        let (mut items, mut capacity, mut block) = (0u64, 0u64, None);
        Box::new(move |world| {
            items += world.random.events(10_000.0);
            if items > capacity {
                if let Some(address) = block {
                    world.free(address);
                }
                capacity = items + items / 8;
                block = Some(world.alloc(0, capacity * 8));
            }
        })
    };
    watch(&make, 300, 5, &mut |seed, time, judgement| {
        assert!(time < 60.0 || judgement.verdict == Verdict::Growing, "seed {seed} at {time}: {judgement:#?}");
    });
}

#[test]
fn nothing_is_growing_while_it_is_too_young() {
    watch(&|| leak(500.0), 20, 1, &mut |_, _, judgement| {
        assert_eq!((judgement.verdict, judgement.evidence.reason), (Verdict::Unknown, Reason::TooYoung));
    });
}

#[test]
fn bounded_caches_are_not_growing_after_the_first_minute() {
    assert_innocent("unique keys, full at 10 s", 60.0, &|| lru(300.0, 3000, u64::MAX >> 12, false));
    assert_innocent("unique keys, full at 40 s", 60.0, &|| lru(100.0, 4000, u64::MAX >> 12, false));
    assert_innocent("random keys", 60.0, &|| lru(300.0, 1000, 2000, false));
    assert_innocent("skewed keys", 60.0, &|| lru(300.0, 1000, 20_000, true));
    assert_innocent("fewer keys than room", 60.0, &|| lru(200.0, 5000, 1500, false));
}

#[test]
fn expiring_caches_are_not_growing_after_the_first_minute() {
    for ttl in [4.0, 12.0, 30.0, 45.0] {
        assert_innocent("ttl", 60.0, &|| lifetimes(100.0, ttl, false));
        assert_innocent("spread ttl", 60.0, &|| lifetimes(100.0, ttl / 1.5, true));
    }
}

#[test]
fn a_cache_is_forgiven_soon_after_its_lifetime() {
    assert_innocent("ttl 120 s", 145.0, &|| lifetimes(100.0, 120.0, false));
}

#[test]
fn batches_are_not_growing_after_the_first_minute() {
    for period in [3.0, 7.0, 10.0, 20.0, 30.0, 45.0] {
        assert_innocent("sawtooth", 60.0, &|| sawtooth(200.0, period));
    }
}

#[test]
fn request_churn_is_churn() {
    watch(&|| lifetimes(2000.0, 0.1, true), 90, 5, &mut |_, time, judgement| {
        assert!(judgement.verdict != Verdict::Growing);
        assert!(time < 30.0 || judgement.verdict == Verdict::Churn, "{time}: {judgement:#?}");
    });
}

#[test]
fn a_queue_of_constant_depth_is_not_growing() {
    let make = || -> Service {
        let mut queue = VecDeque::new();
        Box::new(move |world| {
            for _ in 0..world.random.events(100.0) {
                queue.push_back(world.alloc(0, 300));
                if queue.len() > 500 {
                    world.free(queue.pop_front().unwrap());
                }
            }
        })
    };
    assert_innocent("fifo", 60.0, &make);
    // Depth that wanders between bounds.
    let make = || -> Service {
        let mut queue = VecDeque::new();
        Box::new(move |world| {
            for _ in 0..world.random.events(200.0) {
                if queue.len() < 50 || queue.len() < 800 && world.random.below(2) == 0 {
                    queue.push_back(world.alloc(0, 300));
                } else {
                    world.free(queue.pop_front().unwrap());
                }
            }
        })
    };
    assert_innocent("wandering", 60.0, &make);
}

#[test]
fn a_start_up_burst_is_a_plateau() {
    let make = || -> Service {
        Box::new(move |world| {
            if world.seconds() < 7.0 {
                (0..50).for_each(|_| _ = world.alloc(0, 100));
            }
        })
    };
    watch(&make, 120, 5, &mut |_, time, judgement| {
        assert!(time < 30.0 || judgement.verdict == Verdict::Plateau, "{time}: {judgement:#?}");
    });
}

#[test]
fn stragglers_after_a_burst_are_not_growing() {
    let make = || -> Service {
        Box::new(move |world| {
            if world.seconds() < 1.9 {
                (0..30).for_each(|_| _ = world.alloc(0, 100));
            }
            for _ in 0..world.random.events(0.08) {
                world.alloc(0, 100);
            }
        })
    };
    assert_innocent("stragglers", 20.0, &make);
}

#[test]
fn a_warm_up_that_saturates_is_not_growing() {
    for half_life in [3.0, 8.0, 20.0] {
        let make = move || -> Service {
            Box::new(move |world| {
                let rate = 500.0 * f64::exp(-world.seconds() / half_life * std::f64::consts::LN_2);
                for _ in 0..world.random.events(rate) {
                    world.alloc(0, 100);
                }
            })
        };
        assert_innocent("warm-up", 60.0, &make);
    }
}

#[test]
fn pinned_leftovers_of_a_burst_are_not_growing() {
    let make = || -> Service {
        let mut burst = Vec::new();
        Box::new(move |world| {
            if world.seconds() < 2.0 {
                (0..500).for_each(|_| burst.push(world.alloc(0, 100)));
            } else if !burst.is_empty() {
                let kept = std::mem::take(&mut burst);
                kept.iter().enumerate().filter(|(i, _)| i % 50 != 0).for_each(|(_, address)| world.free(*address));
            }
        })
    };
    assert_innocent("fragmentation", 0.0, &make);
}

#[test]
fn cycles_that_full_collections_free_are_not_growing() {
    for period in [5.0, 13.0, 25.0, 40.0] {
        assert_innocent("cycles", 60.0, &|| cycles(100.0, period));
    }
}

#[test]
fn full_collections_that_free_nothing_confirm_a_leak() {
    for period in [5.0, 13.0, 25.0, 40.0] {
        let make = move || -> Service {
            let (mut grow, mut next) = (leak(60.0), period);
            Box::new(move |world| {
                if world.seconds() >= next {
                    next += period;
                    world.collect(2);
                }
                grow(world);
            })
        };
        watch(&make, 120, 5, &mut |seed, time, judgement| {
            if time >= 59.0 {
                assert_eq!(
                    judgement.verdict,
                    Verdict::Growing,
                    "period {period} seed {seed} at {time}: {judgement:#?}"
                );
                assert_eq!(judgement.evidence.collector, CollectorTest::FullSurvived);
            }
        });
    }
}

#[test]
fn with_the_collector_off_growth_counts() {
    let make = || -> Service {
        let mut grow = leak(50.0);
        Box::new(move |world| {
            world.ledger.gc_mut().set_state(Some(false), Some(700));
            grow(world);
        })
    };
    watch(&make, 60, 5, &mut |_, time, judgement| {
        if time >= 59.0 {
            assert_eq!((judgement.verdict, judgement.evidence.collector), (Verdict::Growing, CollectorTest::Disabled));
        }
    });
}

#[test]
fn a_few_survivors_that_no_collection_has_examined_may_be_waiting_for_one() {
    watch(&|| leak(8.0), 60, 5, &mut |_, _, judgement| {
        assert!(judgement.verdict != Verdict::Growing, "{judgement:#?}");
    });
}

#[test]
fn cycles_that_ever_rarer_full_collections_free_are_not_growing() {
    let make = || -> Service {
        let (mut garbage, mut next, mut gap) = (Vec::new(), 8.0, 8.0);
        Box::new(move |world| {
            if world.seconds() >= next {
                gap *= 1.4;
                next += gap;
                world.collect(2);
                for address in garbage.drain(..) {
                    world.free(address);
                }
            }
            for _ in 0..world.random.events(100.0) {
                garbage.push(world.alloc(0, 64));
            }
        })
    };
    assert_innocent("cycles", 60.0, &make);
}

#[test]
fn a_leak_that_starts_late_is_growing_within_a_minute_of_its_start() {
    let make = || -> Service {
        let mut grow = leak(50.0);
        Box::new(move |world| {
            if world.seconds() > 60.0 {
                grow(world);
            }
        })
    };
    watch(&make, 360, 5, &mut |seed, time, judgement| {
        assert!(time < 300.0 || judgement.verdict == Verdict::Growing, "seed {seed} at {time}: {judgement:#?}");
    });
}

#[test]
fn a_store_of_sessions_that_end_is_not_growing() {
    for mean_seconds in [5.0, 20.0, 40.0] {
        let make = || -> Service {
            let mut live = Vec::new();
            Box::new(move |world| {
                for _ in 0..world.random.events(live.len() as f64 / mean_seconds).min(live.len() as u64) {
                    let ended = world.random.below(live.len() as u64) as usize;
                    let address = live.swap_remove(ended);
                    world.free(address);
                }
                for _ in 0..world.random.events(500.0 / mean_seconds) {
                    live.push(world.alloc(0, 64));
                }
            })
        };
        assert_innocent("sessions", 60.0, &make);
    }
}

/// Watches a service in windows that are open for a hundredth of the time; `check` sees the judgements after each.
fn in_windows(make: &dyn Fn() -> Service, seconds: u64, check: &mut dyn FnMut(u64, f64, &Judgement)) {
    in_windows_of(0.01, make, seconds, check);
}

/// The same of windows that are open for another part of the time.
fn in_windows_of(duty: f64, make: &dyn Fn() -> Service, seconds: u64, check: &mut dyn FnMut(u64, f64, &Judgement)) {
    for seed in 1..=10 {
        let mut world = World::new(seed);
        let mut service = make();
        world.watch(seconds, duty, &mut |world| service(world), &mut |world| {
            check(seed, world.seconds(), &world.judge(0, true));
        });
    }
}

#[test]
fn a_leak_seen_in_windows_is_growing_at_its_whole_rate() {
    let mut covered = 0;
    let mut found = 0;
    in_windows(&|| leak(100.0), 300, &mut |_, time, judgement| {
        if time > 180.0 && judgement.verdict == Verdict::Growing {
            found += 1;
            let rate = judgement.growth.blocks_per_second;
            covered += u32::from((rate.low..=rate.high).contains(&100.0));
        } else {
            assert!(time < 180.0, "{time}: {judgement:#?}");
        }
    });
    assert!(found > 100 && covered * 10 > found * 8, "{covered} of {found} intervals hold the true rate");
}

#[test]
fn what_is_bounded_is_not_growing_in_windows_either() {
    type Make = fn() -> Service;
    let services: [(&str, Make); 4] = [
        ("lru", || lru(200.0, 1000, 5000, false)),
        ("lifetimes", || lifetimes(100.0, 3.0, true)),
        ("ttl", || lifetimes(50.0, 10.0, false)),
        ("sawtooth", || sawtooth(100.0, 20.0)),
    ];
    for (name, make) in services {
        in_windows(&make, 300, &mut |seed, time, judgement| {
            let accused = judgement.verdict == Verdict::Growing && time > 60.0;
            assert!(!accused, "{name} seed {seed} at {time}: {judgement:#?}");
        });
    }
}

#[test]
fn a_slow_leak_is_found_by_few_blocks_in_a_long_watch() {
    let mut last = [false; 11];
    in_windows_of(0.02, &|| leak(1.0), 1200, &mut |seed, time, judgement| {
        last[seed as usize] = judgement.verdict == Verdict::Growing;
        assert!(time > 300.0 || !last[seed as usize], "{seed} at {time}: {judgement:#?}");
    });
    let growing = last.iter().filter(|growing| **growing).count();
    assert!(growing >= 9, "{growing} of 10");
}

#[test]
fn one_early_collection_says_nothing_of_a_slow_leak() {
    let make = || -> Service {
        let (mut service, mut collected) = (leak(1.0), false);
        Box::new(move |world| {
            service(world);
            if !collected && world.seconds() > 60.0 {
                world.collect(2);
                collected = true;
            }
        })
    };
    let mut last = [false; 11];
    in_windows_of(0.02, &make, 1200, &mut |seed, _, judgement| {
        last[seed as usize] = judgement.verdict == Verdict::Growing;
    });
    let growing = last.iter().filter(|growing| **growing).count();
    assert!(growing >= 9, "{growing} of 10");
}

#[test]
fn what_turns_over_slowly_is_not_growing_in_a_long_watch() {
    type Make = fn() -> Service;
    let services: [(&str, Make); 6] = [
        ("lru", || lru(4.0, 300, 2000, false)),
        ("lifetimes", || lifetimes(2.0, 60.0, true)),
        ("longer lifetimes", || lifetimes(1.0, 200.0, true)),
        ("long lifetimes", || lifetimes(1.0, 400.0, true)),
        ("ttl", || lifetimes(2.0, 90.0, false)),
        ("sawtooth", || sawtooth(2.0, 120.0)),
    ];
    for (name, make) in services {
        in_windows_of(0.02, &make, 1500, &mut |seed, time, judgement| {
            let accused = judgement.verdict == Verdict::Growing && time > 600.0;
            assert!(!accused, "{name} seed {seed} at {time}: {judgement:#?}");
        });
    }
}
