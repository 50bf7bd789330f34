//! What the rules say to one packet: which rule matches, which do not and at which test, and why a rule
//! that matches leaves a packet as it is.
//!
//! Comes in: a ruleset and a frame. Goes out: reasons in words. Pure: what really happens to the packet is
//! for the kernel to say, see [`kernel::trial`](crate::kernel).

pub mod capture;
pub mod report;
pub mod words;

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr};

use range_set_blaze::{Integer, RangeSetBlaze};

use crate::dissect::{Ip, Not, Segment, half, word};
use crate::ir::{Action, End, Family, Proto, Rule, Ruleset};
use crate::rule_text;
use crate::tree::{Hosts, Key};

/// A packet to explain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// With an Ethernet header, made up if there was none.
    pub frame: Vec<u8>,
    /// Size of the segments that it is still to be cut into, else 0.
    pub gso_size: u32,
    /// Bytes that the packet had where it was captured, if that is more than there are here.
    pub cut_from: Option<usize>,
    /// Seconds and microseconds.
    pub time: (u32, u32),
}

/// A rule that does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    pub rule: usize,
    /// The first test that fails.
    pub why: String,
}

/// What a scan of the rules finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matching {
    /// The first rule that matches.
    pub rule: Option<usize>,
    /// Those above it.
    pub misses: Vec<Miss>,
}

/// What rules are asked about.
pub fn key(frame: &[u8]) -> Result<Key, Not> {
    let ip = Ip::in_frame(frame)?;
    let segment = ip.segment()?;
    let addresses = ip.addresses();
    let long = |at: usize| {
        let bytes = addresses.get(at..).and_then(|rest| rest.first_chunk::<16>());
        bytes.map_or(0, |bytes| u128::from_be_bytes(*bytes))
    };
    let hosts = match ip.family {
        Family::V4 => Hosts::V4 { saddr: word(addresses, 0), daddr: word(addresses, 4) },
        Family::V6 => Hosts::V6 { saddr: long(0), daddr: long(16) },
    };
    Ok(Key { proto: segment.proto, hosts, sport: segment.sport(), dport: segment.dport() })
}

/// Tries the rules from top to bottom.
pub fn matching(ruleset: &Ruleset, key: &Key) -> Matching {
    let mut misses = Vec::new();
    for (index, rule) in ruleset.rules.iter().enumerate() {
        match miss(rule, key) {
            None => return Matching { rule: Some(index), misses },
            Some(why) => misses.push(Miss { rule: index, why }),
        }
    }
    Matching { rule: None, misses }
}

/// The first test of the rule that the packet fails, in the order in which rules are written in normal form.
fn miss(rule: &Rule, key: &Key) -> Option<String> {
    let hosts = match key.hosts {
        Hosts::V4 { saddr, daddr } => {
            let show = |address: u32| Ipv4Addr::from(address).to_string();
            family(!rule.saddr.v4.is_empty() && !rule.daddr.v4.is_empty(), "ip", "ip6")
                .or_else(|| outside("saddr", &rule.saddr.v4, saddr, show, rule_text::addresses4))
                .or_else(|| outside("daddr", &rule.daddr.v4, daddr, show, rule_text::addresses4))
        }
        Hosts::V6 { saddr, daddr } => {
            let show = |address: u128| Ipv6Addr::from(address).to_string();
            family(!rule.saddr.v6.is_empty() && !rule.daddr.v6.is_empty(), "ip6", "ip")
                .or_else(|| outside("saddr", &rule.saddr.v6, saddr, show, rule_text::addresses6))
                .or_else(|| outside("daddr", &rule.daddr.v6, daddr, show, rule_text::addresses6))
        }
    };
    let proto = || (rule.proto != key.proto).then(|| format!("{}, wants {}", key.proto, rule.proto));
    let show = |port: u16| port.to_string();
    hosts
        .or_else(proto)
        .or_else(|| outside("sport", &rule.sport, key.sport, show, rule_text::ports))
        .or_else(|| outside("dport", &rule.dport, key.dport, show, rule_text::ports))
}

fn family(fits: bool, is: impl Display, wants: impl Display) -> Option<String> {
    (!fits).then(|| format!("{is}, wants {wants}"))
}

fn outside<T: Integer>(
    field: &str,
    set: &RangeSetBlaze<T>,
    value: T,
    show: impl Fn(T) -> String,
    wanted: impl Fn(&RangeSetBlaze<T>) -> String,
) -> Option<String> {
    (!set.contains(value)).then(|| format!("{field} {}, wants {}", show(value), wanted(set)))
}

