//! The page docs/services.md.

use std::fmt::{Result, Write};

use super::curves::{Axis, Curve, Curves};
use super::goals;
use super::plot::{COMPARISON, CURVES};
use super::results::{Comparison, Figures, Interpreter, Results, Row};
use crate::bench::goals::table;
use crate::bench::machine::Machine;
use crate::bench::spread::Spread;
use crate::bench::subject::Latency;

const MIB: f64 = 1048576.0;

const WORKLOADS: &str = "\
- **JSON service**: the standard library's HTTP server, a thread for each connection; an order in, looked up, priced, answered in JSON.
- **Flask, gunicorn**: the same as a Flask application, in one worker of gunicorn with four threads.
- **aiohttp**: the same on asyncio and aiohttp.
- **2 GB heap**: the JSON service, with 2 GB of other objects.
- **alloc storm**: a loop that makes and drops small objects and does nothing else; the worst case of any tracer.
- **pandas batch**: rows into a frame, joined, grouped and sorted, with numpy and pandas.
";

const READING: &str = "\
Every number is a median with its range in brackets; the range of n rounds holds the true median with a probability of
1 - 2^(1-n), 94 % for five. What is traced is compared with the untraced windows just before and just after it in the same
process, and the contenders take turns, so that other load on the machine hits all alike. The services are loaded by wrk over
loopback, as fast as they answer; it shares the machine's cores with the service and the tracer. Where a tracer slows a
service down by factors, few requests are left for its percentiles.

What is compared is not always the same work. py-spy samples stacks and knows nothing of memory: it is the floor. memray without
--trace-python-allocators does not see small objects, nor does memleak, which keeps C stacks.
";

pub(super) fn page(results: &Results) -> std::result::Result<String, std::fmt::Error> {
    let mut page = String::from(
        "# Services, measured\n\nWritten by `cargo xtask bench --services`, the same with `--leaking`, and `cargo xtask bench --curves`, each its part; the same numbers\n\
         are in [services.json](services.json).\n",
    );
    if let Some(comparison) = &results.comparison {
        of_comparison(&mut page, comparison)?;
    }
    if let Some(leaking) = &results.leaking {
        of_leaking(&mut page, leaking)?;
    }
    if let Some(curves) = &results.curves {
        of_curves(&mut page, curves)?;
    }
    Ok(page)
}

fn machine(page: &mut String, machine: &Machine, version: &str, minutes: f64) -> Result {
    let [start, end] = machine.load;
    write!(
        page,
        "{}, leaktrace {version} (release build); it took {minutes:.0} minutes. Load average\n\
         {start} at the start, {end} at the end.",
        machine.describe()
    )
}

fn of_comparison(page: &mut String, of: &Comparison) -> Result {
    writeln!(page, "\n## Beside other tools\n")?;
    machine(page, &of.machine, &of.version, of.minutes)?;
    let (watch, others) = (of.seconds, (of.seconds / 10.0).max(1.0));
    writeln!(page, " {}.", of.packages.join(", "))?;
    writeln!(
        page,
        "{} connections; windows of {watch} s under watch and {others} s under the others.\n\n{WORKLOADS}\n{READING}\n\
         ![Throughput and p99 latency under each tool](images/{COMPARISON})",
        of.connections
    )?;
    for interpreter in &of.interpreters {
        of_interpreter(page, interpreter)?;
    }
    Ok(())
}

fn of_leaking(page: &mut String, of: &Comparison) -> Result {
    writeln!(page, "\n## Watching services that leak\n")?;
    machine(page, &of.machine, &of.version, of.minutes)?;
    writeln!(
        page,
        " {}.\n{} connections to each of two services of a kind at a time, which keep one order in ten for good, so that windows have something\n\
         to look for. One is traced, the other never meanwhile: what else the machine does hits both. When one has been watched for a\n\
         minute, it is measured for {} s. Every figure is over that of its twin in the same time, and that over the same of untraced windows\n\
         of {} s before and after all that: each by its distance in time, as the services grow. Then they change places. What leaktrace's own\n\
         process takes, it takes from both; that is in its row. What the traced one loses the other may gain, as they share the machine's\n\
         cores: a loss seems larger than it is. What watch says of its windows and their cost is of the whole time.\n",
        of.packages.join(", "),
        of.connections,
        of.seconds,
        of.seconds / 2.0
    )?;
    of.interpreters.iter().try_for_each(|interpreter| of_interpreter(page, interpreter))
}

