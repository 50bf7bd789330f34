//! `funnel`: pushes an L4 header between the IP header and the L4 header that is there.
//!
//! Opens room, writes both headers, re-bases the inner checksum: one to three helper calls. Nothing of the
//! packet has changed until there is room, so whatever cannot be funneled goes on as it was. TCP that
//! opens a connection goes on to [`mss`], and what does not fit any more to [`mtu`](super::mtu).
//!
//! ```text
//! before   [link][IP, options         ][L4 and payload                      ]
//! after    [link][IP changed, options ][pushed header][L4 re-based, payload ]
//! ```

use asm::{Cond, Helper, Insn, Label, Reg, Reg::*};

use super::checksum::Rebase;
use super::counters::Reason;
use super::emit::{Emit, IP, L4_LEN, PORTS, UNSPEC, Window};
use super::frame::{Len, OPTIONS, Offset, PEEK, PUSHED};
use super::mss;
use super::mtu::FitCheck;
use super::payload;
use super::validate::{IpHeader, Least, validate, validate_plain};
use crate::ir::{Family, Proto};
use crate::packet::{Field, ipv4, l4, marker, skb, tcp, udp};

/// The checksum of the inner UDP header. Through UDP: where the inner one is absent, so is the outer. Through TCP, it
/// becomes what the pushed header's sum has to be corrected by, in the packet's byte order.
const INNER_CHECKSUM: Reg = R5;
/// The sum of the addresses.
const SUM: Reg = R3;

/// Routines that those of this module share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared {
    /// [`mss`], if any TCP is funneled.
    pub lower_mss: Option<Label>,
    /// [`mtu`](super::mtu) of this family.
    pub too_long: Label,
}

/// On entry `PORTS` holds the ports to push.
pub(super) fn emit(e: &mut Emit, family: Family, inner: Proto, outer: Proto, shared: Shared) {
    let pushed = i16::from(outer.header_len());
    let least = Least::header(inner);
    let name = format!("{}funnel_{inner}_in_{outer}", family.prefix());
    let may_lack = family.may_lack_checksum(inner);
    let sum = (may_lack && outer == Proto::Tcp).then(|| PayloadSum::labels(e));
    let tcp =
        shared.lower_mss.filter(|_| inner == Proto::Tcp).map(|lower_mss| Tcp::labels(e, &name, lower_mss));
    let len = family.header_len();
    let ip = Window::of_ip_header(family.shortest());

    // The kernel cannot segment an L4 header inside another: it would drop the packet.
    e.if_gso_or_unfinished();
    let with_options = validate_plain(e, family, least, &name);
    let longest = family.longest_l4() - pushed.unsigned_abs();
    e.pass_if(Cond::gt32(L4_LEN, longest), Reason::TooLong, "would be longer than IP can say");
    if let Some(tcp) = &tcp {
        e.load(R1, &ip.at(len), tcp::SEQUENCE);
        e.jump_if_note(Cond::eq32(R1, marker::SEQUENCE), tcp.suspect, "a funneling header?");
        e.bind(tcp.innocent);
    }
    let check = FitCheck::test(e, (family, outer), &name, (L4_LEN, len));
    if inner == Proto::Udp {
        e.load(INNER_CHECKSUM, &ip.at(len), udp::LENGTH_CHECKSUM);
        check_inner_udp(e, family, sum.as_ref().map(|sum| (sum.needed, sum.plain)));
    }
    if may_lack {
        e.op_note(Insn::mov64(IP, INNER_CHECKSUM), "keep");
    }
    e.adjust_room(ip, pushed);
    if may_lack {
        e.op(Insn::mov64(INNER_CHECKSUM, IP));
    }
    let headers = len + pushed;
    let fail = e.fail();
    let (ip, cold) = match inner {
        Proto::Tcp => {
            let (ip, cold) = e.pull_or(&name, headers + tcp::CHECKSUM.offset + 2, fail);
            (ip, Some(cold))
        }
        Proto::Udp => (e.window_again(IP, headers + i16::from(inner.header_len()), fail), None),
    };
    e.update_ip(family, &ip, pushed, inner, outer);
    e.sum_new_addresses(family, SUM, &ip);
    build(e, family, &ip.at(len), inner, outer);
    let mut sum_inside = SUM;
    if !e.variant.nat.is_none() {
        sum_inside = INNER_CHECKSUM;
        e.sum_addresses(family, sum_inside, &ip);
        e.change_addresses(family, &ip);
    }
    if tcp.is_some() {
        e.load(PORTS, &ip.at(headers), tcp::FLAGS);
    }
    let (unfinished, rebased) = (e.label(format!("{name}_unfinished")), e.label(format!("{name}_rebased")));
    e.op(Insn::mov32(R4, L4_LEN));
    let (of, registers) = ((family, inner), (sum_inside, R4));
    e.rebase_finished(&name, &ip.at(headers), of, registers, Rebase::ToZero, unfinished);
    e.bind(rebased);
    forget_hash(e, &name);
    e.count(pushed);
    if let Some(tcp) = &tcp {
        e.jump_if_note(Cond::set32(PORTS, tcp::SYN), tcp.opening, "SYN");
    }
    e.write_settings();
    e.exit(UNSPEC);

    e.bind(unfinished);
    let inner_at = e.offset(family, pushed, None);
    e.rebase(inner_at, inner, sum_inside, Rebase::ToZero);
    e.goto(rebased);
    if let Some(with_options) = with_options {
        e.bind(with_options);
        emit_options(e, inner, outer, sum.as_ref(), shared);
    }
    if let Some(sum) = sum {
        sum.emit(e);
    }
    if let Some(tcp) = tcp {
        tcp.emit(e, family, outer);
    }
    if let Some(cold) = cold {
        e.pull(cold);
    }
    check.emit(e, shared.too_long);
}

