//! Flows that go past the stack: from a pod's veth to the host's interface, and back.
//!
//! `bypass` leaves the two nodes' stacks in a packet's way, since netfilter is in there. Here a flow that netfilter has
//! let through, in both directions, goes past it as well. [`flow`](crate::flow) is the table of
//! what is remembered; a file for each place where a packet is met:
//!
//! ```text
//!                  leaving                    passed
//!  pod ══ veth ──▶ ingress ── netfilter ──▶ egress of the overlay's interface ──▶ eth0
//!                     └───────────── fast ────────────────────────────────────────▶
//!
//!                 delivered                                                    arriving
//!  pod ══ veth ◀── egress ─── netfilter ◀── ingress of the overlay's interface ◀── ingress of eth0
//!      ◀────────────────────────────── fast ──────────────────────────────────────┘
//! ```
//!
//! * What is *noted* by `leaving` and comes by at `passed` with the same addresses and ports: netfilter lets it out as it is. What
//!   comes by at `delivered`: it lets it in. Where NAT changes the remote end, as that of a Service, `translated` knows both.
//! * A proof holds for [`LIFE`]. It is renewed by a *probe*, a segment without data of our own making (`craft`), which takes the
//!   long way and ends at `passed`, or at `delivered`. No packet of a pod can do that: conntrack has not seen those before
//!   it, and takes it for invalid.
//! * A packet goes fast only if it ends within what has come out of netfilter. So conntrack has seen every sequence number
//!   before it is used, and whatever comes back to the long way, at any time, is valid to it.
//! * Probes run *ahead*: a quarter of a window further than the data. Their window field is the widest that there is, so that
//!   conntrack's own window is wide enough for that.
//! * SYN, FIN and RST never go fast; a FIN or RST ends it for the flow.
//!
//! Registers are those of [`codegen`](super); `FLOW` holds the entry from its lookup on. What has to survive the calls of helpers
//! is kept on the stack, a word of 64 bits each: see V6 below.
//!
//! * V6: without `CAP_PERFMON`, 6.1 refuses a store of part of a word that a known value of four bytes has been stored to.

mod arriving;
mod craft;
mod decide;
mod delivered;
mod entry;
mod leaving;
mod passed;
mod prove;
mod scale;
mod translated;

use asm::{Cond, Insn, Reg, Reg::*};

pub use self::delivered::compile_delivered;
pub use self::leaving::compile_leaving;
pub(super) use self::{arriving::arriving, passed::passed};

use self::prove::Kind;

use super::Onward;
use super::emit::{Cold, Emit, L4_LEN, SKB, Window};
use super::frame::{CHUNK, Len, Offset, Slot, part};
use crate::flow::{key, value};
use crate::ir::Proto;
use crate::packet::{Field, ethernet, ipv4, skb, tcp};

/// What the programs of a pod's veth have to know of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fast {
    /// The host's interface, which leads to the other nodes.
    pub host: u32,
    pub overlay: Onward,
}

/// The program's own numbers of the maps, after those of its counters.
const FLOWS: u32 = 2;
const PODS: u32 = 3;
const DEVICES: u32 = 4;

/// The entry of the packet's flow, in a map. 0: there is none.
const FLOW: Reg = L4_LEN;

/// `tc_index` of a copy that is to become a probe, or one in the opposite direction: set right before the packet is copied to the
/// hook that it is on, and cleared after. Neither `mark`, which others use, nor anything that a packet can bring along.
const PROBE: u32 = 0x5201;
const REVIVE: u32 = 0x5202;

/// The urgent pointer of a probe. Where probes end, packets of pods have their own, which is 0. That of a flow whose remote end NAT
/// changes is another one: where they end, they say no more of themselves.
const PROBE_URGENT: u32 = 0xfffe;
const PROBE_TRANSLATED: u32 = 0xfffd;
/// Data offset 5, ACK.
const PROBE_FLAGS: u32 = 0x5010;

