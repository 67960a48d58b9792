//! The plan as text, for `leaktrace doctor --plan`.

use std::fmt::Write as _;

use leaktrace_common::site::{Operand, op};

use super::assemble::domain_name;
use super::{Execution, ProbePlan};

const REGISTERS: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// An operand as assembler writes it: `rsi`, `$56`, `8(%rsp)`, and `8*rax+16` for what is computed.
pub fn operand(operand: &Operand) -> String {
    let Operand { reg, scale, deref, disp, .. } = *operand;
    let register = REGISTERS.get(usize::from(reg)).copied();
    match (register, deref != 0, scale, disp) {
        (None, false, ..) => format!("${disp}"),
        (None, true, ..) => format!("{disp:#x}"),
        (Some(_), _, 0, _) => String::new(),
        (Some(name), true, 1, 0) => format!("(%{name})"),
        (Some(name), true, 1, _) => format!("{disp}(%{name})"),
        (Some(name), true, ..) => format!("{disp}(,%{name},{scale})"),
        (Some(name), false, 1, 0) => name.to_owned(),
        (Some(name), false, 1, _) => format!("{name}{disp:+}"),
        (Some(name), false, _, 0) => format!("{scale}*{name}"),
        (Some(name), false, ..) => format!("{scale}*{name}{disp:+}"),
    }
}

/// Short name of an [`op`].
pub fn op_name(op: u8) -> &'static str {
    match op {
        op::PY_MALLOC => "malloc",
        op::PY_CALLOC => "calloc",
        op::PY_REALLOC => "realloc",
        op::PY_FREE => "free",
        op::REFILLED => "refilled",
        op::PY_REALLOC_INLINED => "realloc-inlined",
        op::PY_WRAPPER => "wrapper",
        op::PY_REUSED => "reused",
        op::C_MALLOC => "c-malloc",
        op::C_CALLOC => "c-calloc",
        op::C_REALLOC => "c-realloc",
        op::C_FREE => "c-free",
        op::C_MEMALIGN => "c-memalign",
        op::C_POSIX_MEMALIGN => "c-posix-memalign",
        op::GC_START => "gc",
        op::GC_CALLBACKS => "gc-callbacks",
        _ => "?",
    }
}

fn execution(execution: Execution) -> &'static str {
    match execution {
        Execution::Emulated => "emulated",
        Execution::SingleStepped => "single-step",
    }
}

/// All probes by file, then what is not covered.
pub fn render(plan: &ProbePlan) -> String {
    let mut text = String::new();
    let stepped = plan.probes.iter().filter(|p| p.execution == Execution::SingleStepped).count();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} probes ({stepped} single-stepped), {} return probes; {}",
        plan.probes.len(),
        plan.returns.len(),
        plan.features.join(", ")
    );
    for (index, file) in plan.files.iter().enumerate() {
        let _ = writeln!(text, "\n{}  (opened as {})", file.display, file.open_path.display());
        let mut rows =
            vec![["address", "offset", "op", "domain", "a", "b", "execution", "instruction", "why"].map(str::to_owned)];
        for probe in plan.probes.iter().filter(|p| p.file == index) {
            rows.push([
                format!("{:x}", probe.address),
                format!("{:x}", probe.file_offset),
                op_name(probe.op).to_owned(),
                domain_name(probe.domain).to_owned(),
                operand(&probe.a),
                operand(&probe.b),
                execution(probe.execution).to_owned(),
                probe.instruction.clone(),
                probe.why.clone(),
            ]);
        }
        for probe in plan.returns.iter().filter(|p| p.file == index) {
            rows.push([
                format!("{:x}", probe.address),
                format!("{:x}", probe.file_offset),
                op_name(probe.op).to_owned(),
                "return".to_owned(),
                "rax".to_owned(),
                String::new(),
                execution(probe.execution).to_owned(),
                probe.instruction.clone(),
                probe.why.clone(),
            ]);
        }
        table(&mut text, &rows);
    }
    for gap in &plan.gaps {
        let _ = writeln!(text, "\ngap: {gap}");
    }
    text
}

fn table(text: &mut String, rows: &[[String; 9]]) {
    let widths: [usize; 9] = std::array::from_fn(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0));
    for row in rows {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "  {}", line.join("  ").trim_end());
    }
}
