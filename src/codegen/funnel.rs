//! `funnel`: pushes an L4 header between the IP header and the L4 header that is there.
//!
//! Builds both headers on the stack, opens room, stores them in one piece, re-bases the inner
//! checksum: three helper calls. Nothing of the packet has changed until there is room, so whatever
//! cannot be funneled goes on as it was.
//!
//! ```text
//! before   [link][IP, options         ][L4 and payload                      ]
//! after    [link][IP changed, options ][pushed header][L4 re-based, payload ]
//! ```

use asm::{Cond, Insn, Label, Reg::*};

use super::checksum::Rebase;
use super::emit::{Emit, L4_LEN, PORTS, UNSPEC, Window};
use super::frame::{HEADER, Len, OPTIONS, Offset, PEEK};
use super::payload;
use crate::ir::Proto;
use crate::packet::{Field, ipv4, l4, marker, skb, tcp, udp};

/// On entry `PORTS` holds the ports to push.
pub(super) fn emit(e: &mut Emit, inner: Proto, outer: Proto) {
    let pushed = i16::from(outer.header_len());
    let with_options = e.label(format!("funnel_{inner}_in_{outer}_options"));
    let ip = Window::of_ip_header(ipv4::LEN + 8);

    // The kernel cannot segment an L4 header inside another: it would drop the packet.
    e.load_skb(R2, skb::GSO_SIZE);
    e.jump_if_note(Cond::ne32(R2, 0_u32), e.pass, "not segmented yet");

    let cold = (inner == Proto::Udp).then(|| peek_at_udp(e, &ip, outer));
    e.copy_ip_words(&ip, pushed, inner, outer);
    e.copy_addresses(&ip);
    match outer {
        Proto::Tcp => build_tcp(e, inner),
        Proto::Udp => build_udp(e, inner),
    }
    let header = HEADER.window();
    e.if_options(PORTS, &header, with_options);

    e.adjust_room(ip, pushed);
    let (start, inner_at) = (e.ip_offset(), e.offset(pushed, None));
    e.store_bytes(start, HEADER, 0, Len::Const(ipv4::LEN + pushed));
    e.rebase(inner_at, inner, Rebase::ToZero);
    e.exit(UNSPEC);

    e.bind(with_options);
    emit_options(e, inner, pushed);
    if let Some(cold) = cold {
        emit_udp_cold(e, cold);
    }
}

/// The end of the routine for a packet with IP options. The kernel opens room in front of them, so
/// they are moved back to the IP header, and the pushed header goes behind them.
fn emit_options(e: &mut Emit, inner: Proto, pushed: i16) {
    e.options_len(PORTS);
    e.save_options(PORTS);
    e.adjust_room(Window::of_ip_header(0), pushed);
    let (start, options_at) = (e.ip_offset(), e.offset(0, None));
    let (header_at, inner_at) = (e.offset(0, Some(PORTS)), e.offset(pushed, Some(PORTS)));
    e.store_bytes(start, HEADER, 0, Len::Const(ipv4::LEN));
    e.store_bytes(options_at, OPTIONS, 0, Len::Reg(PORTS));
    e.store_bytes(header_at, HEADER, ipv4::LEN, Len::Const(pushed));
    e.rebase(inner_at, inner, Rebase::ToZero);
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

/// Looks at the inner UDP header: a length that is not that of the packet is nobody's funneling
/// business, and an absent checksum says nothing about the payload's sum.
///
/// Leaves in `R5`, for the pushed header's checksum: over UDP, the inner checksum; over TCP, what the
/// sum has to be corrected by.
fn peek_at_udp(e: &mut Emit, ip: &Window, outer: Proto) -> UdpCold {
    let behind_options = e.label(format!("udp_in_{outer}_behind_options"));
    let peeked = e.label(format!("udp_in_{outer}_peeked"));
    e.if_options(R1, ip, behind_options);
    e.load(R5, &ip.at(ipv4::LEN), udp::WORD_CHECKSUM);
    e.bind(peeked);
    e.op(Insn::mov32(R2, R5));
    e.op_note(Insn::rsh32(R2, 16_u32), udp::LENGTH.name);
    e.jump_if_note(Cond::ne32(R2, L4_LEN), e.pass, "not the packet's length");
    e.op_note(Insn::and32(R5, 0xffff_u32), "udp.checksum");
    let sum = (outer == Proto::Tcp).then(|| {
        let (sum, summed) = (e.label("sum_payload"), e.label("payload_summed"));
        e.jump_if_note(Cond::eq32(R5, 0_u32), sum, "no checksum");
        e.op_note(Insn::mov32(R5, 0_u32), "nothing to correct");
        e.bind(summed);
        (sum, summed)
    });
    UdpCold { behind_options, peeked, sum }
}

fn emit_udp_cold(e: &mut Emit, cold: UdpCold) {
    e.bind(cold.behind_options);
    e.ip_header_len(R1);
    let at = Offset { bytes: e.ip_offset().bytes + udp::WORD_CHECKSUM.offset, plus: Some(R1) };
    e.load_bytes(at, PEEK, Len::Const(4));
    e.load(R5, &PEEK.window(), Field { offset: 0, ..udp::WORD_CHECKSUM });
    e.goto(cold.peeked);
    if let Some((sum, summed)) = cold.sum {
        e.bind(sum);
        payload::emit(e);
        e.goto(summed);
    }
}

/// The pushed TCP header: a SYN with the original program's constants.
fn build_tcp(e: &mut Emit, inner: Proto) {
    let header = ipv4::LEN;
    e.pushed_checksum(inner, Proto::Tcp, PORTS, None, (inner == Proto::Udp).then_some(R5));
    e.op_note(Insn::lsh32(R1, 16_u32), "urgent pointer 0");
    e.store_be32(HEADER, header + tcp::WORD_CHECKSUM.offset, R1, tcp::WORD_CHECKSUM.name);
    e.store_be32(HEADER, header, PORTS, l4::PORTS.name);
    for (field, value) in [
        (tcp::SEQUENCE, marker::SEQUENCE),
        (tcp::ACKNOWLEDGEMENT, marker::ACKNOWLEDGEMENT),
        (tcp::WORD_FLAGS, marker::FLAGS),
    ] {
        e.store_const32(HEADER, header + field.offset, value, &format!("{} {value:#x}", field.name));
    }
}

/// The pushed UDP header. Without an inner checksum there is none to derive the outer one from, and
/// over IPv4 it may be absent as well (RFC 768).
fn build_udp(e: &mut Emit, inner: Proto) {
    let header = ipv4::LEN;
    e.op(Insn::mov32(R4, L4_LEN));
    e.op_note(Insn::add32(R4, Proto::Udp.header_len()), udp::LENGTH.name);
    e.pushed_checksum(inner, Proto::Udp, PORTS, Some(R4), None);
    e.never_zero(&format!("{inner}_in_udp_nonzero"));
    if inner == Proto::Udp {
        let present = e.label("udp_in_udp_present");
        e.jump_if(Cond::ne32(R5, 0_u32), present);
        e.op_note(Insn::mov32(R1, 0_u32), "no checksum inside, none outside");
        e.bind(present);
    }
    e.op(Insn::lsh32(R4, 16_u32));
    e.op(Insn::or32(R4, R1));
    e.store_be32(HEADER, header + udp::WORD_CHECKSUM.offset, R4, udp::WORD_CHECKSUM.name);
    e.store_be32(HEADER, header, PORTS, l4::PORTS.name);
}
