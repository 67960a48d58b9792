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
    if std::env::var("DBG").is_ok() { debug(&look); }
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
fn debug(look: &Look) {
    let mut kinds = std::collections::BTreeMap::<(String, String), u64>::new();
    for n in look.reach.root_nodes() {
        *kinds.entry((format!("{:?}", look.reach.root(n)).chars().take(13).collect(), look.graph.type_of(n).qualified())).or_default() += 1;
    }
    for (k, n) in kinds { if n > 0 && !k.0.contains("Module") && !k.0.contains("Frame") { eprintln!("{n} {k:?}"); } }
    for n in look.reach.root_nodes() { if let Some(leaktrace::refs::Root::Held(g)) = look.reach.root(n) { eprintln!("held {g} {} {:#x}", look.graph.type_of(n).qualified(), look.graph.nodes.address(n)); }}
    for n in look.reach.unreached() { eprintln!("unreached {} {:#x}", look.graph.type_of(n).qualified(), look.graph.nodes.address(n)); }
}
