//! A compiled ruleset as JSON, for other tools: rules as sets, the decision tree, the instructions.
//!
//! Takes rules, tree and program, gives a value to serialize. Its shape is documented in docs/tools.md; what changes
//! or takes away a field raises [`VERSION`], what adds one does not.

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr};

use asm::Program;
use range_set_blaze::{Integer, RangeSetBlaze};
use serde::Serialize;

use crate::codegen::Link;
use crate::diag::Source;
use crate::ir::{self, Family, Proto, Ruleset};
use crate::rule_text;
use crate::tree::{self, Tree};

pub const VERSION: u32 = 1;

#[derive(Debug, Serialize)]
pub struct Document<'a> {
    version: u32,
    sfunnel: &'static str,
    source: &'a str,
    link: &'static str,
    rules: Vec<Rule<'a>>,
    tree: Nodes,
    instructions: Vec<Instruction>,
}

/// The first and the last of each run of neighbours.
type Ranges<T> = Vec<[T; 2]>;

#[derive(Debug, Serialize)]
struct Rule<'a> {
    line: usize,
    text: &'a str,
    normal: String,
    protocol: String,
    /// Absent: not about that family.
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<Addresses>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<Addresses>,
    sport: Ranges<u16>,
    dport: Ranges<u16>,
    action: Action,
    /// `snat` and `dnat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    nat: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<u32>,
    counter: bool,
}

#[derive(Debug, Serialize)]
struct Addresses {
    saddr: Ranges<String>,
    daddr: Ranges<String>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Action {
    Accept,
    Drop,
    Funnel { protocol: String, sport: u16, dport: u16, flags: u8 },
    Unfunnel { protocol: String, sport: Ranges<u16>, dport: Ranges<u16> },
    Alias { end: String, port: u16 },
    Unalias { end: String, ports: Ranges<u16> },
}

/// All nodes in one list: a tree may be deeper than readers of JSON like.
#[derive(Debug, Default, Serialize)]
struct Nodes {
    roots: Vec<Root>,
    nodes: Vec<Node>,
}

#[derive(Debug, Serialize)]
struct Root {
    family: String,
    protocol: String,
    node: usize,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Node {
    Miss,
    Rule { rule: usize },
    Test { field: String, op: &'static str, value: u32, yes: usize, no: usize },
    Chain { first: usize, then: usize },
}

#[derive(Debug, Serialize)]
struct Instruction {
    slot: usize,
    bytes: String,
    /// Empty for the second half of a wide instruction.
    text: String,
    rule: Option<u32>,
}

pub fn document<'a>(
    source: &'a Source,
    ruleset: &'a Ruleset,
    tree: &Tree,
    program: &Program,
    link: Link,
) -> Document<'a> {
    Document {
        version: VERSION,
        sfunnel: env!("CARGO_PKG_VERSION"),
        source: &source.name,
        link: match link {
            Link::Ethernet => "ethernet",
            Link::None => "none",
            Link::Either => "either",
        },
        rules: ruleset.rules.iter().map(|rule| self::rule(source, rule)).collect(),
        tree: Nodes::of(tree),
        instructions: instructions(program),
    }
}

fn rule<'a>(source: &Source, rule: &'a ir::Rule) -> Rule<'a> {
    let about = |family| rule.is_about(family);
    let ip = || Addresses {
        saddr: ranges(&rule.saddr.v4, |address| Ipv4Addr::from(address).to_string()),
        daddr: ranges(&rule.daddr.v4, |address| Ipv4Addr::from(address).to_string()),
    };
    let ip6 = || Addresses {
        saddr: ranges(&rule.saddr.v6, |address| Ipv6Addr::from(address).to_string()),
        daddr: ranges(&rule.daddr.v6, |address| Ipv6Addr::from(address).to_string()),
    };
    Rule {
        line: source.line(rule.span.start).1,
        text: &rule.text,
        normal: rule_text::rule(rule),
        protocol: rule.proto.to_string(),
        ip: about(Family::V4).then(ip),
        ip6: about(Family::V6).then(ip6),
        sport: ranges(&rule.sport, |port| port),
        dport: ranges(&rule.dport, |port| port),
        action: action(&rule.action),
        nat: (!rule.nat.is_none()).then(|| rule.nat.to_string()),
        mark: rule.mark,
        counter: rule.counter,
    }
}

fn action(action: &ir::Action) -> Action {
    let text = |value: &dyn Display| value.to_string();
    match action {
        ir::Action::Accept => Action::Accept,
        ir::Action::Drop => Action::Drop,
        ir::Action::Funnel(funnel) => {
            let ir::Funnel { outer, sport, dport, flags } = *funnel;
            Action::Funnel { protocol: text(&outer), sport, dport, flags }
        }
        ir::Action::Unfunnel { inner, guard } => {
            let [sport, dport] = [&guard.sport, &guard.dport].map(|ports| ranges(ports, |port| port));
            Action::Unfunnel { protocol: text(inner), sport, dport }
        }
        ir::Action::Alias { end, port } => Action::Alias { end: text(end), port: *port },
        ir::Action::Unalias { end, ports } => {
            Action::Unalias { end: text(end), ports: ranges(ports, |port| port) }
        }
    }
}

fn ranges<T: Integer, U>(set: &RangeSetBlaze<T>, show: impl Fn(T) -> U) -> Ranges<U> {
    set.ranges().map(|range| [show(*range.start()), show(*range.end())]).collect()
}

impl Nodes {
    fn of(tree: &Tree) -> Self {
        let mut nodes = Nodes::default();
        for family in Family::ALL {
            for proto in Proto::ALL {
                let node = nodes.add(tree.root(family, proto));
                nodes.roots.push(Root { family: family.to_string(), protocol: proto.to_string(), node });
            }
        }
        nodes
    }

    /// Adds a node behind its children, and says where.
    fn add(&mut self, node: &tree::Node) -> usize {
        let node = match node {
            tree::Node::Miss => Node::Miss,
            tree::Node::Rule(rule) => Node::Rule { rule: *rule },
            tree::Node::Test { test, yes, no } => {
                let op = match test.op {
                    tree::Op::Equal => "==",
                    tree::Op::AtMost => "<=",
                };
                let (yes, no) = (self.add(yes), self.add(no));
                Node::Test { field: test.field.to_string(), op, value: test.value, yes, no }
            }
            tree::Node::Chain { first, then } => {
                let (first, then) = (self.add(first), self.add(then));
                Node::Chain { first, then }
            }
        };
        self.nodes.push(node);
        self.nodes.len() - 1
    }
}

fn instructions(program: &Program) -> Vec<Instruction> {
    let bytes = program.bytes();
    let slots = bytes.chunks(8).enumerate();
    slots
        .map(|(slot, bytes)| {
            // The second half of a wide instruction has no operation of its own.
            let text = if bytes.first() == Some(&0) { None } else { program.text_at(slot) };
            let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let text = text.unwrap_or_default().trim().to_owned();
            Instruction { slot, bytes: bytes.join(" "), text, rule: program.origin_at(slot) }
        })
        .collect()
}
