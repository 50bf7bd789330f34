//! VLAN tags in the frame (IEEE 802.1Q, 802.1ad), which rules look past.
//!
//! The kernel keeps the outermost tag of what it receives beside the frame, in the packet's metadata, and most of what it
//! sends leaves with the tag there. So for most programs there are no tags. But a tag may stand in the frame all the
//! same: the second of two; what a packet socket or a VLAN device with `reorder_hdr off` sends.
//!
//! `bpf_skb_adjust_room` takes nothing but IP right behind the Ethernet header, so tags are taken out of the frame before
//! anything else (`bpf_skb_vlan_pop`), and the program does to such a packet what it does to any other:
//!
//! ```text
//! beside the frame, in the frame          while the program looks          afterwards
//!        -          C                            C   -                       C   -
//!        S          C                            C   -    S in R9            S   C
//!        -          S C                          C   -    S in R9            S   C
//! ```
//!
//! One tag is beside the frame from then on, where all that follows in the kernel looks first. Of two, the outer is put
//! back by all ways out (`bpf_skb_vlan_push`), which writes the other into the frame again. Three, and tags before
//! anything but IP that rules are about, stay as they are.
//!
//! `R9` holds the tag to put back, and is 0 for nearly all packets; routines, which need the register, keep it in the frame
//! of the stack. The verifier must not know that it is 0, or it would verify the whole program again for
//! packets with tags: the zero is the sign of a length.

use asm::{Cond, Helper, Insn, Label, Reg, Reg::*, Size};

use super::Link;
use super::emit::{Emit, FP, PORTS, UNSPEC, Window};
use super::frame::TAG;
use crate::ir::Family;
use crate::packet::{skb, vlan};

/// The tag to put back: its type and its TCI.
const OUTER: Reg = R9;
/// The outermost tag in the frame; then what is behind the tags.
const HELD: Reg = PORTS;

/// Where the program keeps the tag to put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// There is none: a device without Ethernet, or a program that has not looked yet.
    Nowhere,
    /// In `R9`: from the prologue to the leaves.
    Register,
    /// In the frame: in routines.
    Frame,
}

/// What leads past tags: from the end of the prologue's questions about the EtherType back to where the answer is known.
pub(super) struct Tags {
    /// `R2` holds an EtherType that is that of no family with rules.
    pub look: Label,
    /// Where packets of a family go, without the tags.
    found: Vec<(Family, Label)>,
}

impl Tags {
    /// `None`: on this link there are no tags. Emits what it takes to know, afterwards, of no tag to put back.
    pub(super) fn expect(e: &mut Emit, families: &[Family]) -> Option<Tags> {
        if e.link != Link::Ethernet || e.entered {
            return None;
        }
        e.load_skb(OUTER, skb::LEN);
        e.op_note(Insn::rsh32(OUTER, 31_u32), "0: no tag to put back");
        e.kept = Kept::Register;
        let found = families.iter().map(|family| (*family, e.label(format!("{}found", family.prefix()))));
        let found = found.collect();
        Some(Tags { look: e.label("look_for_tags"), found })
    }

    /// Here is what [`look`](Self::look) is to find.
    pub(super) fn bind_found(&self, e: &mut Emit, family: Family) {
        if let Some(label) = self.found(family) {
            e.bind(label);
        }
    }

    pub(super) fn found(&self, family: Family) -> Option<Label> {
        self.found.iter().find(|(known, _)| *known == family).map(|(_, label)| *label)
    }

    /// The block. `R2` holds the EtherType, and 28 bytes behind the Ethernet header are proven; what has no tags goes to
    /// `other`. Falls through from nowhere.
    pub(super) fn look(&self, e: &mut Emit, other: Label) {
        let frame = Window::of_tags();
        let [tagged, one, two, outer, untagged] =
            ["tagged", "one_tag", "two_tags", "outer_tag", "untagged"].map(|name| e.label(name));
        let beside = if e.target.nested_tags { e.label("tag_beside") } else { e.pass };
        e.bind(self.look);
        e.jump_if_note(Cond::eq32(R2, vlan::TYPE), tagged, "802.1Q");
        e.jump_if_note(Cond::ne32(R2, vlan::TYPE_SERVICE), other, "nor 802.1ad");
        e.bind(tagged);
        e.load(HELD, &frame, vlan::TAG);
        e.load(R2, &frame, vlan::NEXT_TYPE);
        e.load_skb(R3, skb::VLAN_PRESENT);
        e.jump_if_note(Cond::ne32(R3, 0_u32), beside, "a tag beside the frame");
        for (family, _) in &self.found {
            e.jump_if(Cond::eq32(R2, family.ethertype()), one);
        }
        e.jump_if_note(Cond::eq32(R2, vlan::TYPE), two, "another one");
        e.jump_if(Cond::ne32(R2, vlan::TYPE_SERVICE), e.pass);
        e.bind(two);
        e.load(R2, &frame, vlan::NEXT_BUT_ONE_TYPE);
        self.pass_unless_wanted(e, "behind_two");
        e.op_note(Insn::mov32(OUTER, HELD), "to put back");
        e.goto(outer);

        if e.target.nested_tags {
            e.bind(beside);
            self.pass_unless_wanted(e, "behind_both");
            e.load_skb(OUTER, skb::VLAN_PROTO);
            e.op(Insn::be16(OUTER));
            e.op(Insn::lsh32(OUTER, 16_u32));
            e.load_skb(R2, skb::VLAN_TCI);
            e.op_note(Insn::or32(OUTER, R2), "to put back");
        }
        e.bind(outer);
        let fail = e.plain_fail();
        e.call(Helper::SkbVlanPop);
        e.jump_if(Cond::ne64(R0, 0), fail);
        e.goto(untagged);

        e.bind(one);
        e.call(Helper::SkbVlanPop);
        e.jump_if(Cond::ne64(R0, 0), e.pass);
        push(e, HELD);
        e.bind(untagged);
        self.go_on(e);
    }

