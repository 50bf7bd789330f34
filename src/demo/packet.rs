//! Reads frames of the demo's flows: funneled or not, and whether their checksums are right.
//!
//! Input: bytes and the flow they may belong to. Output: slices.

use super::flow::Flow;
use crate::dissect::{ChecksumState, Ip, Segment, add, fold};

/// A packet of one of the flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The IPv4 header.
    pub ip: &'a [u8],
    /// The header that funnel has pushed, if it is there.
    pub outer: Option<Segment<'a>>,
    pub inner: Segment<'a>,
}

impl<'a> Packet<'a> {
    /// The packet in an Ethernet frame, if it belongs to the flow.
    pub fn read(frame: &'a [u8], flow: &Flow) -> Option<Self> {
        let packet = Ip::in_frame(frame).ok()?;
        let segment = packet.segment().ok()?;
        let (proto, sport, dport) = (segment.proto, segment.sport(), segment.dport());
        if flow.is_plain(proto, sport, dport) {
            return Some(Self { ip: packet.header, outer: None, inner: segment });
        }
        if !flow.is_funneled(proto, sport, dport) {
            return None;
        }
        let inner = Segment::read(flow.inner, segment.payload())?;
        Some(Self { ip: packet.header, outer: Some(segment), inner })
    }

    fn addresses(&self) -> &'a [u8] {
        self.ip.get(12..20).unwrap_or_default()
    }

    /// The addresses that the inner checksum is made for.
    fn inner_addresses(&self) -> &'a [u8] {
        if self.outer.is_some() { &[0; 8] } else { self.addresses() }
    }

    pub fn ip_sum(&self) -> ChecksumState {
        if fold(add(self.ip)) == 0xffff { ChecksumState::Right } else { ChecksumState::Wrong }
    }

    pub fn inner_sum(&self) -> ChecksumState {
        self.inner.sum(self.inner_addresses())
    }

    /// Whether the outer checksum is right over everything, once the inner one is finished.
    pub fn outer_sum(&self) -> ChecksumState {
        let Some(outer) = self.outer else { return ChecksumState::Right };
        let finished = [outer.header(), &self.inner.finished(self.inner_addresses())].concat();
        let right = fold(outer.pseudo(self.addresses()) + add(&finished)) == 0xffff;
        if right { ChecksumState::Right } else { ChecksumState::Wrong }
    }

    pub fn sums_are_right(&self) -> bool {
        ![self.ip_sum(), self.inner_sum(), self.outer_sum()].contains(&ChecksumState::Wrong)
    }

    /// The packet without what offload leaves open: two are the same packet if this is the same.
    pub fn finished(&self) -> Vec<u8> {
        let outer = self.outer.map(|outer| outer.header()).unwrap_or_default();
        [self.ip, outer, &self.inner.finished(self.inner_addresses())].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::flow::FLOWS;

    /// 10.0.0.1:540 > 10.0.0.2:179, a funneled UDP packet 1000 > 4739 with two bytes.
    fn funneled(unfinished: bool) -> Vec<u8> {
        let mut udp = [1000u16, 4739, 10, 0].map(u16::to_be_bytes).concat();
        udp.extend(*b"hi");
        let sum = fold(17 + 10 + if unfinished { 0 } else { add(&udp) });
        udp[6..8].copy_from_slice(&if unfinished { sum } else { !sum }.to_be_bytes());
        let mut tcp = vec![2, 28, 0, 179, 0xca, 0xfe, 0xba, 0xbe, 0xba, 0xbe, 0xca, 0xfe, 0x50, 2, 4, 0];
        tcp.extend([0; 4]);
        let addresses = [10, 0, 0, 1, 10, 0, 0, 2];
        let sum = !fold(add(&addresses) + 6 + 30 + add(&tcp) + u64::from(!fold(17 + 10)));
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut ip = vec![0x45, 0, 0, 50, 0, 0, 0, 0, 64, 6, 0, 0];
        ip.extend(addresses);
        let sum = !fold(add(&ip));
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        [vec![0; 12], vec![8, 0], ip, tcp, udp, vec![0; 3]].concat()
    }

    #[test]
    fn finished_and_unfinished_checksums_differ_from_wrong_ones() {
        let (finished, unfinished) = (funneled(false), funneled(true));
        let packet = Packet::read(&finished, &FLOWS[0]).unwrap();
        assert_eq!(
            (packet.inner_sum(), packet.outer_sum(), packet.ip_sum()),
            (ChecksumState::Right, ChecksumState::Right, ChecksumState::Right)
        );
        let other = Packet::read(&unfinished, &FLOWS[0]).unwrap();
        assert_eq!((other.inner_sum(), other.outer_sum()), (ChecksumState::Unfinished, ChecksumState::Right));
        assert_eq!(packet.finished(), other.finished());

        let mut broken = finished.clone();
        broken[14 + 20 + 20 + 8] ^= 1;
        let broken = Packet::read(&broken, &FLOWS[0]).unwrap();
        assert_eq!((broken.inner_sum(), broken.outer_sum()), (ChecksumState::Wrong, ChecksumState::Wrong));
    }

    #[test]
    fn what_belongs_to_no_flow_is_left_out() {
        let frame = funneled(false);
        assert!(Packet::read(&frame, &FLOWS[1]).is_none());
        for length in 0..14 + 50 {
            assert!(Packet::read(&frame[..length], &FLOWS[0]).is_none(), "{length}");
        }
    }
}
