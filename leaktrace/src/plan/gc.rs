//! The collector's one function, through which automatic and explicit collections go. It is static and often stripped.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{FlowControl, InstructionInfoFactory};
use leaktrace_common::site::reg;

use super::code::{Code, Sweep, direct_target};
use super::machine::State;
use super::slots::SlotMemory;

/// Instructions of `PyGC_Collect` looked at.
const STEPS: usize = 2000;
/// The oldest generation, which `PyGC_Collect` asks for (CPython `Modules/gcmodule.c`, 3.8 to 3.12: `NUM_GENERATIONS - 1`).
const OLDEST: u64 = 2;
/// Callers of the function in builds that do not merge them: `gc.collect`, `PyGC_Collect`, the automatic collection
/// (CPython `Modules/gcmodule.c`).
const CALLERS: usize = 3;

/// The direct callee of exported `PyGC_Collect` that gets the oldest generation as its second argument; where several do,
/// the one with as many callers as the source has.
pub fn collector(code: &Code<'_>, sweep: &Sweep) -> Option<u64> {
    let start = code.file.symbol("PyGC_Collect")?.address;
    let mut factory = InstructionInfoFactory::new();
    let memory = SlotMemory { code, slots: None };
    let mut callees: BTreeMap<u64, usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut work = vec![(start, State::unknown())];
    let mut steps = 0;
    while let Some((mut address, mut state)) = work.pop() {
        while seen.insert(address) && steps < STEPS {
            steps += 1;
            let Some(instruction) = code.decode(address) else { break };
            let target = direct_target(&instruction);
            match (instruction.flow_control(), target) {
                (FlowControl::Call, Some(callee)) => {
                    if state.registers[usize::from(reg::RSI)].as_constant() == Some(OLDEST) {
                        callees.insert(callee, sweep.calls_of(callee).count());
                    }
                    state.step(&instruction, &mut factory, &memory);
                    address = instruction.next_ip();
                }
                (FlowControl::UnconditionalBranch, Some(target)) => address = target,
                (FlowControl::ConditionalBranch, Some(target)) => {
                    work.push((target, state.clone()));
                    address = instruction.next_ip();
                }
                (FlowControl::Next | FlowControl::IndirectCall, _) => {
                    state.step(&instruction, &mut factory, &memory);
                    address = instruction.next_ip();
                }
                _ => break,
            }
        }
    }
    if callees.len() > 1 {
        callees.retain(|_, callers| *callers == CALLERS);
    }
    (callees.len() == 1).then(|| callees.into_keys().next()).flatten()
}
