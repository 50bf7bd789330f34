//! May this packet go fast, and is it time to ask netfilter again?

use asm::{Cond, Helper, Insn, Label, Reg, Reg::*};

use super::{ACKED, END, LENGTH, NOW, PROBE, Way};
use crate::codegen::emit::{Emit, PORTS};
use crate::codegen::segment::BPF_F_INGRESS;
use crate::flow::{AGAIN, EVERY, LIFE, PROVEN_AND_PROBED, PROVEN_BOTH_WAYS, STALE, UNSCALED, value};
use crate::packet::{Field, skb};

impl Emit {
    /// `dst = the widest window that the other end can announce for this way`: without both scales, there is no
    /// scaling (RFC 7323, section 2.2). Uses R1 and R2.
    pub(super) fn widest(&mut self, dst: Reg, scale: Field, name: &str) {
        let unscaled = self.label(name);
        self.op(Insn::mov32(dst, 0xffff_u32));
        self.load_flow(R1, value::SCALE_OUT);
        self.jump_if(Cond::eq32(R1, u32::from(UNSCALED)), unscaled);
        self.load_flow(R1, value::SCALE_IN);
        self.jump_if(Cond::eq32(R1, u32::from(UNSCALED)), unscaled);
        self.load_flow(R1, scale);
        self.op(Insn::and32(R1, 15_u32));
        self.op(Insn::lsh32(dst, R1));
        self.bind(unscaled);
    }

    /// Copies the packet to the hook that it is on, as `what`. The packet's memory may move. Uses R0 to R5, and `PORTS`.
    pub(super) fn copy_as(&mut self, what: u32, note: &str) {
        let index = PORTS;
        self.load_skb(index, skb::TC_INDEX);
        self.op_note(Insn::mov32(R1, what), note);
        self.store_skb(skb::TC_INDEX, R1);
        self.load_skb(R2, skb::IFINDEX);
        self.op_note(Insn::mov32(R3, BPF_F_INGRESS), "BPF_F_INGRESS");
        self.call(Helper::CloneRedirect);
        self.store_skb(skb::TC_INDEX, index);
    }

    /// Falls through with a packet that may go fast; others go on at `slow`, or at `old` if a proof has run out. Asks netfilter, if
    /// it is time to. The packet's memory may move. Uses R0 to R5, and `PORTS`.
    pub(super) fn fast_or(&mut self, way: &Way, slow: Label, old: Label) {
        let label = |e: &mut Emit, word: &str| e.label(format!("{word}_{}", way.name));
        let [ask, asked, armed, little, far] =
            ["ask", "asked", "armed", "little_left", "acknowledge"].map(|word| label(self, word));
        self.load_flow(R1, value::CLOSING);
        self.jump_if_note(Cond::ne32(R1, 0_u32), slow, "closing");
        for proof in [value::OUT, value::IN] {
            self.jump_if_old(proof, LIFE, old);
        }
        self.load_flow(R1, value::PROOFS);
        self.op(Insn::and32(R1, 0xffff_u32));
        self.jump_if_note(Cond::ne32(R1, PROVEN_BOTH_WAYS), slow, "not proven both ways");

        self.jump_if_old(way.asked, EVERY, ask);
        self.load_flow(R1, value::PROOFS);
        self.jump_if(Cond::eq32(R1, PROVEN_AND_PROBED), armed);
        // Of this way no probe has come out yet: if the first was lost, another one.
        self.load_flow(R1, way.probed);
        self.jump_if(Cond::ne32(R1, 0_u32), armed);
        self.jump_if_old(way.asked, AGAIN, ask);

        self.bind(armed);
        // Before the other way's probe has come out, the window is not open, and no probe may run ahead.
        self.load_flow(R1, way.back.probed);
        self.jump_if(Cond::eq32(R1, 0_u32), asked);
        self.widest(R3, way.scale, &format!("unscaled_{}", way.name));
        // Less than an eighth of a window is left of what has been asked for, and the receiver has half of it at most
        // still to acknowledge.
        self.kept(R1, LENGTH, "length of the data");
        self.op(Insn::mov32(R2, R3));
        self.op(Insn::rsh32(R2, 2_u32));
        self.jump_if_note(Cond::ge32(R1, R2), far, "a quarter of the window at once");
        self.load_flow(R1, way.ahead);
        self.op(Insn::mov32(R2, R3));
        self.op(Insn::rsh32(R2, 3_u32));
        self.kept(R4, END, "end");
        self.op(Insn::add32(R2, R4));
        self.jump_if_before(R1, R2, little, "an eighth of the window is not left");
        self.goto(far);
        self.bind(little);
        self.load_flow(R1, way.ahead);
        self.load_flow(R2, way.acked);
        self.op(Insn::mov32(R4, R3));
        self.op(Insn::rsh32(R4, 1_u32));
        self.op(Insn::add32(R2, R4));
        self.jump_if_before(R1, R2, ask, "half of it has been acknowledged");
        self.bind(far);
        // The packet acknowledges an eighth of a window more than netfilter knows.
        self.widest(R3, way.back.scale, &format!("unscaled_back_{}", way.name));
        self.kept(R1, ACKED, "acknowledged");
        self.load_flow(R2, way.back.acked);
        self.jump_if_before(R1, R2, asked, "known already");
        self.op(Insn::rsh32(R3, 3_u32));
        self.jump_if_note(Cond::le32(R1, R3), asked, "an eighth of the window at most");

        self.bind(ask);
        self.kept(R1, NOW, "now");
        self.store_flow(way.asked, R1);
        self.copy_as(PROBE, "a copy, to become a probe");
        self.bind(asked);
        self.load_flow(R1, value::PROOFS);
        self.jump_if_note(Cond::ne32(R1, PROVEN_AND_PROBED), slow, "not all probed");
        self.load_flow(R1, way.end);
        self.kept(R2, END, "end");
        self.jump_if_before(R1, R2, slow, "beyond what came out of netfilter");
    }

    /// The packet is the first after long rest, and was proven before that: netfilter may have forgotten the flow. Goes to `not` if
    /// not.
    pub(super) fn unless_stale(&mut self, not: Label) {
        self.load_flow(R1, value::CLOSING);
        self.jump_if(Cond::ne32(R1, 0_u32), not);
        for proof in [value::OUT, value::IN] {
            self.load_flow(R1, proof);
            self.jump_if_note(Cond::eq64(R1, 0), not, "never proven");
            self.jump_if_young(proof, STALE, not);
        }
    }
}
