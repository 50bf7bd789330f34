//! The devices beside an interface, and the numbers by which its programs find them.
//!
//! Two veth pairs, each made only for rules that need it. What one end sends, the other receives:
//!
//! ```text
//! segmentation pair   Egress ══cut══▶ Ingress     what egress has; what ingress has goes the other way
//! merging pair        Merge  ══GRO══▶ Merged      what has been unfunneled
//! ```
//!
//! The numbers follow from that of the interface, so one program serves all interfaces: 0x40000000, and four times
//! the interface's, and which end it is.

use asm::{Insn, Reg::*};

use super::emit::Emit;
use crate::ir::Side;
use crate::packet::skb;

/// One end of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PairEnd {
    /// Of the segmentation pair, for what egress has.
    Egress,
    /// Of the segmentation pair, for what ingress has.
    Ingress,
    /// Of the merging pair: packets go in here,
    Merge,
    /// and come out here.
    Merged,
}

impl From<Side> for PairEnd {
    fn from(side: Side) -> Self {
        match side {
            Side::Egress => PairEnd::Egress,
            Side::Ingress => PairEnd::Ingress,
        }
    }
}

impl PairEnd {
    pub const ALL: [PairEnd; 4] = [PairEnd::Egress, PairEnd::Ingress, PairEnd::Merge, PairEnd::Merged];

    /// The end's number. `None`: the interface's own number is as large as only somebody's choice makes it.
    pub const fn number(self, interface: u32) -> Option<u32> {
        if interface == 0 || interface > INTERFACES {
            None
        } else {
            Some(BASE | interface << SHIFT | self.which())
        }
    }

    /// The end that has this number, and the interface that it is beside.
    pub fn of_number(number: u32) -> Option<(PairEnd, u32)> {
        let end = PairEnd::ALL.into_iter().find(|end| end.which() == number & WHICH)?;
        let interface = (number & (BASE - 1)) >> SHIFT;
        (end.number(interface) == Some(number)).then_some((end, interface))
    }

    const fn which(self) -> u32 {
        match self {
            PairEnd::Egress => 0,
            PairEnd::Ingress => 1,
            PairEnd::Merge => 2,
            PairEnd::Merged => 3,
        }
    }
}

/// The kernel numbers interfaces from 1 on; numbers this high are there for whoever asks for one.
const BASE: u32 = 0x4000_0000;
/// The interface's number in that of an end. The lowest bits tell the end: the kernel looks interfaces up by their
/// lowest eight (`dev_index_hash`), and four ends and their interface in one chain were 70 ns for each segment.
const SHIFT: u32 = 2;
const WHICH: u32 = (1 << SHIFT) - 1;
const INTERFACES: u32 = (BASE - 1) >> SHIFT;

impl Emit {
    /// `R1 = the number of this interface's end`
    pub(super) fn number_of_end(&mut self, end: PairEnd, note: &str) {
        self.load_skb(R1, skb::IFINDEX);
        self.op(Insn::lsh32(R1, SHIFT));
        self.op_note(Insn::or32(R1, BASE | end.which()), note);
    }

    /// `R1 = the number of the other end of the segmentation pair`, at one of them.
    pub(super) fn number_of_other_end(&mut self) {
        self.load_skb(R1, skb::IFINDEX);
        self.op_note(Insn::xor32(R1, PairEnd::Egress.which() ^ PairEnd::Ingress.which()), "the other end");
    }

    /// `R1 = the number of the interface`, at an end.
    pub(super) fn number_of_interface(&mut self) {
        self.load_skb(R1, skb::IFINDEX);
        self.op(Insn::and32(R1, BASE - 1));
        self.op_note(Insn::rsh32(R1, SHIFT), "the interface");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ends_number_tells_end_and_interface() {
        for end in PairEnd::ALL {
            for interface in [1, 2, INTERFACES] {
                let number = end.number(interface).unwrap();
                assert_eq!(PairEnd::of_number(number), Some((end, interface)));
                assert!(i32::try_from(number).is_ok(), "numbers of interfaces are signed");
            }
            assert_eq!(end.number(INTERFACES + 1), None);
            assert_eq!(end.number(0), None);
            assert_eq!(PairEnd::of_number(BASE | end.which()), None);
        }
        assert_eq!(PairEnd::of_number(2), None);
    }
}
