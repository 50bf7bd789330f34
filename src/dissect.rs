//! Reads packets: where their headers are, and whether the checksums in them are right.
//!
//! Input: bytes. Output: slices of them. Independent of `codegen`: it judges what that has made, and sums
//! every byte to do so. Never changes anything but checksums that were left to a device.

pub mod fields;

use crate::ir::{Family, Proto};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// How long the VLAN tags are between the addresses and the EtherType: those of two tags at most, as rules look past no
/// more.
pub fn tags(frame: &[u8]) -> usize {
    let is_tag = |at: &usize| matches!(be16(frame, 12 + at), 0x8100 | 0x88a8);
    [0, 4].into_iter().take_while(is_tag).count() * 4
}

/// A TCP or UDP header with all that follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    pub proto: Proto,
    pub bytes: &'a [u8],
    header_len: usize,
}

/// What a checksum field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumState {
    Right,
    /// The sum of the pseudo-header only: whatever sends the packet to a cable adds up the rest.
    Unfinished,
    /// UDP: there is none.
    Absent,
    Wrong,
}

impl<'a> Segment<'a> {
    pub fn read(proto: Proto, bytes: &'a [u8]) -> Option<Self> {
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
        be16(self.bytes, 0)
    }

    pub fn dport(&self) -> u16 {
        be16(self.bytes, 2)
    }

    pub fn header(&self) -> &'a [u8] {
        self.bytes.get(..self.header_len).unwrap_or_default()
    }

    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.header_len..).unwrap_or_default()
    }

    pub fn checksum(&self) -> u16 {
        be16(self.bytes, self.checksum_at())
    }

    fn checksum_at(&self) -> usize {
        match self.proto {
            Proto::Tcp => 16,
            Proto::Udp => 6,
        }
    }

    /// The pseudo-header's sum (RFC 9293 section 3.1); `addresses` are both, one after the other.
    pub fn pseudo(&self, addresses: &[u8]) -> u64 {
        let length = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        add(addresses) + u64::from(self.proto.number()) + length
    }

    pub fn sum(&self, addresses: &[u8]) -> ChecksumState {
        let pseudo = self.pseudo(addresses);
        match fold(pseudo + add(self.bytes)) {
            _ if self.proto == Proto::Udp && self.checksum() == 0 => ChecksumState::Absent,
            0xffff => ChecksumState::Right,
            _ if self.checksum() == fold(pseudo) => ChecksumState::Unfinished,
            _ => ChecksumState::Wrong,
        }
    }

    /// The same bytes with the checksum finished.
    pub fn finished(&self, addresses: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes.to_vec();
        let at = self.checksum_at();
        if self.sum(addresses) == ChecksumState::Unfinished {
            // The field holds the pseudo-header's sum already.
            let sum = checksum(self.proto, add(&bytes));
            put(&mut bytes, at, sum);
        }
        bytes
    }
}

/// An IP packet: its header with options, and what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip<'a> {
    pub family: Family,
    pub header: &'a [u8],
    /// Up to the end that the header states; padding is left out.
    pub body: &'a [u8],
}

/// Why bytes are not a packet that rules can be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unmatchable {
    #[error("it is not IP (ethertype {0:#06x})")]
    NotIp(u16),
    #[error("it has more than two VLAN tags")]
    Tagged,
    #[error("it is a fragment")]
    Fragment,
    #[error("it is shorter than its headers say")]
    Truncated,
    #[error("its IP header makes no sense")]
    Malformed,
    #[error("it is neither TCP nor UDP (protocol {0})")]
    OtherProtocol(u8),
    #[error("it has IPv6 extension headers")]
    Extended,
}

impl<'a> Ip<'a> {
    /// The IP packet in an Ethernet frame.
    pub fn in_frame(frame: &'a [u8]) -> Result<Self, Unmatchable> {
        if frame.len() < ETHERNET {
            return Err(Unmatchable::Truncated);
        }
        let tags = tags(frame);
        let packet = frame.get(ETHERNET + tags..).unwrap_or_default();
        match be16(frame, 12 + tags) {
            0x0800 => Self::v4(packet),
            0x86dd => Self::v6(packet),
            0x8100 | 0x88a8 => Err(Unmatchable::Tagged),
            other => Err(Unmatchable::NotIp(other)),
        }
    }

