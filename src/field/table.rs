//! The rows of the table of fields, and the kinds of number that they take.
//!
//! Data only. A row's place in the table is its [`Field`]; the order is that of the normal form.

use super::{Base, Field, Funneled, Notation, Number, Place, Reply, Row};
use crate::packet::{ipv4, ipv6, l4, skb, tcp};
use crate::protocol::{End, Proto};

/// Port 0 is reserved (RFC 6335 section 6).
pub const PORT: Number = Number {
    name: "port",
    one: "a port number",
    min: 1,
    max: 65_535,
    hexadecimal: false,
    names: &[],
    examples: ["80", "{ 80, 443 }"],
};

/// Ports, as actions list them.
pub static PORTS: Notation = Notation::Number(PORT);

/// What a name may stand for, whatever it is used for.
pub const ANY: Number = Number {
    name: "number",
    one: "a number",
    min: 0,
    max: u32::MAX,
    hexadecimal: true,
    names: &[],
    examples: ["80", "{ 80, 443 }"],
};

/// RFC 2474 section 3, with the names that nftables has for them (RFC 2597, 3246, 5865, 8622).
const DSCP: Number = Number {
    name: "DSCP",
    one: "a DSCP",
    min: 0,
    max: 63,
    hexadecimal: true,
    names: &[
        ("df", 0),
        ("lephb", 1),
        ("cs0", 0),
        ("cs1", 8),
        ("cs2", 16),
        ("cs3", 24),
        ("cs4", 32),
        ("cs5", 40),
        ("cs6", 48),
        ("cs7", 56),
        ("af11", 10),
        ("af12", 12),
        ("af13", 14),
        ("af21", 18),
        ("af22", 20),
        ("af23", 22),
        ("af31", 26),
        ("af32", 28),
        ("af33", 30),
        ("af41", 34),
        ("af42", 36),
        ("af43", 38),
        ("va", 44),
        ("ef", 46),
    ],
    examples: ["ef", "{ 46, af41 }"],
};

const HOPS: Number = Number {
    name: "hop limit",
    one: "a hop limit",
    min: 0,
    max: 255,
    hexadecimal: true,
    names: &[],
    examples: ["1", "{ 1, 64, 255 }"],
};

/// Bytes from the IP header on.
const LENGTH: Number = Number {
    name: "length",
    one: "a length",
    min: 0,
    max: 65_535 + 40,
    hexadecimal: true,
    names: &[],
    examples: ["1500", "{ 0-100, 1500 }"],
};

pub(super) static ROWS: &[Row] = &[
    Row {
        keyword: "saddr",
        notation: Notation::Address,
        place: [Some(Place::ip(&[ipv4::SADDR])), Some(Place::ip(&ipv6::SADDR))],
        proto: None,
        reply: Reply::In(Field::DADDR),
        funneled: Funneled::Kept,
        can_be_set: false,
    },
    Row {
        keyword: "daddr",
        notation: Notation::Address,
        place: [Some(Place::ip(&[ipv4::DADDR])), Some(Place::ip(&ipv6::DADDR))],
        proto: None,
        reply: Reply::In(Field::SADDR),
        funneled: Funneled::Kept,
        can_be_set: false,
    },
    Row {
        keyword: "sport",
        notation: Notation::Number(PORT),
        place: [Some(Place::new(Base::Port(End::Sport), &[l4::SPORT])); 2],
        proto: None,
        reply: Reply::In(Field::DPORT),
        funneled: Funneled::Port(End::Sport),
        can_be_set: false,
    },
    Row {
        keyword: "dport",
        notation: Notation::Number(PORT),
        place: [Some(Place::new(Base::Port(End::Dport), &[l4::DPORT])); 2],
        proto: None,
        reply: Reply::In(Field::SPORT),
        funneled: Funneled::Port(End::Dport),
        can_be_set: false,
    },
    Row {
        keyword: "dscp",
        notation: Notation::Number(DSCP),
        place: [Some(Place::ip(&[ipv4::TOS]).part(2, 6)), Some(Place::ip(&[ipv6::FIRST]).part(22, 6))],
        proto: None,
        reply: Reply::Unknown,
        funneled: Funneled::Kept,
        can_be_set: false,
    },
    Row {
        keyword: "ttl",
        notation: Notation::Number(Number { name: "TTL", one: "a TTL", ..HOPS }),
        place: [Some(Place::ip(&[ipv4::TTL])), None],
        proto: None,
        reply: Reply::Unknown,
        funneled: Funneled::Kept,
        can_be_set: false,
    },
    Row {
        keyword: "hoplimit",
        notation: Notation::Number(HOPS),
        place: [None, Some(Place::ip(&[ipv6::HOP_LIMIT]))],
        proto: None,
        reply: Reply::Unknown,
        funneled: Funneled::Kept,
        can_be_set: false,
    },
    Row {
        keyword: "length",
        notation: Notation::Number(LENGTH),
        // IPv6 states the length of what is after its header.
        place: [Some(Place::ip(&[ipv4::LENGTH])), Some(Place::ip(&[ipv6::LENGTH]).plus(ipv6::LEN))],
        proto: None,
        reply: Reply::Unknown,
        funneled: Funneled::Changed,
        can_be_set: false,
    },
    Row {
        keyword: "mark",
        notation: Notation::Number(Number {
            name: "mark",
            one: "a mark",
            examples: ["1", "{ 1, 0x10-0x1f }"],
            ..ANY
        }),
        place: [Some(Place::new(Base::Skb, &[skb::MARK])); 2],
        proto: None,
        reply: Reply::Unknown,
        funneled: Funneled::Kept,
        can_be_set: true,
    },
    Row {
        keyword: "flags",
        notation: Notation::Flags,
        place: [Some(Place::new(Base::L4, &[tcp::FLAGS])); 2],
        proto: Some(Proto::Tcp),
        reply: Reply::Unknown,
        funneled: Funneled::Changed,
        can_be_set: false,
    },
];
