//! The prologue: from a packet to its protocol's tree.
//!
//! Does what it takes to find the fields that rules match on, and no more: a packet that no rule
//! matches goes on unchanged whatever else may be wrong with it, so that is looked at behind the
//! tree, in [`validate`](super::validate).

use asm::{Cond, Insn, Label, Reg::*};

use super::big::Behind;
use super::emit::{Cold, Emit, PORTS, SKB, Window};
use super::frame::{Len, Offset, PEEK};
use super::tags::Tags;
use super::{Link, merge};
use crate::ir::{Family, Proto};
use crate::packet::{ethernet, ipv4, ipv6, l4, skb};

/// `tree` emits the tree of one protocol; it is called once for each of `v4` and of `v6`.
pub(super) fn emit(e: &mut Emit, v4: &[Proto], v6: &[Proto], mut tree: impl FnMut(&mut Emit, Family, Proto)) {
    let first = match (v4, v6) {
        ([], []) => return,
        ([], _) => Family::V6,
        _ => Family::V4,
    };
    let second = (!v4.is_empty() && !v6.is_empty()).then(|| e.label("not_ipv4"));
    let families: Vec<Family> = [(Family::V4, v4), (Family::V6, v6)]
        .into_iter()
        .filter(|(_, wanted)| !wanted.is_empty())
        .map(|(family, _)| family)
        .collect();

    if !e.entered {
        e.op_note(Insn::mov64(SKB, R1), "context");
    }
    if e.merges {
        merge::let_pass(e);
    }
    let tags = Tags::expect(e, &families);
    let neither = tags.as_ref().filter(|_| e.target.long_jumps).map_or(e.pass, |tags| tags.look);
    let other = second.unwrap_or(neither);
    if e.link == Link::None {
        e.load_skb(R2, skb::PROTOCOL);
        e.op(Insn::be16(R2));
        unless(e, first, other);
    }
    let (ip, cold) = e.pull_window("packet", first.shortest());
    if e.link == Link::Ethernet {
        e.load(R2, &Window::of_link_header(ethernet::LEN), ethernet::TYPE);
        match tags.as_ref() {
            Some(tags) if !e.target.long_jumps => {
                // Nothing leads back over a large diagram, so this is in front of it.
                unless(e, first, tags.look);
                if let Some(found) = tags.found(first) {
                    e.goto(found);
                }
                tags.look(e, second.unwrap_or(e.pass));
            }
            _ => unless(e, first, other),
        }
        if let Some(tags) = &tags {
            tags.bind_found(e, first);
        }
    }
    match first {
        Family::V4 => plain_or_options(e, &ip, cold, |e| dispatch(e, Family::V4, v4, &mut tree)),
        Family::V6 => find_ports(e, &ip, cold, |e| dispatch(e, Family::V6, v6, &mut tree)),
    }
    if let Some(second) = second {
        e.bind(second);
        unless(e, Family::V6, neither);
        let (ip, cold) = e.pull_window("ip6_packet", ipv6::SHORTEST);
        if let Some(tags) = &tags {
            tags.bind_found(e, Family::V6);
        }
        find_ports(e, &ip, cold, |e| dispatch(e, Family::V6, v6, &mut tree));
    }
    if let Some(tags) = tags.filter(|_| e.target.long_jumps) {
        tags.look(e, e.pass);
    }
}

/// `if R2 != EtherType of the family goto other`
fn unless(e: &mut Emit, family: Family, other: Label) {
    let note = match (family, e.link) {
        (Family::V4, Link::None | Link::Either) => "not IPv4",
        (Family::V4, Link::Ethernet) => "not IPv4, or tagged",
        (Family::V6, Link::None | Link::Either) => "not IPv6",
        (Family::V6, Link::Ethernet) => "not IPv6, or tagged",
    };
    e.jump_if_note(Cond::ne32(R2, family.ethertype()), other, note);
}

/// From the IP header's protocol to the tree of that protocol.
fn dispatch(e: &mut Emit, family: Family, wanted: &[Proto], tree: &mut impl FnMut(&mut Emit, Family, Proto)) {
    e.load(R2, &Window::of_ip_header(family.shortest()), family.protocol());
    let behind = (family == Family::V6).then(|| Behind::labels(e, wanted)).flatten();
    let in_front = !e.target.long_jumps;
    let neither = behind.as_ref().filter(|_| !in_front).map_or(e.pass, |behind| behind.other);
    if let Some(behind) = behind.as_ref().filter(|_| in_front) {
        behind.emit_in_front(e);
    }
    for (index, proto) in wanted.iter().enumerate() {
        let last = index + 1 == wanted.len();
        let another = if last { neither } else { e.label(format!("{}not_{proto}", family.prefix())) };
        e.jump_if(Cond::ne32(R2, proto.number()), another);
        if let Some(diagram) = behind.as_ref().and_then(|behind| behind.diagram(*proto)) {
            e.bind(diagram);
        }
        tree(e, family, *proto);
        if !last {
            e.bind(another);
        }
    }
    e.origin(None);
    if let Some(behind) = behind.filter(|_| !in_front) {
        behind.emit(e);
    }
}

/// IPv6: what is behind the header is L4, or of no concern, unless [`Behind`] knows the header.
fn find_ports(e: &mut Emit, ip: &Window, cold: Cold, dispatch: impl FnOnce(&mut Emit)) {
    e.load(R2, ip, ipv6::VERSION);
    e.op(Insn::rsh32(R2, 4_u32));
    e.jump_if_note(Cond::ne32(R2, 6_u32), e.pass, "another version");
    e.load(PORTS, &ip.at(ipv6::LEN), l4::PORTS);
    if e.target.long_jumps {
        dispatch(e);
        e.pull(cold);
    } else {
        let found = e.label("ip6_dispatch");
        e.goto(found);
        e.pull(cold);
        e.bind(found);
        dispatch(e);
    }
}

/// IPv4. Behind options the L4 header is at a variable offset: its ports come by way of the stack.
///
/// What is rare is behind the tree, out of the way; but without long jumps in front of it, since nothing leads back over
/// a large one.
fn plain_or_options(e: &mut Emit, ip: &Window, cold: Cold, dispatch: impl FnOnce(&mut Emit)) {
    let with_options = e.label("options");
    let found = e.label("dispatch");
    e.load(R2, ip, ipv4::VERSION_IHL);
    e.jump_if_note(Cond::ne32(R2, ipv4::PLAIN), with_options, "another version, or options");
    e.load(PORTS, &ip.at(ipv4::LEN), l4::PORTS);
    if e.target.long_jumps {
        e.bind(found);
        dispatch(e);
        e.bind(with_options);
        ports_behind_options(e);
        e.goto(found);
        e.pull(cold);
    } else {
        e.goto(found);
        e.pull(cold);
        e.bind(with_options);
        ports_behind_options(e);
        e.bind(found);
        dispatch(e);
    }
}

/// On entry R2 is the first byte of the header.
fn ports_behind_options(e: &mut Emit) {
    e.op(Insn::mov32(R3, R2));
    e.op_note(Insn::rsh32(R3, 4_u32), "ip.version");
    e.jump_if(Cond::ne32(R3, 4_u32), e.pass);
    e.op(Insn::and32(R2, 0x0f_u32));
    e.jump_if_note(Cond::lt32(R2, 5_u32), e.pass, "ip.ihl");
    e.ip_header_len(R2);
    let behind_options = Offset { plus: Some(R2), ..e.ip_offset() };
    e.load_bytes(behind_options, PEEK, Len::Const(4));
    e.load(PORTS, &PEEK.window(), l4::PORTS);
}
