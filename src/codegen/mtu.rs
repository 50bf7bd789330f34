//! A packet that would not fit once it is funneled: its sender is told, as a router would tell it.
//!
//! Asks the kernel for the MTU where there may be a question: only of packets that would be longer than
//! what every link carries. What does not fit is made into the answer to it, and sent back: ICMP
//! *fragmentation needed* (RFC 792, RFC 1191), or ICMPv6 *packet too big* (RFC 4443). Its source is where
//! the packet was going, so that it comes from where the sender expects answers. What must not be answered
//! is dropped: see [`untold`]. Fragments, packets of several segments, and ICMP itself never come here.
//!
//! | hook | the MTU is that of | the answer goes |
//! |---|---|---|
//! | egress | the interface (`bpf_check_mtu`) | back in, as if it came from the wire: to a local socket, or forwarded |
//! | ingress | the route that the packet will take (`bpf_fib_lookup`) | back out by the interface it came in by |
//!
//! The program is the same on both: on ingress the interface is the one the packet was received by. (It
//! also is where a packet leaves by the interface it came from; such an answer goes nowhere.)
//!
//! For kernels without `bpf_check_mtu`, a program for egress holds the interface's MTU, and one for ingress asks
//! nothing: those kernels do not look at the length when they look up a route.

mod untold;

use asm::{Cond, Helper, Insn, Label, Reg, Reg::*, Size};

use super::checksum::ones_complement_sum;
use super::counters::Reason;
use super::emit::{Emit, FP, IP, L4_LEN, PORTS, Window};
use super::frame::{FIB, Len, MTU, Offset, REPLY, Slot};
use super::nat::new_word;
use super::{Link, Mtu};
use crate::ir::{Family, Proto};
use crate::packet::{Field, ethernet, fib, icmp, ipv4, ipv6, skb};

/// On entry to [`emit`]: the MTU to tell.
const TOLD: Reg = PORTS;
/// Where the packet's L4 header is, in bytes from its IP header.
const L4_AT: Reg = L4_LEN;

/// Whether a packet fits, asked at one of the places that funnel.
pub(super) struct FitCheck {
    family: Family,
    outer: Proto,
    name: String,
    asked: Label,
    fits: Label,
}

impl FitCheck {
    /// `if length > what every link carries goto` the check, which comes back here if the packet fits.
    /// `length` is that of the IP packet less `without`. What is in R0 to R5 is lost.
    pub(super) fn test(
        e: &mut Emit,
        (family, outer): (Family, Proto),
        name: &str,
        (length, without): (Reg, i16),
    ) -> FitCheck {
        let asked = e.label(format!("{name}_large"));
        let fits = e.label(format!("{name}_fits"));
        let (mtu, note) = match e.target.mtu {
            Mtu::Asked => (family.least_mtu(), "not every link carries it"),
            Mtu::Is(mtu) => (mtu, "not for this interface"),
            Mtu::Unknown => return FitCheck { family, outer, name: name.to_owned(), asked, fits },
        };
        let most = mtu.saturating_sub(u16::from(outer.header_len()) + without.unsigned_abs());
        e.jump_if_note(Cond::gt32(length, most), asked, note);
        e.bind(fits);
        FitCheck { family, outer, name: name.to_owned(), asked, fits }
    }

    /// The block out of the way; `too_long` is where [`emit`] is.
    pub(super) fn emit(self, e: &mut Emit, too_long: Label) {
        let FitCheck { family, outer, name, asked, fits } = self;
        let pushed = i32::from(outer.header_len());
        match e.target.mtu {
            Mtu::Asked => {}
            Mtu::Is(mtu) => {
                e.bind(asked);
                e.load_skb(R1, skb::IFINDEX);
                e.load_skb(R2, skb::INGRESS_IFINDEX);
                e.jump_if_note(Cond::eq32(R1, R2), fits, "from the same interface");
                let told = (i32::from(mtu) - pushed).max(family.least_mtu().into());
                e.op_note(Insn::mov32(TOLD, told), "MTU");
                return e.goto(too_long);
            }
            Mtu::Unknown => return,
        }
        let ip = Window::of_ip_header(family.shortest());
        let received = e.label(format!("{name}_received"));
        e.bind(asked);
        e.load_l3_len(family, R3, &ip);
        e.load_skb(R1, skb::IFINDEX);
        e.load_skb(R2, skb::INGRESS_IFINDEX);
        e.jump_if_note(Cond::eq32(R1, R2), received, "on ingress");

        // The length without link header goes in, the MTU comes out.
        e.op(Insn::store(Size::W, FP, MTU.offset, R3));
        e.op_note(Insn::mov32(R2, 0_u32), "of this interface");
        e.address_of(R3, MTU);
        e.op_note(Insn::mov32(R4, pushed), "grows by");
        e.op(Insn::mov32(R5, 0_u32));
        e.call(Helper::CheckMtu);
        e.jump_if_note(Cond::ne32(R0, CHECK_FRAG_NEEDED), fits, "fits");
        e.op_note(Insn::load(Size::W, TOLD, FP, MTU.offset), "MTU");
        e.op(Insn::sub32(TOLD, pushed));
        e.goto(too_long);

        e.bind(received);
        e.load_skb(R2, skb::PKT_TYPE);
        e.jump_if_note(Cond::ne32(R2, PACKET_HOST), fits, "not for this machine alone");
        e.op_note(Insn::add32(R3, pushed), "grows by");
        look_up_route(e, family, &ip, (Towards::Destination, outer.number()));
        e.jump_if_note(Cond::ne32(R0, FIB_FRAG_NEEDED), fits, "fits, or is not forwarded");
        e.load_raw(TOLD, &FIB.window(), fib::LENGTH_OR_MTU);
        e.op(Insn::sub32(TOLD, pushed));
        e.goto(too_long);
    }
}

