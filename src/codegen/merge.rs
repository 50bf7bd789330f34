//! What has been unfunneled, through generic receive offload (GRO): to the merging pair, and back.
//!
//! GRO makes one packet of many segments before the stack handles them, but never of funneled TCP, whose
//! sequence number is constant. After `unfunnel` they are segments like any others, and past GRO. So the
//! interface has a companion veth pair whose receiving end has GRO on. Segments with data go through it, and
//! come back to the interface's ingress, where the program lets them pass as if they had just been unfunneled.
//!
//! ```text
//! eth0 ingress, unfunnel ──▶ end "merge"  ══GRO══▶ end "merged" ──▶ eth0 ingress ──▶ the stack
//! ```
//!
//! Segments without data gain nothing, and go straight on. They may overtake others; TCP minds only if they close
//! the connection, so those go with the data.
//!
//! `tc_index` says on the way that the packet is ours: see [`segment`](super::segment).

use asm::{Cond, Helper, Insn, Program, Reg::*};

use super::companion::Companion;
use super::emit::{Emit, L4_LEN, SHOT, SKB, UNSPEC, Window};
use super::segment::{BPF_F_INGRESS, push_link_header};
use super::{Link, Options};
use crate::ir::{Family, Proto};
use crate::packet::{ipv4, ipv6, l4, skb, tcp};

/// What `tc_index` holds, on the way to the pair and back.
const MARK: u32 = 0x5c00;
/// `GOLDEN_RATIO_32` (include/linux/hash.h): spreads what differs in some bits over all that are above them.
const GOLDEN_RATIO: u32 = 0x61c8_8647;

/// What comes back goes on to the hook's next program, whatever the rules say of it.
pub(super) fn let_pass(e: &mut Emit) {
    let fresh = e.label("fresh");
    e.load_skb(R2, skb::TC_INDEX);
    e.jump_if_note(Cond::ne32(R2, MARK), fresh, "not from the merging pair");
    e.op(Insn::mov32(R2, 0_u32));
    e.store_skb(skb::TC_INDEX, R2);
    e.exit(UNSPEC);
    e.bind(fresh);
}

/// `L4_LEN = whether the segment goes through the pair`: it has data, or closes the connection. `packet` begins with
/// the IP header, and `L4_LEN` is still that of the `outer` segment. Uses R0 to R5.
pub(super) fn look(e: &mut Emit, family: Family, packet: &Window, outer: Proto, name: &str) {
    let tcp = packet.at(family.header_len() + i16::from(outer.header_len()));
    e.load(R1, &tcp, tcp::DATA_OFFSET);
    e.op(Insn::rsh32(R1, 4_u32));
    e.op(Insn::lsh32(R1, 2_u32));
    e.op(Insn::sub32(L4_LEN, R1));
    e.op_note(Insn::sub32(L4_LEN, outer.header_len()), "data");
    e.load(R1, &tcp, tcp::FLAGS);
    e.op_note(Insn::and32(R1, tcp::FIN | tcp::RST), "closes the connection");
    e.op(Insn::or32(L4_LEN, R1));
    let straight_on = e.label(format!("{name}_straight_on"));
    e.jump_if(Cond::eq32(L4_LEN, 0_u32), straight_on);
    set_hash(e, family, packet, &tcp);
    e.bind(straight_on);
}

/// One hash for all segments of a flow: they are merged only with those of the same, and go through the pair's
/// queue that it chooses. From a socket on the same machine only the first segment after a pause has one, and it
/// would come out after the rest (`ooo_okay` in `netdev_pick_tx`, `gro_list_prepare`); the hash that a device has computed is
/// that of the funneling header, the same for all flows of a client.
fn set_hash(e: &mut Emit, family: Family, ip: &Window, tcp: &Window) {
    let source = match family {
        Family::V4 => ipv4::SADDR,
        Family::V6 => ipv6::SADDR[3],
    };
    e.load_raw(R1, ip, source);
    e.load_raw(R2, tcp, l4::PORTS);
    e.op(Insn::xor32(R2, R1));
    e.op_note(Insn::mul32(R2, GOLDEN_RATIO), "the flow's hash");
    e.call(Helper::SetHash);
}

/// The block that redirects to the pair, if something jumps there; falls through from nowhere.
pub(super) fn emit(e: &mut Emit) {
    let Some(label) = e.merge else { return };
    e.bind(label);
    e.put_tag_back("what_is_merged");
    if e.link == Link::None {
        push_link_header(e);
    }
    e.op_note(Insn::mov32(R2, MARK), "ours, for the other end");
    e.store_skb(skb::TC_INDEX, R2);
    e.number_of_companion(Companion::Merge, "an end of the merging pair");
    e.redirect(0);
}

/// The program for the end that receives.
///
/// # Errors
///
/// A bug of this module.
pub fn compile_merged() -> Result<Program, asm::Error> {
    let mut e = Emit::new(Options::pass_gso(Link::Ethernet));
    let drop = e.label("drop");
    e.op_note(Insn::mov64(SKB, R1), "context");
    e.load_skb(R2, skb::TC_INDEX);
    e.jump_if_note(Cond::ne32(R2, MARK), drop, "not sent by our program");
    e.number_of_interface();
    e.redirect(BPF_F_INGRESS);
    e.bind(drop);
    e.exit(SHOT);
    e.finish()
}
