//! The intermediate representation: rules as sets of packets and what to do with them.
//!
//! Comes from [`check`](crate::check), which lets only legal rulesets through; goes to
//! [`tree`](crate::tree) and [`codegen`](crate::codegen). All numbers are in host byte order.
//! Never holds anything a later stage would have to refuse.

use std::fmt;
use std::net::IpAddr;

use range_set_blaze::RangeSetBlaze;

use crate::diag::Span;

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

/// One rule. A packet matches when every set contains the packet's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The rule as it was written, on one line, without comments.
    pub text: String,
    /// Where it stands in the source.
    pub span: Span,
    pub proto: Proto,
    /// A family that lacks here or in `daddr` is none of the rule's.
    pub saddr: Addresses,
    pub daddr: Addresses,
    pub sport: RangeSetBlaze<u16>,
    pub dport: RangeSetBlaze<u16>,
    pub action: Action,
    /// Where the packet comes from and goes to, once the action has been carried out.
    pub nat: Nat,
    /// What `skb->mark` becomes, once the action has been carried out.
    pub mark: Option<u32>,
    /// Packets and bytes are counted.
    pub counter: bool,
}

impl Ruleset {
    /// Whether anything is counted: only then does a program have maps.
    pub fn counts(&self) -> bool {
        self.rules.iter().any(|rule| rule.counter)
    }
}

impl Rule {
    /// Whether packets of this family can match.
    pub fn is_about(&self, family: Family) -> bool {
        self.saddr.has(family) && self.daddr.has(family)
    }
}

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        })
    }
}

/// A set of addresses of either family. None of a family: no packet of that family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    pub v4: RangeSetBlaze<u32>,
    pub v6: RangeSetBlaze<u128>,
}

impl Addresses {
    /// Every address of this family.
    pub fn every(family: Family) -> Self {
        match family {
            Family::V4 => RangeSetBlaze::<u32>::universe().into(),
            Family::V6 => RangeSetBlaze::<u128>::universe().into(),
        }
    }

    pub fn has(&self, family: Family) -> bool {
        match family {
            Family::V4 => !self.v4.is_empty(),
            Family::V6 => !self.v6.is_empty(),
        }
    }

    /// Every address of the families that there are addresses of.
    pub fn widened(&self) -> Addresses {
        let mut every = Addresses::default();
        if self.has(Family::V4) {
            every.v4 = RangeSetBlaze::universe();
        }
        if self.has(Family::V6) {
            every.v6 = RangeSetBlaze::universe();
        }
        every
    }

    pub fn is_disjoint(&self, other: &Addresses) -> bool {
        self.v4.is_disjoint(&other.v4) && self.v6.is_disjoint(&other.v6)
    }

    pub fn is_subset(&self, other: &Addresses) -> bool {
        self.v4.is_subset(&other.v4) && self.v6.is_subset(&other.v6)
    }
}

impl From<RangeSetBlaze<u32>> for Addresses {
    fn from(v4: RangeSetBlaze<u32>) -> Self {
        Addresses { v4, v6: RangeSetBlaze::new() }
    }
}

impl From<RangeSetBlaze<u128>> for Addresses {
    fn from(v6: RangeSetBlaze<u128>) -> Self {
        Addresses { v4: RangeSetBlaze::new(), v6 }
    }
}

/// New addresses, of the rule's only family, and ports. Beside `unfunnel`, of the packet below; beside `funnel`,
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

/// What happens to a packet that matches. Processing ends with the first match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Accept,
    Drop,
    /// Push a header between IP and the L4 header that is there.
    Funnel(Funnel),
    /// Pop the funneling header, if there is one; `inner` is what is below it.
    Unfunnel {
        inner: Proto,
        guard: Guard,
    },
    /// Rename a TCP port in place, the old one going to the unused urgent pointer.
    Alias {
        end: End,
        port: u16,
    },
    /// Give a TCP packet back the port that `alias` took from it, if it is one of these.
    Unalias {
        end: End,
        ports: RangeSetBlaze<u16>,
    },
}

/// Which of a packet's two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    Sport,
    Dport,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Sport => "sport",
            End::Dport => "dport",
        })
    }
}

/// The header that `funnel` pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Funnel {
    pub outer: Proto,
    pub sport: u16,
    pub dport: u16,
    /// Of a TCP header; UDP has none.
    pub flags: u8,
}

impl Funnel {
    /// The flag that the original program sets.
    pub const SYN: u8 = 0x02;
}

/// What the ports below a funneling header must be. A funneled packet with others is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    pub sport: RangeSetBlaze<u16>,
    pub dport: RangeSetBlaze<u16>,
}

impl Default for Guard {
    /// Any.
    fn default() -> Self {
        Guard { sport: RangeSetBlaze::universe(), dport: RangeSetBlaze::universe() }
    }
}

/// The L4 protocols that can be matched, pushed and popped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proto {
    Tcp,
    Udp,
}

impl Proto {
    pub const ALL: [Proto; 2] = [Proto::Tcp, Proto::Udp];

    /// The IP protocol number (RFC 790).
    pub const fn number(self) -> u8 {
        match self {
            Proto::Tcp => 6,
            Proto::Udp => 17,
        }
    }

    /// Bytes of the fixed header: also what `funnel` pushes.
    pub const fn header_len(self) -> u8 {
        match self {
            Proto::Tcp => 20,
            Proto::Udp => 8,
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        })
    }
}
