//! The registers at a site.

use aya_ebpf::bindings::pt_regs;
use leaktrace_common::{
    site::{Operand, reg},
    walk::ReadTarget,
};

use crate::target::Target;

/// Value of an operand, `None` when it lies in memory that cannot be read.
#[inline(always)]
pub fn operand(regs: *const pt_regs, operand: &Operand) -> Option<u64> {
    let base = if operand.reg == reg::NONE { 0 } else { register(regs, operand.reg) };
    let value = base.wrapping_mul(u64::from(operand.scale)).wrapping_add(i64::from(operand.disp) as u64);
    if operand.deref == 0 { Some(value) } else { Target.word(value) }
}

/// The context may only be read at constant offsets, hence the branches; the registers that hold arguments most often
/// come first.
#[inline(always)]
fn register(regs: *const pt_regs, number: u8) -> u64 {
    // SAFETY: the kernel passes a valid pt_regs as the context of a uprobe program.
    let r = unsafe { &*regs };
    match number {
        7 => r.rdi,
        6 => r.rsi,
        3 => r.rbx,
        5 => r.rbp,
        12 => r.r12,
        13 => r.r13,
        14 => r.r14,
        15 => r.r15,
        0 => r.rax,
        2 => r.rdx,
        1 => r.rcx,
        4 => r.rsp,
        8 => r.r8,
        9 => r.r9,
        10 => r.r10,
        11 => r.r11,
        _ => 0,
    }
}
