//! Collects the probes of a plan, each proved to begin an instruction.

use std::collections::BTreeMap;

use iced_x86::Instruction;

use super::code::{self, Code, Sweep};
use super::placement::{self, Place};
use super::{PlanFile, Probe, ProbePlan, ReturnProbe};

/// A file in the plan.
pub(super) struct Module<'a> {
    pub(super) code: &'a Code<'a>,
    pub(super) sweep: &'a Sweep,
    /// Index into [`ProbePlan::files`].
    pub(super) file: usize,
}

/// Collects probes, one an address.
#[derive(Default)]
pub(super) struct Builder {
    pub(super) plan: ProbePlan,
    taken: BTreeMap<u64, String>,
}

impl Builder {
    pub(super) fn file(&mut self, code: &Code<'_>) -> usize {
        let file = PlanFile {
            open_path: code.file.open_path().to_owned(),
            display: code.file.display().display().to_string(),
        };
        if let Some(known) = self.plan.files.iter().position(|f| *f == file) {
            return known;
        }
        self.plan.files.push(file);
        self.plan.files.len() - 1
    }

    pub(super) fn gap(&mut self, gap: String) {
        self.plan.gaps.push(gap);
    }

    pub(super) fn feature(&mut self, feature: &str) {
        if !self.plan.features.iter().any(|f| f == feature) {
            self.plan.features.push(feature.to_owned());
        }
    }

    pub(super) fn entry(&mut self, module: &Module<'_>, place: &Place, op: u8, domain: u8, what: &str, function: u64) {
        let why = format!("entry of {what} +{}", place.instruction.ip() - function);
        self.probe(module, place, op, domain, why);
    }

    pub(super) fn probe(&mut self, module: &Module<'_>, place: &Place, op: u8, domain: u8, why: String) {
        let address = place.instruction.ip();
        if let Some(other) = self.taken.get(&address) {
            let gap = format!("{why} and {other} share the instruction at {address:#x}: only the latter is traced");
            self.gap(gap);
            return;
        }
        let Some((file_offset, bytes)) = self.instruction(module.code, &place.instruction, &why) else { return };
        self.taken.insert(address, why.clone());
        self.plan.probes.push(Probe {
            file: module.file,
            file_offset,
            address,
            op,
            domain,
            a: place.a,
            b: place.b,
            execution: place.execution,
            why,
            instruction: code::format(&place.instruction),
            bytes,
        });
    }

    pub(super) fn returning(&mut self, module: &Module<'_>, function: u64, op: u8, what: &str) {
        let Some((instruction, execution)) = placement::returning(module.code, module.sweep, function) else {
            self.gap(format!("no place for a return probe on {what}"));
            return;
        };
        let why = format!("return of {what}, set at +{}", instruction.ip() - function);
        let Some((file_offset, bytes)) = self.instruction(module.code, &instruction, &why) else { return };
        let address = instruction.ip();
        let instruction = code::format(&instruction);
        let file = module.file;
        self.plan.returns.push(ReturnProbe { file, file_offset, address, op, execution, why, instruction, bytes });
    }

    /// File offset and bytes of an instruction that was proved to be one.
    fn instruction(&mut self, code: &Code<'_>, instruction: &Instruction, why: &str) -> Option<(u64, Vec<u8>)> {
        let bytes = code.text(instruction.ip(), instruction.len());
        let offset = code.file.offset_of(instruction.ip());
        if let (Some(offset), true) = (offset, bytes.len() == instruction.len() && code.is_boundary(instruction.ip())) {
            return Some((offset, bytes.to_vec()));
        }
        self.gap(format!("{why}: {:#x} could not be proved to begin an instruction", instruction.ip()));
        None
    }

    pub(super) fn finish(mut self) -> ProbePlan {
        self.plan.probes.sort_by_key(|p| (p.file, p.address));
        self.plan.returns.sort_by_key(|r| (r.file, r.address));
        self.plan
    }
}
