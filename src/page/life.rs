//! A packet's life: its headers before and after, cell by cell, and why it is what it became.
//!
//! Takes what `explain` has found, gives data. Values are read from the frames that the kernel was given and gave back;
//! whether a checksum is right is what `dissect` says. Never runs anything.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use super::headers::{Cell, ETHERNET, IPV4, IPV6, Layout, Show, TCP, UDP};
use super::way::Way;
use crate::dissect::{self, ChecksumState, Ip, Segment, fields};
use crate::explain::report::{Change, Explained, Fate, title};
use crate::ir::{Family, Proto, Ruleset};

/// A packet, and what became of it at each hook.
#[derive(Debug, Serialize)]
pub struct Packet {
    title: String,
    lives: Vec<Life>,
}

impl Packet {
    pub fn new(frame: &[u8]) -> Self {
        Self { title: title(frame), lives: Vec::new() }
    }

    pub fn push(&mut self, life: Life) {
        self.lives.push(life);
    }
}

#[derive(Debug, Serialize)]
pub struct Life {
    rule: Option<usize>,
    fate: &'static str,
    /// In words.
    verdict: String,
    /// Why no rule can match, if that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    not: Option<String>,
    /// The last rules that did not take it, and the field that refused.
    misses: Vec<(usize, String)>,
    /// How many there are before these.
    more: usize,
    way: Vec<usize>,
    slots: Vec<usize>,
    decides: Option<usize>,
    holds: bool,
    blocks: Vec<Block>,
}

/// A header, on either side or on both.
#[derive(Debug, Serialize)]
struct Block {
    header: &'static str,
    title: String,
    /// `pushed`, `popped`, or nothing.
    what: &'static str,
    /// Before, after if it is another value, and what there is to say.
    cells: Vec<(String, Option<String>, Option<String>)>,
}

impl Life {
    pub fn new(explained: &Explained<'_>, ruleset: &Ruleset, way: Way, most_misses: usize) -> Self {
        let matching = explained.matching.as_ref();
        let misses = matching.map(|matching| matching.misses.as_slice()).unwrap_or_default();
        let more = misses.len().saturating_sub(most_misses);
        let misses = misses.iter().skip(more).map(|miss| (miss.rule, miss.why.clone()));
        Life {
            rule: matching.ok().and_then(|matching| matching.rule),
            fate: fate(explained.fate()),
            verdict: explained.verdict(ruleset),
            not: matching.err().map(|not| format!("no rule can match: {not}")),
            misses: misses.collect(),
            more,
            way: way.nodes,
            slots: way.slots,
            decides: way.decides,
            holds: way.holds,
            blocks: blocks(&explained.change(ruleset)),
        }
    }
}

fn fate(fate: Fate) -> &'static str {
    match fate {
        Fate::Changed => "changed",
        Fate::Unchanged => "unchanged",
        Fate::Dropped => "dropped",
        Fate::Answered => "answered",
        Fate::Unknown => "not run",
    }
}

/// A header's bytes, and what a checksum in it is over.
struct Layer {
    layout: Layout,
    bytes: Vec<u8>,
    sum: Option<(ChecksumState, &'static str)>,
    /// Bytes behind what is drawn.
    more: String,
}

fn layers(frame: &[u8], inside: Option<Proto>) -> Vec<Layer> {
    let link = frame.get(..dissect::ETHERNET).unwrap_or_default().to_vec();
    let plain = |layout, bytes: Vec<u8>, more| Layer { layout, bytes, sum: None, more };
    let mut all = vec![plain(ETHERNET, link, String::new())];
    let Ok(ip) = Ip::in_frame(frame) else { return all };
    let options = |bytes: usize, of: usize| match bytes.saturating_sub(of) {
        0 => String::new(),
        more => format!("{more} bytes of options"),
    };
    let layout = match ip.family {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    };
    let length = ip.header.len();
    all.push(Layer {
        sum: Some((ip.sum(), "this header")),
        ..plain(
            layout,
            ip.header.to_vec(),
            options(length, usize::from(ip.family.header_len().unsigned_abs())),
        )
    });
    let Ok(segment) = ip.segment() else { return all };
    let l4 = |segment: &Segment<'_>, addresses: &[u8], over| {
        let header = segment.header();
        let layout = match segment.proto {
            Proto::Tcp => TCP,
            Proto::Udp => UDP,
        };
        let more = options(header.len(), usize::from(segment.proto.header_len()));
        Layer { sum: Some((segment.sum(addresses), over)), ..plain(layout, header.to_vec(), more) }
    };
    const OVER: &str = "addresses, protocol, length, this header and all behind it";
    const INNER: &str = "addresses that are 0, protocol, length, this header and all behind it";
    let first = l4(&segment, ip.addresses(), OVER);
    let inner = inside.and_then(|inside| Segment::read(inside, segment.payload()));
    let data = inner.unwrap_or(segment).payload().len();
    let second = inner.map(|inner| l4(&inner, &[], INNER));
    all.extend(std::iter::once(first).chain(second));
    if let Some(last) = all.last_mut().filter(|_| data > 0) {
        let apart = if last.more.is_empty() { "" } else { ", " };
        last.more += &format!("{apart}{data} bytes of data");
    }
    all
}