/// The same for a packet with IP options; `R1` holds `ip.ihl`. The kernel opens room before the
/// options, so they are moved back to the IP header, and the pushed header goes after them, by way
/// of the stack: its offset is not known.
fn emit_options(e: &mut Emit, inner: Proto, outer: Proto, summing: Option<&PayloadSum>, shared: Shared) {
    let pushed = i16::from(outer.header_len());
    let ip = Window::of_ip_header(ipv4::SHORTEST);
    e.ip_header_len(R1);
    validate(e, Least::header(inner), IpHeader::WithOptions(R1));
    e.load(R2, &ip, ipv4::LENGTH);
    let longest = u16::MAX - pushed.unsigned_abs();
    e.pass_if(Cond::gt32(R2, longest), Reason::TooLong, "would be longer than IP can say");
    let name = format!("funnel_{inner}_in_{outer}_options");
    let check;
    match inner {
        Proto::Tcp => {
            let innocent = e.label(format!("tcp_in_{outer}_options_not_funneled"));
            let at = Offset { plus: Some(R1), ..e.ip_offset() };
            pass_if_funneled(e, at, innocent);
            e.bind(innocent);
            e.load(R2, &ip, ipv4::LENGTH);
            check = FitCheck::test(e, (Family::V4, outer), &name, (R2, 0));
        }
        Proto::Udp => {
            check = FitCheck::test(e, (Family::V4, outer), &name, (R2, 0));
            e.load(R1, &ip, ipv4::VERSION_IHL);
            e.op_note(Insn::and32(R1, 0x0f_u32), "ip.ihl");
            e.ip_header_len(R1);
            let at = Offset { bytes: e.ip_offset().bytes + udp::LENGTH_CHECKSUM.offset, plus: Some(R1) };
            e.load_bytes(at, PEEK, Len::Const(4));
            e.load(INNER_CHECKSUM, &PEEK.window(), Field { offset: 0, ..udp::LENGTH_CHECKSUM });
            check_inner_udp(e, Family::V4, summing.map(|sum| (sum.needed, sum.with_options)));
        }
    }
    e.sum_new_addresses(Family::V4, SUM, &ip);
    build(e, Family::V4, &PUSHED.window(), inner, outer);
    if !e.variant.nat.is_none() {
        e.sum_addresses(Family::V4, SUM, &ip);
    }

    // For TCP, the length is still needed.
    let new_ip = if inner == Proto::Tcp { R5 } else { L4_LEN };
    let (sum, len) = (IP, PORTS);
    e.load(len, &ip, ipv4::VERSION_IHL);
    e.options_len(len);
    e.op(Insn::mov64(sum, SUM));
    e.save_options(len);
    e.adjust_room(ip, pushed);
    let fail = e.fail();
    let ip = e.window_again(new_ip, ipv4::LEN, fail);
    e.update_ip(Family::V4, &ip, pushed, inner, outer);
    e.change_addresses(Family::V4, &ip);
    let (options_at, header_at) = (e.offset(Family::V4, 0, None), e.offset(Family::V4, 0, Some(len)));
    let inner_at = e.offset(Family::V4, pushed, Some(len));
    e.store_bytes(options_at, OPTIONS, Len::Reg(len));
    e.store_bytes(header_at, PUSHED, Len::Const(pushed));
    e.rebase(inner_at, inner, sum, Rebase::ToZero);
    forget_hash(e, &name);
    match shared.lower_mss {
        Some(lower_mss) if inner == Proto::Tcp => {
            e.count(pushed);
            e.write_settings();
            mss::enter(e, inner_at, outer, lower_mss);
        }
        _ => e.done(pushed),
    }
    check.emit(e, shared.too_long);
}

