//! `bypass direct` and `unbypass direct`: packets past an overlay as they are, pods' addresses and all.
//!
//! Nothing is written to the packet. On egress of the overlay's device, it goes to the host that its destination is
//! behind, by the host's interface: `bpf_redirect_neigh` is told the next hop, since the kernel's own route to a
//! pod leads into the overlay. On ingress of the other host's interface, it is handed to the overlay's device, as what
//! comes through the overlay is: strict `rp_filter` would not let it in elsewhere, and policies know it by that device.
//!
//! What is longer than the host's interface carries stays on the overlay, which may fragment it. Of a packet of several
//! segments, each has to fit (`BPF_MTU_CHK_SEGS`).
//!
//! Probes are those of [`bypass`](super::bypass) in other words: a SYN from the one node's pods to the other's, whose
//! acknowledgement number is its sequence number with all bits turned, goes back as a SYN-ACK. So it comes back only
//! where pods' addresses are let through both ways. What comes back has been seen by a packet socket, and ends here.

use std::net::IpAddr;

use asm::{Cond, Helper, Insn, Label, Reg::*, Size};

use super::Mtu;
use super::big::emit_big;
use super::bypass::{KEY, address_to_overlay, pass_if_tagged, to_overlay, turn_round};
use super::counters::Reason;
use super::emit::{Emit, FP, PORTS, SHOT, Window};
use super::frame::{MTU, PEEK};
use super::validate::{IpHeader, options_elsewhere, validate_big};
use super::whereabouts::find_long;
use crate::hops::Hops;
use crate::ir::{Family, Proto};
use crate::packet::{Field, fib, ipv4, ipv6, skb, tcp};

/// `struct bpf_redir_neigh` (include/uapi/linux/bpf.h): the family, and 16 bytes for the address.
const NEXT_HOP: i16 = PEEK.offset;
const NEXT_HOP_LEN: i32 = 20;

/// `BPF_MTU_CHK_SEGS`
const EACH_SEGMENT: u32 = 1;
/// `BPF_MTU_CHK_RET_FRAG_NEEDED` and `BPF_MTU_CHK_RET_SEGS_TOOBIG`
const TOO_LONG: [u32; 2] = [1, 2];

pub(super) fn emit(e: &mut Emit, (family, proto): (Family, Proto), name: &str, hops: &Hops) {
    if hops.of(family).next().is_none() {
        // No node of this version can be reached.
        let nobody = e.exit_for(Reason::NoPeer);
        return e.goto(nobody);
    }
    validated(
        e,
        (family, proto),
        name,
        |_| (),
        |e| {
            pass_if_tagged(e, Reason::NoPeer);
            pass_if_too_long(e, family, name);
            look_up(e, family, name, hops);
            e.count(0);
            e.write_settings();
            e.op_note(Insn::mov32(R1, e.onward.interface), "the host's interface");
            e.op(Insn::mov64(R2, FP));
            e.op_note(Insn::add64(R2, i32::from(NEXT_HOP)), "the next hop");
            e.op(Insn::mov32(R3, NEXT_HOP_LEN));
            e.op(Insn::mov32(R4, 0_u32));
            e.op(Insn::call(Helper::RedirectNeigh));
            e.op(Insn::exit());
        },
    );
}

pub(super) fn emit_undirect(e: &mut Emit, (family, proto): (Family, Proto), name: &str, probe: Option<u16>) {
    let mut cold = None;
    let plain = |e: &mut Emit| {
        let Some(port) = probe.filter(|_| proto == Proto::Tcp) else { return };
        pass_if_tagged(e, Reason::NoPeer);
        let header = family.header_len();
        let (packet, pull) = e.pull_window(name, header + tcp::LEN);
        answer(e, family, (&packet.at(0), &packet.at(header)), port);
        cold = Some(pull);
    };
    validated(e, (family, proto), name, plain, |e| {
        pass_if_tagged(e, Reason::NoPeer);
        address_to_overlay(e);
        e.count(0);
        e.write_settings();
        to_overlay(e);
    });
    if let Some(cold) = cold {
        e.pull(cold);
    }
}

/// The checks of any routine, then `plain` for packets whose L4 header is where it is mostly, then `done` for all.
fn validated(
    e: &mut Emit,
    (family, proto): (Family, Proto),
    name: &str,
    plain: impl FnOnce(&mut Emit),
    done: impl FnOnce(&mut Emit),
) {
    let whole = e.label(format!("{name}_whole"));
    let with_options = options_elsewhere(e, family, name);
    let big = validate_big(e, proto, IpHeader::Plain(family));
    plain(e);
    e.bind(whole);
    done(e);
    emit_big(big, e, |e, _| e.goto(whole));
    let Some(with_options) = with_options else { return };
    e.bind(with_options);
    e.ip_header_len(R1);
    let big = validate_big(e, proto, IpHeader::WithOptions(R1));
    e.goto(whole);
    emit_big(big, e, |e, _| e.goto(whole));
}

