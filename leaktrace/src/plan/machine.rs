//! A small abstract interpreter: what registers and stack slots hold, told in terms of a starting point.

use iced_x86::{Instruction, InstructionInfoFactory, MemorySize, Mnemonic, OpAccess, OpKind, Register};
use leaktrace_common::site::{Operand, reg};

/// A function of an allocator's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotFunction {
    /// One of [`leaktrace_common::site::domain`].
    pub domain: u8,
    /// 0 malloc, 1 calloc, 2 realloc, 3 free.
    pub function: u8,
}

/// What is known of a 64-bit word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    Unknown,
    /// `scale * register + disp` with the register's value at the starting point (no register: a constant), or the
    /// word that was at that address then.
    Place {
        reg: u8,
        scale: u8,
        disp: i64,
        deref: bool,
    },
    /// The pointer read from an allocator's table.
    Slot(SlotFunction),
}

impl Value {
    pub const fn constant(value: u64) -> Self {
        Self::Place { reg: reg::NONE, scale: 0, disp: value as i64, deref: false }
    }

    pub const fn register(reg: u8) -> Self {
        Self::Place { reg, scale: 1, disp: 0, deref: false }
    }

    pub const fn as_constant(self) -> Option<u64> {
        match self {
            Self::Place { reg: reg::NONE, disp, deref: false, .. } => Some(disp as u64),
            _ => None,
        }
    }

    /// How BPF finds the value at the starting point.
    pub fn operand(self) -> Option<Operand> {
        let Self::Place { reg, scale, disp, deref } = self else { return None };
        Some(Operand { reg, scale, deref: u8::from(deref), pad: 0, disp: i32::try_from(disp).ok()? })
    }

    /// Whether the words at two addresses have bytes in common, as far as both are told by one register.
    fn overlaps(self, other: Self) -> bool {
        match (self, other) {
            (Self::Place { reg, scale, disp, .. }, Self::Place { reg: base, scale: times, disp: at, .. }) => {
                reg == base && scale == times && disp.wrapping_sub(at).unsigned_abs() < 8
            }
            _ => false,
        }
    }

    fn plus(self, other: Self) -> Self {
        match (self, other) {
            (
                Self::Place { reg, scale, disp, deref: false },
                Self::Place { reg: reg::NONE, disp: more, deref: false, .. },
            )
            | (
                Self::Place { reg: reg::NONE, disp: more, deref: false, .. },
                Self::Place { reg, scale, disp, deref: false },
            ) => Self::Place { reg, scale, disp: disp.wrapping_add(more), deref: false },
            // A stored word plus nothing.
            (place @ Self::Place { .. }, Self::Place { reg: reg::NONE, disp: 0, deref: false, .. }) => place,
            (
                Self::Place { reg, scale, disp, deref: false },
                Self::Place { reg: same, scale: times, disp: more, deref: false },
            ) if reg == same && matches!(scale + times, 2 | 4 | 8) => {
                Self::Place { reg, scale: scale + times, disp: disp.wrapping_add(more), deref: false }
            }
            _ => Self::Unknown,
        }
    }

    fn times(self, factor: u64) -> Self {
        match self {
            value if factor == 1 => value,
            Self::Place { reg: reg::NONE, scale, disp, deref: false } => {
                Self::Place { reg: reg::NONE, scale, disp: disp.wrapping_mul(factor as i64), deref: false }
            }
            Self::Place { reg, scale, disp, deref: false }
                if matches!(u64::from(scale).wrapping_mul(factor), 2 | 4 | 8) =>
            {
                Self::Place { reg, scale: scale * factor as u8, disp: disp.wrapping_mul(factor as i64), deref: false }
            }
            _ => Self::Unknown,
        }
    }
}

/// Operands of the compare that last set the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flags {
    Unknown,
    Compare(Value, Value),
}

/// Memory whose contents are known from the file: allocator tables and pointers that the loader filled in.
pub trait Environment {
    /// The word at a fixed address.
    fn load(&self, address: u64) -> Value;
}

/// Registers, stack slots and flags at one point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub registers: [Value; 16],
    pub flags: Flags,
    /// Words stored since the starting point, by address.
    stored: Vec<(Value, Value)>,
    /// Bits of the registers, other than the stack pointer, relative to which something was stored; all of them where the address
    /// is not known. Memory at other registers may have changed by that.
    scattered: u16,
}

