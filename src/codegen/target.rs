//! What a program may ask of the kernel that it is for.
//!
//! Three things that programs use came after Linux 5.10. Which of them a kernel has is found out by trying (`kernel`), or
//! said by the user; here it is only what a program has to do without.

/// What the kernel has that not every kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Features {
    /// `bpf_check_mtu` (5.12).
    pub check_mtu: bool,
    /// `gotol`, a jump of 32 bits (6.6).
    pub long_jumps: bool,
    /// Two VLAN tags on ingress: `bpf_skb_vlan_push` leaves the packet beginning where it did when it writes a tag into the
    /// frame (6.12).
    pub nested_tags: bool,
}

impl Features {
    pub const ALL: Features = Features { check_mtu: true, long_jumps: true, nested_tags: true };

    /// All that kernels may have, the newest first.
    pub const EVERY: [Features; 8] = [
        Features::ALL,
        Features { nested_tags: false, ..Features::ALL },
        Features { long_jumps: false, ..Features::ALL },
        Features { long_jumps: false, nested_tags: false, ..Features::ALL },
        Features { check_mtu: false, ..Features::ALL },
        Features { check_mtu: false, nested_tags: false, ..Features::ALL },
        Features { check_mtu: false, long_jumps: false, ..Features::ALL },
        Features { check_mtu: false, long_jumps: false, nested_tags: false },
    ];
}

/// What a program asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    pub long_jumps: bool,
    /// Whether a packet may have a VLAN tag beside the frame and another in it, and get both back.
    pub nested_tags: bool,
    pub mtu: Mtu,
}

impl Target {
    /// All that there is.
    pub const NEWEST: Target = Target { long_jumps: true, nested_tags: true, mtu: Mtu::Asked };
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
