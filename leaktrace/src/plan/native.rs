//! The probes of the C allocator: in the library that has it, or in the interpreter's own file.

use std::collections::BTreeMap;

use leaktrace_common::site::domain;

use super::assemble::Inputs;
use super::builder::{Builder, Module};
use super::code::{Code, Sweep};
use super::slots::Slots;
use super::{libc, placement};

/// The functions of the C allocator that the interpreter calls, in whatever file.
pub(super) fn probes(inputs: &Inputs<'_>, own: &Module<'_>, slots: &Slots, builder: &mut Builder) {
    let python = own.code;
    let library = libc::file(inputs.target, inputs.maps, python, inputs.memory);
    let is_linked_in = libc::is_linked_in(python);
    if is_linked_in {
        linked_in(inputs, own, slots, builder);
    }
    // Libraries beside an interpreter with its own may call theirs.
    let Some(library) = library else {
        if !is_linked_in {
            builder.gap("the C allocator was not found: large and native blocks are not traced".to_owned());
        }
        return;
    };
    builder.plan.glibc = !is_linked_in && libc::is_glibc(&library);
    let code = Code::new(&library);
    let sweep = Sweep::new(&code, |_| false);
    let module = Module { code: &code, sweep: &sweep, file: builder.file(&code) };
    let mut found = Vec::new();
    for function in libc::FUNCTIONS {
        match libc::resolve(&library, python, inputs.memory, function.name) {
            Ok(address) => found.push((function, address)),
            Err(_) if libc::OBSOLETE.contains(&function.name) => {}
            Err(gap) => builder.gap(gap),
        }
    }
    c_functions(&module, &found, builder);
}

/// Those that are linked into the interpreter.
fn linked_in(inputs: &Inputs<'_>, own: &Module<'_>, slots: &Slots, builder: &mut Builder) {
    // Without the GIL raw may be mimalloc's, whose functions are probed as such.
    let found = if inputs.free_threaded { None } else { libc::linked_in(own.code, slots.get(domain::RAW).default) };
    let Some(found) = found else {
        builder.gap("the interpreter calls an allocator that is linked into it, and no symbol says where: its blocks above 512 bytes are not seen; native memory is what is asked of other files' allocators".to_owned());
        return;
    };
    let missing: Vec<&str> = libc::FUNCTIONS
        .iter()
        .filter(|function| !found.iter().any(|(known, _)| known.name == function.name))
        .map(|function| function.name)
        .filter(|name| !libc::OBSOLETE.contains(name))
        .collect();
    if !missing.is_empty() {
        builder.gap(format!(
            "the C allocator is linked into the interpreter, and no symbol says where its {} are: native blocks that come from them are not seen",
            missing.join(", ")
        ));
    }
    c_functions(own, &found, builder);
}

fn c_functions(module: &Module<'_>, found: &[(libc::Function, u64)], builder: &mut Builder) {
    let shown = module.code.file.display().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut names: BTreeMap<u64, (libc::Function, Vec<&str>)> = BTreeMap::new();
    for &(function, address) in found {
        names.entry(address).or_insert((function, Vec::new())).1.push(function.name);
    }
    for (address, (function, names)) in names {
        let what = format!("{} of {shown}", names.join(" and "));
        let Some(place) = placement::entry(module.code, module.sweep, address, Some(function.a), function.b) else {
            builder.gap(format!("no place for a probe on {what}"));
            continue;
        };
        builder.entry(module, &place, function.op, domain::NATIVE, &what, address);
        if function.returns {
            builder.returning(module, address, function.op, &what);
        }
    }
}
