//! Packets that are too long and must not be answered: dropped, and counted as such.
//!
//! Input: the packet as it came, on either hook. Output: falls through with what may be answered. Changes nothing.
//!
//! | no ICMP error about | RFC 1122 3.2.2 | RFC 1812 4.3.2.7 | RFC 4443 2.4 (e) | here |
//! |---|---|---|---|---|
//! | an ICMP error | yes | yes | 1 and 2 | only TCP and UDP are funneled |
//! | fragments but the first | yes | yes | | fragments are not funneled |
//! | a destination that is broadcast or multicast | yes | yes | 3 | 0/8, 224/3, ff00::/8; a subnet's broadcast by its link-layer address |
//! | link-layer broadcast or multicast | yes | yes | 4 and 5 | `skb->pkt_type` on ingress, the Ethernet address on egress |
//! | a source that is not a single host | yes | yes | 6 | 0/8, 224/3, ::, ff00::/8; 127/8 and ::1, unless to the same; on ingress whatever no unicast route leads to |
//! | an invalid IP header | | yes | | validated; the checksum here |
//!
//! RFC 4443 makes an exception of *packet too big* for multicast, which we do not use: the answer's source would be the
//! multicast address. IPv4 without DF has to be fragmented, which is not for us to do: dropped as well.

use asm::{Cond, Helper, Insn, Reg::*};

use super::super::Link;
use super::super::counters::Reason;
use super::super::emit::{Emit, Window};
use super::super::frame::Slot;
use super::{L4_AT, Towards, icmp_kind, look_up_route};
use crate::ir::Family;
use crate::packet::{ethernet, ipv4, ipv6, skb};

/// `BPF_FIB_LKUP_RET_BLACKHOLE` to `BPF_FIB_LKUP_RET_NOT_FWDED`: broadcast, multicast, anycast, an address of this
/// machine, or none that it could send to.
const NO_UNICAST_ROUTE: (u32, u32) = (1, 4);

pub(super) fn drop_them(e: &mut Emit, family: Family, ip: &Window) {
    let untold = e.exit_for(Reason::MtuUntold);
    if e.link == Link::Ethernet {
        let [first, ..] = ethernet::DESTINATION;
        e.load(R1, &Window::of_link_header(ethernet::LEN), first);
        e.jump_if_note(Cond::set32(R1, 0x0100_0000_u32), untold, "link-layer broadcast or multicast");
    }
    match family {
        Family::V4 => {
            let may_not = e.label("dont_fragment");
            e.load(R1, ip, ipv4::FRAGMENT);
            e.jump_if_note(Cond::set32(R1, ipv4::DONT_FRAGMENT), may_not, "DF");
            e.goto(untold);
            e.bind(may_not);
            for address in [ipv4::DADDR, ipv4::SADDR] {
                e.load(R1, ip, address);
                e.op(Insn::rsh32(R1, 24_u32));
                e.jump_if_note(Cond::ge32(R1, 224_u32), untold, "multicast, reserved or broadcast");
                e.jump_if_note(Cond::eq32(R1, 0_u32), untold, "0/8");
            }
            let host = e.label("source_is_a_host");
            e.jump_if_note(Cond::ne32(R1, 127_u32), host, "not loopback");
            e.load(R1, ip, ipv4::DADDR);
            e.op(Insn::rsh32(R1, 24_u32));
            e.jump_if_note(Cond::ne32(R1, 127_u32), untold, "loopback has left its host");
            e.bind(host);
        }
        Family::V6 => {
            for [first, ..] in [ipv6::DADDR, ipv6::SADDR] {
                e.load(R1, ip, first);
                e.op(Insn::rsh32(R1, 24_u32));
                e.jump_if_note(Cond::eq32(R1, 0xff_u32), untold, "multicast");
            }
            let host = e.label("ip6_source_is_a_host");
            let [first @ .., last] = ipv6::SADDR;
            e.load_raw(R1, ip, last);
            e.op(Insn::be32(R1));
            e.jump_if(Cond::gt32(R1, 1_u32), host);
            for field in first {
                e.load_raw(R2, ip, field);
                e.jump_if(Cond::ne32(R2, 0_u32), host);
            }
            e.jump_if_note(Cond::eq32(R1, 0_u32), untold, "unspecified");
            for (to, from) in ipv6::DADDR.into_iter().zip(ipv6::SADDR) {
                e.load_raw(R1, ip, to);
                e.load_raw(R2, ip, from);
                e.jump_if_note(Cond::ne32(R1, R2), untold, "loopback has left its host");
            }
            e.bind(host);
        }
    }
    let known = e.label(format!("{}source_is_known", family.prefix()));
    e.load_skb(R1, skb::IFINDEX);
    e.load_skb(R2, skb::INGRESS_IFINDEX);
    e.jump_if_note(Cond::ne32(R1, R2), known, "on egress");
    e.op_note(Insn::mov32(R3, 0_u32), "of any length");
    let (_, number) = icmp_kind(family);
    look_up_route(e, family, ip, (Towards::Source, number));
    let (first, last) = NO_UNICAST_ROUTE;
    e.op(Insn::sub32(R0, first.cast_signed()));
    e.jump_if_note(Cond::le32(R0, last - first), untold, "no unicast route to the source");
    e.bind(known);
}

/// An IPv4 header whose checksum is wrong; `quote` holds it with its options. On ingress, nobody has looked yet.
pub(super) fn drop_damaged(e: &mut Emit, ip: &Window, quote: Slot) {
    let untold = e.exit_for(Reason::MtuUntold);
    e.load(L4_AT, ip, ipv4::VERSION_IHL);
    e.op_note(Insn::and32(L4_AT, 0x0f_u32), "ip.ihl");
    e.ip_header_len(L4_AT);
    e.op(Insn::mov32(R1, 0_u32));
    e.op(Insn::mov32(R2, 0_u32));
    e.address_of(R3, quote);
    e.op(Insn::mov32(R4, L4_AT));
    e.op(Insn::mov32(R5, 0_u32));
    e.op(Insn::call(Helper::CsumDiff));
    e.fold(R0, R1);
    e.fold(R0, R1);
    e.jump_if_note(Cond::ne32(R0, 0xffff_u32), untold, "wrong IP checksum");
}
