//! The model's own list of actions: how each is written, what random rules with it look like, what it does to a packet,
//! and what its counter says where it does nothing.
//!
//! A new action is a variant here and an arm in each function; the compiler says where. What it does to the bytes is a
//! function of `model.rs`. Never looks at the crate's actions, but to read them from its JSON.

use std::collections::BTreeSet;
use std::fmt;

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use sfunnel::ir;

use super::arb::PORTS;
use super::json::{end, hops, member, nodes, number, ports, proto, text};
use super::model::{Packet, Verdict, be16};
use super::packet::{TCP, UDP};
use super::rules::{Match, Ports, Rule, proto_name};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Accept,
    Drop,
    Funnel {
        outer: u8,
        sport: u16,
        dport: u16,
    },
    Unfunnel {
        inner: u8,
    },
    /// Of the destination port, or of the source port.
    Alias {
        destination: bool,
        port: u16,
    },
    Unalias {
        ports: Vec<u16>,
    },
    /// Between [`nodes_of`](super::rules::nodes_of) the ruleset.
    Bypass,
    Unbypass {
        probe: Option<u16>,
    },
    /// Between [`hops_of`](super::rules::hops_of) the ruleset.
    Direct,
    Undirect {
        probe: Option<u16>,
    },
}

impl Action {
    /// The words of an action, without what stands beside it.
    pub fn parse(words: &[&str]) -> Option<Action> {
        let proto = |name: &str| [TCP, UDP].into_iter().find(|proto| proto_name(*proto) == name);
        Some(match *words {
            ["accept"] => Action::Accept,
            ["drop"] => Action::Drop,
            ["alias", end @ ("sport" | "dport"), port] => {
                Action::Alias { destination: end == "dport", port: port.parse().ok()? }
            }
            ["unalias", ref ports @ ..] => {
                let ports = ports.join(" ").replace(['{', '}', ','], " ");
                Action::Unalias {
                    ports: ports.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?,
                }
            }
            ["bypass"] => Action::Bypass,
            ["unbypass"] => Action::Unbypass { probe: None },
            ["unbypass", "probe", port] => Action::Unbypass { probe: Some(port.parse().ok()?) },
            ["bypass", "direct"] => Action::Direct,
            ["unbypass", "direct"] => Action::Undirect { probe: None },
            ["unbypass", "direct", "probe", port] => Action::Undirect { probe: Some(port.parse().ok()?) },
            ["unfunnel", inner] => Action::Unfunnel { inner: proto(inner)? },
            ["funnel", outer, "sport", sport, "dport", dport]
            | ["funnel", outer, "dport", dport, "sport", sport] => Action::Funnel {
                outer: proto(outer)?,
                sport: sport.parse().ok()?,
                dport: dport.parse().ok()?,
            },
            _ => return None,
        })
    }

    pub fn is_bypass(&self) -> bool {
        matches!(self, Action::Bypass | Action::Unbypass { .. } | Action::Direct | Action::Undirect { .. })
    }

    /// For ingress: it restores what another end has hidden.
    pub fn restores(&self) -> bool {
        matches!(
            self,
            Action::Unfunnel { .. }
                | Action::Unalias { .. }
                | Action::Unbypass { .. }
                | Action::Undirect { .. }
        )
    }

    /// Random ones.
    pub fn any() -> impl Strategy<Value = Action> {
        let proto = || select(&[UDP, TCP][..]);
        let port = || select(&PORTS[..]);
        prop_oneof![
            2 => Just(Action::Accept),
            2 => Just(Action::Drop),
            4 => (proto(), port(), port()).prop_map(|(outer, sport, dport)| Action::Funnel { outer, sport, dport }),
            4 => proto().prop_map(|inner| Action::Unfunnel { inner }),
            3 => (any::<bool>(), port()).prop_map(|(destination, port)| Action::Alias { destination, port }),
            3 => listed().prop_map(|ports| Action::Unalias { ports }),
            2 => Just(Action::Bypass),
            2 => weighted(0.5, select(&PORTS[..])).prop_map(|probe| Action::Unbypass { probe }),
            2 => Just(Action::Direct),
            2 => weighted(0.5, select(&PORTS[..])).prop_map(|probe| Action::Undirect { probe }),
        ]
    }

