//! The calls of CPython's allocator. Where its functions are not inlined, all requests pass the same few instructions, and what can
//! be armed by itself is who calls them.

use std::collections::BTreeMap;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, OpKind};
use leaktrace_common::site::{Operand, domain, op, reg};

use super::builder::{Builder, Module};
use super::code::{Code, Sweep};
use super::machine::{SlotFunction, State};
use super::placement::{self, Place};
use super::slots::{SlotMemory, exported};
use super::{Execution, Inputs};
use crate::target::ElfFile;

/// What the functions of a table do that hand out memory, in its order.
const OPS: [u8; 3] = [op::PY_MALLOC, op::PY_CALLOC, op::PY_REALLOC];

/// Those that are called for memory of pymalloc (CPython 3.8 to 3.15).
fn functions() -> impl Iterator<Item = SlotFunction> {
    let of = |domain| (0..OPS.len() as u8).map(move |function| SlotFunction { domain, function });
    [domain::OBJ, domain::MEM].into_iter().flat_map(of)
}

/// Probes on the calls of the exported functions, in the interpreter and in the libraries that are loaded. Whether there are any in
/// the interpreter.
pub(super) fn probes(inputs: &Inputs<'_>, python: &Module<'_>, builder: &mut Builder) -> bool {
    let mut unseen = Unseen::default();
    let at = |function| Some((python.code.file.symbol(exported(function))?.address, function));
    let own: BTreeMap<u64, SlotFunction> = functions().filter_map(at).collect();
    let found = in_module(python, &own, &mut unseen, builder);
    if found == 0 {
        return false;
    }
    for file in inputs.maps.code_files().into_iter().filter(|&id| id != python.code.file.id()) {
        let Ok(file) = ElfFile::open(inputs.target, inputs.maps, file) else { continue };
        let code = Code::new(&file);
        if functions().all(|function| code.imports(exported(function)).is_empty()) {
            continue;
        }
        let through = |i: &Instruction| is_indirect(i) && functions().any(|f| code.goes_through(i, &[exported(f)]));
        let sweep = Sweep::new(&code, through);
        unseen.indirect += sweep.wanted.len();
        in_module(&Module { code: &code, sweep: &sweep, file: builder.file(&code) }, &own, &mut unseen, builder);
    }
    unseen.tell(builder);
    true
}

/// Calls that no probe shows.
#[derive(Default)]
struct Unseen {
    conditional: usize,
    indirect: usize,
    single_stepped: usize,
}

impl Unseen {
    fn tell(&self, builder: &mut Builder) {
        let all = self.conditional + self.indirect + self.single_stepped;
        if all > 0 {
            builder.gap(format!(
                "{all} calls of the allocator cannot be armed at a bounded cost: what they ask for is not seen"
            ));
        }
    }
}

/// Probes on the calls in a file of the functions at `own`, and of its own stubs that lead there. How many there are.
fn in_module(
    module: &Module<'_>,
    own: &BTreeMap<u64, SlotFunction>,
    unseen: &mut Unseen,
    builder: &mut Builder,
) -> usize {
    let (code, sweep) = (module.code, module.sweep);
    let mut called = own.clone();
    for callee in sweep.callees().chain(sweep.jumped_to()) {
        let function = functions().find(|&function| code.is_stub_of(callee, &[exported(function)]));
        called.extend(function.map(|function| (callee, function)));
    }
    let mut found = 0;
    for (&address, &function) in &called {
        let op = OPS[usize::from(function.function)];
        let inside = code.functions.containing(address);
        let is_inside = |source: &u64| inside.as_ref().is_some_and(|range| range.contains(source));
        let jumps = sweep.jumps_to(address).filter(|source| !is_inside(source));
        for source in sweep.calls_of(address).chain(jumps) {
            let Some(instruction) = code.decode(source) else { continue };
            if instruction.flow_control() == FlowControl::ConditionalBranch {
                unseen.conditional += 1;
                continue;
            }
            if !placement::emulated(code.text(source, instruction.len())) {
                unseen.single_stepped += 1;
                continue;
            }
            let [a, b] = arguments(code, sweep, source, op);
            let place = Place { instruction, a, b, execution: Execution::Emulated };
            builder.probe(module, &place, op, function.domain, format!("call of {}", exported(function)));
            found += 1;
        }
    }
    found
}

