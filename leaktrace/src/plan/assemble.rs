//! From an interpreter's code and its live allocator tables to the plan.

use std::collections::{BTreeMap, BTreeSet};

use leaktrace_common::site::{Operand, domain, op, reg};

use super::builder::{Builder, Module};
use super::callers;
use super::code::{Code, Sweep};
use super::dict_keys::Loads;
use super::foreign::Foreign;
use super::guards::{self, Found};
use super::machine::SlotFunction;
use super::new_reference::NewReference;
use super::placement::{self, Place};
use super::pymalloc::{self, Refills};
use super::reuse::{self, Reuse};
use super::slots::{self, DOMAINS, FUNCTIONS, Slots};
use super::tracked::Looks;
use super::{Execution, PlanError, ProbePlan, gc, libc, native};
use crate::cpython::{self, PymallocState};
use crate::target::{ElfFile, Maps, Memory, Target};

/// What a plan is made from.
pub struct Inputs<'a> {
    pub target: &'a Target,
    pub maps: &'a Maps,
    /// The file that holds the interpreter: the executable or libpython.
    pub python: &'a ElfFile,
    pub memory: &'a dyn Memory,
    /// `None`: the target runs without pymalloc.
    pub pymalloc: Option<PymallocState>,
    /// Built without the GIL, so that its default allocator is mimalloc.
    pub free_threaded: bool,
    /// Offset in `PyInterpreterState` of the array of dict keys kept for the next dict, `None` where there is none.
    pub dict_keys_free_list: Option<u32>,
    /// Probe the frees of mem and obj too. Small blocks are settled without (their address is handed out again, or the
    /// sweep finds it on a free list); only the moment of the free is lost.
    pub trace_small_frees: bool,
    /// Parts of the plan are to be armed by themselves: where all requests pass the same instructions, the places that make them are
    /// probed instead.
    pub in_parts: bool,
}

impl<'a> Inputs<'a> {
    /// As `leaktrace run` asks for it: small frees take no probe.
    pub fn of(
        target: &'a Target,
        interpreter: &'a cpython::Interpreter,
        maps: &'a Maps,
        memory: &'a dyn Memory,
    ) -> Self {
        Self {
            target,
            maps,
            python: &interpreter.elf,
            memory,
            pymalloc: interpreter.facts.pymalloc,
            free_threaded: interpreter.offsets.free_threaded,
            dict_keys_free_list: interpreter.offsets.dict_keys_free_list(),
            trace_small_frees: false,
            in_parts: false,
        }
    }
}

/// Makes the plan. Nothing in the target is touched.
///
/// Fails where the allocator tables cannot be found or read; what else is missing is told in [`ProbePlan::gaps`].
pub fn plan(inputs: &Inputs<'_>) -> Result<ProbePlan, PlanError> {
    let python = Code::new(inputs.python);
    let slots = Slots::find(&python, inputs.memory)?;
    let mentions = guards::mentions(&python, &slots);
    let dict_keys = Loads::new(inputs.dict_keys_free_list);
    let new_reference = NewReference::find(&python, inputs.memory);
    let looks = Looks::new(new_reference.as_ref().and_then(|of| of.tracer));
    let sweep = Sweep::new(&python, |instruction| {
        dict_keys.look_at(instruction);
        looks.look_at(instruction);
        mentions(instruction)
    });
    let found = guards::find(&python, &sweep, &slots);
    let mut builder = Builder::default();
    let module = Module { code: &python, sweep: &sweep, file: builder.file(&python) };
    let foreign = Foreign::of(&python, &slots, inputs.free_threaded);
    let interpreter = Interpreter { inputs, module, slots: &slots, foreign };
    interpreter.guards(&mut builder, &found);
    let by_callers = interpreter.callers(&mut builder, &found);
    interpreter.entries(&mut builder, by_callers);
    interpreter.wrappers(&mut builder, &found);
    interpreter.refills(&mut builder, &found);
    interpreter.reuses(&mut builder, new_reference, &looks);
    interpreter.dict_keys(&mut builder, &dict_keys);
    interpreter.collector(&mut builder);
    foreign.probes(inputs, &interpreter.module, &slots, &mut builder);
    native::probes(inputs, &interpreter.module, &slots, &mut builder);
    builder.plan.glibc &= !foreign.serves_any();
    builder.plan.slots = slots.0.map(|slot| slot.live);
    if slots.get(domain::OBJ).layers.debug {
        builder.plan.block_head = slots::DEBUG_HEAD;
    }
    if !inputs.python.has_symtab() {
        builder.feature("stripped");
    }
    Ok(builder.finish())
}

