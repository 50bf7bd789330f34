//! Instructions to slots: the only file that names `bpf_ins`.
//!
//! In: a [`Step`], its jumps already distances. Out: one or two 64-bit slots, and their bytes as the
//! kernel of this host takes them.
//!
//! `bpf_ins` has no constructors for JMP32, JA32, byte swaps to big endian or atomics, and its fields
//! are private; the way in is `Instruction::decode`. What it decodes is encoded again and compared, so
//! that a field it keeps differently (it zero-extends immediates, for one) can never reach a program.

use bpf_ins::Instruction;

use crate::insn::{Alu, Cmp, Cond, Op, Src};
use crate::operand::{Reg, Size, Src32, Src64};
use crate::program::Step;

// Opcode fields, `include/uapi/linux/bpf_common.h` and `bpf.h`.
const CLASS_LD: u8 = 0x00;
const CLASS_LDX: u8 = 0x01;
const CLASS_ST: u8 = 0x02;
const CLASS_STX: u8 = 0x03;
const CLASS_ALU: u8 = 0x04;
const CLASS_JMP: u8 = 0x05;
const CLASS_JMP32: u8 = 0x06;
const CLASS_ALU64: u8 = 0x07;
const SRC_REG: u8 = 0x08;
const TO_BE: u8 = 0x08;
const MODE_MEM: u8 = 0x60;
const MODE_ATOMIC: u8 = 0xc0;
const ALU_END: u8 = 0xd0;
const JMP_ALWAYS: u8 = 0x00;
const JMP_CALL: u8 = 0x80;
const JMP_EXIT: u8 = 0x90;
/// The immediate of an atomic operation says which: plain addition here, no fetch.
const ATOMIC_ADD: u32 = 0x00;
/// In the source register of a 64-bit load: the immediate is a map's descriptor.
const PSEUDO_MAP_FD: u8 = 1;
/// The same, and an offset into its first value.
const PSEUDO_MAP_VALUE: u8 = 2;

/// The fields of one slot, named as in `struct bpf_insn`.
#[derive(Clone, Copy, Default)]
struct Fields {
    code: u8,
    dst: u8,
    src: u8,
    off: i16,
    imm: u32,
    /// The immediate of the second slot, for the instructions that have one.
    next_imm: Option<u32>,
}

/// Appends the slots of a step. False if `bpf_ins` does not give back what it was given.
#[must_use]
pub(crate) fn encode(step: &Step, slots: &mut Vec<u64>) -> bool {
    let f = match step {
        Step::Op(insn) => op(insn.0),
        Step::Jump { cond: Some(cond), off, .. } => jump_if(*cond, *off),
        Step::Jump { cond: None, off, .. } => {
            Fields { code: CLASS_JMP | JMP_ALWAYS, off: *off, ..Fields::default() }
        }
        Step::Island { off, .. } => Fields { code: CLASS_JMP | JMP_ALWAYS, off: *off, ..Fields::default() },
        // JA32: the only jump whose distance is the immediate.
        Step::Long { off, .. } => {
            Fields { code: CLASS_JMP32 | JMP_ALWAYS, imm: off.cast_unsigned(), ..Fields::default() }
        }
    };
    let raw = [
        u64::from(f.code)
            | u64::from(f.dst) << 8
            | u64::from(f.src) << 12
            | u64::from(f.off.cast_unsigned()) << 16
            | u64::from(f.imm) << 32,
        u64::from(f.next_imm.unwrap_or(0)) << 32,
    ];
    let Ok(instruction) = Instruction::decode(&raw) else {
        return false;
    };
    let (first, second) = instruction.encode();
    slots.push(first);
    slots.extend(second);
    first == raw[0] && second == f.next_imm.map(|_| raw[1])
}

/// The slot with another immediate.
pub(crate) fn with_immediate(slot: u64, imm: u32) -> u64 {
    slot & u64::from(u32::MAX) | u64::from(imm) << 32
}

/// A slot as `struct bpf_insn` lies in the memory of this host.
pub(crate) fn bytes(slot: u64) -> [u8; 8] {
    let [code, regs, o0, o1, i0, i1, i2, i3] = slot.to_le_bytes();
    if cfg!(target_endian = "little") {
        [code, regs, o0, o1, i0, i1, i2, i3]
    } else {
        // The two registers are bit fields: they change places as well.
        [code, regs.rotate_left(4), o1, o0, i3, i2, i1, i0]
    }
}