/// Registers that a call may change (System V ABI, x86-64).
pub(super) const CALLER_SAVED: [u8; 9] = [0, 1, 2, 6, 7, 8, 9, 10, 11];

impl State {
    /// Nothing is known.
    pub fn unknown() -> Self {
        Self { registers: [Value::Unknown; 16], flags: Flags::Unknown, stored: Vec::new(), scattered: 0 }
    }

    /// A starting point: each register holds itself.
    pub fn start() -> Self {
        let registers = std::array::from_fn(|i| Value::register(i as u8));
        Self { registers, ..Self::unknown() }
    }

    /// What holds on both ways into a join. True: `self` changed.
    pub fn join(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for (mine, theirs) in self.registers.iter_mut().zip(&other.registers) {
            if mine != theirs {
                *mine = Value::Unknown;
            }
        }
        if self.flags != other.flags {
            self.flags = Flags::Unknown;
        }
        self.stored.retain(|entry| other.stored.contains(entry));
        self.scattered |= other.scattered;
        *self != before
    }

    /// Address of a memory operand.
    pub fn address(&self, instruction: &Instruction) -> Value {
        if !matches!(instruction.segment_prefix(), Register::None | Register::DS | Register::CS) {
            return Value::Unknown;
        }
        if instruction.is_ip_rel_memory_operand() {
            return Value::constant(instruction.ip_rel_memory_address());
        }
        let part = |register: Register| match register {
            Register::None => Value::constant(0),
            register => number64(register).map_or(Value::Unknown, |n| self.registers[n]),
        };
        let index = part(instruction.memory_index()).times(u64::from(instruction.memory_index_scale()));
        part(instruction.memory_base()).plus(index).plus(Value::constant(instruction.memory_displacement64()))
    }

    /// The word at an address.
    fn read(&self, address: Value, environment: &dyn Environment) -> Value {
        if let Some(address) = address.as_constant() {
            return environment.load(address);
        }
        if let Some((_, value)) = self.stored.iter().find(|(at, _)| *at == address) {
            return *value;
        }
        match address {
            Value::Place { reg, scale, disp, deref: false }
                if (reg == reg::RSP || self.scattered & !bit(reg) == 0)
                    && !self.stored.iter().any(|(at, _)| at.overlaps(address)) =>
            {
                Value::Place { reg, scale, disp, deref: true }
            }
            _ => Value::Unknown,
        }
    }

    fn write(&mut self, address: Value, value: Value) {
        let Value::Place { reg: base, deref: false, .. } = address else {
            self.scattered = u16::MAX;
            return;
        };
        if base != reg::RSP {
            self.scattered |= bit(base);
        }
        // A narrower or crossing store spoils what overlaps it.
        self.stored.retain(|(at, _)| !at.overlaps(address));
        self.stored.push((address, value));
    }

    /// The value of a 64-bit operand, or of a 32-bit one if it is a constant.
    pub fn operand(&self, instruction: &Instruction, index: u32, environment: &dyn Environment) -> Value {
        match instruction.op_kind(index) {
            OpKind::Register => {
                let register = instruction.op_register(index);
                if let Some(n) = number64(register) {
                    return self.registers[n];
                }
                let narrow = number32(register).and_then(|n| self.registers[n].as_constant());
                narrow.map_or(Value::Unknown, |value| Value::constant(value & 0xffff_ffff))
            }
            OpKind::Memory if is_word(instruction.memory_size()) => self.read(self.address(instruction), environment),
            OpKind::Immediate32 => Value::constant(u64::from(instruction.immediate32())),
            OpKind::Immediate64 | OpKind::Immediate32to64 | OpKind::Immediate8to64 => {
                Value::constant(instruction.immediate(index))
            }
            OpKind::Immediate8to32 => Value::constant(instruction.immediate(index) & 0xffff_ffff),
            OpKind::Immediate8 => Value::constant(u64::from(instruction.immediate8())),
            _ => Value::Unknown,
        }
    }

