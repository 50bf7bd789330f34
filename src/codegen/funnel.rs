//! `funnel`: pushes an L4 header between the IP header and the L4 header that is there.
//!
//! Opens room, writes both headers, re-bases the inner checksum: three helper calls. Nothing of the
//! packet has changed until there is room, so whatever cannot be funneled goes on as it was.
//!
//! ```text
//! before   [link][IP, options         ][L4 and payload                      ]
//! after    [link][IP changed, options ][pushed header][L4 re-based, payload ]
//! ```

use asm::{Cond, Insn, Label, Reg, Reg::*};

use super::checksum::Rebase;
use super::emit::{Emit, IP, L4_LEN, PORTS, UNSPEC, Window};
use super::frame::{Len, OPTIONS, Offset, PEEK, PUSHED};
use super::payload;
use crate::ir::Proto;
use crate::packet::{Field, ipv4, l4, marker, skb, tcp, udp};

/// What the inner UDP header says to the pushed one. Over UDP, its checksum: absent inside, absent
/// outside. Over TCP, what the pushed header's sum has to be corrected by.
const NOTE: Reg = R5;
/// The sum of the addresses.
const SUM: Reg = R3;

/// On entry `PORTS` holds the ports to push.
pub(super) fn emit(e: &mut Emit, inner: Proto, outer: Proto) {
    let pushed = i16::from(outer.header_len());
    let with_options = e.label(format!("funnel_{inner}_in_{outer}_options"));
    let ip = Window::of_ip_header(ipv4::LEN + 8);

    // The kernel cannot segment an L4 header inside another: it would drop the packet.
    e.load_skb(R2, skb::GSO_SIZE);
    e.jump_if_note(Cond::ne32(R2, 0_u32), e.pass, "not segmented yet");
    e.load(R2, &ip, ipv4::LENGTH);
    let longest = u16::MAX - pushed.unsigned_abs();
    e.jump_if_note(Cond::gt32(R2, longest), e.pass, "would be longer than IP can say");
    let cold = (inner == Proto::Udp).then(|| peek_at_udp(e, &ip, outer));
    e.if_options(R1, &ip, with_options);

    if inner == Proto::Udp {
        e.op_note(Insn::mov64(IP, NOTE), "keep");
    }
    e.adjust_room(ip, pushed);
    if inner == Proto::Udp {
        e.op(Insn::mov64(NOTE, IP));
    }
    let ip = e.window_again(IP, ipv4::LEN + pushed, e.fail);
    e.update_ip(&ip, pushed, inner, outer);
    e.sum_addresses(SUM, &ip);
    build(e, &ip.at(ipv4::LEN), inner, outer);
    let inner_at = e.offset(pushed, None);
    e.rebase(inner_at, inner, SUM, Rebase::ToZero);
    e.exit(UNSPEC);

    e.bind(with_options);
    emit_options(e, inner, outer);
    if let Some(cold) = cold {
        emit_udp_cold(e, cold);
    }
}

/// The end of the routine for a packet with IP options; `R1` holds `ip.ihl`. The kernel opens room in
/// front of the options, so they are moved back to the IP header, and the pushed header goes behind
/// them, by way of the stack: its offset is not known.
fn emit_options(e: &mut Emit, inner: Proto, outer: Proto) {
    let pushed = i16::from(outer.header_len());
    let (sum, len, new_ip) = (IP, PORTS, L4_LEN);
    let ip = Window::of_ip_header(ipv4::LEN);
    e.op(Insn::mov32(R0, R1));
    e.sum_addresses(SUM, &ip);
    build(e, &PUSHED.window(), inner, outer);
    e.op(Insn::mov64(sum, SUM));
    e.op(Insn::mov32(len, R0));
    e.options_len(len);
    e.save_options(len);
    e.adjust_room(ip, pushed);
    let ip = e.window_again(new_ip, ipv4::LEN, e.fail);
    e.update_ip(&ip, pushed, inner, outer);
    let (options_at, header_at) = (e.offset(0, None), e.offset(0, Some(len)));
    let inner_at = e.offset(pushed, Some(len));
    e.store_bytes(options_at, OPTIONS, Len::Reg(len));
    e.store_bytes(header_at, PUSHED, Len::Const(pushed));
    e.rebase(inner_at, inner, sum, Rebase::ToZero);
    e.exit(UNSPEC);
}

