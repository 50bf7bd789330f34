//! The checks before a rule may touch a packet. A packet that fails one passes unchanged.
//!
//! Comes before every routine, and so after the diagram: most packets match no rule, and need not
//! pay for it.

use asm::{Cond, Insn, Label, Reg, Reg::*};

use super::big::{Big, emit_big};
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

/// How many bytes there must be after the IP header, and what a packet with fewer is counted as.
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
    let with_options = options_elsewhere(e, family, name);
    validate(e, least, IpHeader::Plain(family));
    with_options
}

/// The same where packets of several segments may come: the length of those of TCP may not be in the IP header.
pub(super) fn validate_plain_big(
    e: &mut Emit,
    family: Family,
    proto: Proto,
    name: &str,
) -> (Option<Label>, Option<Big>) {
    let with_options = options_elsewhere(e, family, name);
    (with_options, validate_big(e, proto, IpHeader::Plain(family)))
}

pub(super) fn options_elsewhere(e: &mut Emit, family: Family, name: &str) -> Option<Label> {
    match family {
        Family::V4 => {
            let label = e.label(format!("{name}_options"));
            e.if_options(R1, &Window::of_ip_header(ipv4::SHORTEST), label);
            Some(label)
        }
        Family::V6 => None,
    }
}

/// Not a fragment; no shorter than it says; `least` bytes or more after the IP header. Leaves their
/// number in `L4_LEN`. Uses R2 to R4.
pub(super) fn validate(e: &mut Emit, least: Least, header: IpHeader) {
    lengths(e, least.0, header, |e| e.exit_for(least.1), None);
}

/// The same where packets of several segments may come: the length of those of TCP may not be in the IP header.
#[must_use]
pub(super) fn validate_big(e: &mut Emit, proto: Proto, header: IpHeader) -> Option<Big> {
    let least = Least::header(proto);
    if proto == Proto::Udp {
        validate(e, least, header);
        return None;
    }
    let (at, join) = (e.label("says_too_short"), e.label("long_enough"));
    lengths(e, least.0, header, |_| at, Some(join));
    Some(Big { at, join, least, header })
}

/// `short`: where to go with packets that are too short for their headers by what they say; `join`: where those come
/// back that are not.
fn lengths(
    e: &mut Emit,
    least: i16,
    header: IpHeader,
    short: impl FnOnce(&mut Emit) -> Label,
    join: Option<Label>,
) {
    let (cond, behind) = match header {
        IpHeader::Plain(Family::V6) => {
            let ip = Window::of_ip_header(ipv6::SHORTEST);
            // Without rules that count, the prologue has let them pass.
            if e.counts {
                e.load(R2, &ip, ipv6::NEXT_HEADER);
                e.pass_if(Cond::eq32(R2, ipv6::FRAGMENT), Reason::Fragment, "fragment");
            }
            e.load(L4_LEN, &ip, ipv6::LENGTH);
            frame_holds(e, ipv6::LEN);
            (Cond::lt32(L4_LEN, i32::from(least)), None)
        }
        IpHeader::Plain(Family::V4) => {
            validate_v4(e);
            let behind = Insn::sub32(L4_LEN, i32::from(ipv4::LEN));
            (Cond::lt32(L4_LEN, i32::from(ipv4::LEN + least)), Some(behind))
        }
        IpHeader::WithOptions(len) => {
            validate_v4(e);
            e.op(Insn::mov32(R2, len));
            e.op(Insn::add32(R2, i32::from(least)));
            (Cond::lt32(L4_LEN, R2), Some(Insn::sub32(L4_LEN, len)))
        }
    };
    let short = short(e);
    e.jump_if_note(cond, short, "too short for its headers");
    if let Some(join) = join {
        e.bind(join);
    }
    if let Some(behind) = behind {
        e.op_note(behind, "length of L4");
    }
}

fn validate_v4(e: &mut Emit) {
    let ip = Window::of_ip_header(ipv4::SHORTEST);
    e.load(R2, &ip, ipv4::FRAGMENT);
    e.pass_if(Cond::set32(R2, ipv4::FRAGMENTED), Reason::Fragment, "fragment");
    e.load(L4_LEN, &ip, ipv4::LENGTH);
    frame_holds(e, 0);
}

/// `more` bytes and those that `L4_LEN` says. Bytes after the IP packet are padding, and fine.
fn frame_holds(e: &mut Emit, more: i16) {
    e.load_skb(R3, skb::LEN);
    e.op(Insn::mov32(R4, L4_LEN));
    let more = more + e.link.header_len();
    if more != 0 {
        e.op(Insn::add32(R4, i32::from(more)));
    }
    e.pass_if(Cond::gt32(R4, R3), Reason::Malformed, "shorter than it says");
}

/// The routine of `accept`.
pub(super) fn emit_accept(e: &mut Emit, family: Family, proto: Proto) {
    emit_verdict(e, family, proto, "accept", |e| e.done(0));
}

/// The routine of `drop`.
pub(super) fn emit_drop(e: &mut Emit, family: Family, proto: Proto) {
    emit_verdict(e, family, proto, "drop", |e| {
        e.count(0);
        e.exit(SHOT);
    });
}

fn emit_verdict(e: &mut Emit, family: Family, proto: Proto, word: &str, end: fn(&mut Emit)) {
    let name = format!("{}{word}_{proto}", family.prefix());
    let with_options = options_elsewhere(e, family, &name);
    let big = validate_big(e, proto, IpHeader::Plain(family));
    end(e);
    emit_big(big, e, |e, join| e.goto(join));
    let Some(with_options) = with_options else { return };
    e.bind(with_options);
    e.ip_header_len(R1);
    let big = validate_big(e, proto, IpHeader::WithOptions(R1));
    end(e);
    emit_big(big, e, |e, join| e.goto(join));
}
