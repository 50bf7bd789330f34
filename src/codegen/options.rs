//! The walk through a TCP header's options, laid out: a step for each byte at which one may begin.
//!
//! Comes in: a copy of the options in `OPTIONS`, and their length. Goes to `of` with each option, and to `done` at the end
//! of the list, or where it does not add up, as the kernel reads it (`tcp_parse_options`, net/ipv4/tcp_input.c).
//!
//! There is no loop without `CAP_PERFMON`, and no variable offset into the frame. A register says where the next option
//! begins, and the steps up to there are jumped over. No jump depends on a value that the verifier knows, so what it has
//! seen of a step once holds for all ways that lead there: it walks through the list once.

use asm::{Cond, Insn, Label, Reg, Reg::*, Size};

use super::emit::{Emit, FP};
use super::frame::OPTIONS;
use crate::packet::tcp;

/// The kind of the option, and its length, for `of`.
pub(super) const KIND: Reg = R1;
pub(super) const LENGTH: Reg = R2;
/// Where an option begins: [`BASE`], and bytes from the first one.
const AT: Reg = R3;
/// Where the list ends, by the same measure.
const END: Reg = R5;
/// More than any list is long. The verifier keeps apart what it learns of `END` and what it has to know of `len` for the
/// calls at the end; were they the same number, each way through the list would be another one to it.
const BASE: i16 = 64;

/// `of` is given the place of an option in `OPTIONS`, and where to go on. It is not called where fewer than `least` bytes could
/// follow. Uses R1 to R3 and R5.
pub(super) fn walk(e: &mut Emit, len: Reg, least: i16, done: Label, of: impl Fn(&mut Emit, i16, Label)) {
    let steps = 0..=OPTIONS.len - least;
    // Where an option begins; and where to look whether it does, unless that is known.
    let option: Vec<Label> = steps.clone().map(|at| e.label(format!("option_{at}"))).collect();
    let seek: Vec<Label> = steps.clone().map(|at| e.label(format!("seek_{at}"))).collect();
    let or_done = |labels: &[Label], step: usize| labels.get(step).copied().unwrap_or(done);
    e.op(Insn::mov32(END, len));
    e.op_note(Insn::or32(END, i32::from(BASE)), "end of the list");
    for (step, at) in steps.enumerate() {
        // Only NOPs are shorter than two bytes, and after one, the place of the next is known.
        if step >= 2 {
            e.bind(or_done(&seek, step));
            e.jump_if(Cond::ne32(AT, i32::from(BASE + at)), or_done(&seek, step + 1));
        }
        e.bind(or_done(&option, step));
        let byte = |reg, more| Insn::load(Size::B, reg, FP, OPTIONS.offset + at + more);
        e.op_note(byte(KIND, 0), "kind");
        e.jump_if_note(Cond::eq32(KIND, tcp::NO_OPERATION), or_done(&option, step + 1), "NOP");
        e.jump_if_note(Cond::eq32(KIND, tcp::END_OF_OPTIONS), done, "end of the list");
        e.op_note(byte(LENGTH, 1), "length");
        e.jump_if_note(Cond::lt32(LENGTH, 2_u32), done, "malformed");
        e.op(Insn::mov32(AT, i32::from(BASE + at)));
        e.op(Insn::add32(AT, LENGTH));
        e.jump_if_note(Cond::gt32(AT, END), done, "longer than the list");
        of(e, at, or_done(&seek, step + 2));
    }
}
