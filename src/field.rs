//! The table of fields: everything that a rule can match on besides IP version and protocol, one row each.
//!
//! The decision diagram, the emitter, and everything that shows rules walk this table: what a field is called, where it
//! is in a packet, what its values look like, and what becomes of it on the way. The parser does not yet. Data only:
//! never knows a rule or a packet.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::packet::{self, ipv4, ipv6};
use crate::protocol::{End, Family, Proto};

/// A row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Field(u8);

/// What there is to know about a field.
#[derive(Debug)]
pub struct Row {
    /// The word that starts the match; the field's name everywhere.
    pub keyword: &'static str,
    /// How its values are written.
    pub notation: Notation,
    /// Where it is in a packet of each family, IPv4 first. `None`: packets of that family have no such field, so
    /// rules that match on it are about the other family only.
    pub place: [Option<Place>; 2],
    /// Only packets of this protocol have it.
    pub proto: Option<Proto>,
    /// What it is called in packets that travel the other way.
    pub reply: Reply,
    /// What a packet that has been funneled shows in its place.
    pub funneled: Funneled,
}

/// How values are written in rules, messages and JSON.
#[derive(Debug)]
pub enum Notation {
    /// IPv4 and IPv6 addresses and prefixes.
    Address,
    Number(Number),
}

/// Decimal numbers.
#[derive(Debug)]
pub struct Number {
    /// The smallest that can be written.
    pub min: u32,
}

/// Where a field is, in a packet or beside it.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// In the IP header, as words from the most significant on.
    Ip(&'static [packet::Field]),
    /// One of the two ports, which the prologue has found.
    Port(End),
}

/// A field in packets of the other direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The value is in that field.
    In(Field),
}

/// A field of a packet to which `funnel` has been applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Funneled {
    /// The same value: it is not in the L4 header.
    Kept,
    /// That of the funneling header.
    Port(End),
}

impl Field {
    pub const SADDR: Field = Field(0);
    pub const DADDR: Field = Field(1);
    pub const SPORT: Field = Field(2);
    pub const DPORT: Field = Field(3);

    /// In the order of the normal form.
    pub fn all() -> impl Iterator<Item = Field> {
        (0_u8..).zip(&TABLE).map(|(index, _)| Field(index))
    }

    pub fn row(self) -> &'static Row {
        &TABLE[usize::from(self.0)]
    }

    pub fn keyword(self) -> &'static str {
        self.row().keyword
    }

    pub const fn of(end: End) -> Field {
        match end {
            End::Sport => Field::SPORT,
            End::Dport => Field::DPORT,
        }
    }

    /// Whether packets of this kind have it.
    pub fn exists(self, family: Family, proto: Proto) -> bool {
        let row = self.row();
        row.place[family.index()].is_some() && row.proto.is_none_or(|only| only == proto)
    }

    /// Whether it is in the header behind that of IP.
    pub fn is_l4(self) -> bool {
        self.row().place.iter().flatten().any(|place| matches!(place, Place::Port(_)))
    }

    /// The value as one writes it in a rule.
    pub fn show(self, family: Family, value: u128) -> String {
        match (&self.row().notation, family) {
            (Notation::Address, Family::V4) => u32::try_from(value)
                .map_or_else(|_| value.to_string(), |bits| Ipv4Addr::from(bits).to_string()),
            (Notation::Address, Family::V6) => Ipv6Addr::from(value).to_string(),
            (Notation::Number(_), _) => value.to_string(),
        }
    }

    /// The largest value that a packet of this family can have there; the smallest is 0.
    pub fn max(self, family: Family) -> u128 {
        let bits = match self.row().place[family.index()] {
            Some(Place::Ip(words)) => words.iter().map(|word| 8 * u32::from(word.size.bytes())).sum(),
            Some(Place::Port(_)) => 16,
            None => 0,
        };
        u128::MAX.checked_shr(128 - bits).unwrap_or(0)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyword())
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyword())
    }
}

/// Port 0 is reserved (RFC 6335 section 6).
const PORT: Number = Number { min: 1 };

static TABLE: [Row; 4] = [
    Row {
        keyword: "saddr",
        notation: Notation::Address,
        place: [Some(Place::Ip(&[ipv4::SADDR])), Some(Place::Ip(&ipv6::SADDR))],
        proto: None,
        reply: Reply::In(Field::DADDR),
        funneled: Funneled::Kept,
    },
    Row {
        keyword: "daddr",
        notation: Notation::Address,
        place: [Some(Place::Ip(&[ipv4::DADDR])), Some(Place::Ip(&ipv6::DADDR))],
        proto: None,
        reply: Reply::In(Field::SADDR),
        funneled: Funneled::Kept,
    },
    Row {
        keyword: "sport",
        notation: Notation::Number(PORT),
        place: [Some(Place::Port(End::Sport)); 2],
        proto: None,
        reply: Reply::In(Field::DPORT),
        funneled: Funneled::Port(End::Sport),
    },
    Row {
        keyword: "dport",
        notation: Notation::Number(PORT),
        place: [Some(Place::Port(End::Dport)); 2],
        proto: None,
        reply: Reply::In(Field::SPORT),
        funneled: Funneled::Port(End::Dport),
    },
];
