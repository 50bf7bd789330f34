//! What a program may ask of the kernel that it is for.
//!
//! Two things that programs use came after Linux 5.10. Which of them a kernel has is found out by trying (`kernel`), or
//! said by the user; here it is only what a program has to do without.

/// What the kernel has that not every kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Features {
    /// `bpf_check_mtu` (5.12).
    pub check_mtu: bool,
    /// `gotol`, a jump of 32 bits (6.6).
    pub long_jumps: bool,
}

impl Features {
    pub const ALL: Features = Features { check_mtu: true, long_jumps: true };

    /// All that kernels may have, the newest first.
    pub const EVERY: [Features; 4] = [
        Features::ALL,
        Features { long_jumps: false, ..Features::ALL },
        Features { check_mtu: false, ..Features::ALL },
        Features { check_mtu: false, long_jumps: false },
    ];
}

/// What a program asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    pub long_jumps: bool,
    pub mtu: Mtu,
}

impl Target {
    /// All that there is.
    pub const NEWEST: Target = Target { long_jumps: true, mtu: Mtu::Asked };
}

/// How a program knows whether a packet still fits once it is funneled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mtu {
    /// It asks the kernel.
    Asked,
    /// It was compiled for an interface with this one, and for packets that leave there.
    Is(u16),
    /// It does not: what is too long is left to the kernel, which drops it or, if it forwards, tells the sender.
    Unknown,
}
