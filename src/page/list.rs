//! The rules of one hook, with their diagram and their instructions.
//!
//! Takes what was compiled, gives data. Numbers of rules, nodes and instructions are those of `--emit json`.

use std::collections::{BTreeMap, HashMap};

use asm::Program;
use serde::Serialize;

use super::listing::Listing;
use super::remark::Offsets;
use crate::diag::{Source, Span};
use crate::diagram::{Diagram, Node, NodeId};
use crate::drawing::{self, Drawing};
use crate::ir::{Family, Proto, Ruleset};
use crate::kernel::counters::Counts;
use crate::rule_text;
use crate::value_text;

#[derive(Debug, Serialize)]
pub struct List<'a> {
    /// What it is for: `ingress`, `pod, egress`; empty if the rules are for any hook.
    name: String,
    /// Whether its rules are what is written, or follow from that.
    derived: bool,
    rules: Rules<'a>,
    nodes: Vec<Branch>,
    roots: Vec<Root>,
    drawings: Vec<Drawing>,
    listing: Option<Listing>,
    /// What else there is to say, name by name.
    facts: Vec<(&'static str, String)>,
}

/// Column by column: there may be many.
#[derive(Debug, Default, Serialize)]
struct Rules<'a> {
    /// Where each stands in the text: characters behind the start of the one before, and how many it has.
    starts: Vec<i64>,
    lengths: Vec<usize>,
    /// Of rules that follow from others.
    texts: Vec<&'a str>,
    /// Each protocol and action once, and which of them each rule has.
    words: Vec<String>,
    protocols: Vec<usize>,
    actions: Vec<usize>,
    counts: BTreeMap<usize, Count>,
    #[serde(skip)]
    last: i64,
    #[serde(skip)]
    known: HashMap<String, usize>,
}

impl Rules<'_> {
    fn push(&mut self, (start, end): (usize, usize), protocol: String, action: String) {
        let at = i64::try_from(start).unwrap_or(i64::MAX);
        self.starts.push(at - self.last);
        self.last = at;
        self.lengths.push(end - start);
        for (word, protocol) in [(protocol, true), (action, false)] {
            let next = self.words.len();
            let known = *self.known.entry(word).or_insert_with_key(|word| {
                self.words.push(word.clone());
                next
            });
            if protocol { self.protocols.push(known) } else { self.actions.push(known) }
        }
    }
}

#[derive(Debug, Serialize)]
struct Count {
    packets: u64,
    bytes: u64,
    /// Why packets were left alone or dropped, and how many.
    reasons: Vec<(&'static str, u64)>,
}

#[derive(Debug, Serialize)]
struct Root {
    name: String,
    node: usize,
}

/// A node: what its field's values lead to, as distances back from it, since children stand before their parents.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Branch {
    Miss(()),
    Rule(usize),
    Test(&'static str, Vec<(String, usize)>, usize),
}

/// Characters of values: more are not read.
const LONGEST: usize = 200;

impl<'a> List<'a> {
    pub fn new(
        name: String,
        derived: bool,
        (source, ruleset): (&Source, &'a Ruleset),
        diagram: &Diagram,
        program: Option<&Program>,
    ) -> Self {
        let offsets = Offsets::new(&source.text);
        let mut rules = Rules::default();
        for rule in &ruleset.rules {
            rules.push(offsets.span(rule.span), rule.proto.to_string(), rule_text::actions(rule));
            rules.texts.extend(derived.then_some(rule.text.as_str()));
        }
        let kinds = Family::ALL.into_iter().flat_map(|family| Proto::ALL.map(|proto| (family, proto)));
        let root = |(family, proto): (Family, Proto)| {
            let node = diagram.root(family, proto)?.index();
            Some(Root { name: format!("{family} {proto}"), node })
        };
        List {
            name,
            derived,
            rules,
            nodes: diagram.nodes().map(|(id, node)| branch(diagram, id, node)).collect(),
            roots: kinds.filter_map(root).collect(),
            drawings: drawing::drawings(diagram, ruleset),
            listing: program.map(Listing::new),
            facts: Vec::new(),
        }
    }

    /// Rules of which there is only the text: these lines.
    pub(super) fn of_lines(name: String, source: &Source, lines: &[Span]) -> Self {
        let offsets = Offsets::new(&source.text);
        let mut rules = Rules::default();
        lines.iter().for_each(|span| rules.push(offsets.span(*span), String::new(), String::new()));
        List {
            name,
            derived: false,
            rules,
            nodes: Vec::new(),
            roots: Vec::new(),
            drawings: Vec::new(),
            listing: None,
            facts: Vec::new(),
        }
    }

    #[must_use]
    pub(super) fn with(self, facts: Vec<(&'static str, String)>) -> Self {
        List { facts, ..self }
    }

    /// With what its rules have counted.
    #[must_use]
    pub fn counted(mut self, counts: &Counts) -> Self {
        for counted in &counts.rules {
            let reasons = counted.reasons.iter();
            let reasons = reasons.map(|reason| (reason.reason.text(), reason.count.packets)).collect();
            let count = Count { packets: counted.count.packets, bytes: counted.count.bytes, reasons };
            self.rules.counts.insert(counted.about.rule, count);
        }
        self
    }
}

fn branch(diagram: &Diagram, id: NodeId, node: &Node) -> Branch {
    match (node, diagram.groups(id)) {
        (Node::Rule(rule), _) => Branch::Rule(*rule),
        (Node::Test { field, .. }, Some((groups, rest))) => {
            let values = |values| {
                let text = value_text::elements(*field, diagram.family(id), values);
                match text.char_indices().nth(LONGEST) {
                    Some((end, _)) => format!("{}…", &text[..end]),
                    None => text,
                }
            };
            let back = |then: NodeId| id.index().saturating_sub(then.index());
            let groups = groups.iter().map(|(then, set)| (values(set), back(*then)));
            Branch::Test(field.keyword(), groups.collect(), back(rest))
        }
        _ => Branch::Miss(()),
    }
}