const KEY: Slot = part(CHUNK, 0, key::LEN);
const VALUE: Slot = part(CHUNK, 16, value::LEN);
/// Headers that are made: 40 bytes.
const HEADERS: Slot = part(CHUNK, 120, 40);
const MAC: Slot = part(CHUNK, 160, 8);
const NOW: Slot = part(CHUNK, 168, 8);
/// The sequence number behind the packet, how many it takes, and what it acknowledges.
const END: Slot = part(CHUNK, 176, 8);
const LENGTH: Slot = part(CHUNK, 184, 8);
const ACKED: Slot = part(CHUNK, 192, 8);
/// What the program itself needs later.
const MINE: [Slot; 3] = [part(CHUNK, 200, 8), part(CHUNK, 208, 8), part(CHUNK, 216, 8)];
/// The key of the flow that an alias leads to.
const OTHER_KEY: Slot = part(CHUNK, 224, 16);
/// What is probed: 0, if its remote end is changed by NAT.
const FORM: Slot = part(CHUNK, 240, 8);

/// The direction of a packet, and what there is to know of it.
struct Way {
    name: &'static str,
    /// When the last proof was, and what kinds there have been.
    proven: Field,
    real: Field,
    probed: Field,
    asked: Field,
    end: Field,
    ahead: Field,
    /// Of what goes this way: the highest acknowledgement, which went the other.
    acked: Field,
    /// Of the window that limits this way: the other end announces it.
    scale: Field,
    back: Back,
}

/// The opposite direction.
struct Back {
    probed: Field,
    end: Field,
    acked: Field,
    scale: Field,
}

const OUT: Way = Way {
    name: "out",
    proven: value::OUT,
    real: value::REAL_OUT,
    probed: value::PROBED_OUT,
    asked: value::ASKED_OUT,
    end: value::END_OUT,
    ahead: value::AHEAD_OUT,
    acked: value::ACKED_OUT,
    scale: value::SCALE_IN,
    back: Back {
        probed: value::PROBED_IN,
        end: value::END_IN,
        acked: value::ACKED_IN,
        scale: value::SCALE_OUT,
    },
};

const IN: Way = Way {
    name: "in",
    proven: value::IN,
    real: value::REAL_IN,
    probed: value::PROBED_IN,
    asked: value::ASKED_IN,
    end: value::END_IN,
    ahead: value::AHEAD_IN,
    acked: value::ACKED_IN,
    scale: value::SCALE_OUT,
    back: Back {
        probed: value::PROBED_OUT,
        end: value::END_OUT,
        acked: value::ACKED_OUT,
        scale: value::SCALE_IN,
    },
};

/// `BPF_ANY` and `BPF_NOEXIST`: whether an entry may take the place of another.
const ANY: u32 = 0;
const NOEXIST: u32 = 1;

impl Emit {
    /// The beginning of a program of its own: TCP over IPv4, without options and without a tag beside the frame. All else passes.
    fn enter_tcp(&mut self) -> (Window, Cold) {
        self.op_note(Insn::mov64(SKB, R1), "context");
        let (ip, cold) = self.pull_window("packet", ipv4::LEN + tcp::LEN);
        self.load(R1, &Window::of_link_header(ethernet::LEN), ethernet::TYPE);
        self.jump_if_note(Cond::ne32(R1, u32::from(ethernet::TYPE_IPV4)), self.pass, "not IPv4, or tagged");
        self.load(R1, &ip, ipv4::PROTOCOL);
        self.jump_if_note(Cond::ne32(R1, u32::from(Proto::Tcp.number())), self.pass, "not TCP");
        self.load(R1, &ip, ipv4::VERSION_IHL);
        self.jump_if_note(Cond::ne32(R1, ipv4::PLAIN), self.pass, "another version, or options");
        self.load_skb(R1, skb::VLAN_PRESENT);
        self.jump_if_note(Cond::ne32(R1, 0_u32), self.pass, "a tag beside the frame");
        (ip, cold)
    }

    /// The packet is for the overlay's device, as the kernel sees it. Uses R0 to R5.
    fn as_from_overlay(&mut self, overlay: Onward) {
        let [a, b, c, d, x, y] = overlay.mac;
        self.op(Insn::ld_imm64(R1, u64::from_le_bytes([a, b, c, d, x, y, 0, 0])));
        self.keep(MAC, R1, "its link address");
        let at = Offset { bytes: 0, plus: None };
        self.store_bytes(at, MAC, Len::Const(6));
    }
}
