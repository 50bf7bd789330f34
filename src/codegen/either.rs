//! Devices without a link header on whose ingress there may be one all the same.
//!
//! Where a tunnel's packet came over Ethernet, xfrm and vti put the header back before the inner packet
//! (`skb_mac_header_rebuild`), and tc shows it to the program. The device does not say so, but the packet does: the
//! kernel knows where its network header is. The program has two bodies, and this chooses between them. Input: the
//! context in R1. Output: falls through where the packet starts with IP; passes what starts with anything else.

use asm::{Cond, Helper, Insn, Label, Reg::*, Size};

use super::emit::{Emit, SKB};
use super::frame::{PEEK, part};
use crate::packet::{Field, ethernet};

/// `BPF_HDR_START_NET`
const FROM_NETWORK_HEADER: u32 = 1;
/// As much of the IP header as is compared: with a link header in front, no more than the shortest packet has without.
const LEN: i16 = 12;

/// `if the IP header is after an Ethernet header goto rebuilt`
pub(super) fn emit(e: &mut Emit, rebuilt: Label) {
    e.op_note(Insn::mov64(SKB, R1), "context");
    let (packet, cold) = e.pull_window("either", ethernet::LEN + LEN);
    e.op(Insn::mov32(R2, 0_u32));
    e.address_of(R3, PEEK);
    e.op(Insn::mov32(R4, i32::from(LEN)));
    e.op_note(Insn::mov32(R5, FROM_NETWORK_HEADER), "BPF_HDR_START_NET");
    e.call(Helper::SkbLoadBytesRelative);
    e.jump_if(Cond::ne64(R0, 0), e.pass);
    let (behind, plain) = (e.label("behind_a_link_header"), e.label("starts_with_ip"));
    for (start, otherwise) in [(0, behind), (ethernet::LEN, e.pass)] {
        for at in (0..LEN).step_by(4) {
            let word = |name, offset| Field { name, offset, size: Size::W };
            e.load_raw(R1, &part(PEEK, at, 4).window(), word("of the network header", 0));
            e.load_raw(R2, &packet.at(start), word("of the packet", at));
            e.jump_if(Cond::ne32(R1, R2), otherwise);
        }
        if start == 0 {
            e.goto(plain);
            e.bind(behind);
        } else {
            e.goto(rebuilt);
        }
    }
    e.pull(cold);
    e.bind(plain);
}
