//! What counters should stand at, from the packets that went through: a second model, beside the one of the
//! bytes, that says which rule a packet is counted for, and as what.
//!
//! In: rules, which of them count, a packet and what the model made of it. Out: one counter, or none.
//! Reads the packet on its own: rules are also asked about packets that turn out to be fragments or damaged.

use std::net::IpAddr;

use super::actions::Action;
use super::fields::{self, Skb, View};
use super::model::{Outcome, Verdict};
use super::rules::{Key, Rule};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counted {
    Rule(usize),
    /// Not done, by the rule of this number.
    Reason(usize, &'static str),
}

/// A packet as it comes to the rules.
pub struct What<'a> {
    /// An Ethernet frame without tags.
    pub frame: &'a [u8],
    /// It has had some.
    pub tagged: bool,
    pub gso: u32,
    pub skb: &'a Skb,
}

pub fn of(
    rules: &[Rule],
    counts: impl Fn(usize) -> bool,
    &What { frame, tagged, gso, skb }: &What<'_>,
    outcome: &Outcome,
) -> Option<Counted> {
    let packet = Packet::find(frame, gso, skb)?;
    let index = rules.iter().position(|rule| rule.matches(&packet.key))?;
    if !counts(index) {
        return None;
    }
    let rule = &rules[index];
    let changed = outcome.frame != frame;
    let done = match rule.action {
        Action::Accept => outcome.key.is_some(),
        Action::Direct | Action::Undirect { .. } => outcome.verdict != Verdict::Pass,
        Action::Drop => outcome.verdict == Verdict::Drop,
        // What a guard refuses is dropped, whatever it would have become.
        _ => changed && outcome.verdict != Verdict::Drop,
    };
    if done {
        return Some(Counted::Rule(index));
    }
    let pushes = matches!(rule.action, Action::Funnel { .. } | Action::Unfunnel { .. });
    let reason = match &rule.action {
        _ if pushes && gso != 0 => "gso",
        _ if packet.fragment => "fragment",
        _ if packet.claims > packet.has => "malformed",
        Action::Direct | Action::Undirect { .. } if tagged && outcome.key.is_some() => "no-peer",
        Action::Bypass if tagged && outcome.key.is_some() => "no-peer",
        Action::Unbypass { .. } if tagged && outcome.key.is_some() => "not-bypassed",
        action => {
            let pointer = u16::from_be_bytes(packet.pointer(frame));
            let malformed = outcome.key.is_none();
            action.reason(packet.key.proto, packet.urgent(frame), pointer, outcome.verdict, malformed)
        }
    };
    Some(Counted::Reason(index, reason))
}

/// As much of a packet as it takes to ask the rules, whatever else is wrong with it.
struct Packet {
    key: Key,
    l4: usize,
    fragment: bool,
    /// Bytes from the IP header on, as it says.
    claims: usize,
    /// Bytes from the IP header on.
    has: usize,
}

impl Packet {
    fn find(frame: &[u8], gso: u32, skb: &Skb) -> Option<Packet> {
        let be16 = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        let ports = |l4: usize| Some((be16(l4)?, be16(l4 + 2)?));
        let has = frame.len() - 14;
        if be16(12)? == 0x86dd {
            if has < 48 || frame[14] >> 4 != 6 {
                return None;
            }
            let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).expect("16"));
            let claims = 40 + usize::from(be16(18)?);
            let jumbo = gso != 0 && claims == 40 && frame[20] == 0 && frame[54..58] == [6, 0, 0xc2, 4];
            let fragment = frame[20] == 44 && be16(56)? >> 3 == 0;
            let (proto, l4) = match (jumbo, fragment) {
                (true, _) => (6, 62),
                (_, true) => (frame[54], 62),
                _ => (frame[20], 54),
            };
            let (sport, dport) = ports(l4)?;
            let others = fields::read(&View { six: true, ip: &frame[14..], l4: &frame[l4..], skb });
            let key = Key { proto, saddr: address(22), daddr: address(38), sport, dport, others };
            return Some(Packet { key, l4, fragment, claims, has });
        }
        if be16(12)? != 0x0800 || has < 28 || frame[14] >> 4 != 4 || frame[14] & 15 < 5 {
            return None;
        }
        let l4 = 14 + usize::from(frame[14] & 15) * 4;
        let (sport, dport) = ports(l4)?;
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).expect("4"));
        let others = fields::read(&View { six: false, ip: &frame[14..], l4: &frame[l4..], skb });
        let (saddr, daddr) = (address(26), address(30));
        let key = Key { proto: frame[23], saddr, daddr, sport, dport, others };
        let fragment = be16(20)? & 0x3fff != 0;
        Some(Packet { key, l4, fragment, claims: usize::from(be16(16)?), has })
    }

    fn pointer(&self, frame: &[u8]) -> [u8; 2] {
        [18, 19].map(|at| frame.get(self.l4 + at).copied().unwrap_or_default())
    }

    fn urgent(&self, frame: &[u8]) -> bool {
        frame.get(self.l4 + 13).is_some_and(|flags| flags & 0x20 != 0)
    }
}
