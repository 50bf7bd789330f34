//! The companion devices of an interface, and the numbers by which its programs find them.
//!
//! Two veth pairs, each made only for rules that need it. What one end sends, the other receives. And on the ends of
//! the first one macvlans, which cut as well, and faster, where that is all there is to do:
//!
//! ```text
//! EgressMacvlan     IngressMacvlan
//!       │cut              │cut
//!       ▼                 ▼
//!     Egress ═══cut═══▶ Ingress     segmentation pair: what egress has; what ingress has goes the other way
//!     Merge  ═══GRO═══▶ Merged      merging pair: what has been unfunneled
//! ```
//!
//! The numbers follow from that of the interface, so one program serves all interfaces: 0x40000000, and eight times
//! the interface's, and which device it is.

use asm::{Insn, Reg::*};

use super::emit::Emit;
use crate::ir::Side;
use crate::packet::skb;

/// One of the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Companion {
    /// The end of the segmentation pair for what egress has.
    Egress,
    /// That for what ingress has.
    Ingress,
    /// The end of the merging pair where packets go in,
    Merge,
    /// and that where they come out.
    Merged,
    /// On the end for what egress has.
    EgressMacvlan,
    /// On that for what ingress has.
    IngressMacvlan,
}

impl Companion {
    pub const ALL: [Companion; 6] = [
        Companion::Egress,
        Companion::Ingress,
        Companion::Merge,
        Companion::Merged,
        Companion::EgressMacvlan,
        Companion::IngressMacvlan,
    ];

    /// The end of the segmentation pair for what this hook has.
    pub const fn end(side: Side) -> Self {
        match side {
            Side::Egress => Companion::Egress,
            Side::Ingress => Companion::Ingress,
        }
    }

    /// The macvlan on it.
    pub const fn macvlan(side: Side) -> Self {
        match side {
            Side::Egress => Companion::EgressMacvlan,
            Side::Ingress => Companion::IngressMacvlan,
        }
    }

    /// The device's number. `None`: the interface's own number is as large as only somebody's choice makes it.
    pub const fn number(self, interface: u32) -> Option<u32> {
        if interface == 0 || interface > INTERFACES {
            None
        } else {
            Some(BASE | interface << SHIFT | self.which())
        }
    }

    /// The device that has this number, and the interface whose companion it is.
    pub fn of_number(number: u32) -> Option<(Companion, u32)> {
        let device = Companion::ALL.into_iter().find(|device| device.which() == number & WHICH)?;
        let interface = (number & (BASE - 1)) >> SHIFT;
        (device.number(interface) == Some(number)).then_some((device, interface))
    }

    const fn which(self) -> u32 {
        match self {
            Companion::Egress => 0,
            Companion::Ingress => 1,
            Companion::Merge => 2,
            Companion::Merged => 3,
            Companion::EgressMacvlan => 4,
            Companion::IngressMacvlan => 5,
        }
    }
}

/// The kernel numbers interfaces from 1 on; numbers this high are there for whoever asks for one.
const BASE: u32 = 0x4000_0000;
/// The interface's number in that of a device. The lowest bits tell the device: the kernel looks interfaces up by
/// their lowest eight (`dev_index_hash`), and four ends and their interface in one chain were 70 ns for each segment.
const SHIFT: u32 = 3;
const WHICH: u32 = (1 << SHIFT) - 1;
const INTERFACES: u32 = (BASE - 1) >> SHIFT;

impl Emit {
    /// `R1 = the number of this interface's device`
    pub(super) fn number_of_companion(&mut self, device: Companion, note: &str) {
        self.load_skb(R1, skb::IFINDEX);
        self.op(Insn::lsh32(R1, SHIFT));
        self.op_note(Insn::or32(R1, BASE | device.which()), note);
    }

    /// `R1 = the number of the other end of the segmentation pair`, at one of them.
    pub(super) fn number_of_other_end(&mut self) {
        self.load_skb(R1, skb::IFINDEX);
        self.op_note(
            Insn::xor32(R1, Companion::Egress.which() ^ Companion::Ingress.which()),
            "the other end",
        );
    }

    /// `R1 = the number of the interface`, at one of its devices.
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
    fn a_devices_number_tells_device_and_interface() {
        for device in Companion::ALL {
            for interface in [1, 2, INTERFACES] {
                let number = device.number(interface).unwrap();
                assert_eq!(Companion::of_number(number), Some((device, interface)));
                assert!(i32::try_from(number).is_ok(), "numbers of interfaces are signed");
            }
            assert_eq!(device.number(INTERFACES + 1), None);
            assert_eq!(device.number(0), None);
            assert_eq!(Companion::of_number(BASE | device.which()), None);
        }
        assert_eq!(Companion::of_number(2), None);
        assert_eq!(Companion::of_number(BASE | 1 << SHIFT | WHICH), None, "one that there is not");
    }
}
