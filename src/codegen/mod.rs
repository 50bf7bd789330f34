//! Ruleset and tree to one program.
//!
//! Takes an [`ir::Ruleset`](Ruleset) with its [`Diagram`], gives an [`asm::Program`]. Knows headers and
//! verifier, not the kernel it will run on. Never fails on a legal ruleset, save for its size.
//!
//! # Shape
//!
//! ```text
//! prologue ──▶ a diagram a (family, protocol) ──▶ a leaf a rule ──▶ a routine a (family, action, inner, outer) in use
//!     │               │                │             validate, then act
//!     │               │                │                    │
//!     └───────────────┴── pass ◀───────┴────────────────────┘ (by way of mss: SYN; of mtu: too long)
//! ```
//!
//! # Registers
//!
//! | register | from the prologue on | in a routine |
//! |---|---|---|
//! | R0 | | result of a helper |
//! | R1 to R5 | die at every helper call; R2 holds the key of a test | arguments of helpers |
//! | R6 `SKB` | the context | the same |
//! | R7 `IP` | IP header in the packet; 28 bytes proven, 48 of IPv6 | the same, proven again once there is room |
//! | R8 `PORTS` | source and destination port of the packet | those to push, or the one to write; the length of IP options |
//! | R9 `L4_LEN` | the VLAN tag to [put back](tags), or 0 | bytes behind the IP header and its options |
//!
//! # What the verifier asks of the emitter
//!
//! * V1: fall through to the path that ends. Taken branches wait on a stack of 8,192, so
//!   leaves stand inline, each right behind the compare that leads to it.
//! * V2: never a compare that the verifier can decide; it removes dead code one range at a time,
//!   O(n²). The diagram guarantees it: every arm can be taken.
//! * V3: leaves end in their own copy of the two-instruction exit. Jumps to a shared one are long in
//!   a large program, and each long jump costs a slot more.
//! * V4: compare packet words in 32 bits: 64-bit immediates are sign-extended, so 192.168.0.1 would
//!   never be equal to itself.
//! * V5: no unreachable instruction. The assembler refuses them.
//! * Packet bytes are stored to directly, not through `bpf_skb_store_bytes`: 27 of 165 ns a packet. A
//!   program that does is given a kernel prologue that makes cloned packets writable, matching or not
//!   (`bpf_unclone_prologue`, net/core/filter.c). A local TCP socket's clones own their headers
//!   (`skb_clone_writable`), so nothing is copied for them; the call is some 60 ns, for up to 64 KiB.
//! * `CAP_BPF` without `CAP_PERFMON`: no loops, no variable offsets from a packet or frame pointer, no
//!   uninitialised stack. What stands at a variable offset (anything behind IP options) goes through
//!   `bpf_skb_load_bytes` and `bpf_skb_store_bytes`.

mod alias;
mod big;
mod bits;
mod bypass;
mod checksum;
mod classify;
mod companion;
pub mod counters;
mod direct;
mod either;
mod emit;
mod fast;
mod fetch;
mod frame;
mod funnel;
mod inplace;
mod ip;
mod merge;
mod mss;
mod mtu;
mod nat;
mod options;
mod payload;
mod port_set;
mod prologue;
mod routine;
mod runs;
mod search;
mod segment;
mod tags;
mod target;
mod unfunnel;
mod validate;
mod wants;
mod whereabouts;

use asm::Program;

pub use self::bypass::Onward;
pub use self::companion::Companion;
pub use self::fast::{Fast, compile_delivered, compile_leaving};
pub use self::merge::compile_merged;
pub use self::segment::{GsoPackets, Segmenter, compile_crossed, compile_cut};
pub use self::target::{Features, Mtu, Target};
pub use self::wants::{bypasses, funnels, wants_checksums, wants_merging, wants_segments};

use self::emit::Emit;
use self::routine::Routines;
use crate::diagram::Diagram;
use crate::ir::{Family, Proto, Ruleset};
use crate::packet::ethernet;

/// What is in front of the IP header on the interface the program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    Ethernet,
    /// An L3 device: tun, wireguard, ipip.
    None,
    /// An L3 device on whose ingress there may be an Ethernet header all the same: xfrm, vti.
    Either,
}

impl Link {
    const fn header_len(self) -> i16 {
        match self {
            Link::Ethernet => ethernet::LEN,
            Link::None | Link::Either => 0,
        }
    }
}

/// What a program is for, besides its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    pub link: Link,
    pub gso: GsoPackets,
    /// What `unfunnel` makes of TCP goes through the interface's merging pair. The program is for ingress only.
    pub merge: bool,
    /// Every packet to funnel crosses the segmentation pair first, for a finished checksum: never with a macvlan.
    pub finish: bool,
    pub target: Target,
    /// Where `bypass` and `unbypass` send packets.
    pub onward: Onward,
    /// They also learn which flows may go past the stack.
    pub fast: bool,
}

impl Options {
    /// The program that leaves packets of several segments alone, and makes none. Not what `attach` loads by default:
    /// see [`policy`](crate::policy).
    pub const fn pass_gso(link: Link) -> Self {
        Options {
            link,
            gso: GsoPackets::Pass,
            merge: false,
            finish: false,
            target: Target::NEWEST,
            onward: Onward { interface: 0, mac: [0; 6] },
            fast: false,
        }
    }

    #[must_use]
    pub const fn on(self, target: Target) -> Self {
        Options { target, ..self }
    }
}

/// The program that does what the rules say to packets of an interface of this kind.
///
/// # Errors
///
/// The program is larger than a kernel can address; anything else is a bug of this module.
pub fn compile(ruleset: &Ruleset, diagram: &Diagram, options: Options) -> Result<Program, asm::Error> {
    let mut e = Emit::new(options);
    e.counts = ruleset.counts();
    if options.link == Link::Either {
        let rebuilt = e.label("rebuilt");
        e.entered = true;
        either::emit(&mut e, rebuilt);
        e.link = Link::None;
        body(&mut e, ruleset, diagram);
        e.bind(rebuilt);
        // No companion device: on its way there the packet would lose what says that it was decrypted.
        (e.link, e.gso, e.merges, e.finish) = (Link::Ethernet, GsoPackets::Pass, false, false);
        body(&mut e, ruleset, diagram);
        (e.link, e.gso, e.merges) = (Link::None, options.gso, options.merge);
    } else {
        body(&mut e, ruleset, diagram);
    }
    shared_ends(&mut e);
    e.finish()
}

/// What all parts of a program jump to: its exits, and the blocks that redirect to companion devices.
fn shared_ends(e: &mut Emit) {
    e.emit_pass();
    e.emit_counting();
    let dropped = e.emit_drop();
    segment::emit(e);
    merge::emit(e);
    if !dropped {
        e.emit_drop();
    }
}

/// All but the exits that everything shares.
fn body(e: &mut Emit, ruleset: &Ruleset, diagram: &Diagram) {
    let mut routines = Routines::new(&ruleset.rules);
    let [v4, v6] = Family::ALL.map(|family| {
        Proto::ALL.into_iter().filter(|proto| diagram.root(family, *proto).is_some()).collect::<Vec<_>>()
    });
    prologue::emit(e, &v4, &v6, |e, family, proto| {
        classify::emit(e, diagram, (family, proto), &ruleset.rules, &mut routines);
    });
    e.origin(None);
    routines.emit(e);
}