    /// `if R2 is the EtherType of no family goto pass`
    fn pass_unless_wanted(&self, e: &mut Emit, name: &str) {
        let wanted = e.label(name);
        let Some(((last, _), others)) = self.found.split_last() else { return };
        for (family, _) in others {
            e.jump_if(Cond::eq32(R2, family.ethertype()), wanted);
        }
        e.jump_if_note(Cond::ne32(R2, last.ethertype()), e.pass, "not for rules");
        e.bind(wanted);
    }

    /// To where the packet would have gone without tags: the kernel has found out what it is.
    fn go_on(&self, e: &mut Emit) {
        e.load_skb(HELD, skb::PROTOCOL);
        e.op(Insn::be16(HELD));
        let mut cold = Vec::new();
        for (at, (family, found)) in self.found.iter().enumerate() {
            let name = format!("{}untagged", family.prefix());
            cold.push(e.pull_or(&name, family.shortest(), e.pass).1);
            if at + 1 == self.found.len() {
                e.goto(*found);
            } else {
                e.jump_if(Cond::eq32(HELD, family.ethertype()), *found);
            }
        }
        for cold in cold {
            e.pull(cold);
        }
    }
}

/// Puts a tag beside the frame, and the one that is there into it. Uses R0 to R5.
fn push(e: &mut Emit, tag: Reg) {
    e.op(Insn::mov32(R2, tag));
    e.op(Insn::rsh32(R2, 16_u32));
    e.op_note(Insn::be16(R2), "type");
    e.op(Insn::mov32(R3, tag));
    e.op_note(Insn::and32(R3, 0xffff_u32), "TCI");
    e.call(Helper::SkbVlanPush);
    let fail = e.plain_fail();
    e.jump_if(Cond::ne64(R0, 0), fail);
}

impl Emit {
    /// From here on routines are emitted, which need the register.
    pub(super) fn keep_tag_in_frame(&mut self) {
        if self.kept == Kept::Register {
            self.kept = Kept::Frame;
            let left = self.label("left");
            self.left = Some((left, std::mem::replace(&mut self.pass, left)));
        }
    }

    /// The first thing that a routine does.
    pub(super) fn save_tag(&mut self) {
        if self.kept == Kept::Frame {
            self.op_note(Insn::store(Size::W, FP, TAG.offset, OUTER), "tag to put back");
        }
    }

    /// Before the packet goes elsewhere than to the hook's next program. Uses R0 to R5 and R9.
    pub(super) fn put_tag_back(&mut self, name: &str) {
        if self.kept == Kept::Frame {
            let none = self.label(format!("{name}_has_no_tag"));
            self.load_tag();
            self.jump_if(Cond::eq32(OUTER, 0_u32), none);
            push(self, OUTER);
            self.bind(none);
        }
    }

    fn load_tag(&mut self) {
        self.op_note(Insn::load(Size::W, OUTER, FP, TAG.offset), "tag to put back");
    }

    /// On the way to the hook's next program. `true`: that is all.
    pub(super) fn pass_with_tag(&mut self) -> bool {
        match (self.kept, self.left) {
            (Kept::Nowhere, _) | (Kept::Frame, None) => false,
            (Kept::Register, _) => {
                let label = self.retag();
                self.jump_if(Cond::ne32(OUTER, 0_u32), label);
                false
            }
            (Kept::Frame, Some((left, _))) => {
                self.goto(left);
                true
            }
        }
    }

    fn retag(&mut self) -> Label {
        match self.retag {
            Some(label) => label,
            None => {
                let label = self.label("put_tag_back");
                *self.retag.insert(label)
            }
        }
    }

    /// What all ways out have in common.
    pub(super) fn emit_pass(&mut self) {
        if let Some((left, pass)) = self.left {
            self.bind(left);
            self.load_tag();
            (self.pass, self.kept) = (pass, Kept::Register);
        }
        self.bind(self.pass);
        self.exit(UNSPEC);
        if let Some(label) = self.retag {
            self.bind(label);
            push(self, OUTER);
            let before = std::mem::replace(&mut self.kept, Kept::Nowhere);
            self.exit(UNSPEC);
            self.kept = before;
        }
        if let Some((left, _)) = self.left {
            (self.pass, self.kept) = (left, Kept::Frame);
        }
    }
}