/// Why the action of a rule that matches leaves this packet as it is; `None` if it does not, as far as can be
/// seen from outside.
pub fn reluctance(action: &Action, frame: &[u8], gso_size: u32) -> Option<String> {
    let ip = Ip::in_frame(frame).ok()?;
    let segment = ip.segment().ok()?;
    let length = segment.bytes.len();
    let udp_length = usize::from(half(segment.bytes, 4));
    match action {
        Action::Accept | Action::Drop => None,
        Action::Funnel(_) | Action::Unfunnel { .. } if gso_size != 0 => {
            Some("it is still to be segmented (GSO)".to_owned())
        }
        Action::Funnel(_) if segment.proto == Proto::Udp && udp_length != length => {
            Some(format!("its UDP length is {udp_length}, and IP carries {length}"))
        }
        Action::Funnel(_) if segment.proto == Proto::Tcp && is_funneling(segment.bytes) => {
            Some("it is funneled already".to_owned())
        }
        Action::Funnel(_)
            if ip.family == Family::V6 && segment.proto == Proto::Udp && half(segment.bytes, 6) == 0 =>
        {
            Some("it has no UDP checksum, which IPv6 does not allow".to_owned())
        }
        Action::Funnel(funnel) => {
            let grown = ip.header.len() + length + usize::from(funnel.outer.header_len());
            let absent = segment.proto == Proto::Udp && half(segment.bytes, 6) == 0;
            if grown > 65535 {
                Some(format!("it would grow to {grown} bytes, and 65535 is the most there can be"))
            } else if absent && funnel.outer == Proto::Tcp && length > 9216 {
                Some("it has no UDP checksum and is longer than 9216 bytes".to_owned())
            } else {
                None
            }
        }
        Action::Unfunnel { inner, .. } => not_funneled(&segment, *inner, ip.family),
        Action::Alias { .. } | Action::Unalias { .. } if word(segment.bytes, 12) >> 16 & 0x20 != 0 => {
            Some("it has URG: its urgent pointer means something".to_owned())
        }
        Action::Alias { end, port } => match (half(segment.bytes, 18), end_port(&segment, *end)) {
            (0, old) if old == *port => Some(format!("its {end} is {port} already")),
            (0, _) => None,
            (urgent, _) => Some(format!("its urgent pointer is in use ({urgent})")),
        },
        Action::Unalias { ports, .. } => match half(segment.bytes, 18) {
            0 => Some("its urgent pointer is 0: nobody has aliased it".to_owned()),
            hidden if !ports.contains(hidden) => {
                Some(format!("its urgent pointer, {hidden}, is not on the list"))
            }
            _ => None,
        },
    }
}

/// Sequence, acknowledgement and data offset as `funnel` writes them.
fn is_funneling(tcp: &[u8]) -> bool {
    word(tcp, 4) == 0xcafe_babe && word(tcp, 8) == 0xbabe_cafe && half(tcp, 12) >> 12 == 5
}

fn end_port(segment: &Segment<'_>, end: End) -> u16 {
    match end {
        End::Sport => segment.sport(),
        End::Dport => segment.dport(),
    }
}

fn not_funneled(segment: &Segment<'_>, inner: Proto, family: Family) -> Option<String> {
    let bytes = segment.bytes;
    let (length, udp_length) = (bytes.len(), usize::from(half(bytes, 4)));
    match segment.proto {
        Proto::Tcp if word(bytes, 4) != 0xcafe_babe || word(bytes, 8) != 0xbabe_cafe => {
            return Some("it is real TCP: sequence and acknowledgement are not funnel's mark".to_owned());
        }
        Proto::Tcp if half(bytes, 12) >> 12 != 5 => return Some("its TCP header has options".to_owned()),
        Proto::Udp if udp_length != length => {
            return Some(format!("its UDP length is {udp_length}, and IP carries {length}"));
        }
        _ => {}
    }
    let below = bytes.get(usize::from(segment.proto.header_len())..).unwrap_or_default();
    let whole = match inner {
        Proto::Tcp => Segment::read(Proto::Tcp, below).is_some(),
        Proto::Udp => below.len() >= 8 && usize::from(half(below, 4)) == below.len(),
    };
    if !whole {
        return Some(format!("what it carries is not a whole {inner} packet"));
    }
    if segment.proto == Proto::Udp && inner == Proto::Tcp && !is_plausible(below) {
        return Some("what it carries is nothing that TCP sends".to_owned());
    }
    let absent = inner == Proto::Udp && half(below, 6) == 0;
    (family == Family::V6 && absent)
        .then(|| "what it carries has no UDP checksum, which IPv6 does not allow".to_owned())
}

/// Whether TCP may have sent a segment (RFC 9293 section 3.1): all there is to know a funneled one by, over UDP.
fn is_plausible(tcp: &[u8]) -> bool {
    let bits = half(tcp, 12);
    let [fin, syn, rst, ack, urg] = [0x01, 0x02, 0x04, 0x10, 0x20].map(|flag| bits & flag != 0);
    let ends = [fin, syn, rst].into_iter().filter(|set| *set).count();
    bits & 0x0e00 == 0 && ends <= 1 && (ack || syn || rst) && (urg || half(tcp, 18) == 0)
}

/// Which port below the funneling header the guard of `unfunnel` does not let through.
pub fn guarded(action: &Action, frame: &[u8]) -> Option<String> {
    let Action::Unfunnel { guard, .. } = action else { return None };
    let ip = Ip::in_frame(frame).ok()?;
    let below = ip.segment().ok()?.payload();
    let show = |port: u16| port.to_string();
    outside("sport", &guard.sport, half(below, 0), show, rule_text::ports)
        .or_else(|| outside("dport", &guard.dport, half(below, 2), show, rule_text::ports))
}
