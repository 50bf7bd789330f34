//! Sums up a UDP datagram that carries no checksum, so that a TCP header pushed onto it can have one.
//!
//! The one place that reads payload. There are no loops without `CAP_PERFMON`, so the chunks are laid
//! out one after the other, and a datagram beyond [`LONGEST`] is left alone. Only rulesets that
//! funnel UDP through TCP carry this code.

use asm::{Cond, Helper, Insn, Reg, Reg::*, Size};

use super::counters::Reason;
use super::emit::{Emit, FP, IP, L4_LEN, PORTS, Window};
use super::frame::{CHUNK, Len, Offset, SAVED};
use crate::ir::Proto;
use crate::packet::ipv4;

/// UDP header and payload; what fits a jumbo frame.
const LONGEST: u16 = 9216;

/// Leaves in `correction` what the pushed header's sum has to be corrected by, in the packet's byte order: the
/// datagram's sum, plus the length and protocol that the constants took for cancelled. All other roles are as on
/// entry.
pub(super) fn emit(e: &mut Emit, correction: Reg) {
    // `bpf_csum_diff` takes multiples of 4, before 6.16 at most 512 bytes.
    const _: () = assert!(CHUNK.len % 4 == 0 && CHUNK.len <= 512 && CHUNK.len >= 256);

    e.pass_if(Cond::gt32(L4_LEN, LONGEST), Reason::TooLong, "longer than is summed up");
    // From the end to the start: see `funnel::build`.
    e.op_note(Insn::store(Size::W, FP, SAVED.offset + 4, L4_LEN), "save");
    e.op_note(Insn::store(Size::W, FP, SAVED.offset, PORTS), "save");
    let ip = Window::of_ip_header(ipv4::LEN);
    e.load(PORTS, &ip, ipv4::VERSION_IHL);
    e.op(Insn::and32(PORTS, 0x0f_u32));
    e.op(Insn::lsh32(PORTS, 2_u32));
    let start = i32::from(e.ip_offset().bytes);
    e.op_note(Insn::add32(PORTS, start), "offset of the datagram");
    // All of the register: it is added in 64 bits, and where this and the other sums join, kernels (6.18) may take the
    // upper half for unused.
    e.op_note(Insn::mov64(IP, 0), "sum");

    let tail = e.label("sum_tail");
    let mut left = LONGEST;
    while left >= CHUNK.len.unsigned_abs() {
        e.jump_if(Cond::lt32(L4_LEN, i32::from(CHUNK.len)), tail);
        add(e, CHUNK.len);
        left -= CHUNK.len.unsigned_abs();
    }
    e.bind(tail);
    for len in [256, 128, 64, 32, 16, 8, 4] {
        let shorter = e.label(format!("sum_less_than_{len}"));
        e.jump_if(Cond::lt32(L4_LEN, i32::from(len)), shorter);
        add(e, len);
        e.bind(shorter);
    }
    // The last one to three bytes, padded with zeros (RFC 1071 section 4.1). Their number is taken from
    // the saved length: of what is left the verifier may know that it is 0, and without `CAP_PERFMON` it
    // follows the side of a decided branch that is not taken as well (Spectre v1), where 6.12 then finds
    // a transfer that may be empty. `< 1`, not `== 0`: before 6.8 it learns nothing from an inequality.
    let summed = e.label("summed");
    e.op_note(Insn::load(Size::W, L4_LEN, FP, SAVED.offset + 4), "saved length");
    e.op(Insn::and32(L4_LEN, 3_u32));
    e.jump_if(Cond::lt32(L4_LEN, 1_u32), summed);
    e.op(Insn::store_imm(Size::W, FP, CHUNK.offset, 0));
    e.load_bytes(Offset { bytes: 0, plus: Some(PORTS) }, CHUNK, Len::Reg(L4_LEN));
    sum(e, 4);
    e.bind(summed);

    e.op_note(Insn::load(Size::W, PORTS, FP, SAVED.offset), "restore");
    e.op_note(Insn::load(Size::W, L4_LEN, FP, SAVED.offset + 4), "restore");
    e.op(Insn::mov32(correction, L4_LEN));
    e.op_note(Insn::add32(correction, Proto::Udp.number()), "what the sum lacks");
    e.op(Insn::be32(correction));
    e.op(Insn::add64(correction, IP));
    let short = e.exit_for(Reason::Malformed);
    let _ = e.window_again(IP, ipv4::LEN + 8, short);
}

/// Adds the next `len` bytes and moves on.
fn add(e: &mut Emit, len: i16) {
    e.load_bytes(Offset { bytes: 0, plus: Some(PORTS) }, CHUNK, Len::Const(len));
    sum(e, len);
    e.op(Insn::add32(PORTS, i32::from(len)));
    e.op(Insn::sub32(L4_LEN, i32::from(len)));
}

/// `IP = bpf_csum_diff(NULL, 0, CHUNK, len, IP)`, a 32-bit sum in the packet's byte order.
fn sum(e: &mut Emit, len: i16) {
    e.op(Insn::mov32(R1, 0_u32));
    e.op(Insn::mov32(R2, 0_u32));
    e.address_of(R3, CHUNK);
    e.op(Insn::mov32(R4, i32::from(len)));
    e.op(Insn::mov32(R5, IP));
    e.op(Insn::call(Helper::CsumDiff));
    e.op(Insn::mov64(IP, R0));
}
