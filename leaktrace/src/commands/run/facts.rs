//! What the report needs beside the ledger: the target, losses, coverage, cost.

use std::fs;

use leaktrace::host;
use leaktrace::report::{Cost, Coverage, Events, Facts, Lost, Python, Room, RssBytes, Target};
use leaktrace::session::{Ended, Session, SessionError};
use leaktrace_common::wire::counter;

/// The facts as of the last scan.
pub(super) fn of(session: &Session, ended: Option<Ended>) -> Result<Facts, SessionError> {
    let counters = session.counters()?;
    let count = |index: u32| counters[index as usize];
    let target = session.target();
    let python = &session.interpreter().facts;
    let rss_start = session.rss_start();
    let rss_end = session.ledger().rss().last().copied().unwrap_or(rss_start);
    let sampling = session.sampling();
    Ok(Facts {
        target: Target {
            pid: target.pid(),
            pid_inside: target.ns_pid(),
            exe: target.exe().display().to_string(),
            cmdline: target.cmdline().to_vec(),
            python: Python {
                version: python.version_text.clone(),
                features: features(&python.features, &session.plan().features),
            },
            rss_bytes: RssBytes { start: rss_start, end: rss_end },
        },
        mode: if sampling.is_some() { "watch" } else { "exact" }.to_owned(),
        events: Events {
            alloc: count(counter::ALLOC),
            free: count(counter::FREE) + count(counter::REUSED) + session.swept_blocks(),
            realloc: count(counter::REALLOC),
            gc: session.collections(),
            free_before_attach: count(counter::FREE_UNKNOWN),
            native_alloc: count(counter::NATIVE_ALLOC),
            native_realloc: count(counter::NATIVE_REALLOC),
            reused: count(counter::RETAGGED),
        },
        lost: Lost {
            ring: count(counter::LOST_RING),
            stack: count(counter::LOST_STACK) + session.unnamed(),
            map_full: count(counter::LOST_BLOCK),
            unmatched_free: count(counter::FREE_UNMATCHED),
            address: count(counter::LOST_ADDRESS) + count(counter::UNKNOWN_SITE),
            contradictions: 0,
        },
        coverage: coverage(session),
        cost: Cost {
            probe_seconds: session.probe_seconds()?,
            collector_cpu_seconds: own_cpu_seconds(),
            collector_rss_bytes: own_rss_bytes(),
        },
        sampling,
        room: host::memory::available(target.pid()).map(|a| Room { available_bytes: a.bytes, basis: a.basis }),
        notes: notes(session, ended),
        // Looked for at the end, when there is a verdict.
        holders: Vec::new(),
    })
}

/// What the interpreter and the plan say of the build, each thing once.
fn features(interpreter: &[String], plan: &[String]) -> Vec<String> {
    let of_plan = plan.iter().filter(|feature| !interpreter.contains(feature));
    interpreter.iter().chain(of_plan).cloned().collect()
}

fn coverage(session: &Session) -> Coverage {
    let scan = session.last_scan();
    if session.is_watching() {
        return Coverage { ratio: None, basis: "only windows are traced".to_owned() };
    }
    if !scan.pools_read {
        return Coverage { ratio: None, basis: "the pools of pymalloc could not be read".to_owned() };
    }
    let coverage = scan.coverage;
    Coverage {
        ratio: Some(coverage.ratio()),
        basis: format!(
            "of {} blocks in use in pymalloc's pools that appeared since the attach, {} are known; {} are older",
            coverage.seen + coverage.missed,
            coverage.seen,
            coverage.older
        ),
    }
}

fn notes(session: &Session, ended: Option<Ended>) -> Vec<String> {
    let mut notes = session.plan().gaps.clone();
    notes.extend(session.interpreter().unfollowed(&session.target().memory()));
    let children: Vec<String> = session.target().children_alike().iter().map(ToString::to_string).collect();
    if !children.is_empty() {
        notes.push(format!(
            "child processes of the same program are not traced; where they do the work (a server's workers), trace one of them: {}",
            children.join(", ")
        ));
    }
    let what = match ended {
        None => return notes,
        Some(Ended::Exited) => "ended",
        Some(Ended::Execed) => "replaced its program (exec)",
        Some(Ended::AllocatorReplaced) => "replaced its allocator (tracemalloc was started or stopped, say)",
        Some(Ended::OverBudget) => {
            let beyond = session.overrun_seconds();
            notes.push(format!(
                "tracing stopped itself: windows of late cost {beyond:.1} s of CPU time more than they were granted, so --overhead cannot be kept: \
                 leaktrace is not given a processor in time, or the load changes faster than it can be measured; live is as of the last look"
            ));
            return notes;
        }
        Some(Ended::OtherTracer) => {
            notes.push(
                "tracing stopped itself: another tracer or debugger has set breakpoints in the process, so what tracing costs cannot be \
                 kept within --overhead; end it and run leaktrace again; live is as of the last look"
                    .into(),
            );
            return notes;
        }
    };
    // A target that ended is looked at once in the end, without its pools, if it was never before.
    let live = if session.last_scan().pools_read {
        "live is as of the last look"
    } else {
        "before the first look: small blocks that were freed may count as live"
    };
    notes.push(format!("the process {what} while it was traced: {live}"));
    if ended == Some(Ended::AllocatorReplaced) {
        notes.push("run leaktrace again to trace the process as it is now".into());
    }
    notes
}

/// User and system time of this process.
fn own_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn own_rss_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok())
        .unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