fn of_interpreter(page: &mut String, of: &Interpreter) -> Result {
    writeln!(page, "\n### CPython {}\n\nUntraced:\n", of.name)?;
    writeln!(page, "|  | requests or units a second | p50, ms | p99, ms | p99.9, ms |\n|---|---|---|---|---|")?;
    for service in &of.services {
        let untraced = &service.untraced;
        write!(page, "| {} | {:.0} |", service.workload.name(), untraced.throughput)?;
        match &untraced.latency_us {
            Some(Latency { p50, p99, p999, .. }) => {
                let [p50, p99, p999] = [p50, p99, p999].map(|spread| spread.map(|us| us / 1e3));
                writeln!(page, " {p50:.2} | {p99:.2} | {p999:.2} |")?;
            }
            None => writeln!(page, " | | |")?,
        }
    }
    let times = |spread: Spread| format!("x{spread:.2}");
    throughput(page, of)?;
    rows(page, of, "CPU time of a request or unit, over untraced", &|figures| Some(times(figures.cpu)))?;
    rows(page, of, "p50 latency, over untraced", &|figures| figures.latency.as_ref().map(|l| times(l.p50)))?;
    rows(page, of, "p99 latency, over untraced", &|figures| figures.latency.as_ref().map(|l| times(l.p99)))?;
    rows(page, of, "p99.9 latency, over untraced", &|figures| figures.latency.as_ref().map(|l| times(l.p999)))?;
    rows(page, of, "CPU of the tracer's own process, % of a core", &|figures| {
        figures.tracer.as_ref().map(|tracer| format!("{:.1}", tracer.cores.map(|cores| 100.0 * cores)))
    })?;
    rows(
        page,
        of,
        "Largest resident set of the tracer's own process, MiB, and kernel memory of its BPF maps",
        &|figures| {
            let tracer = figures.tracer.as_ref()?;
            Some(format!("{:.0} + {:.0}", tracer.resident_bytes.map(|b| b / MIB), tracer.bpf_bytes.median / MIB))
        },
    )?;
    rows(page, of, "Windows that watch opened, and what they cost by its own measure", &|figures| {
        let watch = figures.watch.as_ref()?;
        let (overhead, limit) = (watch.overhead.map(|share| 100.0 * share), 100.0 * watch.overhead_limit);
        Some(format!("{:.0}; {overhead:.2} % of at most {limit} %", watch.windows))
    })?;
    writeln!(page)?;
    let goals = goals::of_comparison(of);
    if goals.is_empty() { Ok(()) } else { table(page, &goals) }
}

/// The table that says what was measured at all.
fn throughput(page: &mut String, of: &Interpreter) -> Result {
    let cell = |row: &Row| {
        let Some(figures) = &row.figures else {
            return format!("not measured: {}", row.failure.as_deref().unwrap_or("no round ended"));
        };
        let mut cell = format!("{:.1} %", figures.throughput.map(|share| 100.0 * share));
        if figures.failed > 0 {
            let _ = write!(cell, "; {} requests failed", figures.failed);
        }
        if let Some(why) = &row.failure {
            let _ = write!(cell, ", of {} rounds; in another: {why}", row.rounds);
        }
        cell
    };
    table_of(page, of, "Throughput that is left, of the untraced", &|row| Some(cell(row)))
}

/// A table of what was measured.
fn rows(page: &mut String, of: &Interpreter, title: &str, cell: &dyn Fn(&Figures) -> Option<String>) -> Result {
    table_of(page, of, title, &|row| cell(row.figures.as_ref()?))
}

