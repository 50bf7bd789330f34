//! Packets of several segments (`gso_size` is set): to the segmentation pair, and back.
//!
//! The kernel cannot segment what has one L4 header inside another, so such a packet has to be cut
//! before a header is pushed, or behind the point where one is popped. The interface has a veth pair
//! beside it whose ends send nothing but single segments. A program redirects the packet to one end,
//! the kernel cuts it, and the other end's program hands each segment back to the interface and hook
//! it came from, where it is a packet like any other.
//!
//! ```text
//! eth0 egress  ──▶ end "egress"  ══cut══▶ end "ingress" ──▶ eth0 egress
//! eth0 ingress ──▶ end "ingress" ══cut══▶ end "egress"  ──▶ eth0 ingress
//! ```
//!
//! `tc_index` travels with the packet (only a namespace's border would clear it): it says that the packet is
//! ours, so that nothing else that reaches an end gets out of it, and carries the packet's priority, which
//! veth clears (`____dev_forward_skb`, include/linux/netdevice.h).

use asm::{Cond, Helper, Insn, Program, Reg::*};

use super::Link;
use super::emit::{Emit, SHOT, SKB};
use crate::ir::Side;
use crate::packet::{ethernet, skb};

/// What a program does with a packet of several segments that it would have to funnel, or that may be
/// several funneled ones which the receiver has merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Large {
    /// Leaves it as it is.
    Pass,
    /// Sends it through the interface's segmentation pair. The program is for this hook only.
    Segment(Side),
}

/// What `tc_index` holds on the way: the mark, whether the packet has come through in one piece once, and the priority.
const MARK: u32 = 0x5e00;
const MARK_MASK: u32 = 0xfe00;
const AGAIN: u32 = 0x0100;
/// The same from a program that sends everything here, and what `tc_index` then holds on the way back. (A program
/// that did not tell its own packets by this would send them round for ever.)
const FINISH: u32 = 0x5800;
pub(super) const FINISHED: u32 = 0x5a00;
/// Priorities are 0 to 15, or a class of a queueing discipline, which has no room here and is forgotten.
const PRIORITY: u32 = 0x00ff;

pub(super) const BPF_F_INGRESS: u32 = 1;

/// The block that redirects to the pair; falls through from nowhere.
pub(super) fn emit(e: &mut Emit, side: Side) {
    if e.link == Link::None {
        push_link_header(e);
    }
    let fits = e.label("priority_fits");
    e.load_skb(R2, skb::PRIORITY);
    e.jump_if(Cond::le32(R2, PRIORITY), fits);
    e.op(Insn::mov32(R2, 0_u32));
    e.bind(fits);
    e.op_note(Insn::or32(R2, if e.finish { FINISH } else { MARK }), "ours, for the other end");
    e.store_skb(skb::TC_INDEX, R2);
    e.number_of_end(side.into(), "an end of the segmentation pair");
    e.redirect(0);
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
pub fn compile_back(side: Side) -> Result<Program, asm::Error> {
    let mut e = Emit::new(Link::Ethernet.into());
    let (ours, whole, drop) = (e.label("ours"), e.label("whole"), e.label("drop"));
    e.op_note(Insn::mov64(SKB, R1), "context");
    e.load_skb(R2, skb::TC_INDEX);
    e.op(Insn::mov32(R3, R2));
    e.op(Insn::and32(R3, MARK_MASK));
    e.op(Insn::mov32(R4, 0_u32));
    e.jump_if(Cond::eq32(R3, MARK), ours);
    e.jump_if_note(Cond::ne32(R3, FINISH), drop, "not sent by our program");
    e.op_note(Insn::mov32(R4, FINISHED), "finished, for the program at the hook");
    e.bind(ours);
    e.load_skb(R3, skb::GSO_SIZE);
    e.jump_if_note(Cond::ne32(R3, 0_u32), whole, "not segmented");
    e.op(Insn::and32(R2, PRIORITY));
    e.store_skb(skb::PRIORITY, R2);
    e.store_skb(skb::TC_INDEX, R4);
    e.number_of_interface();
    e.redirect(match side {
        Side::Egress => 0,
        Side::Ingress => BPF_F_INGRESS,
    });

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
    e.finish_alone()
}

impl Emit {
    /// `return bpf_redirect(R1, flags)`
    pub(super) fn redirect(&mut self, flags: u32) {
        self.op_note(Insn::mov32(R2, flags), if flags == 0 { "to its egress" } else { "BPF_F_INGRESS" });
        self.op(Insn::call(Helper::Redirect));
        self.op(Insn::exit());
    }
}
