//! The prologue: from a packet to its protocol's tree.
//!
//! Does what it takes to find the fields that rules match on, and no more: a packet that no rule
//! matches goes on unchanged whatever else may be wrong with it, so that is looked at behind the
//! tree, in [`validate`](super::validate).

use asm::{Cond, Insn, Reg::*};

use super::Link;
use super::emit::{Emit, PORTS, SKB, Window};
use super::frame::{Len, Offset, PEEK};
use crate::ir::Proto;
use crate::packet::{ethernet, ipv4, l4, skb};

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
    let (ip, cold) = e.pull_window("packet", ipv4::SHORTEST);
    if e.link == Link::Ethernet {
        let link = Window::of_link_header(ethernet::LEN);
        e.load(R2, &link, ethernet::TYPE);
        e.jump_if_note(Cond::ne32(R2, ethernet::TYPE_IPV4), e.pass, "not IPv4, or tagged");
    }
    e.load(R2, &ip, ipv4::VERSION_IHL);
    e.jump_if_note(Cond::ne32(R2, ipv4::PLAIN), with_options, "another version, or options");
    e.load(PORTS, &ip.at(ipv4::LEN), l4::PORTS);

    e.bind(dispatch);
    e.load(R2, &ip, ipv4::PROTOCOL);
    for (index, proto) in wanted.iter().enumerate() {
        let another = if index + 1 == wanted.len() { e.pass } else { e.label(format!("not_{proto}")) };
        e.jump_if(Cond::ne32(R2, proto.number()), another);
        tree(e, *proto);
        if another != e.pass {
            e.bind(another);
        }
    }
    e.origin(None);

    // Behind options the L4 header is at a variable offset: its ports come by way of the stack.
    e.bind(with_options);
    e.op(Insn::mov32(R3, R2));
    e.op_note(Insn::rsh32(R3, 4_u32), "ip.version");
    e.jump_if(Cond::ne32(R3, 4_u32), e.pass);
    e.op(Insn::and32(R2, 0x0f_u32));
    e.jump_if_note(Cond::lt32(R2, 5_u32), e.pass, "ip.ihl");
    e.ip_header_len(R2);
    let behind_options = Offset { plus: Some(R2), ..e.ip_offset() };
    e.load_bytes(behind_options, PEEK, Len::Const(4));
    e.load(PORTS, &PEEK.window(), l4::PORTS);
    e.goto(dispatch);
    e.pull(cold);
}
