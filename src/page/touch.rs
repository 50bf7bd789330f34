//! Which bits of which header an instruction reads, writes or compares.
//!
//! Takes what stands beside the instruction in the listing: the name of a field of a header (`packet`), or a test of a
//! field of the rules (`field`). Gives bits, as the drawing of the header counts them; nothing for all else.

use std::collections::HashMap;

use serde::Serialize;

use crate::field::{Base, Field};
use crate::ir::Family;
use crate::packet::{self, ethernet, ipv4, ipv6, l4, tcp, udp};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub(super) struct Touch {
    header: &'static str,
    first: u16,
    bits: u16,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
enum How {
    Reads,
    Writes,
    Compares,
}

/// Where headers' fields are, by the names that the listing has for them.
const FIELDS: &[(&str, &[packet::Field])] = &[
    ("ethernet", &[ethernet::TYPE]),
    ("ethernet", &ethernet::DESTINATION),
    ("ethernet", &ethernet::SOURCE),
    (
        "ipv4",
        &[
            ipv4::VERSION_IHL,
            ipv4::FIRST,
            ipv4::TOS,
            ipv4::LENGTH,
            ipv4::ID_FRAGMENT,
            ipv4::FRAGMENT,
            ipv4::TTL,
            ipv4::PROTOCOL,
            ipv4::TTL_PROTOCOL_CHECKSUM,
            ipv4::CHECKSUM,
            ipv4::SADDR,
            ipv4::DADDR,
            ipv4::SADDR_LAST,
            ipv4::DADDR_LAST,
        ],
    ),
    (
        "ipv6",
        &[
            ipv6::VERSION,
            ipv6::FIRST,
            ipv6::LENGTH,
            ipv6::LENGTH_NEXT_HOPS,
            ipv6::NEXT_HEADER,
            ipv6::HOP_LIMIT,
        ],
    ),
    ("ipv6", &ipv6::SADDR),
    ("ipv6", &ipv6::DADDR),
    ("udp", &[udp::LENGTH, udp::CHECKSUM, udp::LENGTH_CHECKSUM]),
    (
        "tcp",
        &[
            tcp::SEQUENCE,
            tcp::ACKNOWLEDGEMENT,
            tcp::DATA_OFFSET,
            tcp::FLAGS,
            tcp::OFFSET_FLAGS,
            tcp::OFFSET_FLAGS_WINDOW,
            tcp::CHECKSUM,
            tcp::URGENT,
            tcp::URGENT_FIRST,
            tcp::URGENT_SECOND,
        ],
    ),
    ("l4", &[l4::PORTS, l4::SPORT, l4::DPORT]),
];

/// Parts of a byte, as the listing names them.
const PARTS: &[(&str, &str, u16, u16)] =
    &[("ip.version", "ipv4", 0, 4), ("ip.ihl", "ipv4", 4, 4), ("ip6.version", "ipv6", 0, 4)];

/// What instructions touch, each kind once.
#[derive(Debug)]
pub(super) struct Toucher {
    /// Header, first bit, bits.
    known: HashMap<&'static str, (&'static str, u16, u16)>,
    /// What was found, in order.
    found: Vec<Touch>,
    numbers: HashMap<Touch, i32>,
    /// Of the last IP header that was looked at: what a field is a part of that both have.
    family: Family,
}

impl Default for Toucher {
    fn default() -> Self {
        let fields =
            FIELDS.iter().flat_map(|(header, fields)| fields.iter().map(move |field| (header, field)));
        let known = fields.map(|(header, field)| {
            let (first, bits) = bits(field);
            (field.name, (*header, first, bits))
        });
        let parts = PARTS.iter().map(|(name, header, first, bits)| (*name, (*header, *first, *bits)));
        let known = known.chain(parts).collect();
        Toucher { known, found: Vec::new(), numbers: HashMap::new(), family: Family::V4 }
    }
}

