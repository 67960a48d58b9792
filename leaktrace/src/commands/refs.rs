//! `leaktrace refs`: who holds it.

use anyhow::Result;
use leaktrace::census::Subject;
use leaktrace::cpython::Interpreter;
use leaktrace::host::freeze::Frozen;
use leaktrace::refs::{Look, Node};
use leaktrace::target::process::Target;

use super::output::{Json, Page};
use crate::cli::{JsonOutput, RefsArgs};
use crate::exit::ExitCode;

pub(crate) fn run(args: &RefsArgs) -> Result<ExitCode> {
    let target = Target::open(args.pid)?;
    let interpreter = Interpreter::find(&target)?;
    let maps = target.maps()?;
    let memory = target.memory();
    let subject = Subject::of(&target, &interpreter, &maps, &memory);
    let begun = std::time::Instant::now();
    let look = Look::take(&subject)?;
    eprintln!("look {:?} nodes {} refs {} gone {} pointed {} unknown {}", begun.elapsed(), look.graph.nodes.len(), look.graph.held.len(), look.graph.gone, look.graph.pointed_at.len(), look.graph.unknown_bytes);
    eprintln!("unreached {}", look.reach.unreached().count());
    let objects = match (&args.type_, args.address) {
        (Some(name), _) => look.instances(name)?.1,
        (None, Some(address)) => vec![look.at(address)?],
        _ => vec![],
    };
    for group in look.paths(&subject, &objects) {
        eprintln!("{} {:.1}% {}\n    e.g. {}\n  {:?}", group.objects, group.share * 100.0, group.path, group.example, group.python);
    }
    Ok(ExitCode::Success)
}