/// `BPF_MTU_CHK_RET_FRAG_NEEDED`
const CHECK_FRAG_NEEDED: u32 = 1;
/// `BPF_FIB_LKUP_RET_FRAG_NEEDED`
const FIB_FRAG_NEEDED: u32 = 8;
/// Neither to many nor, as on the ports of a bridge, to another machine.
const PACKET_HOST: u32 = 0;
/// `BPF_F_INGRESS`
const INGRESS: u32 = 1;

/// Which end of the packet a route is looked up to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Towards {
    Destination,
    Source,
}

/// `R0 = bpf_fib_lookup`, of a packet of length R3 that interface R1 has received. Uses R1 to R5.
fn look_up_route(e: &mut Emit, family: Family, ip: &Window, (towards, number): (Towards, u8)) {
    fib_params(e, family, ip, (towards, number));
    e.address_of(R2, FIB);
    e.op(Insn::mov32(R3, i32::from(FIB.len)));
    e.op(Insn::mov32(R4, 0_u32));
    e.call(Helper::FibLookup);
}

/// `FIB = {family, protocol, length R3, interface R1, addresses}`. Written from the end of each eight
/// bytes to their start: see `funnel::build`. Uses R2.
fn fib_params(e: &mut Emit, family: Family, ip: &Window, (towards, number): (Towards, u8)) {
    let (to, from) = match towards {
        Towards::Destination => (fib::DADDR, fib::SADDR),
        Towards::Source => (fib::SADDR, fib::DADDR),
    };
    let zero = |e: &mut Emit, size: Size, at: i16| e.op(Insn::store_imm(size, FP, FIB.offset + at, 0));
    let word = |e: &mut Emit, at: i16, field: Field| {
        // The route is that of the addresses which the packet will have.
        match new_word(family, &e.variant.nat, field) {
            Some(word) => e.op_note(Insn::mov32(R2, word), "the new one"),
            None => e.load_raw(R2, ip, field),
        }
        e.op(Insn::store(Size::W, FP, FIB.offset + at, R2));
    };
    zero(e, Size::D, 56);
    zero(e, Size::D, 48);
    let af = match family {
        Family::V4 => {
            for (at, field) in in_order([(to, ipv4::DADDR), (from, ipv4::SADDR)]) {
                zero(e, Size::D, at + 8);
                zero(e, Size::W, at + 4);
                word(e, at, field);
            }
            fib::AF_INET
        }
        Family::V6 => {
            for (at, fields) in in_order([(to, ipv6::DADDR), (from, ipv6::SADDR)]) {
                for (at, field) in
                    [12, 8, 4, 0].map(|more| at + more).into_iter().zip(fields.into_iter().rev())
                {
                    word(e, at, field);
                }
            }
            fib::AF_INET6
        }
    };
    zero(e, Size::W, 12);
    e.op_note(Insn::store(Size::W, FP, FIB.offset + fib::IFINDEX, R1), "interface");
    e.op_note(Insn::store(Size::H, FP, FIB.offset + fib::LENGTH_OR_MTU.offset, R3), "length");
    zero(e, Size::H, 4);
    zero(e, Size::H, 2);
    e.op_note(Insn::store_imm(Size::B, FP, FIB.offset + 1, i32::from(number)), "protocol");
    e.op_note(Insn::store_imm(Size::B, FP, FIB.offset, af), "family");
}

/// The later one first.
fn in_order<T>(mut fields: [(i16, T); 2]) -> [(i16, T); 2] {
    fields.sort_by_key(|(at, _)| -at);
    fields
}

