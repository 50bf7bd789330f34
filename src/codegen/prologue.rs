//! The prologue: from a packet to its protocol's tree.
//!
//! Leaves alone what no rule may touch: other protocols, fragments, frames with a tag in them, and
//! packets too short for their headers or shorter than they say. Sets up the registers of the
//! module's contract for the rest.

use asm::{Cond, Insn, Reg::*};

use super::Link;
use super::emit::{Emit, L4_LEN, PORTS, SKB, Window};
use super::frame::{Len, Offset, PEEK};
use crate::ir::Proto;
use crate::packet::{ethernet, ipv4, l4, skb};

/// The shortest packet that can match: an IP header and the UDP header.
const SHORTEST: i16 = ipv4::LEN + 8;

/// `tree` emits the tree of one of the `wanted` protocols; it is called once for each.
pub(super) fn emit(e: &mut Emit, wanted: &[Proto], mut tree: impl FnMut(&mut Emit, Proto)) {
    let with_options = e.label("options");
    let dispatch = e.label("dispatch");

    e.op_note(Insn::mov64(SKB, R1), "context");
    if e.link == Link::None {
        e.load_skb(R2, skb::PROTOCOL);
        e.op(Insn::be16(R2));
        e.jump_if_note(Cond::ne32(R2, ethernet::TYPE_IPV4), e.pass, "not IPv4");
    }
    let (ip, cold) = e.pull_window("packet", SHORTEST);
    if e.link == Link::Ethernet {
        let link = Window::of_link_header(ethernet::LEN);
        e.load(R2, &link, ethernet::TYPE);
        e.jump_if_note(Cond::ne32(R2, ethernet::TYPE_IPV4), e.pass, "not IPv4, or tagged");
    }
    e.load(R2, &ip, ipv4::VERSION_IHL);
    e.jump_if_note(Cond::ne32(R2, ipv4::PLAIN), with_options, "another version, or options");

    e.load(L4_LEN, &ip, ipv4::LENGTH);
    pass_if_cut_short(e);
    e.jump_if(Cond::lt32(L4_LEN, i32::from(SHORTEST)), e.pass);
    e.op_note(Insn::sub32(L4_LEN, i32::from(ipv4::LEN)), "length of L4");
    e.load(PORTS, &ip.at(ipv4::LEN), l4::PORTS);

    e.bind(dispatch);
    e.load(R2, &ip, ipv4::FRAGMENT);
    e.jump_if_note(Cond::set32(R2, ipv4::FRAGMENTED), e.pass, "fragment");
    e.load(R2, &ip, ipv4::PROTOCOL);
    for (index, proto) in wanted.iter().enumerate() {
        let another = if index + 1 == wanted.len() { e.pass } else { e.label(format!("not_{proto}")) };
        e.jump_if(Cond::ne32(R2, proto.number()), another);
        if *proto == Proto::Tcp {
            e.jump_if_note(Cond::lt32(L4_LEN, proto.header_len()), e.pass, "no room for a TCP header");
        }
        tree(e, *proto);
        if another != e.pass {
            e.bind(another);
        }
    }

    e.origin(None);
    e.bind(with_options);
    emit_options(e, &ip);
    e.goto(dispatch);
    e.pull(cold);
}

/// The same as above at shifted offsets. `R2` holds version and IHL. The L4 header is behind a
/// variable offset, so its ports come by way of the stack.
fn emit_options(e: &mut Emit, ip: &Window) {
    e.op(Insn::mov32(R3, R2));
    e.op_note(Insn::rsh32(R3, 4_u32), "ip.version");
    e.jump_if(Cond::ne32(R3, 4_u32), e.pass);
    e.op(Insn::and32(R2, 0x0f_u32));
    e.jump_if_note(Cond::lt32(R2, 5_u32), e.pass, "ip.ihl");
    e.op(Insn::lsh32(R2, 2_u32));
    e.op_note(Insn::mov32(R5, R2), "length of the IP header");
    e.load(L4_LEN, ip, ipv4::LENGTH);
    pass_if_cut_short(e);
    e.op(Insn::mov32(R3, R5));
    e.op(Insn::add32(R3, i32::from(Proto::Udp.header_len())));
    e.jump_if(Cond::lt32(L4_LEN, R3), e.pass);
    e.op_note(Insn::sub32(L4_LEN, R5), "length of L4");
    let behind_options = Offset { bytes: e.link.header_len(), plus: Some(R5) };
    e.load_bytes(behind_options, PEEK, Len::Const(4));
    e.load(PORTS, &PEEK.window(), l4::PORTS);
}

/// `if L4_LEN + link header > skb->len goto pass`, `L4_LEN` being ip.length still. Bytes behind the
/// IP packet are padding, and fine.
fn pass_if_cut_short(e: &mut Emit) {
    e.load_skb(R3, skb::LEN);
    e.op(Insn::mov32(R4, L4_LEN));
    if e.link == Link::Ethernet {
        e.op(Insn::add32(R4, i32::from(ethernet::LEN)));
    }
    e.jump_if_note(Cond::gt32(R4, R3), e.pass, "shorter than it says");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortest_packet_is_a_udp_header() {
        assert_eq!(SHORTEST, ipv4::LEN + i16::from(Proto::Udp.header_len()));
    }
}