fn blocks(change: &Change<'_>) -> Vec<Block> {
    let [before, after] = change.inside;
    let left = layers(change.before, before);
    let Some(frame) = change.after else { return left.iter().map(|layer| block(layer, None)).collect() };
    let right = layers(frame, after);
    // The longer one has a header more, behind IP.
    const COMMON: usize = 2;
    let popped = usize::from(left.len() > right.len());
    let pushed = usize::from(right.len() > left.len());
    let mut all: Vec<Block> =
        left.iter().zip(&right).take(COMMON).map(|(left, right)| block(left, Some(right))).collect();
    let apart = |layer: &Layer, what| Block { what, ..block(layer, None) };
    all.extend(left.iter().skip(COMMON).take(popped).map(|layer| apart(layer, "popped")));
    all.extend(right.iter().skip(COMMON).take(pushed).map(|layer| apart(layer, "pushed")));
    let (left, right) = (left.iter().skip(COMMON + popped), right.iter().skip(COMMON + pushed));
    for (left, right) in left.zip(right) {
        if left.layout == right.layout {
            all.push(block(left, Some(right)));
        } else {
            all.extend([apart(left, "popped"), apart(right, "pushed")]);
        }
    }
    all
}

/// A header, compared with what became of it.
fn block(before: &Layer, after: Option<&Layer>) -> Block {
    let old = values(before);
    let new = after.map(values);
    let changed: Vec<&str> = before
        .layout
        .cells
        .iter()
        .enumerate()
        .filter(|(at, cell)| {
            cell.2 != Show::Checksum && new.as_ref().is_some_and(|new| new.get(*at) != old.get(*at))
        })
        .map(|(_, cell)| cell.0)
        .collect();
    let sum = after.unwrap_or(before).sum;
    let cells = before.layout.cells.iter().zip(old).enumerate().map(|(at, (cell, old))| {
        let new = new.as_ref().and_then(|new| new.get(at)).filter(|new| **new != old).cloned();
        let why = match (cell.2, sum) {
            (Show::Checksum, Some((state, over))) => Some(why(state, over, &changed, new.is_some())),
            _ => None,
        };
        (old, new, why)
    });
    let cells = cells.collect();
    let more = if before.more.is_empty() { String::new() } else { format!(", {}", before.more) };
    let title = format!("{}, {} bytes{more}", before.layout.name, before.bytes.len());
    Block { header: before.layout.key, title, what: "", cells }
}

/// What a checksum is over, what of that has changed, and whether it is right.
fn why(state: ChecksumState, over: &str, changed: &[&str], is_new: bool) -> String {
    let state = match state {
        ChecksumState::Right => "it is right",
        ChecksumState::Wrong => "it is wrong",
        ChecksumState::Unfinished => "the device is to finish it",
        ChecksumState::Absent => return "there is none".to_owned(),
    };
    let new = match (is_new, changed) {
        (false, _) => String::new(),
        (true, []) => "; what it is over has changed".to_owned(),
        (true, changed) => format!("; changed here: {}", changed.join(", ")),
    };
    format!("over {over}{new}; {state}")
}

fn values(layer: &Layer) -> Vec<String> {
    let mut bit = 0;
    let value = |Cell(_, bits, show): &Cell| {
        let value = number(&layer.bytes, bit, *bits);
        bit += bits;
        self::show(value, *bits, *show, &layer.bytes)
    };
    layer.layout.cells.iter().map(value).collect()
}

/// Bits of a header as a number; beyond its end, 0.
fn number(bytes: &[u8], first: u16, bits: u16) -> u128 {
    (first..first + bits).fold(0, |value, bit| {
        let byte = bytes.get(usize::from(bit / 8)).copied().unwrap_or_default();
        value << 1 | u128::from(byte >> (7 - bit % 8) & 1)
    })
}

fn show(value: u128, bits: u16, show: Show, header: &[u8]) -> String {
    match show {
        Show::Number => value.to_string(),
        Show::Hex | Show::Checksum => format!("{value:#0width$x}", width = usize::from(bits.div_ceil(4)) + 2),
        Show::Address => match u32::try_from(value) {
            Ok(value) if bits == 32 => Ipv4Addr::from(value).to_string(),
            _ => Ipv6Addr::from(value).to_string(),
        },
        Show::Mac => {
            let bytes = value.to_be_bytes();
            let octets = bytes.iter().skip(10).map(|byte| format!("{byte:02x}"));
            octets.collect::<Vec<_>>().join(":")
        }
        Show::Flags => match fields::flags(header) {
            names if names.is_empty() => "0".to_owned(),
            names => names,
        },
        Show::Protocol => {
            let known = Proto::ALL.into_iter().find(|proto| u128::from(proto.number()) == value);
            known.map_or_else(|| value.to_string(), |proto| format!("{value} {}", fields::upper(proto)))
        }
    }
}
