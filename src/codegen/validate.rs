//! What must hold of a packet before a rule may touch it. All that fails goes on unchanged.
//!
//! Stands in front of every routine, and so behind the tree: most packets match no rule, and they
//! need not pay for it.

use asm::{Cond, Insn, Label, Reg, Reg::*};

use super::Verb;
use super::counters::Reason;
use super::emit::{Emit, L4_LEN, SHOT, Window};
use crate::ir::{Family, Proto};
use crate::packet::{ipv4, ipv6, skb};

/// The IP header, as far as lengths go.
#[derive(Debug, Clone, Copy)]
pub(super) enum IpHeader {
    /// Of its fixed length.
    Plain(Family),
    /// IPv4 with options: the register holds its length.
    WithOptions(Reg),
}

/// How many bytes there must be behind the IP header, and what a packet with fewer is counted as.
#[derive(Debug, Clone, Copy)]
pub(super) struct Least(pub i16, pub Reason);

impl Least {
    /// The header of a protocol: it is there, or the packet is damaged.
    pub(super) fn header(proto: Proto) -> Self {
        Least(i16::from(proto.header_len()), Reason::Malformed)
    }
}

/// What [`validate`] does. Packets with IP options are sent to the label that is returned, which is still
/// to be bound; there, `R1` holds `ip.ihl`.
#[must_use]
pub(super) fn validate_plain(e: &mut Emit, family: Family, least: Least, name: &str) -> Option<Label> {
    let with_options = match family {
        Family::V4 => {
            let label = e.label(format!("{name}_options"));
            e.if_options(R1, &Window::of_ip_header(ipv4::SHORTEST), label);
            Some(label)
        }
        Family::V6 => None,
    };
    validate(e, least, IpHeader::Plain(family));
    with_options
}

/// Not a fragment; no shorter than it says; `least` bytes or more behind the IP header. Leaves their
/// number in `L4_LEN`. Uses R2 to R4.
pub(super) fn validate(e: &mut Emit, Least(least, short): Least, header: IpHeader) {
    match header {
        IpHeader::Plain(Family::V6) => {
            // Fragments and jumbograms have headers of their own, which the prologue has let pass.
            e.load(L4_LEN, &Window::of_ip_header(ipv6::SHORTEST), ipv6::LENGTH);
            frame_holds(e, ipv6::LEN);
            let least = i32::from(least);
            e.pass_if(Cond::lt32(L4_LEN, least), short, "too short for its headers");
        }
        IpHeader::Plain(Family::V4) => {
            validate_v4(e);
            let least = i32::from(ipv4::LEN + least);
            e.pass_if(Cond::lt32(L4_LEN, least), short, "too short for its headers");
            e.op_note(Insn::sub32(L4_LEN, i32::from(ipv4::LEN)), "length of L4");
        }
        IpHeader::WithOptions(len) => {
            validate_v4(e);
            e.op(Insn::mov32(R2, len));
            e.op(Insn::add32(R2, i32::from(least)));
            e.pass_if(Cond::lt32(L4_LEN, R2), short, "too short for its headers");
            e.op_note(Insn::sub32(L4_LEN, len), "length of L4");
        }
    }
}

fn validate_v4(e: &mut Emit) {
    let ip = Window::of_ip_header(ipv4::SHORTEST);
    e.load(R2, &ip, ipv4::FRAGMENT);
    e.pass_if(Cond::set32(R2, ipv4::FRAGMENTED), Reason::Fragment, "fragment");
    e.load(L4_LEN, &ip, ipv4::LENGTH);
    frame_holds(e, 0);
}

/// `more` bytes and those that `L4_LEN` says. Bytes behind the IP packet are padding, and fine.
fn frame_holds(e: &mut Emit, more: i16) {
    e.load_skb(R3, skb::LEN);
    e.op(Insn::mov32(R4, L4_LEN));
    let more = more + e.link.header_len();
    if more != 0 {
        e.op(Insn::add32(R4, i32::from(more)));
    }
    e.pass_if(Cond::gt32(R4, R3), Reason::Malformed, "shorter than it says");
}

/// The routine of `drop`, or of `accept`.
pub(super) fn emit_verdict(e: &mut Emit, family: Family, proto: Proto, verb: Verb) {
    let (word, end): (_, fn(&mut Emit)) = match verb {
        Verb::Drop => ("drop", |e| {
            e.count(0);
            e.exit(SHOT);
        }),
        _ => ("accept", |e| e.done(0)),
    };
    let least = Least::header(proto);
    let name = format!("{}{word}_{proto}", family.prefix());
    let with_options = validate_plain(e, family, least, &name);
    end(e);
    let Some(with_options) = with_options else { return };
    e.bind(with_options);
    e.ip_header_len(R1);
    validate(e, least, IpHeader::WithOptions(R1));
    end(e);
}
