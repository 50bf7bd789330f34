//! The MSS option of a funneled SYN or SYN-ACK, lowered by what the funnel adds to each segment.
//!
//! Comes in when all else is done: the inner TCP header is behind the pushed one. Goes out with the
//! packet passed. Never raises an MSS, never adds one, and leaves alone a list that it cannot read.
//! The inner segment sums to the same afterwards, so the pushed checksum needs no care.
//!
//! The options are copied to the frame, where zeros stand behind them: the end of the list. There is
//! no loop without `CAP_PERFMON`, and no variable offset into the frame, so the walk is laid out: a step
//! for each byte at which the option may begin. A register says where the next one begins, and the
//! steps up to there are jumped over. No jump depends on a value that the verifier knows, so what it has
//! seen of a step once holds for all ways that lead there: it walks through the list once.

use asm::{Cond, Insn, Label, Reg, Reg::*, Size};

use super::emit::{Emit, FP, IP, L4_LEN, PORTS, UNSPEC};
use super::frame::{Len, OPTIONS, Offset, PEEK};
use crate::ir::Proto;
use crate::packet::{Field, mss, tcp};

/// On entry: bytes from the packet's start to the TCP header.
const TCP: Reg = IP;
/// On entry: by how much to lower.
const PUSHED: Reg = PORTS;
/// On entry: the length of header and payload. Then that of the options, then where the option is.
const LEN: Reg = L4_LEN;
/// Where an option begins, in bytes from the first one.
const AT: Reg = R3;

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
    e.load_bytes(Offset { bytes: tcp::LEN, plus: Some(TCP) }, OPTIONS, Len::Reg(LEN));

    let found = e.label("mss_found");
    walk(e, found);
    e.bind(found);
    lower(e);
}

/// Goes to `found` with the place of the first MSS option in [`AT`], or passes.
fn walk(e: &mut Emit, found: Label) {
    let steps = 0..=OPTIONS.len - mss::LEN;
    // Where an option begins; and where to look whether it does, unless that is known.
    let option: Vec<Label> = steps.clone().map(|at| e.label(format!("option_{at}"))).collect();
    let seek: Vec<Label> = steps.clone().map(|at| e.label(format!("seek_{at}"))).collect();
    let pass = e.pass;
    let or_pass = |labels: &[Label], step: usize| labels.get(step).copied().unwrap_or(pass);
    for (step, at) in steps.enumerate() {
        // Only NOPs are shorter than two bytes, and whoever reads one knows where the next begins.
        if step >= 2 {
            e.bind(or_pass(&seek, step));
            e.jump_if(Cond::ne32(AT, i32::from(at)), or_pass(&seek, step + 1));
        }
        e.bind(or_pass(&option, step));
        e.op(Insn::mov32(AT, i32::from(at)));
        e.op_note(Insn::load(Size::B, R1, FP, OPTIONS.offset + at), "kind");
        e.jump_if_note(Cond::eq32(R1, mss::KIND), found, "MSS");
        e.jump_if_note(Cond::eq32(R1, tcp::NO_OPERATION), or_pass(&option, step + 1), "NOP");
        e.jump_if_note(Cond::eq32(R1, tcp::END_OF_OPTIONS), e.pass, "end of the list");
        e.op_note(Insn::load(Size::B, R1, FP, OPTIONS.offset + at + 1), "length");
        e.jump_if_note(Cond::lt32(R1, 2_u32), e.pass, "malformed");
        e.op(Insn::add32(AT, R1));
        e.goto(or_pass(&seek, step + 2));
    }
}

/// Lowers the MSS in the option at [`AT`], if it is one.
fn lower(e: &mut Emit) {
    e.op(Insn::mov32(R1, AT));
    e.op(Insn::add32(R1, i32::from(mss::LEN)));
    e.jump_if_note(Cond::gt32(R1, LEN), e.pass, "longer than the header");
    let option = LEN;
    e.op(Insn::mov32(option, AT));
    e.op(Insn::add32(option, TCP));
    let offset = Offset { bytes: tcp::LEN, plus: Some(option) };
    e.load_bytes(offset, PEEK, Len::Const(mss::LEN));
    e.load(R1, &PEEK.window(), mss::LENGTH);
    e.jump_if_note(Cond::ne32(R1, i32::from(mss::LEN)), e.pass, "malformed");
    e.load(R1, &PEEK.window(), mss::VALUE);
    e.op(Insn::mov32(R2, PUSHED));
    e.op(Insn::add32(R2, mss::LEAST));
    e.jump_if_note(Cond::lt32(R1, R2), e.pass, "too low to lower");
    e.op(Insn::sub32(R1, PUSHED));
    e.store(&PEEK.window(), mss::VALUE, R1);
    e.store_bytes(offset, PEEK, Len::Const(mss::LEN));

    // The header's sum loses as much. At an odd offset, the high byte is summed as a low one.
    e.op(Insn::xor32(option, TCP));
    e.op(Insn::and32(option, 1_u32));
    e.op_note(Insn::lsh32(option, 3_u32), "8 at an odd offset");
    e.op(Insn::lsh32(PUSHED, option));
    e.op(Insn::xor32(PUSHED, 0xffff_u32));
    e.op_note(Insn::be16(PUSHED), "change of the sum");
    e.update_tcp(Offset { bytes: 0, plus: Some(TCP) }, PUSHED);
    e.exit(UNSPEC);
}