/// How much of the packet is quoted: the IP header with the options it may have, and more than the eight
/// bytes that routers have to add.
const fn quoted(family: Family) -> i16 {
    match family {
        Family::V4 => ipv4::LEN + ipv4::OPTIONS_MAX + 8,
        Family::V6 => ipv6::LEN + 40,
    }
}

/// Bytes of ones after the quote. A packet whose checksum is still to be finished keeps the order where to
/// start summing and where to put the result, 6 (UDP) or 16 bytes (TCP) from there. We cannot take that
/// back, but move it: to here, where the sum of all ones comes to 0, which is written as ones
/// (`skb_checksum_help`, net/core/dev.c). So nothing changes, whoever does it. And because it is after the
/// start of the ICMP message, a socket on this side of whoever does it asks for no checksum at all
/// (`skb_csum_unnecessary`).
const ONES: i16 = 20;

/// The routine that all packets of a family share. `IP` is where it was.
pub(super) fn emit(e: &mut Emit, family: Family) {
    let ip = Window::of_ip_header(family.shortest());
    let start = e.ip_offset();
    untold::drop_them(e, family, &ip);
    e.load_bytes(start, quote(family), Len::Const(quoted(family)));
    if family == Family::V4 {
        untold::drop_damaged(e, &ip, quote(family));
    }
    e.count_as(Reason::MtuTold);
    let fail = e.fail();
    let least = i32::from(family.least_mtu());
    if e.target.mtu == Mtu::Asked {
        let told = e.label(format!("{}mtu_to_tell", family.prefix()));
        e.jump_if(Cond::ge32(TOLD, least), told);
        e.op_note(Insn::mov32(TOLD, least), "what every link carries");
        e.bind(told);
    }

    let header = family.header_len();
    let ones = header + icmp::LEN + quoted(family);
    let len = ones + ONES;
    build(e, family, &ip, len);
    match family {
        Family::V4 => {
            e.load(L4_AT, &ip, ipv4::VERSION_IHL);
            e.op_note(Insn::and32(L4_AT, 0x0f_u32), "ip.ihl");
            e.ip_header_len(L4_AT);
        }
        Family::V6 => e.op(Insn::mov32(L4_AT, i32::from(header))),
    }
    // Cut after what may be the checksum, and grown before L4, it has its length.
    e.set_offset(R2, Offset { bytes: start.bytes + ONES, plus: Some(L4_AT) });
    e.op(Insn::mov32(R3, 0_u32));
    e.call(Helper::SkbChangeTail);
    e.jump_if(Cond::ne64(R0, 0), fail);
    e.op(Insn::mov32(R2, i32::from(ones)));
    e.op(Insn::sub32(R2, L4_AT));
    e.op_note(Insn::mov32(R3, 0_u32), "BPF_ADJ_ROOM_NET");
    e.op(Insn::mov32(R4, 0_u32));
    e.call(Helper::SkbAdjustRoom);
    e.jump_if(Cond::ne64(R0, 0), fail);
    if e.link == Link::Ethernet {
        let _ = e.window_again(IP, 0, fail);
        swap_addresses(e);
    }
    e.store_bytes(start, part(0, len), Len::Const(len));

    let name = format!("{}answer", family.prefix());
    e.put_tag_back(&name);
    let back = e.label(format!("{}back_to_sender", family.prefix()));
    e.load_skb(R1, skb::IFINDEX);
    e.load_skb(R3, skb::INGRESS_IFINDEX);
    e.op_note(Insn::mov32(R2, 0_u32), "out by the interface");
    e.jump_if_note(Cond::eq32(R1, R3), back, "on ingress");
    e.op_note(Insn::mov32(R2, INGRESS), "BPF_F_INGRESS");
    e.bind(back);
    e.op(Insn::call(Helper::Redirect));
    e.op(Insn::exit());
}

/// Where the quote goes.
fn quote(family: Family) -> Slot {
    part(family.header_len() + icmp::LEN, quoted(family))
}

/// A part of the answer.
fn part(skip: i16, len: i16) -> Slot {
    Slot { offset: REPLY.offset + skip, len }
}

/// Builds the answer, `len` bytes from its IP header on, around the quote in the frame.
fn build(e: &mut Emit, family: Family, ip: &Window, len: i16) {
    let header = family.header_len();
    let message = part(header, len - header).window();
    let ones = len - ONES;
    for at in (ones..len).step_by(4).rev() {
        e.op(Insn::store_imm(Size::W, FP, REPLY.offset + at, -1));
    }
    // What is stored to eight bytes is stored from their end to their start: see `funnel::build`.
    e.store(&message, icmp::MTU, TOLD);
    icmp_checksum(e, family, ip, part(header + 4, len - header - 4));
    let (kind, _) = icmp_kind(family);
    e.op(Insn::or32(R0, kind << 16));
    e.store(&message, icmp::TYPE_CODE_CHECKSUM, R0);
    match family {
        Family::V4 => ip4_header(e, &part(0, header).window(), ip, len),
        Family::V6 => ip6_header(e, &part(0, header).window(), ip, len),
    }
}

