//! `alias` and `unalias`: a TCP port renamed in place, the true one in the unused urgent pointer.
//!
//! ```text
//! before   port P, URG clear, urgent pointer 0
//! alias N  port N, URG clear, urgent pointer P          and back, if P is on the list of unalias
//! ```
//!
//! Length, sequence numbers and options stay as they are, so packets of many segments (GSO) need no
//! care: the kernel copies these bytes to each segment. A packet whose urgent pointer is in use, or
//! that has been renamed already, goes on as it was. P moves from one field of the header to another, so
//! the header's sum changes by N alone.
//!
//! The header is stored to directly. On what iperf3 sends over veth, that takes 140 ns a packet where
//! `bpf_skb_store_bytes` of the header from the stack takes 180, and it is ahead on all four hooks of a
//! conversation. The kernel's prologue for it costs cloned packets that no rule matches, which is the
//! data local sockets send, some 60 ns more: for 64 KiB at a time by default.
//!
//! The flow's hash is left alone: it is still the same for all packets of the flow, and receive flow
//! steering compares it with the one it has seen before this program ran. One helper call is all.

use asm::{Cond, Insn, Reg, Reg::*};
use range_set_blaze::RangeSetBlaze;

use super::big::emit_big;
use super::counters::Reason;
use super::emit::{Emit, L4_LEN, PORTS, UNSPEC, Window};
use super::frame::{Len, Offset, PEEK};
use super::list::{Miss, one_of};
use super::validate::{IpHeader, validate_big, validate_plain_big};
use crate::ir::{End, Family, Proto};
use crate::packet::{Field, l4, tcp};

/// The port that a packet hides in its urgent pointer.
const HIDDEN: Reg = R2;
/// Behind IP options: the length of what is in front of TCP. The length of L4 has served its purpose by then.
const IP_LEN: Reg = L4_LEN;

/// On entry `PORTS` holds the port to write.
pub(super) fn emit(e: &mut Emit, family: Family, end: End) {
    let name = format!("{}alias_{end}", family.prefix());
    routine(e, family, &name, |e, header, _| {
        pass_if_urgent(e, header);
        e.load(R1, header, tcp::URGENT);
        e.pass_if(Cond::ne32(R1, 0_u32), Reason::NotAliasable, "in use");
        e.load(R1, header, port(end));
        e.pass_if(Cond::eq32(R1, PORTS), Reason::NotAliasable, "has that port already");
        e.store(header, tcp::URGENT, R1);
        e.store(header, port(end), PORTS);
    });
}

/// Restores one of the `ports`, whose list has this number.
pub(super) fn emit_unalias(e: &mut Emit, family: Family, end: End, list: usize, ports: &RangeSetBlaze<u16>) {
    let name = format!("{}unalias_{end}_{list}", family.prefix());
    routine(e, family, &name, |e, header, kind| {
        pass_if_urgent(e, header);
        e.load(HIDDEN, header, tcp::URGENT);
        let listed = e.label(format!("{name}_listed{kind}"));
        let miss = Miss { label: e.because(Reason::NotListed), verdict: e.unless_counted(UNSPEC) };
        one_of(e, HIDDEN, ports, listed, miss);
        e.bind(listed);
        e.load_raw(PORTS, header, port(end));
        e.op_note(Insn::xor32(PORTS, u32::MAX), "the sum loses it");
        e.store(header, port(end), HIDDEN);
        e.store_const(header, tcp::URGENT, 0);
    });
}

/// What both have in common. `change` is given the TCP header and a suffix for labels; it changes the
/// header and leaves in `PORTS` what its sum has changed by, in the packet's byte order, or passes.
fn routine(e: &mut Emit, family: Family, name: &str, change: impl Fn(&mut Emit, &Window, &str)) {
    let (with_options, big) = validate_plain_big(e, family, Proto::Tcp, name);
    let (packet, cold) = e.pull_window(name, family.header_len() + tcp::LEN);
    change(e, &packet.at(family.header_len()), "");
    let tcp_at = e.offset(family, 0, None);
    e.update_tcp(tcp_at, PORTS);
    e.done(0);
    emit_big(big, e, |e, _| behind_more(e, "_jumbo", &change));
    if let Some(with_options) = with_options {
        e.bind(with_options);
        e.ip_header_len(R1);
        let big = validate_big(e, Proto::Tcp, IpHeader::WithOptions(R1));
        behind_more(e, "_options", &change);
        emit_big(big, e, |_, _| ());
    }
    e.pull(cold);
}

/// The same behind IP options or another header; `R1` holds the length of all that is in front of TCP. The header is at
/// a variable offset: it is changed on the stack.
fn behind_more(e: &mut Emit, kind: &str, change: impl Fn(&mut Emit, &Window, &str)) {
    e.op(Insn::mov32(IP_LEN, R1));
    let tcp_at = Offset { plus: Some(IP_LEN), ..e.ip_offset() };
    e.load_bytes(tcp_at, PEEK, Len::Const(tcp::LEN));
    change(e, &PEEK.window(), kind);
    e.store_bytes(tcp_at, PEEK, Len::Const(tcp::LEN));
    e.update_tcp(tcp_at, PORTS);
    e.done(0);
}

fn pass_if_urgent(e: &mut Emit, header: &Window) {
    e.load(R1, header, tcp::FLAGS);
    e.pass_if(Cond::set32(R1, tcp::URG), Reason::NotAliasable, "URG");
}

fn port(end: End) -> Field {
    match end {
        End::Sport => l4::SPORT,
        End::Dport => l4::DPORT,
    }
}