/// What TCP needs once in a while: blocks out of the way.
struct Tcp {
    lower_mss: Label,
    /// The sequence number is that of funneled packets.
    suspect: Label,
    /// It is a coincidence.
    innocent: Label,
    /// SYN or SYN-ACK.
    opening: Label,
}

impl Tcp {
    fn labels(e: &mut Emit, name: &str, lower_mss: Label) -> Tcp {
        Tcp {
            lower_mss,
            suspect: e.label(format!("{name}_again")),
            innocent: e.label(format!("{name}_once")),
            opening: e.label(format!("{name}_syn")),
        }
    }

    fn emit(self, e: &mut Emit, family: Family, outer: Proto) {
        e.bind(self.suspect);
        let tcp_at = e.offset(family, 0, None);
        pass_if_funneled(e, tcp_at, self.innocent);
        e.goto(self.innocent);
        e.bind(self.opening);
        let inner_at = e.offset(family, i16::from(outer.header_len()), None);
        e.write_settings();
        mss::enter(e, inner_at, outer, self.lower_mss);
    }
}

/// A TCP header with the constants of a funneling one is not wrapped in another, whatever its flags. Real
/// connections may come across one of the numbers, but hardly both at once. Goes to `innocent`, or falls through.
fn pass_if_funneled(e: &mut Emit, tcp: Offset, innocent: Label) {
    e.load_bytes(tcp, PEEK, Len::Const(tcp::DATA_OFFSET.offset + 1));
    e.load(R1, &PEEK.window(), tcp::SEQUENCE);
    e.jump_if(Cond::ne32(R1, marker::SEQUENCE), innocent);
    e.load(R1, &PEEK.window(), tcp::ACKNOWLEDGEMENT);
    e.jump_if(Cond::ne32(R1, marker::ACKNOWLEDGEMENT), innocent);
    e.load(R1, &PEEK.window(), tcp::DATA_OFFSET);
    e.op(Insn::rsh32(R1, 4_u32));
    e.pass_if(Cond::eq32(R1, 5_u32), Reason::FunneledAlready, "funneled already");
}

/// The flow's hash was that of its own ports. From here on all flows of a client are to be one, also to a
/// multipath route that goes by the hash (`fib_multipath_hash`).
///
/// Most of what the call costs is its return, as with any helper, so it is made only if there is a hash. The
/// kernel never computes 0 (`__flow_hash_from_keys`, `net_tx_rndhash`). Hardware may, for one flow in four billion,
/// and that flow keeps it. Uses R0 to R5.
fn forget_hash(e: &mut Emit, name: &str) {
    let none = e.label(format!("{name}_no_hash"));
    e.load_skb(R1, skb::HASH);
    e.jump_if_note(Cond::eq32(R1, 0_u32), none, "not known yet");
    e.call(Helper::SetHashInvalid);
    e.bind(none);
}