    /// Does it to a packet, as far as it can be done: what becomes of the bytes, and where they go. `None`: nothing was
    /// done.
    pub(super) fn carry_out(
        rule: &Rule,
        packet: &Packet,
        frame: &[u8],
        gso_size: u32,
    ) -> (Option<Vec<u8>>, Verdict) {
        let passed = |changed| (changed, Verdict::Pass);
        let redirected = |changed: Option<Vec<u8>>| match changed {
            None => (None, Verdict::Pass),
            changed => (changed, Verdict::Redirect),
        };
        match &rule.action {
            Action::Accept => passed((rule.extra.nat != [None; 2]).then(|| frame.to_vec())),
            Action::Drop => (None, Verdict::Drop),
            Action::Funnel { .. } | Action::Unfunnel { .. } if gso_size != 0 => passed(None),
            Action::Funnel { outer, sport, dport } => {
                passed(packet.funnel(frame, *outer, *sport, *dport, rule.extra.flags.unwrap_or(0x02)))
            }
            Action::Unfunnel { inner } => {
                let changed = packet.unfunnel(frame, *inner);
                let inside = packet.l4 + if packet.proto == TCP { 20 } else { 8 };
                let refused =
                    changed.is_some() && !rule.extra.allows(be16(frame, inside), be16(frame, inside + 2));
                (changed, if refused { Verdict::Drop } else { Verdict::Pass })
            }
            Action::Alias { destination, port } => passed(packet.alias(frame, *destination, *port)),
            Action::Unalias { ports } => {
                let end = rule.restores_destination();
                passed(end.and_then(|destination| packet.unalias(frame, destination, ports)))
            }
            Action::Bypass => redirected(packet.bypass(frame)),
            Action::Direct => redirected(packet.has_hop(frame).then(|| frame.to_vec())),
            Action::Undirect { probe } => packet.undirect(frame, *probe),
            Action::Unbypass { probe } => {
                redirected(match probe.and_then(|port| packet.probed(frame, port)) {
                    Some(answer) => answer,
                    None => packet.unbypass(frame),
                })
            }
        }
    }

    /// Why it was not done to a whole packet that has the rule's ports: of which nothing else can be said, `malformed`.
    /// `urgent`: the flag is set; `pointer`: that field; `verdict`: what became of it.
    pub fn reason(
        &self,
        proto: u8,
        urgent: bool,
        pointer: u16,
        verdict: Verdict,
        malformed: bool,
    ) -> &'static str {
        match self {
            Action::Unfunnel { .. } if verdict == Verdict::Drop => "guarded",
            Action::Unfunnel { .. } => "not-funneled",
            _ if malformed => "malformed",
            Action::Funnel { .. } if proto == UDP => "malformed",
            Action::Funnel { .. } => "funneled-already",
            Action::Alias { .. } => "not-aliasable",
            Action::Unalias { .. } if urgent => "not-aliasable",
            Action::Unalias { .. } => "not-listed",
            Action::Unbypass { .. } if urgent => "not-aliasable",
            Action::Unbypass { .. } if pointer == 0 => "not-bypassed",
            Action::Bypass if urgent || pointer != 0 => "not-aliasable",
            Action::Bypass | Action::Unbypass { .. } => "no-peer",
            Action::Direct | Action::Undirect { .. } => "no-peer",
            Action::Accept | Action::Drop => unreachable!("nothing speaks against a verdict"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Accept => f.write_str("accept"),
            Action::Drop => f.write_str("drop"),
            Action::Funnel { outer, sport, dport } => {
                write!(f, "funnel {} sport {sport} dport {dport}", proto_name(*outer))
            }
            Action::Unfunnel { inner } => write!(f, "unfunnel {}", proto_name(*inner)),
            Action::Bypass => f.write_str("bypass"),
            Action::Unbypass { probe: None } => f.write_str("unbypass"),
            Action::Unbypass { probe: Some(port) } => write!(f, "unbypass probe {port}"),
            Action::Direct => f.write_str("bypass direct"),
            Action::Undirect { probe: None } => f.write_str("unbypass direct"),
            Action::Undirect { probe: Some(port) } => write!(f, "unbypass direct probe {port}"),
            Action::Alias { destination: true, port } => write!(f, "alias dport {port}"),
            Action::Alias { destination: false, port } => write!(f, "alias sport {port}"),
            Action::Unalias { ports } => match &ports[..] {
                [one] => write!(f, "unalias {one}"),
                many => {
                    let many: Vec<String> = many.iter().map(u16::to_string).collect();
                    write!(f, "unalias {{ {} }}", many.join(", "))
                }
            },
        }
    }
}