    /// Runs one instruction. Jumps change nothing; a call returns with the caller-saved registers unknown.
    pub fn step(&mut self, instruction: &Instruction, factory: &mut InstructionInfoFactory, env: &dyn Environment) {
        let stack = usize::from(reg::RSP);
        let result = match instruction.mnemonic() {
            Mnemonic::Mov => Some(self.operand(instruction, 1, env)),
            Mnemonic::Lea => Some(self.address(instruction)),
            Mnemonic::Add => Some(self.operand(instruction, 0, env).plus(self.operand(instruction, 1, env))),
            Mnemonic::Sub | Mnemonic::Xor if same_register(instruction) => Some(Value::constant(0)),
            Mnemonic::Sub => {
                let subtrahend =
                    self.operand(instruction, 1, env).as_constant().map(|k| Value::constant(k.wrapping_neg()));
                Some(subtrahend.map_or(Value::Unknown, |k| self.operand(instruction, 0, env).plus(k)))
            }
            Mnemonic::Shl => {
                let shift = self.operand(instruction, 1, env).as_constant().filter(|&s| s < 64);
                Some(shift.map_or(Value::Unknown, |s| self.operand(instruction, 0, env).times(1 << s)))
            }
            Mnemonic::Push => {
                let value = self.operand(instruction, 0, env);
                self.registers[stack] = self.registers[stack].plus(Value::constant(8u64.wrapping_neg()));
                self.write(self.registers[stack], value);
                None
            }
            Mnemonic::Pop => {
                let value = self.read(self.registers[stack], env);
                self.registers[stack] = self.registers[stack].plus(Value::constant(8));
                Some(value)
            }
            Mnemonic::Call => {
                for n in CALLER_SAVED {
                    self.registers[usize::from(n)] = Value::Unknown;
                }
                self.scattered = u16::MAX;
                None
            }
            _ => {
                self.forget_written(instruction, factory);
                None
            }
        };
        let flags = match instruction.mnemonic() {
            Mnemonic::Cmp => Flags::Compare(self.operand(instruction, 0, env), self.operand(instruction, 1, env)),
            Mnemonic::Call => Flags::Unknown,
            _ if instruction.rflags_modified() != 0 => Flags::Unknown,
            _ => self.flags,
        };
        if let Some(value) = result {
            self.assign(instruction, value);
        }
        self.flags = flags;
    }

    /// Sets the first operand.
    fn assign(&mut self, instruction: &Instruction, value: Value) {
        match instruction.op0_kind() {
            OpKind::Register => {
                let register = instruction.op0_register();
                if let Some(n) = number64(register) {
                    self.registers[n] = value;
                } else if let Some(n) = number32(register) {
                    // The upper half becomes zero.
                    let narrow = value.as_constant().map(|v| Value::constant(v & 0xffff_ffff));
                    self.registers[n] = narrow.unwrap_or(Value::Unknown);
                } else if let Some(n) = number64(register.full_register()) {
                    self.registers[n] = Value::Unknown;
                }
            }
            OpKind::Memory => {
                let value = if is_word(instruction.memory_size()) { value } else { Value::Unknown };
                self.write(self.address(instruction), value);
            }
            _ => {}
        }
    }

    /// An instruction without a rule: what it writes is unknown.
    fn forget_written(&mut self, instruction: &Instruction, factory: &mut InstructionInfoFactory) {
        let info = factory.info(instruction);
        let writes = |access| {
            matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
        };
        for used in info.used_registers().iter().filter(|used| writes(used.access())) {
            if let Some(n) = number64(used.register().full_register()) {
                self.registers[n] = Value::Unknown;
            }
        }
        if info.used_memory().iter().any(|used| writes(used.access())) {
            // A vector is several words.
            for word in (0..instruction.memory_size().size().max(1) as u64).step_by(8) {
                self.write(self.address(instruction).plus(Value::constant(word)), Value::Unknown);
            }
        }
    }
}

/// Of a register in a set of them.
const fn bit(register: u8) -> u16 {
    1 << (register & 15)
}

fn is_word(size: MemorySize) -> bool {
    matches!(size, MemorySize::UInt64 | MemorySize::Int64 | MemorySize::QwordOffset)
}

fn same_register(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Register
        && instruction.op0_register() == instruction.op1_register()
}

pub(super) fn number64(register: Register) -> Option<usize> {
    register.is_gpr64().then(|| register.number())
}