fn pass_if_too_long(e: &mut Emit, family: Family, name: &str) {
    if e.target.mtu != Mtu::Asked {
        // Kernels before 5.12: `bypass doctor` compares the MTUs.
        return;
    }
    let fits = e.label(format!("{name}_fits"));
    e.load_skb(R2, skb::LEN);
    let least = u32::from(family.least_mtu()) + u32::from(e.link.header_len().unsigned_abs());
    e.jump_if_note(Cond::le32(R2, least), fits, "every link carries it");
    e.op_note(Insn::store_imm(Size::W, FP, MTU.offset, 0), "as long as it is");
    e.op_note(Insn::mov32(R2, e.onward.interface), "the host's interface");
    e.address_of(R3, MTU);
    e.op(Insn::mov32(R4, 0_u32));
    e.op_note(Insn::mov32(R5, EACH_SEGMENT), "BPF_MTU_CHK_SEGS");
    e.call(Helper::CheckMtu);
    for result in TOO_LONG {
        e.pass_if(Cond::eq32(R0, result), Reason::TooLong, "would not fit");
    }
    e.bind(fits);
}

/// Leaves the next hop in the frame, for a packet from one of the pods to one of the pods.
fn look_up(e: &mut Emit, family: Family, name: &str, hops: &Hops) {
    let (sources, destinations): (&[Field], &[Field]) = match family {
        Family::V4 => (&[ipv4::SADDR], &[ipv4::DADDR]),
        Family::V6 => (&ipv6::SADDR, &ipv6::DADDR),
    };
    let zero = |e: &mut Emit, size: Size, at: i16| e.op(Insn::store_imm(size, FP, NEXT_HOP + at, 0));
    if family == Family::V4 {
        zero(e, Size::W, 16);
        zero(e, Size::D, 8);
    }
    let ip = Window::of_ip_header(family.shortest());
    let from: Vec<_> = hops.of(family).map(|hop| (bits(hop.first), bits(hop.last), ())).collect();
    find_long(e, &format!("{name}_saddr"), (&ip, sources), &from, &mut |_, ()| ());
    let to: Vec<_> = hops.of(family).map(|hop| (bits(hop.first), bits(hop.last), hop.host)).collect();
    find_long(e, &format!("{name}_daddr"), (&ip, destinations), &to, &mut |e, host| {
        let words: Vec<[u8; 4]> = match host {
            IpAddr::V4(host) => vec![host.octets()],
            IpAddr::V6(host) => {
                host.octets().chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]]).collect()
            }
        };
        // What is stored to eight bytes is stored from their end to their start: see `funnel::build`.
        let places = (0..).step_by(4).map(|at| NEXT_HOP + 4 + at);
        for (place, word) in places.zip(words).collect::<Vec<_>>().into_iter().rev() {
            let insn = Insn::store_imm(Size::W, FP, place, i32::from_ne_bytes(word));
            e.op_note(insn, &format!("next hop {host}"));
        }
    });
    let af = match family {
        Family::V4 => fib::AF_INET,
        Family::V6 => fib::AF_INET6,
    };
    e.op_note(Insn::store_imm(Size::W, FP, NEXT_HOP, af), "family");
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// A probe goes back, and one that has come back ends.
fn answer(e: &mut Emit, family: Family, (ip, tcp): (&Window, &Window), port: u16) {
    let [not_to, none] = ["not_to_probe", "no_probe"].map(|name| e.label(name));
    e.op(Insn::mov32(R1, PORTS));
    e.op_note(Insn::and32(R1, 0xffff_u32), "dport");
    e.jump_if(Cond::ne32(R1, port), not_to);
    unless_probe(e, tcp, tcp::SYN, none);
    turn_round(e, family, ip, tcp);
    e.count(0);
    e.write_settings();
    e.load_skb(R1, skb::IFINDEX);
    e.redirect(0);

    e.bind(not_to);
    e.op(Insn::mov32(R1, PORTS));
    e.op_note(Insn::rsh32(R1, 16_u32), "sport");
    e.jump_if(Cond::ne32(R1, port), none);
    unless_probe(e, tcp, tcp::SYN | tcp::ACK, none);
    e.count(0);
    e.exit(SHOT);
    e.bind(none);
}

/// Goes on unless the packet has these flags, and an acknowledgement number that nobody has by chance.
fn unless_probe(e: &mut Emit, tcp: &Window, flags: u32, none: Label) {
    e.load(R1, tcp, tcp::FLAGS);
    e.jump_if(Cond::ne32(R1, flags), none);
    e.load_raw(R1, tcp, tcp::SEQUENCE);
    e.op(Insn::xor32(R1, u32::MAX));
    e.load_raw(KEY, tcp, tcp::ACKNOWLEDGEMENT);
    e.jump_if_note(Cond::ne32(R1, KEY), none, "no probe");
}