/// Type and code, and the number of the protocol.
const fn icmp_kind(family: Family) -> (u32, u8) {
    match family {
        Family::V4 => (icmp::FRAGMENTATION_NEEDED, icmp::NUMBER),
        Family::V6 => (icmp::PACKET_TOO_BIG, icmp::NUMBER_V6),
    }
}

/// `R0 = checksum` of type and code, the `rest` of the message and, over IPv6, a pseudo-header.
fn icmp_checksum(e: &mut Emit, family: Family, ip: &Window, rest: Slot) {
    let (kind, number) = icmp_kind(family);
    let constant = match family {
        Family::V4 => {
            e.op(Insn::mov32(R5, 0_u32));
            kind
        }
        Family::V6 => {
            e.sum_addresses(family, R5, ip);
            kind + u32::from(rest.len.unsigned_abs()) + 4 + u32::from(number)
        }
    };
    e.op(Insn::mov32(R1, 0_u32));
    e.op(Insn::mov32(R2, 0_u32));
    e.address_of(R3, rest);
    e.op(Insn::mov32(R4, i32::from(rest.len)));
    e.op(Insn::call(Helper::CsumDiff));
    e.fold(R0, R1);
    e.fold(R0, R1);
    e.op(Insn::be16(R0));
    e.op(Insn::add32(R0, constant));
    e.fold(R0, R1);
    e.op(Insn::xor32(R0, 0xffff_u32));
}

/// From where the packet was going to where it came from.
fn ip4_header(e: &mut Emit, header: &Window, ip: &Window, len: i16) {
    const FIRST: u16 = 0x4500;
    const TTL_PROTOCOL: u16 = 0x4000 | icmp::NUMBER as u16;
    e.load_raw(R1, ip, ipv4::SADDR);
    e.store_raw(header, ipv4::DADDR, R1);
    e.load_raw(R1, ip, ipv4::DADDR);
    e.store_raw(header, ipv4::SADDR, R1);
    e.sum_addresses(Family::V4, R1, ip);
    e.op(Insn::be32(R1));
    e.fold(R1, R2);
    let dont_fragment = 0x4000;
    let constant = ones_complement_sum(&[FIRST, len.unsigned_abs(), dont_fragment, TTL_PROTOCOL]);
    e.op_note(Insn::add32(R1, constant), "all that is constant");
    e.fold(R1, R2);
    e.fold(R1, R2);
    e.op(Insn::xor32(R1, 0xffff_u32));
    e.op(Insn::or32(R1, u32::from(TTL_PROTOCOL) << 16));
    e.store(header, ipv4::TTL_PROTOCOL_CHECKSUM, R1);
    e.store_const(header, ipv4::ID_FRAGMENT, u32::from(dont_fragment));
    e.store_const(header, ipv4::FIRST, u32::from(FIRST) << 16 | u32::from(len.unsigned_abs()));
}

fn ip6_header(e: &mut Emit, header: &Window, ip: &Window, len: i16) {
    let pairs = ipv6::DADDR.into_iter().zip(ipv6::SADDR);
    for (to, from) in pairs.clone().rev() {
        e.load_raw(R1, ip, from);
        e.store_raw(header, to, R1);
    }
    for (from, to) in pairs.rev() {
        e.load_raw(R1, ip, from);
        e.store_raw(header, to, R1);
    }
    let payload = u32::from((len - ipv6::LEN).unsigned_abs());
    let hop_limit = 64;
    let second = payload << 16 | u32::from(icmp::NUMBER_V6) << 8 | hop_limit;
    e.store_const(header, ipv6::LENGTH_NEXT_HOPS, second);
    e.store_const(header, ipv6::FIRST, 0x6000_0000);
}

/// The answer goes to the neighbour that the packet came from; on egress, that is this machine.
pub(super) fn swap_addresses(e: &mut Emit) {
    let link = Window::of_link_header(ethernet::LEN);
    let [to, from] = [ethernet::DESTINATION, ethernet::SOURCE];
    for ((a, b), (x, y)) in to.into_iter().zip(from).zip([(R1, R2), (R3, R4)]) {
        e.load_raw(x, &link, a);
        e.load_raw(y, &link, b);
        e.store_raw(&link, a, y);
        e.store_raw(&link, b, x);
    }
}