fn number32(register: Register) -> Option<usize> {
    register.is_gpr32().then(|| register.number())
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};
    use proptest::prelude::*;

    use super::*;

    const TABLE: u64 = 0x95_9f48;
    const MALLOC: SlotFunction = SlotFunction { domain: 2, function: 0 };

    /// One allocator table entry at a fixed address.
    struct Table;

    impl Environment for Table {
        fn load(&self, address: u64) -> Value {
            if address == TABLE { Value::Slot(MALLOC) } else { Value::Unknown }
        }
    }

    fn run(code: &[u8], ip: u64) -> State {
        let mut state = State::start();
        let mut factory = InstructionInfoFactory::new();
        for instruction in &mut Decoder::with_ip(64, code, ip, DecoderOptions::NONE) {
            state.step(&instruction, &mut factory, &Table);
        }
        state
    }

    fn rsi(code: &[u8]) -> Option<Operand> {
        run(code, 0x1000).registers[usize::from(reg::RSI)].operand()
    }

    #[test]
    fn arguments_are_told_in_terms_of_the_start() {
        // mov %rbx,%rsi
        assert_eq!(rsi(&[0x48, 0x89, 0xde]), Some(Operand::register(reg::RBX)));
        // mov $56,%esi
        assert_eq!(rsi(&[0xbe, 56, 0, 0, 0]), Some(Operand::immediate(56)));
        // lea 24(,%rax,8),%rsi
        let scaled = Operand { reg: reg::RAX, scale: 8, deref: 0, pad: 0, disp: 24 };
        assert_eq!(rsi(&[0x48, 0x8d, 0x34, 0xc5, 24, 0, 0, 0]), Some(scaled));
        // mov 8(%rsp),%rsi
        assert_eq!(rsi(&[0x48, 0x8b, 0x74, 0x24, 8]), Some(Operand::memory(reg::RSP, 8)));
        // push %rdi; mov 8(%rsp),%rsi: the same word is one slot lower
        assert_eq!(rsi(&[0x57, 0x48, 0x8b, 0x74, 0x24, 8]), Some(Operand::memory(reg::RSP, 0)));
        // push %rdi; pop %rsi
        assert_eq!(rsi(&[0x57, 0x5e]), Some(Operand::register(reg::RDI)));
        // mov %rdx,(%rsp); mov %eax,4(%rsp); mov (%rsp),%rsi: half of the word was overwritten
        assert_ne!(
            rsi(&[0x48, 0x89, 0x14, 0x24, 0x89, 0x44, 0x24, 4, 0x48, 0x8b, 0x34, 0x24]),
            Some(Operand::register(reg::RDX))
        );
        // mov %ebx,%esi: the upper half is gone
        assert_eq!(rsi(&[0x89, 0xde]), None);
        // mov %rbx,%rsi; call: the callee may change it
        assert_eq!(rsi(&[0x48, 0x89, 0xde, 0xe8, 0, 0, 0, 0]), None);
    }

    #[test]
    fn a_compare_remembers_the_table_and_the_constant() {
        // mov 0x45ebe7(%rip),%rax; mov %rdi,%rbx; cmp $0x4fb450,%rax (python3.11 3.11.2 of Debian 12, PyObject_Malloc)
        let code = [0x48, 0x8b, 0x05, 0xe7, 0xeb, 0x45, 0, 0x48, 0x89, 0xfb, 0x48, 0x3d, 0x50, 0xb4, 0x4f, 0];
        let compare = Flags::Compare(Value::Slot(MALLOC), Value::constant(0x4f_b450));
        assert_eq!(run(&code, 0x4f_b35a).flags, compare);
        // test %rdi,%rdi sets them anew
        assert_eq!(run(&[&code[..], &[0x48, 0x85, 0xff]].concat(), 0x4f_b35a).flags, Flags::Unknown);
    }

    #[test]
    fn a_join_keeps_what_both_ways_agree_on() {
        // mov $1,%eax; mov $2,%esi against mov $1,%eax; mov $3,%esi
        let mut one = run(&[0xb8, 1, 0, 0, 0, 0xbe, 2, 0, 0, 0], 0);
        let other = run(&[0xb8, 1, 0, 0, 0, 0xbe, 3, 0, 0, 0], 0);
        assert!(one.join(&other));
        assert_eq!(one.registers[0].as_constant(), Some(1));
        assert_eq!(one.registers[usize::from(reg::RSI)], Value::Unknown);
        assert!(!one.join(&other));
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_run(code in proptest::collection::vec(any::<u8>(), 0..300), ip: u64) {
            run(&code, ip);
        }
    }
}