/// What [`peek_at_udp`] leaves to be emitted out of the way.
struct UdpCold {
    /// The UDP header is behind IP options.
    behind_options: Label,
    peeked: Label,
    /// Its checksum is absent and the pushed header's must be summed up.
    sum: Option<(Label, Label)>,
}

/// Looks at the inner UDP header, and leaves [`NOTE`]. A length that is not that of the packet is not
/// for funneling: the pushed checksum is derived from it.
fn peek_at_udp(e: &mut Emit, ip: &Window, outer: Proto) -> UdpCold {
    let behind_options = e.label(format!("udp_in_{outer}_behind_options"));
    let peeked = e.label(format!("udp_in_{outer}_peeked"));
    e.if_options(R1, ip, behind_options);
    e.load(NOTE, &ip.at(ipv4::LEN), udp::LENGTH_CHECKSUM);
    e.bind(peeked);
    e.op(Insn::mov32(R2, NOTE));
    e.op_note(Insn::rsh32(R2, 16_u32), udp::LENGTH.name);
    e.jump_if_note(Cond::ne32(R2, L4_LEN), e.pass, "not the packet's length");
    e.op_note(Insn::and32(NOTE, 0xffff_u32), udp::CHECKSUM.name);
    let sum = (outer == Proto::Tcp).then(|| {
        let (sum, summed) = (e.label("sum_payload"), e.label("payload_summed"));
        e.jump_if_note(Cond::eq32(NOTE, 0_u32), sum, "no checksum");
        e.op_note(Insn::mov32(NOTE, 0_u32), "nothing to correct");
        e.bind(summed);
        (sum, summed)
    });
    UdpCold { behind_options, peeked, sum }
}

fn emit_udp_cold(e: &mut Emit, cold: UdpCold) {
    e.bind(cold.behind_options);
    e.ip_header_len(R1);
    let at = Offset { bytes: e.ip_offset().bytes + udp::LENGTH_CHECKSUM.offset, plus: Some(R1) };
    e.load_bytes(at, PEEK, Len::Const(4));
    e.load(NOTE, &PEEK.window(), Field { offset: 0, ..udp::LENGTH_CHECKSUM });
    e.goto(cold.peeked);
    if let Some((sum, summed)) = cold.sum {
        e.bind(sum);
        payload::emit(e, NOTE);
        e.goto(summed);
    }
}

/// Writes the pushed header. Uses R1, R2, R4 and `PORTS`.
fn build(e: &mut Emit, header: &Window, inner: Proto, outer: Proto) {
    match outer {
        Proto::Tcp => build_tcp(e, header, inner),
        Proto::Udp => build_udp(e, header, inner),
    }
    e.store(header, l4::PORTS, PORTS);
}

/// A SYN with the original program's constants.
fn build_tcp(e: &mut Emit, header: &Window, inner: Proto) {
    let correction: &[Reg] = if inner == Proto::Udp { &[NOTE] } else { &[] };
    e.pushed_checksum(inner, Proto::Tcp, SUM, correction);
    e.store(header, tcp::CHECKSUM, R1);
    e.store_const(header, tcp::SEQUENCE, marker::SEQUENCE);
    e.store_const(header, tcp::ACKNOWLEDGEMENT, marker::ACKNOWLEDGEMENT);
    e.store_const(header, tcp::OFFSET_FLAGS_WINDOW, marker::OFFSET_FLAGS_WINDOW);
    e.store_const(header, tcp::URGENT, 0);
}

/// Without an inner checksum there is none to derive the outer one from, and over IPv4 it may be
/// absent as well (RFC 768).
fn build_udp(e: &mut Emit, header: &Window, inner: Proto) {
    e.op(Insn::mov32(R4, L4_LEN));
    e.op_note(Insn::add32(R4, Proto::Udp.header_len()), udp::LENGTH.name);
    e.pushed_checksum(inner, Proto::Udp, SUM, &[R4]);
    e.never_zero(&format!("{inner}_in_udp_nonzero"));
    if inner == Proto::Udp {
        let present = e.label("udp_in_udp_present");
        e.jump_if(Cond::ne32(NOTE, 0_u32), present);
        e.op_note(Insn::mov32(R1, 0_u32), "no checksum inside, none outside");
        e.bind(present);
    }
    e.store(header, udp::CHECKSUM, R1);
    e.store(header, udp::LENGTH, R4);
}
