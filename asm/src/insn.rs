//! The instructions: one constructor each, documented by the line the listing prints for it.
//!
//! In: registers, sizes, immediates, each of a type that admits only what the instruction can hold.
//! Out: [`Insn`] and [`Cond`] values. Jumps are not here: they need a label, so the assembler makes
//! them. No value of these types can fail to encode.

use crate::operand::{Reg, Size, Src32, Src64};

/// An operand together with the width of the operation it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Src {
    Narrow(Src32),
    Wide(Src64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Alu {
    Add,
    Sub,
    Mul,
    Or,
    And,
    Lsh,
    Rsh,
    Xor,
    Mov,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Alu { op: Alu, dst: Reg, src: Src },
    ToBe { dst: Reg, size: Size },
    LdImm64 { dst: Reg, imm: u64 },
    LdMapValue { dst: Reg, map_fd: i32, off: u32 },
    LdMap { dst: Reg, map: u32 },
    Load { size: Size, dst: Reg, base: Reg, off: i16 },
    Store { size: Size, base: Reg, off: i16, src: Reg },
    StoreImm { size: Size, base: Reg, off: i16, imm: i32 },
    AtomicAdd { size: Size, base: Reg, off: i16, src: Reg },
    Call(Helper),
    Exit,
}

/// One instruction that is not a jump to a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Insn(pub(crate) Op);

impl Insn {
    /// How many slots it takes.
    pub(crate) fn slots(self) -> usize {
        match self.0 {
            Op::LdImm64 { .. } | Op::LdMapValue { .. } | Op::LdMap { .. } => 2,
            _ => 1,
        }
    }
}

/// Both widths of one arithmetic operation.
macro_rules! alu {
    ($($op:ident $symbol:literal: $narrow:ident $wide:ident;)*) => {$(
        #[doc = concat!("`w1 ", $symbol, " w2`, `w1 ", $symbol, " 80`; clears the upper half of the register")]
        pub fn $narrow(dst: Reg, src: impl Into<Src32>) -> Insn {
            Insn(Op::Alu { op: Alu::$op, dst, src: Src::Narrow(src.into()) })
        }

        #[doc = concat!("`r1 ", $symbol, " r2`, `r1 ", $symbol, " 80`; an immediate is sign-extended")]
        pub fn $wide(dst: Reg, src: impl Into<Src64>) -> Insn {
            Insn(Op::Alu { op: Alu::$op, dst, src: Src::Wide(src.into()) })
        }
    )*};
}

impl Insn {
    alu! {
        Mov "=": mov32 mov64;
        Add "+=": add32 add64;
        Sub "-=": sub32 sub64;
        And "&=": and32 and64;
        Mul "*=": mul32 mul64;
        Or "|=": or32 or64;
        Xor "^=": xor32 xor64;
        Lsh "<<=": lsh32 lsh64;
        Rsh ">>=": rsh32 rsh64;
    }

    /// `w1 = be16 w1`: between host and network order, upper 48 bits cleared
    pub fn be16(dst: Reg) -> Insn {
        Insn(Op::ToBe { dst, size: Size::H })
    }

    /// `w1 = be32 w1`: between host and network order, upper half cleared
    pub fn be32(dst: Reg) -> Insn {
        Insn(Op::ToBe { dst, size: Size::W })
    }

    /// `r1 = be64 r1`: between host and network order
    pub fn be64(dst: Reg) -> Insn {
        Insn(Op::ToBe { dst, size: Size::D })
    }

    /// `r1 = 0x1122334455667788 ll`: two slots
    pub fn ld_imm64(dst: Reg, imm: u64) -> Insn {
        Insn(Op::LdImm64 { dst, imm })
    }

    /// `r1 = map[fd:3][0]+8`: two slots; the address of a byte in the map's first value. The kernel
    /// replaces the file descriptor by the address when it loads the program.
    pub fn ld_map_value(dst: Reg, map_fd: i32, off: u32) -> Insn {
        Insn(Op::LdMapValue { dst, map_fd, off })
    }

    /// `r1 = map[0]`: two slots; a map by a number of the program's own, for want of a descriptor. Until
    /// [`Program::with_maps`](crate::Program::with_maps) has put in descriptors, no kernel takes the program.
    pub fn ld_map(dst: Reg, map: u32) -> Insn {
        Insn(Op::LdMap { dst, map })
    }

    /// `r1 = *(u16 *)(r2 + 12)`: the rest of the register is cleared
    pub fn load(size: Size, dst: Reg, base: Reg, off: i16) -> Insn {
        Insn(Op::Load { size, dst, base, off })
    }

    /// `*(u32 *)(r10 - 16) = w3`
    pub fn store(size: Size, base: Reg, off: i16, src: Reg) -> Insn {
        Insn(Op::Store { size, base, off, src })
    }

    /// `*(u32 *)(r10 - 16) = 80`: sign-extended for [`Size::D`], cut for the small sizes
    pub fn store_imm(size: Size, base: Reg, off: i16, imm: i32) -> Insn {
        Insn(Op::StoreImm { size, base, off, imm })
    }

    /// `lock *(u64 *)(r1 + 8) += r2`: without fetch, which kernels before 5.12 do not have
    ///
    /// # Panics
    ///
    /// If the size is not [`Size::W`] or [`Size::D`]: there is no such instruction.
    pub fn atomic_add(size: Size, base: Reg, off: i16, src: Reg) -> Insn {
        assert!(matches!(size, Size::W | Size::D), "no atomic operation on {size:?}");
        Insn(Op::AtomicAdd { size, base, off, src })
    }

    /// `call bpf_skb_store_bytes#9`: R1-R5 are lost, R0 is the result
    pub fn call(helper: Helper) -> Insn {
        Insn(Op::Call(helper))
    }

    /// `exit`: R0 is the verdict
    pub fn exit() -> Insn {
        Insn(Op::Exit)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
    Set,
}

/// What a conditional jump asks. Comparisons are unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cond {
    pub(crate) cmp: Cmp,
    pub(crate) reg: Reg,
    pub(crate) with: Src,
}

/// Both widths of one comparison.
macro_rules! cond {
    ($($cmp:ident $symbol:literal: $narrow:ident $wide:ident;)*) => {$(
        #[doc = concat!("`w1 ", $symbol, " w2`, `w1 ", $symbol, " 80`: lower halves only")]
        pub fn $narrow(reg: Reg, with: impl Into<Src32>) -> Cond {
            Cond { cmp: Cmp::$cmp, reg, with: Src::Narrow(with.into()) }
        }

        #[doc = concat!("`r1 ", $symbol, " r2`, `r1 ", $symbol, " 80`; an immediate is sign-extended")]
        pub fn $wide(reg: Reg, with: impl Into<Src64>) -> Cond {
            Cond { cmp: Cmp::$cmp, reg, with: Src::Wide(with.into()) }
        }
    )*};
}

impl Cond {
    cond! {
        Eq "==": eq32 eq64;
        Ne "!=": ne32 ne64;
        Gt ">": gt32 gt64;
        Ge ">=": ge32 ge64;
        Lt "<": lt32 lt64;
        Le "<=": le32 le64;
        Set "&": set32 set64;
    }

    /// Whether it holds of a register with this in its lower half; none if it compares two registers.
    pub(crate) fn holds(self, value: u32) -> Option<bool> {
        let (value, with) = match self.with {
            Src::Narrow(Src32::Imm(with)) => (u64::from(value), u64::from(with)),
            Src::Wide(Src64::Imm(with)) => (u64::from(value), i64::from(with).cast_unsigned()),
            Src::Narrow(Src32::Reg(_)) | Src::Wide(Src64::Reg(_)) => return None,
        };
        Some(match self.cmp {
            Cmp::Eq => value == with,
            Cmp::Ne => value != with,
            Cmp::Gt => value > with,
            Cmp::Ge => value >= with,
            Cmp::Lt => value < with,
            Cmp::Le => value <= with,
            Cmp::Set => value & with != 0,
        })
    }

    /// The condition that holds exactly when this one does not; `r & m` has none.
    pub(crate) fn inverse(self) -> Option<Cond> {
        let cmp = match self.cmp {
            Cmp::Eq => Cmp::Ne,
            Cmp::Ne => Cmp::Eq,
            Cmp::Gt => Cmp::Le,
            Cmp::Ge => Cmp::Lt,
            Cmp::Lt => Cmp::Ge,
            Cmp::Le => Cmp::Gt,
            Cmp::Set => return None,
        };
        Some(Cond { cmp, ..self })
    }
}

/// The kernel functions a program may call, by the kernel's number (`include/uapi/linux/bpf.h`).
macro_rules! helpers {
    ($($variant:ident = $id:literal $name:literal;)*) => {
        /// A kernel function that a program may call; its arguments are R1-R5, its result R0.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Helper {
            $(#[doc = concat!("`", $name, "#", $id, "`")] $variant,)*
        }

        impl Helper {
            /// The kernel's number for it.
            pub const fn id(self) -> u16 {
                match self { $(Helper::$variant => $id,)* }
            }

            /// The kernel's name for it.
            pub const fn name(self) -> &'static str {
                match self { $(Helper::$variant => $name,)* }
            }
        }
    };
}

