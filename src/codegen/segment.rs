//! Packets of several segments (`gso_size` is set): to what cuts them, and back.
//!
//! The kernel cannot segment what has one L4 header inside another, so such a packet has to be cut
//! before a header is pushed, or after the point where one is popped. The interface has a
//! companion veth pair whose ends send nothing but single segments. A program redirects the packet to one end,
//! the kernel cuts it, and the other end's program hands each segment back to the interface and hook
//! it came from, where it is a packet like any other.
//!
//! ```text
//! eth0 egress  ──▶ end "egress"  ══cut══▶ end "ingress" ──▶ eth0 egress
//! eth0 ingress ──▶ end "ingress" ══cut══▶ end "egress"  ──▶ eth0 ingress
//! ```
//!
//! What crosses the pair waits in the backlog for its turn (`netif_rx`), which is a tenth of what a segment costs
//! altogether. A macvlan on the end cuts as well, and sends each segment by the end at once, whose *egress* has a program
//! that hands it back. It cannot finish checksums, though: macvlans leave that to the device below, always.
//!
//! ```text
//! eth0 egress  ──▶ macvlan ══cut══▶ egress of end "egress"  ──▶ eth0 egress
//! eth0 ingress ──▶ macvlan ══cut══▶ egress of end "ingress" ──▶ eth0 ingress
//! ```
//!
//! Nor has it room for a VLAN tag beside the frame: it would write the tag into each segment, which would have to be taken
//! out again. A packet with one crosses the pair.
//!
//! `tc_index` travels with the packet (only a namespace's border would clear it): it says that the packet is
//! ours, so that nothing else that reaches an end gets out of it, and carries the packet's priority, which
//! veth clears (`____dev_forward_skb`, include/linux/netdevice.h).

use asm::{Cond, Helper, Insn, Label, Program, Reg::*};

use super::companion::Companion;
use super::counters::Reason;
use super::emit::{Emit, SHOT, SKB, UNSPEC};
use super::{Link, Options};
use crate::ir::Side;
use crate::packet::{ethernet, skb};

/// What a program does with a packet of several segments that it would have to funnel, or that may be
/// several funneled ones which the receiver has merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GsoPackets {
    /// Leaves it as it is.
    Pass,
    /// Has it cut. The program is for this hook only.
    Segment(Side, Segmenter),
}

/// What cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Segmenter {
    /// The interface's segmentation pair, crossed.
    Pair,
    /// The macvlan on its end. Checksums stay as they are.
    Macvlan,
}

/// What `tc_index` holds on the way across the pair: the mark, whether the packet has come through in one piece once,
/// and the priority.
const MARK: u32 = 0x5e00;
const MARK_MASK: u32 = 0xfe00;
const AGAIN: u32 = 0x0100;
/// And on the way back. (A program that sends everything here would otherwise send it round for ever.)
pub(super) const CROSSED: u32 = 0x5a00;
/// The mark on the way to the macvlan, which leaves the priority where it is.
const MACVLAN: u32 = 0x5600;
/// Priorities are 0 to 15, or a class of a queueing discipline, which has no room here and is forgotten.
const PRIORITY: u32 = 0x00ff;

pub(super) const BPF_F_INGRESS: u32 = 1;

/// The block that redirects to what cuts, if something jumps there; falls through from nowhere.
pub(super) fn emit(e: &mut Emit) {
    let (GsoPackets::Segment(side, segmenter), Some(label)) = (e.gso, e.segment) else { return };
    e.bind(label);
    e.put_tag_back("what_is_cut");
    if e.link == Link::None {
        push_link_header(e);
    }
    if segmenter == Segmenter::Macvlan {
        let tagged = e.label("tagged");
        e.load_skb(R2, skb::VLAN_PRESENT);
        e.jump_if_note(Cond::ne32(R2, 0_u32), tagged, "a tag beside the frame");
        e.op_note(Insn::mov32(R2, MACVLAN), "ours, for the end below");
        e.store_skb(skb::TC_INDEX, R2);
        e.number_of_companion(Companion::macvlan(side), "the macvlan on an end of the segmentation pair");
        e.redirect(0);
        e.bind(tagged);
    }
    let_cross(e);
    e.number_of_companion(Companion::end(side), "an end of the segmentation pair");
    e.redirect(0);
}

/// `tc_index = what the other end's program asks for`
fn let_cross(e: &mut Emit) {
    let fits = e.label("priority_fits");
    e.load_skb(R2, skb::PRIORITY);
    e.jump_if(Cond::le32(R2, PRIORITY), fits);
    e.op(Insn::mov32(R2, 0_u32));
    e.bind(fits);
    e.op_note(Insn::or32(R2, MARK), "ours, for the other end");
    e.store_skb(skb::TC_INDEX, R2);
}

/// Packets of L3 devices have no link header, and veth wants one; on the way back the kernel takes it off
/// (`__bpf_redirect_no_mac`, net/core/filter.c). The addresses are zero: nobody reads them.
pub(super) fn push_link_header(e: &mut Emit) {
    e.op(Insn::mov32(R2, i32::from(ethernet::LEN)));
    e.op(Insn::mov32(R3, 0_u32));
    e.call(Helper::SkbChangeHead);
    e.jump_if(Cond::ne64(R0, 0), e.pass);
    let fail = e.fail();
    let header = e.window_again(R1, ethernet::LEN, fail);
    e.load_skb(R2, skb::PROTOCOL);
    e.store_raw(&header, ethernet::TYPE, R2);
}