/// Splits length and checksum of the inner UDP header, both in [`INNER_CHECKSUM`], and checks them. A length that is
/// not that of the packet is not for funneling: the pushed checksum is derived from it. With `sum` (where to, where
/// back), an absent checksum means that the payload is summed up; over IPv6 no datagram may be without.
fn check_inner_udp(e: &mut Emit, family: Family, sum: Option<(Label, Label)>) {
    e.op(Insn::mov32(R2, INNER_CHECKSUM));
    e.op_note(Insn::rsh32(R2, 16_u32), udp::LENGTH.name);
    e.pass_if(Cond::ne32(R2, L4_LEN), Reason::Malformed, "not the packet's length");
    e.op_note(Insn::and32(INNER_CHECKSUM, 0xffff_u32), udp::CHECKSUM.name);
    if !family.may_lack_checksum(Proto::Udp) {
        e.pass_if(Cond::eq32(INNER_CHECKSUM, 0_u32), Reason::Malformed, "no checksum: not legal");
    }
    if let Some((needed, summed)) = sum {
        e.jump_if_note(Cond::eq32(INNER_CHECKSUM, 0_u32), needed, "no checksum");
        // All of the register: it is added in 64 bits, and kernels (6.18) may take its upper half for unused.
        e.op_note(Insn::mov64(INNER_CHECKSUM, 0), "nothing to correct");
        e.bind(summed);
    }
}

/// The summing of payloads, which both kinds of IP header share.
struct PayloadSum {
    needed: Label,
    plain: Label,
    with_options: Label,
}

impl PayloadSum {
    fn labels(e: &mut Emit) -> PayloadSum {
        PayloadSum {
            needed: e.label("sum_payload"),
            plain: e.label("payload_summed"),
            with_options: e.label("payload_summed_options"),
        }
    }

    fn emit(self, e: &mut Emit) {
        e.bind(self.needed);
        payload::emit(e, INNER_CHECKSUM);
        e.if_options(R1, &Window::of_ip_header(ipv4::SHORTEST), self.with_options);
        e.goto(self.plain);
    }
}

/// Writes the pushed header, from its end to its start: before 6.12 and without `CAP_PERFMON`, the
/// verifier refuses to store to a part of an eight-byte stack slot once something narrower has been
/// stored to its start ("attempt to corrupt spilled pointer"). Uses R1, R2 and R4; leaves `PORTS` in the packet's
/// byte order.
fn build(e: &mut Emit, family: Family, header: &Window, inner: Proto, outer: Proto) {
    e.op_note(Insn::be32(PORTS), l4::PORTS.name);
    match outer {
        Proto::Tcp => build_tcp(e, family, header, inner),
        Proto::Udp => build_udp(e, family, header, inner),
    }
    e.store_raw(header, l4::PORTS, PORTS);
}

/// A SYN with the original program's constants, or other flags.
fn build_tcp(e: &mut Emit, family: Family, header: &Window, inner: Proto) {
    let correction: &[Reg] = if family.may_lack_checksum(inner) { &[INNER_CHECKSUM] } else { &[] };
    e.pushed_checksum(inner, Proto::Tcp, SUM, correction);
    e.store_const(header, tcp::URGENT, 0);
    e.store_raw(header, tcp::CHECKSUM, R1);
    let flags = e.variant.flags;
    e.store_const(header, tcp::OFFSET_FLAGS_WINDOW, marker::with_flags(flags));
    e.store_const(header, tcp::ACKNOWLEDGEMENT, marker::ACKNOWLEDGEMENT);
    e.store_const(header, tcp::SEQUENCE, marker::SEQUENCE);
}

/// Without an inner checksum there is none to derive the outer one from, and over IPv4 it may be
/// absent as well (RFC 768).
fn build_udp(e: &mut Emit, family: Family, header: &Window, inner: Proto) {
    e.op(Insn::mov32(R4, L4_LEN));
    e.op(Insn::add32(R4, Proto::Udp.header_len()));
    e.op_note(Insn::be16(R4), udp::LENGTH.name);
    e.pushed_checksum(inner, Proto::Udp, SUM, &[R4]);
    e.never_zero(&format!("{}{inner}_in_udp_nonzero", family.prefix()));
    if family.may_lack_checksum(inner) {
        let present = e.label("udp_in_udp_present");
        e.jump_if(Cond::ne32(INNER_CHECKSUM, 0_u32), present);
        e.op_note(Insn::mov32(R1, 0_u32), "no checksum inside, none outside");
        e.bind(present);
    }
    e.store_raw(header, udp::CHECKSUM, R1);
    e.store_raw(header, udp::LENGTH, R4);
}