helpers! {
    MapLookupElem = 1 "bpf_map_lookup_elem";
    MapUpdateElem = 2 "bpf_map_update_elem";
    SkbStoreBytes = 9 "bpf_skb_store_bytes";
    L4CsumReplace = 11 "bpf_l4_csum_replace";
    CloneRedirect = 13 "bpf_clone_redirect";
    SkbVlanPush = 18 "bpf_skb_vlan_push";
    SkbVlanPop = 19 "bpf_skb_vlan_pop";
    Redirect = 23 "bpf_redirect";
    SkbLoadBytes = 26 "bpf_skb_load_bytes";
    CsumDiff = 28 "bpf_csum_diff";
    SkbChangeTail = 38 "bpf_skb_change_tail";
    SkbPullData = 39 "bpf_skb_pull_data";
    CsumUpdate = 40 "bpf_csum_update";
    SetHashInvalid = 41 "bpf_set_hash_invalid";
    SkbChangeHead = 43 "bpf_skb_change_head";
    SetHash = 48 "bpf_set_hash";
    SkbAdjustRoom = 50 "bpf_skb_adjust_room";
    SkbLoadBytesRelative = 68 "bpf_skb_load_bytes_relative";
    FibLookup = 69 "bpf_fib_lookup";
    RedirectNeigh = 152 "bpf_redirect_neigh";
    RedirectPeer = 155 "bpf_redirect_peer";
    KtimeGetCoarseNs = 160 "bpf_ktime_get_coarse_ns";
    CheckMtu = 163 "bpf_check_mtu";
}
