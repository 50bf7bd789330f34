//! The MSS option of a funneled SYN or SYN-ACK, lowered by what the funnel adds to each segment.
//!
//! Runs when all else is done: the inner TCP header follows the pushed one. Ends by passing the
//! packet. Never raises an MSS, never adds one. The inner segment sums to the same afterwards, so the pushed
//! checksum needs no care.
//!
//! Of several MSS options, Linux takes the last that is not 0 and others the first, so each is lowered. A list that
//! TCP-AO (RFC 5925) signs stays as it is.
//!
//! The options are copied to the frame twice, to change one copy and to find out whether it has changed.

use asm::{Cond, Helper, Insn, Label, Reg, Reg::*, Size};

use super::emit::{Emit, FP, IP, L4_LEN, PORTS, UNSPEC};
use super::frame::{Len, OPTIONS, Offset, PEEK};
use super::options::{self, KIND, LENGTH};
use crate::ir::Proto;
use crate::packet::{Field, mss, tcp};

/// On entry: bytes from the packet's start to the TCP header.
const TCP: Reg = IP;
/// On entry: by how much to lower.
const PUSHED: Reg = PORTS;
/// On entry: the length of header and payload. Then that of the options.
const LEN: Reg = L4_LEN;
/// What is lower stays.
const LEAST: Reg = R4;

/// Goes to the routine at `label` with a TCP header at `tcp`; its length and that of its payload are
/// in `L4_LEN`.
pub(super) fn enter(e: &mut Emit, tcp: Offset, outer: Proto, label: Label) {
    e.set_offset(TCP, tcp);
    e.op_note(Insn::mov32(PUSHED, outer.header_len()), "what segments grow by");
    e.goto(label);
}

/// The routine that all funneled TCP of a program shares.
pub(super) fn emit(e: &mut Emit) {
    let header = PEEK.window();
    let start = tcp::DATA_OFFSET.offset;
    let peeked = |field: Field| Field { offset: field.offset - start, ..field };
    let syn = e.label("mss_of_syn");

    e.load_bytes(Offset { bytes: start, plus: Some(TCP) }, PEEK, Len::Const(2));
    e.load(R1, &header, peeked(tcp::FLAGS));
    e.jump_if_note(Cond::set32(R1, tcp::SYN), syn, "SYN");
    e.exit(UNSPEC);
    e.bind(syn);
    e.load(R1, &header, peeked(tcp::DATA_OFFSET));
    e.op(Insn::rsh32(R1, 4_u32));
    e.op_note(Insn::lsh32(R1, 2_u32), "length of the TCP header");
    e.jump_if_note(Cond::gt32(R1, LEN), e.pass, "longer than the packet");
    e.jump_if_note(Cond::lt32(R1, i32::from(tcp::LEN) + 4), e.pass, "no options");
    e.op_note(Insn::sub32(R1, i32::from(tcp::LEN)), "length of the options");
    e.op(Insn::mov32(LEN, R1));
    e.clear(OPTIONS);
    e.clear(PEEK);
    e.load_bytes(Offset { bytes: tcp::LEN, plus: Some(TCP) }, OPTIONS, Len::Reg(LEN));

    e.load_bytes(Offset { bytes: tcp::LEN, plus: Some(TCP) }, PEEK, Len::Reg(LEN));

    let done = e.label("mss_done");
    walk(e, done);
    e.bind(done);
    write_back(e);
}

/// Lowers every MSS in the copy, and goes to `done`.
fn walk(e: &mut Emit, done: Label) {
    e.op(Insn::mov32(LEAST, PUSHED));
    e.op_note(Insn::add32(LEAST, mss::LEAST), "the least to lower");
    options::walk(e, LEN, mss::LEN, done, |e, at, next| {
        let byte = |reg, more| Insn::load(Size::B, reg, FP, OPTIONS.offset + at + more);
        e.jump_if_note(Cond::eq32(KIND, tcp::AUTHENTICATION), e.pass, "signed, and the MSS with it");
        e.jump_if_note(Cond::ne32(KIND, mss::KIND), next, "not an MSS");
        e.jump_if_note(Cond::ne32(LENGTH, i32::from(mss::LEN)), next, "nor this");
        e.op(byte(R1, 2));
        e.op(Insn::lsh32(R1, 8_u32));
        e.op(byte(R2, 3));
        e.op_note(Insn::or32(R1, R2), "MSS");
        e.jump_if_note(Cond::lt32(R1, LEAST), next, "too low to lower");
        e.op(Insn::sub32(R1, PUSHED));
        store_byte(e, at + 3);
        e.op(Insn::rsh32(R1, 8_u32));
        store_byte(e, at + 2);
        e.goto(next);
    });
}

/// `options[at] = R1`
///
/// At a multiple of eight, 6.1 takes a scalar whose bounds it knows for spilled, and then refuses to have the rest of
/// those eight bytes written to without `CAP_PERFMON`. It knows none of what has been swapped: twice, so nothing changes.
fn store_byte(e: &mut Emit, at: i16) {
    if (OPTIONS.offset + at) % 8 == 0 {
        e.op(Insn::be64(R1));
        e.op_note(Insn::be64(R1), "of no known bounds");
    }
    e.op(Insn::store(Size::B, FP, OPTIONS.offset + at, R1));
}

/// Puts the copy in place of the options, unless they are the same. The header's sum changes by as much.
fn write_back(e: &mut Emit) {
    const CHANGE: Reg = PUSHED;
    e.address_of(R1, PEEK);
    e.op(Insn::mov32(R2, LEN));
    e.address_of(R3, OPTIONS);
    e.op(Insn::mov32(R4, LEN));
    e.op(Insn::mov32(R5, 0_u32));
    e.op(Insn::call(Helper::CsumDiff));
    e.op(Insn::mov32(CHANGE, R0));
    e.fold(R0, R1);
    e.fold(R0, R1);
    e.jump_if_note(Cond::eq32(R0, 0xffff_u32), e.pass, "nothing has changed");
    e.store_bytes(Offset { bytes: tcp::LEN, plus: Some(TCP) }, OPTIONS, Len::Reg(LEN));
    e.update_tcp(Offset { bytes: 0, plus: Some(TCP) }, CHANGE);
    e.exit(UNSPEC);
}
