//! What instructions work on: registers, sizes, immediates.
//!
//! Each type admits only what the instruction can hold, and registers are no numbers, so that a register
//! can never be taken for an immediate.

/// A register. What each means at a call is the kernel's convention: R0 result, R1-R5 arguments,
/// lost at every call, R6-R9 preserved, R10 the read-only frame pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "a register's name says it all")]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// How many bytes a load or a store moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Size {
    /// One byte, `u8`.
    B,
    /// Two bytes, `u16`.
    H,
    /// Four bytes, `u32`.
    W,
    /// Eight bytes, `u64`.
    D,
}

impl Size {
    /// The number of bytes.
    pub const fn bytes(self) -> u8 {
        match self {
            Size::B => 1,
            Size::H => 2,
            Size::W => 4,
            Size::D => 8,
        }
    }
}

/// The right-hand side of a 32-bit operation or compare. All 32 bits of an immediate are used as
/// they are, so `u32` and `i32` are equally good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Src32 {
    /// The lower half of a register.
    Reg(Reg),
    /// An immediate, as its 32 bits.
    Imm(u32),
}

impl From<Reg> for Src32 {
    fn from(reg: Reg) -> Self {
        Src32::Reg(reg)
    }
}

impl From<u32> for Src32 {
    fn from(bits: u32) -> Self {
        Src32::Imm(bits)
    }
}

impl From<i32> for Src32 {
    fn from(value: i32) -> Self {
        Src32::Imm(value.cast_unsigned())
    }
}

impl From<u16> for Src32 {
    fn from(value: u16) -> Self {
        Src32::Imm(value.into())
    }
}

impl From<u8> for Src32 {
    fn from(value: u8) -> Self {
        Src32::Imm(value.into())
    }
}

/// The right-hand side of a 64-bit operation or compare.
///
/// There is no `From<u32>` on purpose: the kernel sign-extends the immediate to 64 bits, so a 64-bit
/// compare of a zero-extended word with 192.168.0.1 never holds. Compare packet words in 32 bits.
///
/// ```compile_fail,E0277
/// asm::Cond::eq64(asm::Reg::R2, 0xc0a8_0001_u32);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Src64 {
    /// A register.
    Reg(Reg),
    /// An immediate, sign-extended.
    Imm(i32),
}

impl From<Reg> for Src64 {
    fn from(reg: Reg) -> Self {
        Src64::Reg(reg)
    }
}

impl From<i32> for Src64 {
    fn from(value: i32) -> Self {
        Src64::Imm(value)
    }
}

impl From<u16> for Src64 {
    fn from(value: u16) -> Self {
        Src64::Imm(value.into())
    }
}

impl From<u8> for Src64 {
    fn from(value: u8) -> Self {
        Src64::Imm(value.into())
    }
}