    fn v4(packet: &'a [u8]) -> Result<Self, Unmatchable> {
        let first = *packet.first().ok_or(Unmatchable::Truncated)?;
        let header_len = usize::from(first & 0xf) * 4;
        if first >> 4 != 4 || header_len < 20 {
            return Err(Unmatchable::Malformed);
        }
        let total = usize::from(be16(packet, 2));
        let packet = packet.get(..total).ok_or(Unmatchable::Truncated)?;
        let (header, body) = packet.split_at_checked(header_len).ok_or(Unmatchable::Truncated)?;
        if be16(packet, 6) & 0x3fff != 0 {
            return Err(Unmatchable::Fragment);
        }
        Ok(Self { family: Family::V4, header, body })
    }

    fn v6(packet: &'a [u8]) -> Result<Self, Unmatchable> {
        const HEADER: usize = 40;
        if packet.first().is_none_or(|first| first >> 4 != 6) {
            return Err(Unmatchable::Malformed);
        }
        let packet = packet.get(..HEADER + usize::from(be16(packet, 4))).ok_or(Unmatchable::Truncated)?;
        let (header, body) = packet.split_at_checked(HEADER).ok_or(Unmatchable::Truncated)?;
        Ok(Self { family: Family::V6, header, body })
    }

    /// The number of what comes next: protocol, or next header.
    pub fn next(&self) -> u8 {
        let at = match self.family {
            Family::V4 => 9,
            Family::V6 => 6,
        };
        self.header.get(at).copied().unwrap_or_default()
    }

    /// The TCP or UDP header and all after it, if there is room for a whole one.
    pub fn segment(&self) -> Result<Segment<'a>, Unmatchable> {
        const EXTENSIONS: [u8; 5] = [0, 43, 44, 51, 60];
        let number = self.next();
        let Some(proto) = Proto::ALL.into_iter().find(|proto| proto.number() == number) else {
            let extended = self.family == Family::V6 && EXTENSIONS.contains(&number);
            return Err(if extended { Unmatchable::Extended } else { Unmatchable::OtherProtocol(number) });
        };
        let header_len = usize::from(proto.header_len());
        if self.body.len() < header_len {
            return Err(Unmatchable::Truncated);
        }
        // A TCP header may claim any length: rules do not look at it.
        Ok(Segment::read(proto, self.body).unwrap_or(Segment { proto, bytes: self.body, header_len }))
    }

    /// Source and destination address, one after the other.
    pub fn addresses(&self) -> &'a [u8] {
        let range = match self.family {
            Family::V4 => 12..20,
            Family::V6 => 8..40,
        };
        self.header.get(range).unwrap_or_default()
    }

    /// Of the header; IPv6 has none.
    pub fn sum(&self) -> ChecksumState {
        match self.family {
            Family::V4 if fold(add(self.header)) == 0xffff => ChecksumState::Right,
            Family::V4 => ChecksumState::Wrong,
            Family::V6 => ChecksumState::Absent,
        }
    }
}

/// Two bytes in host order; 0 beyond the end.
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |&two| u16::from_be_bytes(two))
}

/// Four bytes in host order; 0 beyond the end.
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |&four| u32::from_be_bytes(four))
}

/// What the checksum field holds for this sum. UDP's is never 0, which says that there is none (RFC 768).
pub fn checksum(proto: Proto, sum: u64) -> u16 {
    match !fold(sum) {
        0 if proto == Proto::Udp => 0xffff,
        sum => sum,
    }
}

/// Writes two bytes, if they are there.
pub fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// The sum of all 16-bit words (RFC 1071), not folded.
pub fn add(bytes: &[u8]) -> u64 {
    (0..bytes.len())
        .step_by(2)
        .map(|at| match bytes.get(at..) {
            Some([last]) => u64::from(*last) << 8,
            _ => u64::from(be16(bytes, at)),
        })
        .sum()
}

pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}
