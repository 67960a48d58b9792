//! The page docs/benchmarks.md.

use std::fmt::{Result, Write};

use super::goals::{self, goals};
use super::{Interpreter, Results};

const WORKLOADS: &str = "\
- **allocations**: a loop that makes and drops small objects and does nothing else; the worst case of any tracer.
- **wsgi**: what a web service does for a request (middleware, routing, a lazy query, objects, JSON, a page from a
  template), at stacks mostly 18 to 25 frames deep.
- **buffers**: blocks of 4 to 64 KiB from the C allocator, some of them grown by realloc, and copies between them.
";

const READING: &str = "\
Every number is a median with its range in brackets. A slowdown is CPU time of the target for a unit of work, traced,
over untraced; the untraced windows are those just before and just after in the same process, and the contenders take
turns, so that other load on the machine hits all alike. An event is an allocation or a reallocation that leaktrace
reported; small frees take no probe of their own. The empty program sits on the same instructions and does nothing: it is
what the kernel takes for the probes themselves.

What is compared is not always the same work. tracemalloc and memray keep the Python stack of each allocation, as
leaktrace does. memray without --trace-python-allocators does not see small objects, nor does memleak, which probes the C
allocator only and keeps C stacks.
";

pub(super) fn page(results: &Results) -> std::result::Result<String, std::fmt::Error> {
    let mut page = String::new();
    head(&mut page, results)?;
    for interpreter in &results.interpreters {
        writeln!(page, "\n## {}\n", interpreter.name())?;
        slowdowns(&mut page, interpreter)?;
        events(&mut page, interpreter)?;
        memory(&mut page, interpreter)?;
        attach(&mut page, interpreter)?;
        goals::table(&mut page, &goals(interpreter))?;
    }
    Ok(page)
}

fn head(page: &mut String, results: &Results) -> Result {
    let machine = &results.machine;
    writeln!(
        page,
        "# Benchmarks\n\nWritten by `cargo xtask bench`; the same numbers are in [benchmarks.json](benchmarks.json).\n"
    )?;
    write!(page, "{}, leaktrace {} (release build)", machine.describe(), results.leaktrace)?;
    if let Some(memray) = &results.memray {
        write!(page, ", memray {memray}")?;
    }
    let [start, end] = machine.load;
    writeln!(
        page,
        ". {} rounds. Load average {start} at the start, {end} at the end.\n\n{WORKLOADS}\n{READING}",
        results.repeats
    )
}

fn slowdowns(page: &mut String, interpreter: &Interpreter) -> Result {
    writeln!(page, "Slowdown:\n\n{}", header(interpreter, ""))?;
    let rows = interpreter.workloads.first().map_or(0, |workload| workload.rows.len());
    for index in 0..rows {
        write!(page, "| {} |", interpreter.workloads[0].rows[index].contender)?;
        for workload in &interpreter.workloads {
            let row = &workload.rows[index];
            match (&row.slowdown, &row.failure) {
                (Some(slowdown), None) => write!(page, " x{slowdown} |")?,
                (Some(slowdown), Some(why)) => {
                    write!(page, " x{slowdown}, of {} rounds; in another: {why} |", row.rounds)?;
                }
                (None, why) => write!(page, " not measured: {} |", why.as_deref().unwrap_or("no round ended"))?,
            }
        }
        writeln!(page)?;
    }
    writeln!(page)
}

fn events(page: &mut String, interpreter: &Interpreter) -> Result {
    writeln!(page, "Events of leaktrace, exact:\n\n{}", header(interpreter, ""))?;
    let mut row = |name: &str, cell: &dyn Fn(&super::slowdown::Exact) -> String| -> Result {
        write!(page, "| {name} |")?;
        for workload in &interpreter.workloads {
            write!(page, " {} |", cell(&workload.exact))?;
        }
        writeln!(page)
    };
    row("a unit of work, untraced, µs", &|e| format!("{:.0}", e.baseline_us))?;
    row("events in it", &|e| format!("{:.0}", e.events_per_unit))?;
    row("lost per event, ns", &|e| format!("{:.0}", e.event_ns))?;
    row("lost per event, empty program, ns", &|e| format!("{:.0}", e.empty_event_ns))?;
    row("one over the other", &|e| format!("{:.2}", e.over_empty))?;
    row("events traced a second", &|e| format!("{:.0}", e.events_per_second))?;
    row("events lost, all rounds", &|e| e.losses.to_string())?;
    row("the collector's CPU, cores", &|e| format!("{:.2}", e.collector_cores))?;
    writeln!(page)
}

/// Head of a table with a column for each workload.
fn header(interpreter: &Interpreter, first: &str) -> String {
    let names = interpreter.workloads.iter().map(|workload| format!(" {} |", workload.workload));
    let rule = "---|".repeat(interpreter.workloads.len() + 1);
    format!("| {first} |{}\n|{rule}", names.collect::<String>())
}

fn memory(page: &mut String, interpreter: &Interpreter) -> Result {
    let memory = &interpreter.memory;
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    writeln!(
        page,
        "Memory with {:.0} live blocks: the collector's resident set is {:.0} MiB ({:.0} MiB at its peak) without the\n\
         BPF maps that it has mapped, the kernel's memory for all its BPF maps and programs (`memlock` in\n\
         `/proc/PID/fdinfo`) {:.0} MiB. Peak and kernel together are\n\
         {:.0} bytes a block; what the blocks added is {:.0}. As a check, slab and per-CPU memory of the whole machine grew\n\
         by {:.0} bytes a block.\n",
        memory.live_blocks.median,
        mib(memory.resident_bytes.median),
        mib(memory.peak_resident_bytes.median),
        mib(memory.bpf_bytes.median),
        memory.bytes_per_block,
        memory.growth_per_block,
        memory.machine_growth_per_block,
    )
}

fn attach(page: &mut String, interpreter: &Interpreter) -> Result {
    let attach = &interpreter.attach;
    writeln!(
        page,
        "In the middle of the wsgi workload, all probes are armed {:.2} s after the command was given ({:.2} s of CPU time), and\n\
         the prompt is back {:.2} s after Ctrl-C. Right then a unit takes {:.2} times what it took before the attach.\n",
        attach.attach_seconds, attach.attach_cpu_seconds, attach.detach_seconds, attach.slowdown_after
    )
}