fn is_indirect(instruction: &Instruction) -> bool {
    matches!(instruction.flow_control(), FlowControl::IndirectCall | FlowControl::IndirectBranch)
        && instruction.op0_kind() == OpKind::Memory
}

/// The arguments of a call (System V ABI, x86-64): constants where the code that leads straight to it puts some there.
fn arguments(code: &Code<'_>, sweep: &Sweep, call: u64, op: u8) -> [Operand; 2] {
    let environment = SlotMemory { code, slots: None };
    let (mut state, mut factory) = (State::unknown(), InstructionInfoFactory::new());
    let before = code.functions.containing(call).map_or(call..call, |range| range.start..call);
    let is_led_to = |address| sweep.jumps_to(address).next().is_some();
    for instruction in &mut code.instructions(&before) {
        if is_led_to(instruction.ip()) {
            state = State::unknown();
        }
        state.step(&instruction, &mut factory, &environment);
    }
    let argument = |register: u8| {
        let constant = state.registers[usize::from(register)].as_constant().filter(|_| !is_led_to(call));
        let immediate = constant.and_then(|value| i32::try_from(value).ok()).map(Operand::immediate);
        immediate.unwrap_or(Operand::register(register))
    };
    match op {
        op::PY_MALLOC => [argument(reg::RDI), Operand::default()],
        _ => [argument(reg::RDI), argument(reg::RSI)],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::Probe;
    use super::super::functions::Functions;
    use super::super::tests::{Planned, objdump};
    use super::*;
    use crate::cpython::testing::pythons;

    #[test]
    fn the_calls_are_those_that_objdump_shows() {
        let mut compared = 0;
        for python in pythons() {
            let planned = Planned::with(&python, &[], |inputs| Inputs { in_parts: true, ..inputs });
            let file = &planned.interpreter.elf;
            let has_guards = planned.plan.features.iter().any(|feature| feature == "pgo-guards");
            let probes = planned.plan.probes.iter().filter(|probe| probe.why.starts_with("call of "));
            let own = |probe: &&Probe| planned.plan.files[probe.file].display == file.display().display().to_string();
            let probes: Vec<_> = probes.filter(own).collect();
            assert_eq!(probes.is_empty(), has_guards, "{}", python.display());
            let Some(listing) = objdump(file.display()).filter(|_| !has_guards && file.has_symtab()) else { continue };
            compared += 1;
            let found = probes.iter().map(|p| (file.vaddr_of(p.address), p.why["call of ".len()..].to_owned()));
            let is_call = |text: &str| (text.starts_with("call ") || text.starts_with("jmp ")) && !text.contains('*');
            let called = |text: &str| {
                let (_, rest) = text.split_once('<').filter(|_| is_call(text))?;
                let name = rest.split(['>', '@', '+']).next()?;
                functions().any(|function| exported(function) == name).then(|| name.to_owned())
            };
            // But those within a function of that name.
            let inside = |vaddr: u64, name: &str| {
                let address = file.symbol(name).map(|symbol| symbol.address);
                let range = Functions::read(file).containing(file.address_of(vaddr));
                range.is_some_and(|range| Some(range.start) == address)
            };
            let shown = listing.iter().filter_map(|(&vaddr, text)| Some((vaddr, called(text)?)));
            let shown: BTreeSet<_> = shown.filter(|(vaddr, name)| !inside(*vaddr, name)).collect();
            let found: BTreeSet<_> = found.collect();
            let different: Vec<_> = found.symmetric_difference(&shown).collect();
            assert!(different.is_empty() && found.len() > 100, "{}: {different:?}", python.display());
            // Nought is made in several ways.
            let is_constant = |p: &&&Probe| p.op == op::PY_MALLOC && p.a.reg == reg::NONE && p.a.disp > 0;
            let constants: Vec<_> = probes.iter().filter(is_constant).collect();
            assert!(constants.len() > 10, "{}: {}", python.display(), constants.len());
            for probe in constants {
                let before = listing.range(..file.vaddr_of(probe.address)).rev().take(12);
                let last = before.map(|(_, text)| text).find(|text| text.ends_with("%edi") || text.ends_with("%rdi"));
                let expected = format!("${:#x},%edi", probe.a.disp);
                assert!(
                    last.is_some_and(|text| text.ends_with(&expected)),
                    "{expected} at {:#x}: {last:?}",
                    probe.address
                );
            }
        }
        if compared == 0 {
            eprintln!("skipped: no interpreter without guards that has a symbol table, or no objdump");
        }
    }
}
