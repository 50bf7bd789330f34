//! What rules ask of the network: how many bytes they add, and what fits after that.
//!
//! Input: a ruleset and an interface's MTU. Output: numbers and sentences. Pure.

use std::collections::BTreeMap;

use crate::ir::{Action, Family, Proto, Ruleset};

use super::{Finding, Level};

/// What a packet may be at most to fit after a header of `pushed` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The IP packet, before the push.
    pub packet: u32,
    /// The data in it.
    pub data: u32,
}

/// `None`: not even the headers fit.
pub fn room(mtu: u32, pushed: u8, family: Family, inner: Proto) -> Option<Room> {
    let packet = mtu.checked_sub(u32::from(pushed))?;
    let headers = u32::from(family.header_len().unsigned_abs()) + u32::from(inner.header_len());
    let data = packet.checked_sub(headers)?;
    Some(Room { packet, data })
}

/// What the rules add to packets, each kind once.
pub fn findings(ruleset: &Ruleset, about: &str, mtu: u32) -> Vec<Finding> {
    // By family, inner and outer protocol: the first rule that does so.
    let mut kinds: BTreeMap<(Family, Proto, Proto), usize> = BTreeMap::new();
    for (index, rule) in ruleset.rules.iter().enumerate() {
        let Action::Funnel(funnel) = &rule.action else { continue };
        for family in Family::ALL.into_iter().filter(|family| rule.is_about(*family)) {
            kinds.entry((family, rule.proto, funnel.outer)).or_insert(index);
        }
    }
    if kinds.is_empty() {
        let text = "these rules push nothing: packets keep their size";
        return vec![Finding { level: Level::Good, about: about.to_owned(), text: text.to_owned() }];
    }
    let kinds = kinds.into_iter();
    kinds
        .map(|((family, inner, outer), rule)| {
            let pushed = outer.header_len();
            let kind =
                format!("{inner} in {outer} over {} (rule {rule}): {pushed} bytes more", family.name());
            let (level, text) = match room(mtu, pushed, family, inner) {
                Some(Room { packet, data }) => {
                    let data = match inner {
                        Proto::Udp => format!("{data} of them data"),
                        Proto::Tcp => format!("an MSS of {data}"),
                    };
                    (Level::Note, format!("{kind}; MTU {mtu} leaves {packet} bytes, {data}"))
                }
                None => (Level::Bad, format!("{kind}; nothing fits into MTU {mtu}")),
            };
            Finding { level, about: about.to_owned(), text }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_the_mtu_less_all_headers() {
        let of = |mtu, pushed, family, inner| {
            room(mtu, pushed, family, inner).map(|room| (room.packet, room.data))
        };
        // docs/funneling.md, MTU.
        assert_eq!(of(1500, 20, Family::V4, Proto::Udp), Some((1480, 1452)));
        assert_eq!(of(1500, 8, Family::V4, Proto::Tcp), Some((1492, 1452)));
        assert_eq!(of(1500, 20, Family::V4, Proto::Tcp), Some((1480, 1440)));
        assert_eq!(of(1500, 20, Family::V6, Proto::Tcp), Some((1480, 1420)));
        assert_eq!(of(60, 20, Family::V4, Proto::Tcp), Some((40, 0)));
        assert_eq!(of(59, 20, Family::V4, Proto::Tcp), None);
        assert_eq!(of(7, 20, Family::V4, Proto::Udp), None);
    }
}
