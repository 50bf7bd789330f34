//! The intermediate representation: rules as sets of packets and what to do with them.
//!
//! Comes from [`check`](crate::check), which lets only legal rulesets through; goes to
//! [`diagram`](crate::diagram) and [`codegen`](crate::codegen). All numbers are in host byte order.
//! Never holds anything a later stage would have to refuse.

use std::fmt;
use std::net::IpAddr;

pub use crate::action::{Action, Funnel, Guard};
use crate::diag::Span;
use crate::field::Field;
use crate::matches::{self, Key, Matches, Ports};
pub use crate::protocol::{End, Family, Proto};
use crate::settings::Settings;

/// Rules in the order they were written: the first match wins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruleset {
    pub rules: Vec<Rule>,
}

/// What one text says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rulesets {
    /// One list of rules, for whichever hooks it is attached to.
    Anywhere(Ruleset),
    /// A list for each of some hooks, ingress before egress.
    Chains(Vec<(Side, Ruleset)>),
    /// What a client sends. The lists of both hooks of both ends follow from it (`mirror`).
    Service(Ruleset),
}

/// Which hook of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    Ingress,
    Egress,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Ingress => "ingress",
            Side::Egress => "egress",
        })
    }
}

/// One rule: which packets, and what happens to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The rule as it was written, on one line, without comments.
    pub text: String,
    /// Where it stands in the source.
    pub span: Span,
    pub proto: Proto,
    /// By family, IPv4 first. `None`: no packet of that family matches.
    pub matches: [Option<Matches>; 2],
    pub action: Action,
    /// Where the packet comes from and goes to, once the action has been carried out.
    pub nat: Nat,
    /// What the kernel is told of the packet, once the action has been carried out.
    pub settings: Settings,
    /// Packets and bytes are counted.
    pub counter: bool,
}

/// The rules about packets of this family and protocol, each with its index and what it matches of them.
pub fn about(rules: &[Rule], family: Family, proto: Proto) -> impl Iterator<Item = (usize, &Matches)> {
    let rules = rules.iter().enumerate().filter(move |(_, rule)| rule.proto == proto);
    rules.filter_map(move |(index, rule)| Some((index, rule.of(family)?)))
}

impl Ruleset {
    /// Whether anything is counted: only then does a program have maps.
    pub fn counts(&self) -> bool {
        self.rules.iter().any(|rule| rule.counter)
    }
}

impl Rule {
    /// The packets of this family that match, if any do.
    pub fn of(&self, family: Family) -> Option<&Matches> {
        self.matches[family.index()].as_ref()
    }

    /// The packets that match, family by family.
    pub fn each(&self) -> impl Iterator<Item = (Family, &Matches)> {
        Family::ALL.into_iter().filter_map(|family| Some((family, self.of(family)?)))
    }

    /// The same action for other packets.
    pub fn with(self, change: impl Fn(Family, Matches) -> Matches) -> Rule {
        let [v4, v6] = self.matches;
        let matches = [v4.map(|m| change(Family::V4, m)), v6.map(|m| change(Family::V6, m))];
        Rule { matches, ..self }
    }

    pub fn matches(&self, key: &Key) -> bool {
        self.proto == key.proto && self.of(key.family).is_some_and(|matches| matches.contains(key))
    }

    /// Whether packets of this family can match.
    pub fn is_about(&self, family: Family) -> bool {
        self.of(family).is_some()
    }

    /// Whether some packet matches both.
    pub fn meets(&self, other: &Rule) -> bool {
        self.proto == other.proto
            && self.each().any(|(family, matches)| other.of(family).is_some_and(|other| matches.meets(other)))
    }

    /// Which ports match: the same in both families.
    pub fn ports(&self, end: End) -> Ports {
        let matches = self.matches.iter().flatten().next();
        matches::ports(matches.and_then(|matches| matches.get(Field::of(end))))
    }

    pub fn with_ports(self, end: End, ports: &Ports) -> Rule {
        let set = matches::widened(ports);
        self.with(|family, matches| matches.with(Field::of(end), family, set.clone()))
    }

    pub fn effect(&self) -> Effect<'_> {
        // Named one by one, so that none is forgotten.
        let Rule { action, nat, settings, counter, text: _, span: _, proto: _, matches: _ } = self;
        Effect { action, nat: *nat, settings: *settings, counter: *counter }
    }

    pub fn matches_on(&self, field: Field) -> bool {
        self.matches.iter().flatten().any(|matches| matches.get(field).is_some())
    }
}

/// All that a rule does to a packet that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect<'a> {
    pub action: &'a Action,
    pub nat: Nat,
    pub settings: Settings,
    pub counter: bool,
}

/// New addresses, of the rule's only family, and ports. With `unfunnel`, of the inner packet; with `funnel`,
/// addresses only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Nat {
    pub saddr: Option<IpAddr>,
    pub daddr: Option<IpAddr>,
    /// Each of them only with an address.
    pub sport: Option<u16>,
    pub dport: Option<u16>,
}

impl Nat {
    pub fn is_none(&self) -> bool {
        *self == Nat::default()
    }

    pub fn has_ports(&self) -> bool {
        self.sport.is_some() || self.dport.is_some()
    }
}

impl fmt::Display for Nat {
    /// As actions, a blank between them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        for (word, address, port) in [("snat", self.saddr, self.sport), ("dnat", self.daddr, self.dport)] {
            words.extend(match (address, port) {
                (None, _) => None,
                (Some(address), None) => Some(format!("{word} {address}")),
                (Some(IpAddr::V4(address)), Some(port)) => Some(format!("{word} {address}:{port}")),
                (Some(IpAddr::V6(address)), Some(port)) => Some(format!("{word} [{address}]:{port}")),
            });
        }
        f.write_str(&words.join(" "))
    }
}