/// Proves that the target still holds the very bytes that the plan was made from. To be asked again right before arming.
pub fn verify(plan: &ProbePlan, memory: &dyn Memory) -> Result<(), PlanError> {
    let probes = plan.probes.iter().map(|p| (p.file, p.address, &p.bytes));
    for (file, address, bytes) in probes.chain(plan.returns.iter().map(|r| (r.file, r.address, &r.bytes))) {
        let mut live = vec![0; bytes.len()];
        memory.read(address, &mut live)?;
        if live != *bytes {
            let file = plan.files.get(file).map_or_else(String::new, |f| f.display.clone());
            return Err(if live.first() == Some(&0xcc) {
                PlanError::Probed { file, address }
            } else {
                PlanError::Changed { file, address }
            });
        }
    }
    Ok(())
}

/// The interpreter's own part of the plan.
struct Interpreter<'a> {
    inputs: &'a Inputs<'a>,
    module: Module<'a>,
    slots: &'a Slots,
    foreign: Foreign,
}

impl Interpreter<'_> {
    /// Whether an event of this function is wanted.
    fn traced(&self, function: SlotFunction) -> bool {
        // Large blocks end in the C allocator's free, which is probed; so do all of raw.
        function.function < 3 || (self.inputs.trace_small_frees && function.domain != domain::RAW)
    }

    fn reaches_default(&self, domain: u8) -> bool {
        self.slots.get(domain).reaches_default()
    }

    fn guards(&self, builder: &mut Builder, found: &Found) {
        let mut unresolved = 0;
        // While a table holds the build's own function, all that passes its guards takes the fast way.
        let (foreign, live): (Vec<_>, Vec<_>) = found
            .guards
            .iter()
            .filter(|guard| !self.slots.get(guard.function.domain).replaced())
            .partition(|guard| self.foreign.serves(guard.function.domain));
        if !foreign.is_empty() {
            builder.gap(format!(
                "{} inlined calls of an allocator that is not pymalloc are not traced: their results could not be told",
                foreign.len()
            ));
        }
        let returning = |guard: &&guards::Guard| {
            guard.function.domain == domain::RAW && libc::is_called_from(self.module.code, guard.fast)
        };
        let (told_by_caller, live): (Vec<_>, Vec<_>) = live.into_iter().partition(returning);
        if !told_by_caller.is_empty() {
            builder.plan.raw_callers = self.module.code.file.executable();
        }
        let at_jump = live
            .into_iter()
            .map(|guard| (guard, self.module.code.decode(guard.address), [guard.a, guard.b], "guard of"));
        // A hook's own copy of an allocator serves several domains: only its fast way is the function's.
        let hooked = self.slots.0.iter().any(|slot| slot.layers.debug || slot.layers.tracemalloc);
        let hooks = found.hooks.iter().filter(|guard| {
            hooked && self.reaches_default(guard.function.domain) && !self.foreign.serves(guard.function.domain)
        });
        let behind_jump = hooks.map(|guard| {
            let arguments = [guard.a, guard.b].map(Option::unwrap_or_default);
            let (code, sweep) = (self.module.code, self.module.sweep);
            let place = placement::after_jump(code, sweep, guard.address, guard.fast, arguments);
            let [a, b] = place.map_or([None; 2], |(_, operands)| operands.map(Some));
            (guard, place.map(|(instruction, _)| instruction), [guard.a.and(a), guard.b.and(b)], "in a hook,")
        });
        for (guard, instruction, [a, b], what) in at_jump.chain(behind_jump) {
            if !self.traced(guard.function) {
                continue;
            }
            let two = matches!(guard.function.function, 1 | 2);
            let b = if two { b } else { Some(Operand::default()) };
            let (Some(a), Some(b), Some(instruction)) = (a, b, instruction) else {
                unresolved += 1;
                continue;
            };
            let place = Place { instruction, a, b, execution: Execution::Emulated };
            let (op, why) = (op::PY_MALLOC + guard.function.function, format!("{what} {}", name(guard.function)));
            builder.probe(&self.module, &place, op, guard.function.domain, why);
        }
        if unresolved > 0 {
            builder.gap(format!(
                "{unresolved} inlined allocations are not traced: where their arguments are could not be told"
            ));
        }
        if found.shared > 0 {
            builder
                .gap(format!("{} inlined allocations are not traced: other code jumps to their branch", found.shared));
        }
        builder.feature(if found.guards.is_empty() { "entry-probes" } else { "pgo-guards" });
        self.tell_replaced(builder);
    }

    fn tell_replaced(&self, builder: &mut Builder) {
        let slots = &self.slots.0;
        let raw = self.slots.get(domain::RAW).default;
        if slots.iter().any(|slot| slot.layers.debug) {
            builder.feature("debug-hooks");
            builder.gap("the debug hooks are on (PYTHONMALLOC=debug, -X dev): each block counts with the 24 bytes or more that they add to it".to_owned());
        }
        if slots.iter().any(|slot| slot.layers.tracemalloc) {
            builder.feature("tracemalloc");
            builder.gap("tracemalloc runs in this process: its own tables are C memory, and show as native and raw memory of the lines that allocate".to_owned());
        }
        for domain in [domain::MEM, domain::OBJ] {
            let (slot, name) = (self.slots.get(domain), domain::NAMES[usize::from(domain)]);
            if slot.layers.functions == raw && slot.default != raw {
                builder.feature("malloc-allocator");
                builder.gap(format!(
                    "domain {name} is served by the C allocator (PYTHONMALLOC=malloc): its blocks are shown as raw"
                ));
            }
        }
    }

    /// Where a plan in parts needs it, and nothing but pymalloc serves mem and obj: the calls of these. Whether they are probed.
    fn callers(&self, builder: &mut Builder, found: &Found) -> bool {
        let is_plain = |domain| !self.slots.get(domain).replaced() && !self.foreign.serves(domain);
        let of_pymalloc = self.inputs.pymalloc.is_some() && [domain::MEM, domain::OBJ].into_iter().all(is_plain);
        let is_wanted = self.inputs.in_parts && found.guards.is_empty() && of_pymalloc;
        is_wanted && callers::probes(self.inputs, &self.module, builder)
    }

    /// The build's own functions: unguarded calls, calls from hooks, and calls among themselves arrive there. `by_callers`: those of
    /// mem and obj are told by who calls them.
    fn entries(&self, builder: &mut Builder, by_callers: bool) {
        let mut domains: BTreeMap<(u64, u8), BTreeSet<u8>> = BTreeMap::new();
        let is_told = |domain| by_callers && domain != domain::RAW;
        let of_default = |&domain: &u8| self.reaches_default(domain) && !self.foreign.serves(domain);
        for domain in DOMAINS.into_iter().filter(of_default).filter(|&domain| !is_told(domain)) {
            for (index, &address) in self.slots.get(domain).default.iter().enumerate() {
                if self.traced(SlotFunction { domain, function: index as u8 }) {
                    domains.entry((address, index as u8)).or_default().insert(domain);
                }
            }
        }
        for ((address, function), domains) in domains {
            let domain = match domains.iter().copied().collect::<Vec<u8>>()[..] {
                [domain] => domain,
                [domain::RAW, ..] => domain::RAW,
                _ => domain::SHARED,
            };
            let what = format!("{} {}", domain_name(domain), FUNCTIONS[usize::from(function)]);
            let b = matches!(function, 1 | 2).then_some(reg::RDX);
            let place = placement::entry(self.module.code, self.module.sweep, address, Some(reg::RSI), b);
            let Some(place) = place else {
                builder.gap(format!("no place for a probe on the interpreter's {what} at {address:#x}"));
                continue;
            };
            // A realloc may have its own copy of malloc: then the blocks that it moves pass no other entry.
            let nested = if function == 2 && domain != domain::RAW {
                pymalloc::nested_mallocs(
                    self.module.code,
                    self.module.sweep,
                    address,
                    self.inputs.pymalloc.map_or(0, |p| p.small_max),
                )
            } else {
                Vec::new()
            };
            let op = self.op(SlotFunction { domain, function }, address, !nested.is_empty());
            builder.entry(&self.module, &place, op, domain, &what, address);
            for place in nested {
                builder.probe(&self.module, &place, op::PY_MALLOC, domain, "malloc inside realloc".to_owned());
            }
        }
    }

    /// The op of a function, or of its inlined copy that goes on at `start`.
    fn op(&self, function: SlotFunction, start: u64, nested_is_probed: bool) -> u8 {
        let malloc = self.slots.get(domain::OBJ).default[0];
        let moves_inlined = function.function == 2
            && function.domain != domain::RAW
            && !nested_is_probed
            && !pymalloc::calls_malloc(self.module.code, start, malloc);
        if moves_inlined { op::PY_REALLOC_INLINED } else { op::PY_MALLOC + function.function }
    }

    /// Where mem and obj share their functions, the exported wrapper that calls without a guard tells mem from obj.
    fn wrappers(&self, builder: &mut Builder, found: &Found) {
        let (mem, obj) = (self.slots.get(domain::MEM), self.slots.get(domain::OBJ));
        if mem.default != obj.default || !self.reaches_default(domain::MEM) || self.foreign.serves(domain::MEM) {
            return;
        }
        if mem.replaced() {
            // Each guard leads to the hook, and the hook to the function that mem and obj share.
            for guard in found.guards.iter().filter(|g| g.function.domain == domain::MEM && g.function.function < 3) {
                let Some(instruction) = self.module.code.decode(guard.address) else { continue };
                let none = Operand::default();
                let place = Place { instruction, a: none, b: none, execution: Execution::Emulated };
                let why = format!("guard of {}, to a hook", name(guard.function));
                builder.probe(&self.module, &place, op::PY_WRAPPER, domain::MEM, why);
            }
        }
        let mut untold = 0;
        let mut told = BTreeSet::new();
        for &(call, function) in found.direct.iter().filter(|(_, f)| f.domain == domain::MEM && f.function < 3) {
            let wrapper = slots::exported(function);
            let symbol = self.module.code.file.symbol(wrapper).map(|s| s.address);
            let range = self.module.code.functions.containing(call);
            let Some(address) = symbol.filter(|&a| range.is_some_and(|r| r.start == a)) else {
                untold += 1;
                continue;
            };
            match placement::entry(self.module.code, self.module.sweep, address, None, None) {
                Some(place) if told.insert(address) && place.execution == Execution::Emulated => {
                    builder.entry(&self.module, &place, op::PY_WRAPPER, domain::MEM, wrapper, address);
                }
                Some(_) if told.contains(&address) => {}
                _ => untold += 1,
            }
        }
        if untold > 0 {
            builder.gap(format!("buffers that come from {untold} of the interpreter's calls show under obj, not mem"));
        }
    }

    /// Where a pool is refilled, the block is known only afterwards.
    fn refills(&self, builder: &mut Builder, found: &Found) {
        let (obj, raw) = (self.slots.get(domain::OBJ).default, self.slots.get(domain::RAW).default);
        let uses_pymalloc = |domain| self.reaches_default(domain) && !self.foreign.serves(domain);
        if obj == raw || !(uses_pymalloc(domain::OBJ) || uses_pymalloc(domain::MEM)) {
            return;
        }
        let mut copies: BTreeSet<u64> = obj[..3].iter().copied().collect();
        copies.extend(
            found
                .guards
                .iter()
                .filter(|g| g.function.domain != domain::RAW && g.function.function < 3)
                .map(|g| g.address),
        );
        let Some(function) = pymalloc::refill_function(self.module.code, &copies, obj[0]) else {
            builder.gap(
                "the function that refills pools was not found: one small block in a thousand is missed".to_owned(),
            );
            return;
        };
        match pymalloc::refills(self.module.code, self.module.sweep, function) {
            Refills::Sites(places) => {
                for place in places {
                    builder.probe(&self.module, &place, op::REFILLED, domain::SHARED, "result of a refill".to_owned());
                }
            }
            Refills::Returns => {
                builder.returning(&self.module, function, op::REFILLED, "refill of a pool");
            }
        }
    }

    /// Objects from a free list come without a request to the allocator.
    fn reuses(&self, builder: &mut Builder, new_reference: Option<NewReference>, looks: &Looks) {
        let usedpools = self.inputs.pymalloc.map_or(0..0, |p| p.usedpools..p.usedpools + 16 * p.classes() as u64);
        let find = |of| reuse::find(self.module.code, self.module.sweep, of, looks, &usedpools);
        let Some(found) = new_reference.and_then(find) else {
            builder.gap("where objects are taken from free lists was not found: their blocks are shown on the lines that first allocated them".to_owned());
            return;
        };
        if found.unresolved > 0 {
            builder.gap(format!(
                "at {} places where objects may be taken from free lists it could not be told where the object is",
                found.unresolved
            ));
        }
        for Reuse { instruction, object, joined } in found.reuses {
            let b = Operand::immediate(i32::from(joined));
            let place = Place { instruction, a: object, b, execution: Execution::Emulated };
            let why = if joined { "object, fresh or from a free list" } else { "object from a free list" };
            builder.probe(&self.module, &place, op::PY_REUSED, domain::OBJ, why.to_owned());
        }
    }

    fn dict_keys(&self, builder: &mut Builder, loads: &Loads) {
        let (places, unresolved) = loads.places(self.module.code, self.module.sweep);
        if places.is_empty() || unresolved > 0 {
            builder.plan.unseen_dict_keys = true;
            builder.gap("where dict keys are taken from their free list was not found everywhere: such keys are shown on the line of the dict that had them first".to_owned());
        }
        for place in places {
            builder.probe(&self.module, &place, op::PY_REUSED, domain::OBJ, "dict keys from a free list".to_owned());
        }
    }

    fn collector(&self, builder: &mut Builder) {
        let Some(found) = gc::collector(self.module.code, self.module.sweep, self.inputs.memory) else {
            builder.gap(
                "the collector's function was not found: pauses are unknown, collections are read from memory"
                    .to_owned(),
            );
            return;
        };
        let (function, generation, phase) = match found {
            gc::Collector::Function(function, generation) => (function, generation, None),
            gc::Collector::Callbacks(function) => (function, reg::RSI, Some(reg::RDI)),
        };
        match (placement::entry(self.module.code, self.module.sweep, function, Some(generation), phase), found) {
            (Some(place), gc::Collector::Function(..)) => {
                builder.entry(&self.module, &place, op::GC_START, domain::OBJ, "collector", function);
                builder.returning(&self.module, function, op::GC_START, "collector");
            }
            (Some(place), gc::Collector::Callbacks(_)) => {
                builder.entry(
                    &self.module,
                    &place,
                    op::GC_CALLBACKS,
                    domain::OBJ,
                    "callbacks of the collector",
                    function,
                );
            }
            (None, _) => {
                builder.gap(format!("no place for a probe on the collector at {function:#x}: pauses are unknown"));
            }
        }
    }
}

/// `obj.malloc`
fn name(function: SlotFunction) -> String {
    format!("{}.{}", domain_name(function.domain), FUNCTIONS[usize::from(function.function)])
}

/// A site's domain as plans print it.
pub(super) fn domain_name(domain: u8) -> &'static str {
    match domain {
        domain::SHARED => "mem+obj",
        domain => domain::NAMES.get(usize::from(domain)).copied().unwrap_or("?"),
    }
}