fn op(op: Op) -> Fields {
    match op {
        Op::Alu { op, dst, src } => {
            let class = match src {
                Src::Narrow(_) => CLASS_ALU,
                Src::Wide(_) => CLASS_ALU64,
            };
            with_source(class | alu(op), dst, src, 0)
        }
        Op::ToBe { dst, size } => Fields {
            code: CLASS_ALU | ALU_END | TO_BE,
            dst: reg(dst),
            imm: u32::from(size.bytes()) * 8,
            ..Fields::default()
        },
        Op::LdImm64 { dst, imm } => {
            let [b0, b1, b2, b3, b4, b5, b6, b7] = imm.to_le_bytes();
            Fields {
                code: CLASS_LD | size(Size::D),
                dst: reg(dst),
                imm: u32::from_le_bytes([b0, b1, b2, b3]),
                next_imm: Some(u32::from_le_bytes([b4, b5, b6, b7])),
                ..Fields::default()
            }
        }
        Op::LdMapValue { dst, map_fd, off } => Fields {
            code: CLASS_LD | size(Size::D),
            dst: reg(dst),
            src: PSEUDO_MAP_VALUE,
            imm: map_fd.cast_unsigned(),
            next_imm: Some(off),
            ..Fields::default()
        },
        Op::LdMap { dst, map } => Fields {
            code: CLASS_LD | size(Size::D),
            dst: reg(dst),
            src: PSEUDO_MAP_FD,
            imm: map,
            next_imm: Some(0),
            ..Fields::default()
        },
        Op::Load { size: s, dst, base, off } => Fields {
            code: CLASS_LDX | MODE_MEM | size(s),
            dst: reg(dst),
            src: reg(base),
            off,
            ..Fields::default()
        },
        Op::Store { size: s, base, off, src } => Fields {
            code: CLASS_STX | MODE_MEM | size(s),
            dst: reg(base),
            src: reg(src),
            off,
            ..Fields::default()
        },
        Op::StoreImm { size: s, base, off, imm } => Fields {
            code: CLASS_ST | MODE_MEM | size(s),
            dst: reg(base),
            off,
            imm: imm.cast_unsigned(),
            ..Fields::default()
        },
        Op::AtomicAdd { size: s, base, off, src } => Fields {
            code: CLASS_STX | MODE_ATOMIC | size(s),
            dst: reg(base),
            src: reg(src),
            off,
            imm: ATOMIC_ADD,
            ..Fields::default()
        },
        Op::Call(helper) => {
            Fields { code: CLASS_JMP | JMP_CALL, imm: helper.id().into(), ..Fields::default() }
        }
        Op::Exit => Fields { code: CLASS_JMP | JMP_EXIT, ..Fields::default() },
    }
}

fn jump_if(cond: Cond, off: i16) -> Fields {
    let class = match cond.with {
        Src::Narrow(_) => CLASS_JMP32,
        Src::Wide(_) => CLASS_JMP,
    };
    with_source(class | cmp(cond.cmp), cond.reg, cond.with, off)
}

fn with_source(code: u8, dst: Reg, src: Src, off: i16) -> Fields {
    let (source, src, imm) = match src {
        Src::Narrow(Src32::Reg(r)) | Src::Wide(Src64::Reg(r)) => (SRC_REG, reg(r), 0),
        Src::Narrow(Src32::Imm(bits)) => (0, 0, bits),
        Src::Wide(Src64::Imm(value)) => (0, 0, value.cast_unsigned()),
    };
    Fields { code: code | source, dst: reg(dst), src, off, imm, next_imm: None }
}

fn reg(reg: Reg) -> u8 {
    match reg {
        Reg::R0 => 0,
        Reg::R1 => 1,
        Reg::R2 => 2,
        Reg::R3 => 3,
        Reg::R4 => 4,
        Reg::R5 => 5,
        Reg::R6 => 6,
        Reg::R7 => 7,
        Reg::R8 => 8,
        Reg::R9 => 9,
        Reg::R10 => 10,
    }
}

fn size(size: Size) -> u8 {
    match size {
        Size::W => 0x00,
        Size::H => 0x08,
        Size::B => 0x10,
        Size::D => 0x18,
    }
}

fn alu(op: Alu) -> u8 {
    match op {
        Alu::Add => 0x00,
        Alu::Sub => 0x10,
        Alu::Mul => 0x20,
        Alu::Or => 0x40,
        Alu::And => 0x50,
        Alu::Lsh => 0x60,
        Alu::Rsh => 0x70,
        Alu::Xor => 0xa0,
        Alu::Mov => 0xb0,
    }
}

fn cmp(cmp: Cmp) -> u8 {
    match cmp {
        Cmp::Eq => 0x10,
        Cmp::Gt => 0x20,
        Cmp::Ge => 0x30,
        Cmp::Set => 0x40,
        Cmp::Ne => 0x50,
        Cmp::Lt => 0xa0,
        Cmp::Le => 0xb0,
    }
}
