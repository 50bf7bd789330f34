//! The model's own table of the fields that rules match on by number, besides ports.
//!
//! One row for each: the word, which packets have it, where it is in their bytes, and values that are worth a try. Never
//! looks at the crate's table: a mistake there must not be repeated here.

use std::fmt;

use super::packet::{ETHERNET, Packet, TCP};
use super::rules::Match;

pub struct Row {
    pub word: &'static str,
    /// In IPv4 packets, and in IPv6 packets.
    pub versions: [bool; 2],
    /// In packets of this protocol only.
    pub proto: Option<u8>,
    pub notation: Notation,
    pub largest: u32,
    pub values: &'static [u32],
    pub read: fn(&View) -> u32,
    /// Makes a packet that has this value, as far as that can be.
    pub write: fn(&mut Packet, u32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Notation {
    Numbers,
    /// A value, and which of its bits are looked at: `0x02 / 0x12`. All of them in a set.
    Masked,
}

/// A packet from its headers on. There may be less of them than there should be.
pub struct View<'a> {
    pub six: bool,
    pub ip: &'a [u8],
    pub l4: &'a [u8],
    pub skb: &'a Skb,
}

/// What the kernel knows of a packet besides its bytes: words, and offsets in `struct __sk_buff`. Rules may set them.
pub const SKB: [(&str, usize); 1] = [("mark", 8)];
pub type Skb = [u32; SKB.len()];

pub static FIELDS: &[Row] = &[
    Row {
        word: "dscp",
        versions: [true, true],
        proto: None,
        notation: Notation::Numbers,
        largest: 63,
        values: &[0, 1, 8, 10, 46, 62, 63],
        read: |view| match view.six {
            false => u32::from(view.ip[1] >> 2),
            true => u32::from(view.ip[0] & 15) << 2 | u32::from(view.ip[1] >> 6),
        },
        write: |packet, dscp| packet.ip.tos = (dscp as u8) << 2 | packet.ip.tos & 3,
    },
    Row {
        word: "ttl",
        versions: [true, false],
        proto: None,
        notation: Notation::Numbers,
        largest: 255,
        values: &[0, 1, 63, 64, 65, 255],
        read: |view| view.ip[8].into(),
        write: |packet, ttl| packet.ip.ttl = ttl as u8,
    },
    Row {
        word: "hoplimit",
        versions: [false, true],
        proto: None,
        notation: Notation::Numbers,
        largest: 255,
        values: &[0, 1, 63, 64, 65, 255],
        read: |view| view.ip[7].into(),
        write: |packet, hops| packet.ip.ttl = hops as u8,
    },
    Row {
        word: "length",
        versions: [true, true],
        proto: None,
        notation: Notation::Numbers,
        largest: 65_575,
        values: &[48, 52, 60, 100, 255, 256, 1500, 65_535],
        read: |view| match view.six {
            false => u32::from(view.ip[2]) << 8 | u32::from(view.ip[3]),
            true => (u32::from(view.ip[4]) << 8 | u32::from(view.ip[5])) + 40,
        },
        write: |packet, length| {
            packet.payload = 0;
            let headers = packet.frame().len() - ETHERNET;
            packet.payload = (length as usize).saturating_sub(headers).min(3000);
        },
    },
    Row {
        word: "mark",
        versions: [true, true],
        proto: None,
        notation: Notation::Numbers,
        largest: u32::MAX,
        values: &[0, 1, 7, 0x7fff_ffff, 0x8000_0000, u32::MAX],
        read: |view| view.skb[0],
        write: |packet, mark| packet.skb[0] = mark,
    },
    Row {
        word: "flags",
        versions: [true, true],
        proto: Some(TCP),
        notation: Notation::Masked,
        largest: 255,
        values: &[0x01, 0x02, 0x10, 0x12, 0x18, 0x3f, 0xc2, 0xff],
        read: |view| view.l4.get(13).copied().unwrap_or_default().into(),
        write: |packet, flags| packet.layers[0].flags = Some(flags as u8),
    },
];

/// The value of each of the [`FIELDS`]; there is room for more of them.
pub type Values = [u32; 16];

pub fn read(view: &View) -> Values {
    assert!(FIELDS.len() <= Values::default().len(), "make room in `Values`");
    std::array::from_fn(|index| FIELDS.get(index).map_or(0, |row| (row.read)(view)))
}

/// A match on one of the [`FIELDS`], by its index there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    pub field: usize,
    pub values: Match<Numbers>,
}

/// From the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers(pub u32, pub u32);

impl Other {
    pub fn row(&self) -> &'static Row {
        &FIELDS[self.field]
    }

    pub fn matches(&self, six: bool, values: &Values) -> bool {
        let value = values[self.field];
        let is = |numbers: &Numbers| match self.row().notation {
            Notation::Numbers => (numbers.0..=numbers.1).contains(&value),
            Notation::Masked => value & numbers.1 == numbers.0,
        };
        self.row().versions[usize::from(six)] && self.values.values.iter().any(is) != self.values.negated
    }

    /// Some value that matches, in packets that have the field.
    pub fn some(&self) -> Option<u32> {
        let six = self.row().versions[1];
        let is = |value: &u32| {
            let mut values = Values::default();
            values[self.field] = *value;
            self.matches(six, &values)
        };
        let named = self.values.values.iter();
        let named =
            named.flat_map(|Numbers(first, last)| [*first, last.wrapping_add(1), first.wrapping_sub(1)]);
        // What lies behind the last value may be more than the field holds.
        let all = named.chain(self.row().values.iter().copied()).chain(0..=1000);
        all.filter(|value| *value <= self.row().largest).find(is)
    }

    /// Reads `5`, `5-7` and the like.
    pub fn parse(word: &str, negated: bool, values: &[&str]) -> Option<Other> {
        let field = FIELDS.iter().position(|row| row.word == word)?;
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        };
        if FIELDS[field].notation == Notation::Masked {
            let exactly = |text: &&str| Some(Numbers(number(text)?, 0xff));
            let values = match values {
                [value, "/", mask] => vec![Numbers(number(value)?, number(mask)?)],
                exact => exact.iter().map(exactly).collect::<Option<_>>()?,
            };
            return Some(Other { field, values: Match { negated, values } });
        }
        let value = |text: &&str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            Some(Numbers(number(first)?, number(last)?))
        };
        let values = values.iter().map(value).collect::<Option<_>>()?;
        Some(Other { field, values: Match { negated, values } })
    }
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, values) = (self.row().word, &self.values);
        if self.row().notation == Notation::Numbers {
            return write!(f, "{word} {values}");
        }
        let not = if values.negated { "!= " } else { "" };
        if let [Numbers(value, mask)] = values.values[..]
            && mask != 0xff
        {
            return write!(f, "{word} {not}{value:#04x} / {mask:#04x}");
        }
        let exact: Vec<String> = values.values.iter().map(|value| format!("{:#04x}", value.0)).collect();
        write!(f, "{word} {not}{{ {} }}", exact.join(", "))
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { write!(f, "{}", self.0) } else { write!(f, "{}-{}", self.0, self.1) }
    }
}