/// The program for the end that receives what `side` has sent: the ingress hook of the *other* hook's end.
///
/// A packet that is still in one piece goes through once more. The kernel looks at the number of segments only
/// where it is known, and finds it out on the first pass (`gso_features_check`, net/core/dev.c;
/// `tcp_gso_segment`, net/ipv4/tcp_offload.c). Whatever comes back whole twice is dropped, and counted by the
/// hook: somebody has changed the pair, and without this the packet would go round for ever.
///
/// # Errors
///
/// A bug of this module.
pub fn compile_crossed(side: Side) -> Result<Program, asm::Error> {
    let mut e = Emit::new(Options::pass_gso(Link::Ethernet));
    let (whole, drop) = (e.label("whole"), e.label("drop"));
    e.op_note(Insn::mov64(SKB, R1), "context");
    e.load_skb(R2, skb::TC_INDEX);
    e.op(Insn::mov32(R3, R2));
    e.op(Insn::and32(R3, MARK_MASK));
    e.jump_if_note(Cond::ne32(R3, MARK), drop, "not sent by our program");
    e.load_skb(R3, skb::GSO_SIZE);
    e.jump_if_note(Cond::ne32(R3, 0_u32), whole, "not segmented");
    e.op(Insn::and32(R2, PRIORITY));
    e.store_skb(skb::PRIORITY, R2);
    e.op_note(Insn::mov32(R2, CROSSED), "for the program at the hook");
    e.store_skb(skb::TC_INDEX, R2);
    back(&mut e, side);

    e.bind(whole);
    e.op(Insn::mov32(R3, R2));
    e.op(Insn::and32(R3, AGAIN));
    e.jump_if_note(Cond::ne32(R3, 0_u32), drop, "the second time");
    e.op(Insn::or32(R2, AGAIN));
    e.store_skb(skb::TC_INDEX, R2);
    e.number_of_other_end();
    e.redirect(0);

    e.bind(drop);
    e.exit(SHOT);
    e.finish()
}

/// The program for the egress hook of `side`'s end. What the macvlan on it has cut goes back; what is about to cross
/// the pair goes on.
///
/// So does what is still in one piece: the number of its segments is not known, and macvlans, unlike veths, trust
/// the number in the packet (`NETIF_F_GSO_ROBUST`), and do not compute it.
///
/// # Errors
///
/// A bug of this module.
pub fn compile_cut(side: Side) -> Result<Program, asm::Error> {
    let mut e = Emit::new(Options::pass_gso(Link::Ethernet));
    let (whole, crosses) = (e.label("whole"), e.label("crosses"));
    e.op_note(Insn::mov64(SKB, R1), "context");
    e.load_skb(R2, skb::TC_INDEX);
    e.jump_if_note(Cond::ne32(R2, MACVLAN), crosses, "not sent to the macvlan");
    e.load_skb(R3, skb::GSO_SIZE);
    e.jump_if_note(Cond::ne32(R3, 0_u32), whole, "not segmented");
    e.op(Insn::mov32(R2, 0_u32));
    e.store_skb(skb::TC_INDEX, R2);
    back(&mut e, side);
    e.bind(whole);
    let_cross(&mut e);
    e.bind(crosses);
    e.exit(UNSPEC);
    e.finish()
}

/// To the interface and hook that the segment came from.
fn back(e: &mut Emit, side: Side) {
    e.number_of_interface();
    e.redirect(match side {
        Side::Egress => 0,
        Side::Ingress => BPF_F_INGRESS,
    });
}

impl Emit {
    /// `if skb->gso_size != 0 goto` what cuts, or `pass`: nothing has been changed so far.
    pub(super) fn if_gso(&mut self, note: &str) {
        let label = self.segmenting();
        self.load_skb(R2, skb::GSO_SIZE);
        self.jump_if_note(Cond::ne32(R2, 0_u32), label, note);
    }

    /// The same for a packet to funnel. If all of them need finished checksums, whatever has not come from the
    /// pair goes there; what has is in one segment.
    pub(super) fn if_gso_or_unfinished(&mut self) {
        if !self.finish || self.gso == GsoPackets::Pass {
            return self.if_gso("not segmented yet");
        }
        let label = self.segmenting();
        self.load_skb(R2, skb::TC_INDEX);
        self.jump_if_note(Cond::ne32(R2, CROSSED), label, "not from the segmentation pair");
        self.op(Insn::mov32(R2, 0_u32));
        self.store_skb(skb::TC_INDEX, R2);
    }

    /// Where packets of several segments go.
    fn segmenting(&mut self) -> Label {
        match (self.gso, self.segment) {
            (GsoPackets::Pass, _) => self.exit_for(Reason::Gso),
            (GsoPackets::Segment(..), Some(label)) => label,
            (GsoPackets::Segment(..), None) => {
                let label = self.label("segment");
                *self.segment.insert(label)
            }
        }
    }

    /// `return bpf_redirect(R1, flags)`
    pub(super) fn redirect(&mut self, flags: u32) {
        self.op_note(Insn::mov32(R2, flags), if flags == 0 { "to its egress" } else { "BPF_F_INGRESS" });
        self.op(Insn::call(Helper::Redirect));
        self.op(Insn::exit());
    }
}
