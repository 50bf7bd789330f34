//! `alias` and `unalias`: a TCP port renamed in place, the true one in the unused urgent pointer.
//!
//! ```text
//! before   port P, URG clear, urgent pointer 0
//! alias N  port N, URG clear, urgent pointer P          and back, if P is on the list of unalias
//! ```
//!
//! A packet whose urgent pointer is in use, or that has been renamed already, goes on as it was. P moves from one
//! field of the header to another, so the header's sum changes by N alone, and one helper call is all. The rest is in
//! [`inplace`](super::inplace).

use asm::{Cond, Insn, Reg, Reg::*};
use range_set_blaze::RangeSetBlaze;

use super::counters::Reason;
use super::emit::{Emit, PORTS, UNSPEC};
use super::frame::Offset;
use super::inplace::{self, Headers};
use super::port_set::{Miss, one_of};
use crate::ir::{End, Family};
use crate::packet::{Field, l4, tcp};

/// The port that a packet hides in its urgent pointer.
const HIDDEN: Reg = R2;

/// On entry `PORTS` holds the port to write.
pub(super) fn emit(e: &mut Emit, family: Family, end: End) {
    let name = format!("{}alias_{end}", family.prefix());
    let change = |e: &mut Emit, Headers { tcp, .. }: &Headers<'_>| {
        inplace::pass_unless_free(e, tcp);
        e.load(R1, tcp, port(end));
        e.pass_if(Cond::eq32(R1, PORTS), Reason::NotAliasable, "has that port already");
        e.store(tcp, tcp::URGENT, R1);
        e.store(tcp, port(end), PORTS);
    };
    inplace::routine(e, family, &name, change, finish);
}

/// Restores one of the `ports`, whose list has this number.
pub(super) fn emit_unalias(e: &mut Emit, family: Family, end: End, list: usize, ports: &RangeSetBlaze<u16>) {
    let name = format!("{}unalias_{end}_{list}", family.prefix());
    let change = |e: &mut Emit, Headers { tcp, kind, .. }: &Headers<'_>| {
        inplace::pass_if_urgent(e, tcp);
        e.load(HIDDEN, tcp, tcp::URGENT);
        let listed = e.label(format!("{name}_listed{kind}"));
        let miss = Miss { label: e.exit_for(Reason::NotListed), verdict: e.unless_counted(UNSPEC) };
        one_of(e, HIDDEN, ports, listed, miss);
        e.bind(listed);
        e.load_raw(PORTS, tcp, port(end));
        e.op_note(Insn::xor32(PORTS, u32::MAX), "the sum loses it");
        e.store(tcp, port(end), HIDDEN);
        e.store_const(tcp, tcp::URGENT, 0);
    };
    inplace::routine(e, family, &name, change, finish);
}

/// The port has moved, or been written, and the sum of the header has changed by `PORTS`.
fn finish(e: &mut Emit, tcp: Offset) {
    e.update_tcp(tcp, PORTS);
    e.done(0);
}

fn port(end: End) -> Field {
    match end {
        End::Sport => l4::SPORT,
        End::Dport => l4::DPORT,
    }
}
