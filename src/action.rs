//! What happens to a packet that matches: the actions, how each is written in rules and in JSON, and what `mirror` has
//! to know of it.
//!
//! Comes from [`check`](crate::check), which lets only legal ones through. Never knows which packets match.

use std::fmt;

use range_set_blaze::RangeSetBlaze;
use serde::{Serialize, Serializer};

use crate::field::flag_names;
use crate::hops::Hops;
use crate::nodes::Nodes;
use crate::protocol::{End, Proto};
use crate::value_text::{listed, ports};

/// Processing ends with the first match. In JSON, `kind` is the action's name, and each value has its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Action {
    Accept,
    Drop,
    /// Push a header between IP and the L4 header that is there.
    Funnel(Funnel),
    /// Pop the funneling header, if there is one; `inner` is what is below it.
    Unfunnel {
        #[serde(rename = "protocol")]
        inner: Proto,
        #[serde(flatten)]
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
        #[serde(serialize_with = "ranges")]
        ports: RangeSetBlaze<u16>,
    },
    /// Take a TCP packet past an overlay: from a pod's address to a pod's becomes from its host to its host, what tells
    /// the pods apart going to the unused urgent pointer.
    Bypass {
        #[serde(serialize_with = "list")]
        nodes: Nodes,
    },
    /// Give a TCP packet back the addresses that `bypass` took from it.
    Unbypass {
        #[serde(serialize_with = "list")]
        nodes: Nodes,
        /// The port at which it answers probes.
        #[serde(skip_serializing_if = "Option::is_none")]
        probe: Option<u16>,
    },
    /// Send a packet from a pod to a pod past an overlay as it is, to the host that the destination is behind.
    #[serde(rename = "bypass-direct")]
    Direct {
        #[serde(serialize_with = "hosts")]
        hops: Hops,
    },
    /// Hand such a packet to the overlay's interface, from where it would have come.
    #[serde(rename = "unbypass-direct")]
    Undirect {
        /// The port at which it answers probes.
        #[serde(skip_serializing_if = "Option::is_none")]
        probe: Option<u16>,
    },
}

/// The header that `funnel` pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Funnel {
    #[serde(rename = "protocol")]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Guard {
    #[serde(serialize_with = "ranges")]
    pub sport: RangeSetBlaze<u16>,
    #[serde(serialize_with = "ranges")]
    pub dport: RangeSetBlaze<u16>,
}

impl Default for Guard {
    /// Any.
    fn default() -> Self {
        Guard { sport: RangeSetBlaze::universe(), dport: RangeSetBlaze::universe() }
    }
}

/// What an action does to the ports that a rule matches on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortChange {
    /// They stay what they are.
    Kept,
    /// The far end cannot see them: for egress.
    Hidden,
    /// What the far end hid is seen again: for ingress.
    Restored,
}

impl Action {
    pub fn port_change(&self) -> PortChange {
        match self {
            Action::Funnel(_) | Action::Alias { .. } => PortChange::Hidden,
            Action::Unfunnel { .. } | Action::Unalias { .. } => PortChange::Restored,
            Action::Accept
            | Action::Drop
            | Action::Bypass { .. }
            | Action::Unbypass { .. }
            | Action::Direct { .. }
            | Action::Undirect { .. } => PortChange::Kept,
        }
    }

    /// Whether it takes packets past an overlay, or takes them up from there: the same on every node.
    pub fn is_bypass(&self) -> bool {
        matches!(
            self,
            Action::Bypass { .. } | Action::Unbypass { .. } | Action::Direct { .. } | Action::Undirect { .. }
        )
    }

    /// The same action for packets of the other direction.
    pub fn reversed(&self) -> Action {
        match self {
            Action::Funnel(funnel) => {
                Action::Funnel(Funnel { sport: funnel.dport, dport: funnel.sport, ..*funnel })
            }
            Action::Alias { end, port } => Action::Alias { end: end.other(), port: *port },
            Action::Unalias { end, ports } => Action::Unalias { end: end.other(), ports: ports.clone() },
            Action::Unfunnel { inner, guard: Guard { sport, dport } } => Action::Unfunnel {
                inner: *inner,
                guard: Guard { sport: dport.clone(), dport: sport.clone() },
            },
            Action::Accept
            | Action::Drop
            | Action::Bypass { .. }
            | Action::Unbypass { .. }
            | Action::Direct { .. }
            | Action::Undirect { .. } => self.clone(),
        }
    }
}

impl fmt::Display for Action {
    /// As in the normal form of a rule.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Accept => f.write_str("accept"),
            Action::Drop => f.write_str("drop"),
            Action::Funnel(Funnel { outer, sport, dport, flags }) => {
                write!(f, "funnel {outer} sport {sport} dport {dport}")?;
                match *flags {
                    Funnel::SYN => Ok(()),
                    flags => write!(f, " flags {}", flag_names(flags.into(), "|")),
                }
            }
            Action::Unfunnel { inner, guard: Guard { sport, dport } } => {
                write!(f, "unfunnel {inner}")?;
                let guards = [("sport", sport), ("dport", dport)];
                let mut guards = guards.into_iter().filter(|(_, set)| !set.is_universal());
                guards.try_for_each(|(word, set)| write!(f, " {word} {}", ports(set)))
            }
            Action::Alias { end, port } => write!(f, "alias {end} {port}"),
            Action::Unalias { ports, .. } => {
                write!(f, "unalias {}", listed(ports.iter().map(|port| port.to_string()).collect()))
            }
            Action::Bypass { .. } => f.write_str("bypass"),
            Action::Unbypass { probe: None, .. } => f.write_str("unbypass"),
            Action::Unbypass { probe: Some(port), .. } => write!(f, "unbypass probe {port}"),
            Action::Direct { .. } => f.write_str("bypass direct"),
            Action::Undirect { probe: None } => f.write_str("unbypass direct"),
            Action::Undirect { probe: Some(port) } => write!(f, "unbypass direct probe {port}"),
        }
    }
}

/// The first and the last of each run of neighbours.
fn ranges<S: Serializer>(ports: &RangeSetBlaze<u16>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ports.ranges().map(|range| [*range.start(), *range.end()]))
}

/// Hosts, each with the first and the last address of its pods.
#[derive(Serialize)]
struct Pods<A> {
    host: A,
    pods: [A; 2],
}

fn list<S: Serializer>(nodes: &Nodes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(nodes.iter().map(|node| Pods { host: node.host, pods: [node.first, node.last] }))
}

fn hosts<S: Serializer>(hops: &Hops, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(hops.iter().map(|hop| Pods { host: hop.host, pods: [hop.first, hop.last] }))
}
