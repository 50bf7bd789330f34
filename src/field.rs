//! The table of fields: everything that a rule can match on besides IP version and protocol, one row each.
//!
//! Parser, checks, decision diagram, emitter and everything that shows rules walk this table: what a field is called,
//! how its values are written, where it is in a packet, and what becomes of it on the way. A new match is a new row in
//! [`table`]. Never knows a rule.

mod table;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

pub use self::table::{ANY, PORT, PORTS};
use crate::packet;
use crate::protocol::{End, Family, Proto, TCP_FLAGS};

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
    /// Whether rules may set it: `mark set 7`. Only what is in [`Base::Skb`] can be.
    pub can_be_set: bool,
}

/// How values are written in rules, messages and JSON.
#[derive(Debug)]
pub enum Notation {
    /// IPv4 and IPv6 addresses and prefixes.
    Address,
    Number(Number),
    /// TCP flags, by their names.
    Flags,
}

impl Notation {
    /// What one value is called, as in "no address is left" and "between two ports".
    pub fn name(&self) -> &'static str {
        match self {
            Notation::Address => "address",
            Notation::Number(number) => number.name,
            Notation::Flags => "flag",
        }
    }
}

/// Numbers, and what messages call them.
#[derive(Debug)]
pub struct Number {
    /// One of them, after "to match any" or "between two": `port`.
    pub name: &'static str,
    /// One of them, after "expected": `a port number`.
    pub one: &'static str,
    /// The smallest and the largest that can be written.
    pub min: u32,
    pub max: u32,
    /// Whether they may be written as `0x10`, too.
    pub hexadecimal: bool,
    /// What some of them are called.
    pub names: &'static [(&'static str, u32)],
    /// Examples for remedies: a value, and a set.
    pub examples: [&'static str; 2],
}

/// Where a field is, in a packet or in what the kernel knows of it.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub base: Base,
    /// The words that hold it, from the most significant on; a single one if it is not all of them.
    pub words: &'static [packet::Field],
    /// How many bits of the word are to the right of it.
    pub shift: u8,
    pub bits: u8,
    /// What rules call a packet's value, less what is there.
    pub plus: u16,
}

/// What a place's offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The IP header.
    Ip,
    /// The L4 header's ports, which the prologue has found.
    Port(End),
    /// The L4 header.
    L4,
    /// `struct __sk_buff`, in host byte order.
    Skb,
}

impl Place {
    /// Whole words.
    const fn new(base: Base, words: &'static [packet::Field]) -> Place {
        let (mut bits, mut at) = (0, 0);
        while at < words.len() {
            bits += 8 * words[at].size.bytes();
            at += 1;
        }
        Place { base, words, shift: 0, bits, plus: 0 }
    }

    const fn ip(words: &'static [packet::Field]) -> Place {
        Place::new(Base::Ip, words)
    }

    /// A part of a word.
    const fn part(self, shift: u8, bits: u8) -> Place {
        Place { shift, bits, ..self }
    }

    const fn plus(self, plus: i16) -> Place {
        Place { plus: plus.unsigned_abs(), ..self }
    }

    /// The largest number that fits.
    fn all_ones(&self) -> u128 {
        u128::MAX.checked_shr(128 - u32::from(self.bits)).unwrap_or(0)
    }

    /// The value of a packet, of whose bytes from the base on these are the first.
    pub fn value(&self, bytes: &[u8]) -> u128 {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        let word = |word: &packet::Field| {
            let from = usize::from(word.offset.unsigned_abs());
            (from..from + usize::from(word.size.bytes())).map(byte).collect::<Vec<u8>>()
        };
        let bytes: Vec<u8> = self.words.iter().flat_map(word).collect();
        let value = bytes.iter().fold(0_u128, |value, byte| value << 8 | u128::from(*byte));
        (value >> self.shift & self.all_ones()) + u128::from(self.plus)
    }
}

/// A field in packets of the other direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The value is in that field.
    In(Field),
    /// It says nothing about packets at other places, of either direction: rules for those leave it out.
    Unknown,
}

/// A field of a packet to which `funnel` has been applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Funneled {
    /// The same value: it is not in the L4 header.
    Kept,
    /// That of the funneling header.
    Port(End),
    /// Another one.
    Changed,
}

impl Field {
    pub const SADDR: Field = Field(0);
    pub const DADDR: Field = Field(1);
    pub const SPORT: Field = Field(2);
    pub const DPORT: Field = Field(3);
    pub const FLAGS: Field = Field(9);

    /// In the order of the normal form.
    pub fn all() -> impl Iterator<Item = Field> {
        (0_u8..).zip(table::ROWS).map(|(index, _)| Field(index))
    }

    /// Those that rules may set.
    pub fn settable() -> impl Iterator<Item = Field> {
        Field::all().filter(|field| field.row().can_be_set)
    }

    pub fn named(keyword: &str) -> Option<Field> {
        Field::all().find(|field| field.keyword() == keyword)
    }

    pub fn row(self) -> &'static Row {
        &table::ROWS[usize::from(self.0)]
    }

    pub fn keyword(self) -> &'static str {
        self.row().keyword
    }

    /// The port at that end.
    pub const fn of(end: End) -> Field {
        match end {
            End::Sport => Field::SPORT,
            End::Dport => Field::DPORT,
        }
    }

    /// Whether packets of this family may have it.
    pub fn is_in(self, family: Family) -> bool {
        self.row().place[family.index()].is_some()
    }

    /// Whether packets of this kind have it.
    pub fn exists(self, family: Family, proto: Proto) -> bool {
        self.is_in(family) && self.row().proto.is_none_or(|only| only == proto)
    }

    /// Whether it is in the header after that of IP.
    pub fn is_l4(self) -> bool {
        self.row().place.iter().flatten().any(|place| matches!(place.base, Base::Port(_) | Base::L4))
    }

    /// The value as one writes it in a rule.
    pub fn show(self, family: Family, value: u128) -> String {
        match (&self.row().notation, family) {
            (Notation::Address, Family::V4) => u32::try_from(value)
                .map_or_else(|_| value.to_string(), |bits| Ipv4Addr::from(bits).to_string()),
            (Notation::Address, Family::V6) => Ipv6Addr::from(value).to_string(),
            (Notation::Number(_), _) => value.to_string(),
            (Notation::Flags, _) => flag_names(value, "|"),
        }
    }

    /// The smallest value that a packet of this family can have there.
    pub fn smallest(self, family: Family) -> u128 {
        self.row().place[family.index()].map_or(0, |place| place.plus.into())
    }

    /// The largest.
    pub fn largest(self, family: Family) -> u128 {
        self.row().place[family.index()].map_or(0, |place| place.all_ones() + u128::from(place.plus))
    }
}

/// `syn|ack`, with this between any two; `0` for none.
pub fn flag_names(bits: u128, between: &str) -> String {
    let set = TCP_FLAGS.iter().filter(|(_, bit)| bits & u128::from(*bit) != 0);
    let names: Vec<&str> = set.map(|(name, _)| *name).collect();
    if names.is_empty() { "0".to_owned() } else { names.join(between) }
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
