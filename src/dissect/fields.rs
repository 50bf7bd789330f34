//! The fields of headers as a person reads them.
//!
//! Input: headers. Output: names and values, in the order of the header. Never prints.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{ChecksumState, Ip, Segment, be16, be32};
use crate::ir::{Family, Proto};
use crate::protocol::TCP_FLAGS;

/// After a checksum that is not finished.
pub const UNFINISHED: char = '~';

pub type Fields = Vec<(&'static str, String)>;

pub fn ip(ip: &Ip<'_>) -> Fields {
    match ip.family {
        Family::V4 => ipv4(ip.header),
        Family::V6 => ipv6(ip.header),
    }
}

pub fn ipv4(ip: &[u8]) -> Fields {
    let byte = |at: usize| ip.get(at).copied().unwrap_or_default();
    let flags = match be16(ip, 6) {
        0x4000 => "DF".to_owned(),
        other => format!("{other:#06x}"),
    };
    vec![
        ("version, IHL", format!("{}, {}", byte(0) >> 4, byte(0) & 0xf)),
        ("type of service", byte(1).to_string()),
        ("total length", be16(ip, 2).to_string()),
        ("identification", hex(be16(ip, 4))),
        ("flags, offset", flags),
        ("time to live", byte(8).to_string()),
        ("protocol", protocol(byte(9))),
        ("header checksum", hex(be16(ip, 10))),
        ("source", Ipv4Addr::from(be32(ip, 12)).to_string()),
        ("destination", Ipv4Addr::from(be32(ip, 16)).to_string()),
    ]
}

fn ipv6(ip: &[u8]) -> Fields {
    let byte = |at: usize| ip.get(at).copied().unwrap_or_default();
    let address = |at: usize| {
        let bytes = ip.get(at..).and_then(|rest| rest.first_chunk::<16>());
        bytes.map_or(String::new(), |bytes| Ipv6Addr::from(*bytes).to_string())
    };
    vec![
        ("version", (byte(0) >> 4).to_string()),
        ("traffic class", (be16(ip, 0) >> 4 & 0xff).to_string()),
        ("flow label", format!("{:#07x}", be32(ip, 0) & 0xf_ffff)),
        ("payload length", be16(ip, 4).to_string()),
        ("next header", protocol(byte(6))),
        ("hop limit", byte(7).to_string()),
        ("source", address(8)),
        ("destination", address(24)),
    ]
}

fn protocol(number: u8) -> String {
    let known = Proto::ALL.into_iter().find(|proto| proto.number() == number);
    format!("{number}{}", known.map_or(String::new(), |proto| format!(" {}", upper(proto))))
}

pub fn l4(segment: &Segment<'_>, sum: ChecksumState) -> Fields {
    let header = segment.header();
    let mut fields =
        vec![("source port", be16(header, 0).to_string()), ("destination port", be16(header, 2).to_string())];
    let checksum = |at| match sum {
        ChecksumState::Unfinished => format!("{} {UNFINISHED}", hex(be16(header, at))),
        ChecksumState::Right | ChecksumState::Wrong | ChecksumState::Absent => hex(be16(header, at)),
    };
    match segment.proto {
        Proto::Udp => fields.extend([("length", be16(header, 4).to_string()), ("checksum", checksum(6))]),
        Proto::Tcp => fields.extend([
            ("sequence", format!("{:#010x}", be32(header, 4))),
            ("acknowledgement", format!("{:#010x}", be32(header, 8))),
            ("data offset", (be16(header, 12) >> 12).to_string()),
            ("flags", flags(header)),
            ("window", be16(header, 14).to_string()),
            ("checksum", checksum(16)),
            ("urgent pointer", be16(header, 18).to_string()),
        ]),
    }
    if segment.proto == Proto::Tcp {
        fields.extend(mss(header).map(|mss| ("maximum segment", mss.to_string())));
    }
    fields
}

/// The option that says how large segments may be (RFC 9293 section 3.7.1).
fn mss(tcp: &[u8]) -> Option<u16> {
    let mut options = tcp.get(20..)?;
    loop {
        options = match *options {
            [2, 4, high, low, ..] => return Some(u16::from_be_bytes([high, low])),
            [1, ref rest @ ..] => rest,
            [kind, length, ..] if kind != 0 && length >= 2 => options.get(usize::from(length)..)?,
            _ => return None,
        };
    }
}

pub fn data(payload: &[u8]) -> Fields {
    let first: Vec<String> = payload.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    vec![("first bytes", first.join(" "))]
}

/// `SYN ACK`, from a TCP header.
pub fn flags(header: &[u8]) -> String {
    let flags = header.get(13).copied().unwrap_or_default();
    let set = TCP_FLAGS.iter().filter(|(_, bit)| flags & bit != 0);
    set.map(|(name, _)| name.to_uppercase()).collect::<Vec<_>>().join(" ")
}

pub fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' }
}

pub fn upper(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "TCP",
        Proto::Udp => "UDP",
    }
}

fn hex(value: u16) -> String {
    format!("{value:#06x}")
}

#[cfg(test)]
mod tests {
    use super::mss;

    #[test]
    fn the_segment_size_is_found_among_other_options() {
        let with = |options: &[u8]| mss(&[&[0; 20], options].concat());
        assert_eq!(with(&[2, 4, 5, 0xb4, 0]), Some(1460));
        assert_eq!(with(&[1, 3, 3, 7, 2, 4, 5, 0xb4]), Some(1460));
        for without in [&[][..], &[0, 2, 4, 5, 0xb4], &[2, 4, 5], &[3, 0, 2, 4, 5, 0xb4], &[8, 200]] {
            assert_eq!(with(without), None, "{without:?}");
        }
    }
}
