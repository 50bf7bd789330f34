//! The window scale option of a SYN (RFC 7323, section 2.2): by how much windows that its sender announces are shifted.

use asm::{Cond, Insn, Label, Reg, Reg::*, Size};

use crate::codegen::emit::{Emit, FP, Window};
use crate::codegen::frame::{Len, OPTIONS};
use crate::codegen::options::{self, KIND, LENGTH};
use crate::flow::UNSCALED;
use crate::ir::Family;
use crate::packet::tcp;

/// The option's kind and length; Linux, and whoever else keeps to the RFC, takes no more than this shift.
const WINDOW_SCALE: u32 = 3;
const LEN: i16 = 3;
const MOST: u32 = 14;

impl Emit {
    /// `R0 = the shift`, or [`UNSCALED`] without the option. `len` survives calls, and is lost. The TCP header has been found to be no
    /// longer than the packet. Uses R1 to R5.
    pub(super) fn read_scale(&mut self, tcp: &Window, len: Reg, name: &str) {
        let [none, done]: [Label; 2] =
            ["no_scale", "scale_read"].map(|word| self.label(format!("{word}_{name}")));
        self.load(R1, tcp, tcp::DATA_OFFSET);
        self.op(Insn::rsh32(R1, 4_u32));
        self.op_note(Insn::lsh32(R1, 2_u32), "length of the TCP header");
        self.jump_if_note(Cond::lt32(R1, i32::from(tcp::LEN + LEN)), none, "no such option");
        self.op_note(Insn::sub32(R1, i32::from(tcp::LEN)), "length of the options");
        self.op(Insn::mov32(len, R1));
        self.clear(OPTIONS);
        let options = self.offset(Family::V4, tcp::LEN, None);
        self.load_bytes(options, OPTIONS, Len::Reg(len));
        self.op(Insn::mov32(R0, u32::from(UNSCALED)));
        options::walk(self, len, LEN, done, |e, at, next| {
            e.jump_if_note(Cond::ne32(KIND, WINDOW_SCALE), next, "not a window scale");
            e.jump_if_note(Cond::ne32(LENGTH, i32::from(LEN)), next, "nor this");
            e.op(Insn::load(Size::B, R0, FP, OPTIONS.offset + at + 2));
            e.jump_if(Cond::le32(R0, MOST), next);
            e.op(Insn::mov32(R0, MOST));
            e.goto(next);
        });
        self.bind(none);
        self.op(Insn::mov32(R0, u32::from(UNSCALED)));
        self.bind(done);
    }
}
