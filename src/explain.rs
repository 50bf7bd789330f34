//! What the rules say to one packet: which rule matches, and which do not and at which test.
//!
//! Input: a ruleset and a frame. Output: reasons in words. Pure: what happens to the packet, and why an action leaves
//! it as it is, is what the program says that ran, see [`kernel::trial`](crate::kernel).

pub mod capture;
pub mod cut;
pub mod ran;
pub mod report;
pub mod words;

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr};

use range_set_blaze::{Integer, RangeSetBlaze};

use crate::dissect::{Ip, Not, half, word};
use crate::ir::{Action, Family, Rule, Ruleset};
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

/// Which port below the funneling header the guard of `unfunnel` does not let through.
pub fn guarded(action: &Action, frame: &[u8]) -> Option<String> {
    let Action::Unfunnel { guard, .. } = action else { return None };
    let ip = Ip::in_frame(frame).ok()?;
    let below = ip.segment().ok()?.payload();
    let show = |port: u16| port.to_string();
    outside("sport", &guard.sport, half(below, 0), show, rule_text::ports)
        .or_else(|| outside("dport", &guard.dport, half(below, 2), show, rule_text::ports))
}
