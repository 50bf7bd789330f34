//! What must hold of a packet before a rule may touch it. All that fails goes on unchanged.
//!
//! Stands in front of every routine, and so behind the tree: most packets match no rule, and they
//! need not pay for it.

use asm::{Cond, Insn, Label, Reg, Reg::*};

use super::Link;
use super::emit::{Emit, L4_LEN, SHOT, Window};
use crate::ir::Proto;
use crate::packet::{ethernet, ipv4, skb};

/// The length of the IP header.
#[derive(Debug, Clone, Copy)]
pub(super) enum IpHeader {
    Plain,
    WithOptions(Reg),
}

/// `if ip has options goto with_options`, and for the others what [`validate`] does. In the block at
/// `with_options`, `R1` holds `ip.ihl`.
pub(super) fn validate_plain(e: &mut Emit, least: i16, with_options: Label) {
    e.if_options(R1, &Window::of_ip_header(ipv4::SHORTEST), with_options);
    validate(e, least, IpHeader::Plain);
}

/// Not a fragment; no shorter than it says; `least` bytes or more behind the IP header. Leaves their
/// number in `L4_LEN`. Uses R2 to R4.
pub(super) fn validate(e: &mut Emit, least: i16, header: IpHeader) {
    let ip = Window::of_ip_header(ipv4::SHORTEST);
    e.load(R2, &ip, ipv4::FRAGMENT);
    e.jump_if_note(Cond::set32(R2, ipv4::FRAGMENTED), e.pass, "fragment");
    e.load(L4_LEN, &ip, ipv4::LENGTH);
    // Bytes behind the IP packet are padding, and fine.
    e.load_skb(R3, skb::LEN);
    e.op(Insn::mov32(R4, L4_LEN));
    if e.link == Link::Ethernet {
        e.op(Insn::add32(R4, i32::from(ethernet::LEN)));
    }
    e.jump_if_note(Cond::gt32(R4, R3), e.pass, "shorter than it says");
    match header {
        IpHeader::Plain => {
            let least = i32::from(ipv4::LEN + least);
            e.jump_if_note(Cond::lt32(L4_LEN, least), e.pass, "too short for its headers");
            e.op_note(Insn::sub32(L4_LEN, i32::from(ipv4::LEN)), "length of L4");
        }
        IpHeader::WithOptions(len) => {
            e.op(Insn::mov32(R2, len));
            e.op(Insn::add32(R2, i32::from(least)));
            e.jump_if_note(Cond::lt32(L4_LEN, R2), e.pass, "too short for its headers");
            e.op_note(Insn::sub32(L4_LEN, len), "length of L4");
        }
    }
}

/// The routine of `drop`.
pub(super) fn emit_drop(e: &mut Emit, proto: Proto) {
    let least = i16::from(proto.header_len());
    let with_options = e.label(format!("drop_{proto}_options"));
    validate_plain(e, least, with_options);
    e.exit(SHOT);
    e.bind(with_options);
    e.ip_header_len(R1);
    validate(e, least, IpHeader::WithOptions(R1));
    e.exit(SHOT);
}