/// A table with a row for each contender that has a cell anywhere, and a column for each workload.
fn table_of(page: &mut String, of: &Interpreter, title: &str, cell: &dyn Fn(&Row) -> Option<String>) -> Result {
    let names = of.services.iter().map(|service| format!(" {} |", service.workload.name()));
    let rule = "---|".repeat(of.services.len() + 1);
    writeln!(page, "\n{title}:\n\n|  |{}\n|{rule}", names.collect::<String>())?;
    for index in 0..of.services.first().map_or(0, |service| service.rows.len()) {
        let cells: Vec<_> = of.services.iter().map(|service| cell(&service.rows[index])).collect();
        if cells.iter().any(Option::is_some) {
            let cells = cells.into_iter().map(|cell| format!(" {} |", cell.unwrap_or_default()));
            writeln!(page, "| {} |{}", of.services[0].rows[index].contender, cells.collect::<String>())?;
        }
    }
    Ok(())
}

fn of_curves(page: &mut String, of: &Curves) -> Result {
    writeln!(page, "\n## How leaktrace's own cost grows\n")?;
    machine(page, &of.machine, &of.version, of.minutes)?;
    writeln!(
        page,
        "\nCPython {}, {} rounds of {} s at each point. The process makes objects at a steady rate (60,000 a second, one thread, half a\n\
         million objects in the heap, where it is not that which changes) and keeps the last 50,000.\n\n\
         ![CPU time and memory of the collector over events, heap and threads](images/{CURVES})",
        of.python, of.rounds, of.seconds
    )?;
    for axis in Axis::ALL {
        writeln!(
            page,
            "\n| {} | mode | CPU, % of a core | CPU to attach, s | CPU at the end, s | resident, MiB | BPF maps, MiB |\n\
             |---|---|---|---|---|---|---|",
            axis.name()
        )?;
        for curve in of.lines.iter().filter(|curve| curve.axis == axis) {
            points(page, curve)?;
        }
    }
    let survivors = &of.survivors;
    writeln!(
        page,
        "\nWith {} survivors to follow (all objects kept, watched at `--overhead 50%` to see so many), watch has {:.0} MiB resident, {:.0} MiB\n\
         in BPF maps, and takes {:.1} % of a core. That many were seen of up to {:.0} million objects, and its largest resident set is {:.0} MiB:\n\
         a census of the heap holds two bytes for each block of it, for the seconds that it takes.\n",
        survivors.blocks,
        survivors.resident_bytes / MIB,
        survivors.bpf_bytes / MIB,
        100.0 * survivors.cores,
        survivors.objects / 1e6,
        survivors.peak_bytes / MIB
    )?;
    table(page, &goals::of_curves(of))
}

fn points(page: &mut String, curve: &Curve) -> Result {
    for point in &curve.points {
        writeln!(
            page,
            "| {} | {} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} |",
            point.size,
            curve.mode,
            point.cores.map(|cores| 100.0 * cores),
            point.attach_cpu_seconds,
            point.end_cpu_seconds,
            point.resident_bytes.map(|bytes| bytes / MIB),
            point.bpf_bytes.map(|bytes| bytes / MIB)
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::bench::services::results::sample;

    #[test]
    fn a_page() {
        let page = super::page(&sample::results()).unwrap();
        for expected in [
            "| leaktrace, watch | 99.5 (89.5 .. 119.4) % |",
            "| memray attach | not measured: it hung |",
            "| JSON service | 5000 (4500 .. 6000) | 2.00 (1.80 .. 2.40) |",
            "| throughput lost under watch, % (aiohttp) | at most 1 | 0.50 (-19.40 .. 10.45) | yes |",
            "minute, it is measured for 60 s. Every figure is over that of its twin",
            "of 30 s before and after all that",
            "| 180000 | exact | 0.18 (0.16 .. 0.22) |",
            "| collector with a million survivors under watch, MB (no census being taken) | at most 100 | 80 with 1000123 survivors | yes |",
        ] {
            assert!(page.contains(expected), "no {expected:?} in {page}");
        }
    }
}