/// The rule as it is legal with its action: `alias` and `unalias` are for TCP, to another port, and with one single port
/// to restore from.
pub fn repair(rule: &mut Rule) {
    match &mut rule.action {
        Action::Alias { destination, port } => {
            rule.proto = TCP;
            let matched = if *destination { &rule.dport } else { &rule.sport };
            if matched.as_ref().is_some_and(|m| m.single() == Some(*port)) {
                *port = port.wrapping_add(1).max(1);
            }
        }
        Action::Unalias { .. } => {
            rule.proto = TCP;
            if rule.restores_destination().is_none() {
                rule.sport = None;
                let port = rule.dport.as_ref().map_or(80, |m| m.values[0].0);
                rule.dport = Some(Match::one(Ports(port, port)));
            }
        }
        Action::Bypass | Action::Unbypass { .. } => {
            rule.proto = TCP;
            for addresses in [&mut rule.saddr, &mut rule.daddr] {
                *addresses = addresses.take().filter(|m| m.values.iter().all(|value| !value.is_ipv6()));
            }
            rule.ip = if rule.saddr.is_some() || rule.daddr.is_some() {
                rule.ip.filter(|v| *v == 4)
            } else {
                Some(4)
            };
        }
        Action::Undirect { probe: Some(_) } => rule.proto = TCP,
        Action::Direct | Action::Undirect { probe: None } => {}
        Action::Accept | Action::Drop | Action::Funnel { .. } | Action::Unfunnel { .. } => {}
    }
}

/// Short lists, long ones, and runs of neighbours.
fn listed() -> impl Strategy<Value = Vec<u16>> {
    let port = prop_oneof![3 => select(&PORTS[..]), 2 => 1u16..20, 1 => 1u16..];
    let long = prop_oneof![4 => 1usize..5, 1 => 5usize..40];
    long.prop_flat_map(move |n| vec(port.clone(), n)).prop_map(|ports| {
        let once: BTreeSet<u16> = ports.into_iter().collect();
        once.into_iter().collect()
    })
}

/// The crate's action, as its JSON says: everything about it must be there.
pub fn from_json(value: &Value) -> ir::Action {
    let port = |name| number(member(value, name));
    let set = |name| ports(member(value, name));
    match text(value, "kind") {
        "accept" => ir::Action::Accept,
        "drop" => ir::Action::Drop,
        "funnel" => {
            let flags = number(member(value, "flags"));
            let (sport, dport) = (port("sport"), port("dport"));
            ir::Action::Funnel(ir::Funnel { outer: proto(value), sport, dport, flags })
        }
        "unfunnel" => {
            let guard = ir::Guard { sport: set("sport"), dport: set("dport") };
            ir::Action::Unfunnel { inner: proto(value), guard }
        }
        "alias" => ir::Action::Alias { end: end(value), port: port("port") },
        "unalias" => ir::Action::Unalias { end: end(value), ports: set("ports") },
        "bypass" => ir::Action::Bypass { nodes: nodes(member(value, "nodes")) },
        "unbypass" => ir::Action::Unbypass {
            nodes: nodes(member(value, "nodes")),
            probe: value.get("probe").map(number),
        },
        "bypass-direct" => ir::Action::Direct { hops: hops(member(value, "hops")) },
        "unbypass-direct" => ir::Action::Undirect { probe: value.get("probe").map(number) },
        other => panic!("no action: {other}"),
    }
}
