//! A TCP packet rewritten in place: what `alias` and `bypass` have in common.
//!
//! Length, sequence numbers and options stay as they are, so packets of many segments (GSO) need no care: the kernel
//! copies the changed bytes to each segment. What does not fit in the header any more goes to the urgent pointer, which
//! means nothing without the flag URG (RFC 9293, section 3.1).
//!
//! The headers are stored to directly. On what iperf3 sends over veth, that takes 140 ns a packet where
//! `bpf_skb_store_bytes` of the TCP header from the stack takes 180, and it is ahead on all four hooks of a
//! conversation. The kernel's prologue for it costs cloned packets that no rule matches, which is the
//! data local sockets send, some 60 ns more: for 64 KiB at a time by default.
//!
//! The flow's hash is left alone: it is still the same for all packets of the flow, and receive flow
//! steering compares it with the one it has seen before this program ran.

use asm::{Cond, Insn, Reg, Reg::*};

use super::big::emit_big;
use super::counters::Reason;
use super::emit::{Emit, L4_LEN, Window};
use super::frame::{Len, Offset, PEEK};
use super::validate::{IpHeader, validate_big, validate_plain_big};
use crate::ir::{Family, Proto};
use crate::packet::tcp;

/// After IP options: the length of what is before TCP. The length of L4 has served its purpose by then.
const IP_LEN: Reg = L4_LEN;

/// The headers of the packet.
pub(super) struct Headers<'w> {
    pub ip: &'w Window,
    pub tcp: &'w Window,
    /// For labels: the same is emitted several times, also for what stands after IP options or another header.
    pub kind: &'static str,
}

/// `change` jumps to `pass`, or changes the headers; it leaves what `finish` needs in `PORTS` or, as its last
/// instruction, in `IP`. That is given the place of the TCP header, makes up for the checksum and ends the path.
pub(super) fn routine(
    e: &mut Emit,
    family: Family,
    name: &str,
    change: impl Fn(&mut Emit, &Headers<'_>),
    finish: impl Fn(&mut Emit, Offset),
) {
    let (with_options, big) = validate_plain_big(e, family, Proto::Tcp, name);
    let (packet, cold) = e.pull_window(name, family.header_len() + tcp::LEN);
    change(e, &Headers { ip: &packet.at(0), tcp: &packet.at(family.header_len()), kind: "" });
    let tcp_at = e.offset(family, 0, None);
    finish(e, tcp_at);
    emit_big(big, e, |e, _| behind_more(e, family, "_jumbo", (&change, &finish)));
    if let Some(with_options) = with_options {
        e.bind(with_options);
        e.ip_header_len(R1);
        let big = validate_big(e, Proto::Tcp, IpHeader::WithOptions(R1));
        behind_more(e, family, "_options", (&change, &finish));
        emit_big(big, e, |_, _| ());
    }
    e.pull(cold);
}

/// The same after IP options or another header; `R1` holds the length of all that is before TCP. The header is at
/// a variable offset: it is changed on the stack.
fn behind_more(
    e: &mut Emit,
    family: Family,
    kind: &'static str,
    (change, finish): (impl Fn(&mut Emit, &Headers<'_>), impl Fn(&mut Emit, Offset)),
) {
    e.op(Insn::mov32(IP_LEN, R1));
    let tcp_at = Offset { plus: Some(IP_LEN), ..e.ip_offset() };
    e.load_bytes(tcp_at, PEEK, Len::Const(tcp::LEN));
    change(e, &Headers { ip: &Window::of_ip_header(family.shortest()), tcp: &PEEK.window(), kind });
    e.store_bytes(tcp_at, PEEK, Len::Const(tcp::LEN));
    finish(e, tcp_at);
}

pub(super) fn pass_if_urgent(e: &mut Emit, tcp: &Window) {
    e.load(R1, tcp, tcp::FLAGS);
    e.pass_if(Cond::set32(R1, tcp::URG), Reason::NotAliasable, "URG");
}

/// The urgent pointer is free for what is to be put there.
pub(super) fn pass_unless_free(e: &mut Emit, tcp: &Window) {
    pass_if_urgent(e, tcp);
    e.load(R1, tcp, tcp::URGENT);
    e.pass_if(Cond::ne32(R1, 0_u32), Reason::NotAliasable, "in use");
}