fn bits(field: &packet::Field) -> (u16, u16) {
    (8 * field.offset.unsigned_abs(), 8 * u16::from(field.size.bytes()))
}

impl Toucher {
    /// The number of what an instruction touches, by what stands beside it; −1: nothing of a packet.
    pub(super) fn of(&mut self, note: &str, stores: bool, loads: bool) -> i32 {
        let Some(touch) = self.find(note, stores, loads) else { return -1 };
        match touch.header {
            "ipv4" => self.family = Family::V4,
            "ipv6" => self.family = Family::V6,
            _ => {}
        }
        let next = i32::try_from(self.found.len()).unwrap_or(-1);
        *self.numbers.entry(touch).or_insert_with(|| {
            self.found.push(touch);
            next
        })
    }

    pub(super) fn all(self) -> Vec<Touch> {
        self.found
    }

    fn find(&self, note: &str, stores: bool, loads: bool) -> Option<Touch> {
        let name = note.split(" = ").next().unwrap_or(note);
        if let Some((header, first, bits)) = self.known.get(name).copied() {
            let how = if stores { How::Writes } else { How::Reads };
            return Some(Touch { header, first, bits, how });
        }
        // A test of a field: `dport == 22`, `saddr[32..63] > 2001:db8`.
        let word = note.split([' ', '[']).next()?;
        let field = Field::all().find(|field| field.keyword() == word)?;
        let place =
            field.row().place[self.family.index()].or(field.row().place.into_iter().flatten().next())?;
        let at =
            note.strip_prefix(word)?.strip_prefix('[').and_then(|rest| rest.split('.').next()?.parse().ok());
        let part = place.words.get(at.map_or(0, |bit: usize| bit / 32))?;
        let (start, size) = bits(part);
        let header = match (place.base, self.family) {
            (Base::Ip, Family::V4) => "ipv4",
            (Base::Ip, Family::V6) => "ipv6",
            (Base::Port(_), _) => "l4",
            (Base::L4, _) => "tcp",
            (Base::Skb, _) => return None,
        };
        let (first, bits) = match place.words {
            [_] => (start + size - u16::from(place.shift + place.bits), u16::from(place.bits)),
            _ => (start, size),
        };
        let start = u16::from(matches!(place.base, Base::Port(crate::ir::End::Dport)));
        let first = if let Base::Port(_) = place.base { 16 * start } else { first };
        let how = if loads { How::Reads } else { How::Compares };
        Some(Touch { header, first, bits, how })
    }
}

#[cfg(test)]
mod tests {
    use super::{How, Touch, Toucher};

    #[test]
    fn notes_of_the_listing_are_bits_of_headers() {
        let mut toucher = Toucher::default();
        let mut touch = |note, stores| {
            let number = usize::try_from(toucher.of(note, stores, false)).ok()?;
            let Touch { header, first, bits, how } = toucher.found[number];
            Some((header, first, bits, how))
        };
        assert_eq!(touch("ip.protocol", false), Some(("ipv4", 72, 8, How::Reads)));
        assert_eq!(touch("ip.length", true), Some(("ipv4", 16, 16, How::Writes)));
        assert_eq!(touch("tcp.sequence = 0xcafebabe", true), Some(("tcp", 32, 32, How::Writes)));
        assert_eq!(touch("dport == 22", false), Some(("l4", 16, 16, How::Compares)));
        assert_eq!(touch("dscp == 46", false), Some(("ipv4", 8, 6, How::Compares)));
        assert_eq!(touch("ip6.version", false), Some(("ipv6", 0, 4, How::Reads)));
        assert_eq!(touch("saddr[64..95] > 0:1", false), Some(("ipv6", 128, 32, How::Compares)));
        assert_eq!(touch("dscp == 46", false), Some(("ipv6", 4, 6, How::Compares)));
        assert_eq!(touch("TC_ACT_SHOT", false), None);
        assert_eq!(touch("skb->data", false), None);
        assert_eq!(touch("", false), None);
    }
}
