//! `empty_probes PID`: arms the plan of a process with a program that does nothing, until the end of standard input.
//! What the target then loses is the kernel's part of the cost. `cargo xtask bench` calls this.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use leaktrace::cpython::discover::Interpreter;
use leaktrace::host::{privileges, tracefs::Tracefs};
use leaktrace::plan::assemble::{self, Inputs};
use leaktrace::target::Target;
use leaktrace::tracer::attach::{Group, Point};
use leaktrace::tracer::leftovers;
use leaktrace::tracer::load::{self, Sizes, program};
use leaktrace::tracer::object;
use leaktrace_common::wire::Config;

fn main() -> Result<()> {
    let pid = std::env::args().nth(1).context("give a pid")?.parse().context("give a pid")?;
    let tracefs = Tracefs::find_or_mount()?.root;
    privileges::raise_memlock();
    let target = Target::open(pid)?;
    let memory = target.memory();
    let interpreter = Interpreter::find(&target)?;
    // As `leaktrace run` asks for it.
    let plan = assemble::plan(&Inputs::of(&target, &interpreter, &target.maps()?, &memory))?;
    let sizes = Sizes { blocks: 1, ring_bytes: 1 << 12 };
    let mut ebpf = load::load(object::OBJECT, &Config::ZERO, &[], sizes, false)?;
    let empty = load::uprobe(&mut ebpf, program::EMPTY)?.fd()?.as_fd();
    leftovers::sweep_dead(&tracefs);
    let file = |index: usize| -> &Path { &plan.files[index].open_path };
    let returns: Vec<_> = plan.returns.iter().map(|r| Point { file: file(r.file), offset: r.file_offset }).collect();
    let entries: Vec<_> = plan.probes.iter().map(|p| Point { file: file(p.file), offset: p.file_offset }).collect();
    assemble::verify(&plan, &memory)?;
    let armed: Vec<Group> = [("return", returns, true), ("entry", entries, false)]
        .into_iter()
        .filter(|(_, points, _)| !points.is_empty())
        .map(|(event, points, is_return)| Group::arm(&tracefs, event, &points, is_return, empty, pid))
        .collect::<Result<_, _>>()?;
    writeln!(io::stderr(), "armed {} probes", plan.probes.len() + plan.returns.len())?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    drop(armed);
    Ok(())
}
