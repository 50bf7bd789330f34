//! A compiled ruleset as JSON, for other tools: rules as sets, the decision diagram, the instructions.
//!
//! Takes rules, diagram and program, gives a value to serialize. Its shape is documented in docs/tools.md; what changes
//! or takes away a field raises [`VERSION`], what adds one does not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use asm::Program;
use range_set_blaze::{Integer, RangeSetBlaze};
use serde::Serialize;
use serde_json::Value;

use crate::codegen::Link;
use crate::diag::Source;
use crate::diagram::{self, Diagram, NodeId};
use crate::field::{Field, Notation};
use crate::ir::{self, Action, Family, Proto, Ruleset};
use crate::matches::universe;
use crate::rule_text;

pub const VERSION: u32 = 3;

#[derive(Debug, Serialize)]
pub struct Document<'a> {
    version: u32,
    sfunnel: &'static str,
    source: &'a str,
    link: &'static str,
    rules: Vec<Rule<'a>>,
    diagram: Nodes,
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
    /// What matches of IPv4, by field: absent if the rule is not about that family.
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<Fields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<Fields>,
    action: &'a Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    nat: Option<Nat>,
    /// By their keywords.
    #[serde(flatten)]
    settings: BTreeMap<&'static str, u32>,
    counter: bool,
}

/// The values of each field that packets of the family and protocol have: addresses as text, all else as numbers.
type Fields = BTreeMap<&'static str, Ranges<Value>>;

/// What the packet is given.
#[derive(Debug, Serialize)]
struct Nat {
    #[serde(skip_serializing_if = "Option::is_none")]
    snat: Option<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dnat: Option<Endpoint>,
}

#[derive(Debug, Serialize)]
struct Endpoint {
    address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

/// All nodes in one list, children before parents.
#[derive(Debug, Default, Serialize)]
struct Nodes {
    roots: Vec<Root>,
    nodes: Vec<Node>,
}

#[derive(Debug, Serialize)]
struct Root {
    family: String,
    protocol: String,
    /// Absent: no rule is about such packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<usize>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Node {
    Miss,
    Rule {
        rule: usize,
    },
    /// The arms hold all values that the field can have, in ascending order.
    Test {
        field: &'static str,
        arms: Vec<Arm>,
    },
}

/// The target of the values up to this one, from the one after the previous arm's.
#[derive(Debug, Serialize)]
struct Arm {
    last: Value,
    node: usize,
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
    diagram: &Diagram,
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
        diagram: Nodes::of(diagram),
        instructions: instructions(program),
    }
}

fn rule<'a>(source: &Source, rule: &'a ir::Rule) -> Rule<'a> {
    let fields = |family| {
        let matches = rule.of(family)?;
        let there = Field::all().filter(|field| field.exists(family, rule.proto));
        let values = |field: Field| {
            let any = universe(field, family);
            ranges(matches.get(field).unwrap_or(&any), |value| self::value(field, family, value))
        };
        Some(there.map(|field| (field.keyword(), values(field))).collect())
    };
    // Named one by one, so that none is forgotten; `matches` is in `fields`.
    let ir::Rule { text, span, proto, matches: _, action, nat, settings, counter } = rule;
    Rule {
        line: source.line(span.start).1,
        text,
        normal: rule_text::rule(rule),
        protocol: proto.to_string(),
        ip: fields(Family::V4),
        ip6: fields(Family::V6),
        action,
        nat: (!nat.is_none()).then(|| self::nat(*nat)),
        settings: settings.iter().map(|(field, value)| (field.keyword(), value)).collect(),
        counter: *counter,
    }
}

fn nat(nat: ir::Nat) -> Nat {
    let ir::Nat { saddr, daddr, sport, dport } = nat;
    let endpoint = |address: Option<IpAddr>, port| address.map(|address| Endpoint { address, port });
    Nat { snat: endpoint(saddr, sport), dnat: endpoint(daddr, dport) }
}

/// Addresses as text, all else as a number.
fn value(field: Field, family: Family, value: u128) -> Value {
    match (&field.row().notation, u64::try_from(value)) {
        (Notation::Number(_) | Notation::Flags, Ok(number)) => number.into(),
        _ => field.show(family, value).into(),
    }
}

fn ranges<T: Integer, U>(set: &RangeSetBlaze<T>, show: impl Fn(T) -> U) -> Ranges<U> {
    set.ranges().map(|range| [show(*range.start()), show(*range.end())]).collect()
}

impl Nodes {
    fn of(diagram: &Diagram) -> Self {
        let kinds = Family::ALL.into_iter().flat_map(|family| Proto::ALL.map(|proto| (family, proto)));
        let root = |(family, proto)| Root {
            family: Family::to_string(&family),
            protocol: Proto::to_string(&proto),
            node: diagram.root(family, proto).map(NodeId::index),
        };
        let node = |(id, node): (NodeId, &diagram::Node)| match node {
            diagram::Node::Miss => Node::Miss,
            diagram::Node::Rule(rule) => Node::Rule { rule: *rule },
            diagram::Node::Test { field, arms } => {
                let last = |last| value(*field, diagram.family(id), last);
                let arm = |arm: &diagram::Arm| Arm { last: last(arm.last), node: arm.then.index() };
                Node::Test { field: field.keyword(), arms: arms.iter().map(arm).collect() }
            }
        };
        Nodes { roots: kinds.map(root).collect(), nodes: diagram.nodes().map(node).collect() }
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
