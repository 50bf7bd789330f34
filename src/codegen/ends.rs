//! The devices beside an interface, and the numbers by which its programs find them.
//!
//! Two veth pairs, each made only for rules that need it. What one end sends, the other receives:
//!
//! ```text
//! segmentation pair   Egress ══cut══▶ Ingress     what egress has; what ingress has goes the other way
//! merging pair        Merge  ══GRO══▶ Merged      what has been unfunneled
//! ```
//!
//! The numbers follow from that of the interface, so one program serves all interfaces.

use crate::ir::Side;

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
        if interface == 0 || interface > INTERFACE { None } else { Some(self.bits() | interface) }
    }

    /// The end that has this number, and the interface that it is beside.
    pub fn of_number(number: u32) -> Option<(PairEnd, u32)> {
        let (bits, interface) = (number & !INTERFACE, number & INTERFACE);
        let end = PairEnd::ALL.into_iter().find(|end| end.bits() == bits)?;
        (interface != 0).then_some((end, interface))
    }

    /// The kernel numbers interfaces from 1 on; numbers this high are there for whoever asks for one.
    pub(super) const fn bits(self) -> u32 {
        match self {
            PairEnd::Egress => 0x4000_0000,
            PairEnd::Merge => 0x5000_0000,
            PairEnd::Ingress => 0x6000_0000,
            PairEnd::Merged => 0x7000_0000,
        }
    }
}

/// The bits of an end's number that are those of the interface.
pub(super) const INTERFACE: u32 = 0x0fff_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ends_number_tells_end_and_interface() {
        for end in PairEnd::ALL {
            for interface in [1, 2, INTERFACE] {
                let number = end.number(interface).unwrap();
                assert_eq!(PairEnd::of_number(number), Some((end, interface)));
                assert!(i32::try_from(number).is_ok(), "numbers of interfaces are signed");
            }
            assert_eq!(end.number(INTERFACE + 1), None);
            assert_eq!(end.number(0), None);
            assert_eq!(PairEnd::of_number(end.bits()), None);
        }
        assert_eq!(PairEnd::of_number(2), None);
    }

    #[test]
    fn the_ends_of_the_segmentation_pair_differ_in_one_bit_of_their_numbers() {
        assert_eq!((PairEnd::Egress.bits() ^ PairEnd::Ingress.bits()).count_ones(), 1);
    }
}
