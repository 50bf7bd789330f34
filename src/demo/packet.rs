//! Reads frames: the headers of one packet, and whether its checksums are right.
//!
//! Comes in: bytes and the flow they may belong to. Goes out: slices. Independent of `codegen`: it judges
//! what that has made, and sums every byte to do so.

use super::flow::Flow;
use crate::ir::Proto;

const ETHERNET: usize = 14;

/// A TCP or UDP header with all that follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    pub proto: Proto,
    pub bytes: &'a [u8],
    header_len: usize,
}

/// A packet of one of the flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The IPv4 header.
    pub ip: &'a [u8],
    /// The header that funnel has pushed, if it is there.
    pub outer: Option<Segment<'a>>,
    pub inner: Segment<'a>,
}

/// What a checksum field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    Right,
    /// The sum of the pseudo-header only: whatever sends the packet to a cable adds up the rest.
    Unfinished,
    Wrong,
}

impl<'a> Segment<'a> {
    fn read(proto: Proto, bytes: &'a [u8]) -> Option<Self> {
        let header_len = match proto {
            Proto::Tcp => usize::from(bytes.get(12)? >> 4) * 4,
            Proto::Udp => 8,
        };
        (header_len >= usize::from(proto.header_len()) && bytes.len() >= header_len).then_some(Self {
            proto,
            bytes,
            header_len,
        })
    }

    pub fn sport(&self) -> u16 {
        half(self.bytes, 0)
    }

    pub fn dport(&self) -> u16 {
        half(self.bytes, 2)
    }

    pub fn header(&self) -> &'a [u8] {
        self.bytes.get(..self.header_len).unwrap_or_default()
    }

    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.header_len..).unwrap_or_default()
    }

    pub fn checksum(&self) -> u16 {
        half(self.bytes, self.checksum_at())
    }

    fn checksum_at(&self) -> usize {
        match self.proto {
            Proto::Tcp => 16,
            Proto::Udp => 6,
        }
    }

    /// The pseudo-header's sum (RFC 9293 section 3.1); `addresses` are eight bytes.
    fn pseudo(&self, addresses: &[u8]) -> u64 {
        let length = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        add(addresses) + u64::from(self.proto.number()) + length
    }

    fn sum(&self, addresses: &[u8]) -> Sum {
        let pseudo = self.pseudo(addresses);
        match fold(pseudo + add(self.bytes)) {
            0xffff => Sum::Right,
            _ if self.checksum() == fold(pseudo) => Sum::Unfinished,
            _ => Sum::Wrong,
        }
    }

    /// The same bytes with the checksum finished.
    fn finished(&self, addresses: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes.to_vec();
        let at = self.checksum_at();
        if self.sum(addresses) == Sum::Unfinished {
            // The field holds the pseudo-header's sum already.
            let sum = !fold(add(&bytes));
            if let Some(field) = bytes.get_mut(at..at + 2) {
                field.copy_from_slice(&sum.to_be_bytes());
            }
        }
        bytes
    }
}

impl<'a> Packet<'a> {
    /// The packet in an Ethernet frame, if it belongs to the flow.
    pub fn read(frame: &'a [u8], flow: &Flow) -> Option<Self> {
        if half(frame, 12) != 0x0800 {
            return None;
        }
        let packet = frame.get(ETHERNET..)?;
        let ip_len = usize::from(packet.first()? & 0xf) * 4;
        let (ip, rest) = packet.get(..usize::from(half(packet, 2)))?.split_at_checked(ip_len)?;
        let proto = Proto::ALL.into_iter().find(|proto| ip.get(9) == Some(&proto.number()))?;
        let segment = Segment::read(proto, rest)?;
        let (sport, dport) = (segment.sport(), segment.dport());
        if flow.is_plain(proto, sport, dport) {
            return Some(Self { ip, outer: None, inner: segment });
        }
        if !flow.is_funneled(proto, sport, dport) {
            return None;
        }
        let inner = Segment::read(flow.inner, segment.payload())?;
        Some(Self { ip, outer: Some(segment), inner })
    }

    fn addresses(&self) -> &'a [u8] {
        self.ip.get(12..20).unwrap_or_default()
    }

    /// The addresses that the inner checksum is made for.
    fn inner_addresses(&self) -> &'a [u8] {
        if self.outer.is_some() { &[0; 8] } else { self.addresses() }
    }

    pub fn ip_sum(&self) -> Sum {
        if fold(add(self.ip)) == 0xffff { Sum::Right } else { Sum::Wrong }
    }

    pub fn inner_sum(&self) -> Sum {
        self.inner.sum(self.inner_addresses())
    }

    /// Whether the outer checksum is right over everything, once the inner one is finished.
    pub fn outer_sum(&self) -> Sum {
        let Some(outer) = self.outer else { return Sum::Right };
        let finished = [outer.header(), &self.inner.finished(self.inner_addresses())].concat();
        let right = fold(outer.pseudo(self.addresses()) + add(&finished)) == 0xffff;
        if right { Sum::Right } else { Sum::Wrong }
    }

    pub fn sums_are_right(&self) -> bool {
        ![self.ip_sum(), self.inner_sum(), self.outer_sum()].contains(&Sum::Wrong)
    }

    /// The packet without what offload leaves open: two are the same packet if this is the same.
    pub fn finished(&self) -> Vec<u8> {
        let outer = self.outer.map(|outer| outer.header()).unwrap_or_default();
        [self.ip, outer, &self.inner.finished(self.inner_addresses())].concat()
    }
}

/// Two bytes in host order; 0 beyond the end.
pub fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |&two| u16::from_be_bytes(two))
}

/// Four bytes in host order; 0 beyond the end.
pub fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |&four| u32::from_be_bytes(four))
}

/// The sum of all 16-bit words (RFC 1071), not folded.
fn add(bytes: &[u8]) -> u64 {
    (0..bytes.len())
        .step_by(2)
        .map(|at| match bytes.get(at..) {
            Some([last]) => u64::from(*last) << 8,
            _ => u64::from(half(bytes, at)),
        })
        .sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
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
    fn checksums_of_finished_and_unfinished_packets_are_told_from_wrong_ones() {
        let (finished, unfinished) = (funneled(false), funneled(true));
        let packet = Packet::read(&finished, &FLOWS[0]).unwrap();
        assert_eq!(
            (packet.inner_sum(), packet.outer_sum(), packet.ip_sum()),
            (Sum::Right, Sum::Right, Sum::Right)
        );
        let other = Packet::read(&unfinished, &FLOWS[0]).unwrap();
        assert_eq!((other.inner_sum(), other.outer_sum()), (Sum::Unfinished, Sum::Right));
        assert_eq!(packet.finished(), other.finished());

        let mut broken = finished.clone();
        broken[14 + 20 + 20 + 8] ^= 1;
        let broken = Packet::read(&broken, &FLOWS[0]).unwrap();
        assert_eq!((broken.inner_sum(), broken.outer_sum()), (Sum::Wrong, Sum::Wrong));
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
