//! The diagram as compares and jumps.
//!
//! Comes from [`diagram`](crate::diagram); knows fields and rules, no header but what the registers hold. A node that one
//! way leads to stands right there (V1); one that several lead to stands at the first of them, and the others jump.

use asm::{Insn, Label, Reg, Reg::*};

use super::emit::{Emit, PORTS, UNSPEC, Window};
use super::search::{Run, Search, search};
use super::{Routine, Routines, Variant, Verb};
use crate::diagram::{Diagram, Node, NodeId, Span, spans};
use crate::field::{Field, Place};
use crate::ir::{Action, End, Family, Funnel, Proto, Rule};
use crate::packet;

/// The field that is being looked at, in host byte order. Loaded anew by each test: where ways meet, the verifier should
/// know nothing about it, or it would look at what follows once for each way.
const KEY: Reg = R2;

/// How many instructions ago a leaf may have been emitted for a jump there: a long jump costs what a copy does (V3).
const NEAR: usize = 12_000;

pub(super) fn emit(
    e: &mut Emit,
    diagram: &Diagram,
    (family, proto): (Family, Proto),
    rules: &[Rule],
    routines: &mut Routines,
) {
    let references = diagram.references();
    let emitted = vec![None; diagram.size()];
    let mut walk = Walk { e, diagram, family, proto, rules, routines, references, emitted };
    let parts = diagram.parts(family, proto);
    for part in parts.iter().skip(1) {
        let label = walk.e.label("next_rules");
        walk.emitted[part.index()] = Some(Emitted { label, at: usize::MAX });
    }
    for part in parts {
        if let Some(Emitted { label, .. }) = walk.emitted[part.index()] {
            walk.e.bind(label);
        }
        walk.node(*part);
    }
}

/// Where a node is in the program.
#[derive(Debug, Clone, Copy)]
struct Emitted {
    label: Label,
    at: usize,
}

struct Walk<'a> {
    e: &'a mut Emit,
    diagram: &'a Diagram,
    family: Family,
    proto: Proto,
    rules: &'a [Rule],
    routines: &'a mut Routines,
    references: Vec<usize>,
    emitted: Vec<Option<Emitted>>,
}

impl Walk<'_> {
    /// Goes on at a node: emits it, or jumps to where it is already.
    fn go(&mut self, id: NodeId) {
        if let Some(label) = self.known(id) {
            self.e.origin(None);
            return self.e.goto(label);
        }
        if self.is_shared(id) {
            let name = match self.diagram.node(id) {
                Node::Rule(rule) => format!("rule_{rule}"),
                Node::Miss | Node::Test { .. } => format!("node_{}", id.index()),
            };
            let label = self.e.label(name);
            self.e.bind(label);
            self.emitted[id.index()] = Some(Emitted { label, at: self.e.position() });
        }
        self.node(id);
    }

    /// Where the node is, if a jump there is better than a copy.
    fn known(&self, id: NodeId) -> Option<Label> {
        let Emitted { label, at } = self.emitted[id.index()]?;
        let is_test = matches!(self.diagram.node(id), Node::Test { .. });
        (is_test || self.e.position().saturating_sub(at) < NEAR).then_some(label)
    }

    /// Whether other ways will jump there. What is no more than an exit has a copy everywhere.
    fn is_shared(&self, id: NodeId) -> bool {
        let is_exit = match self.diagram.node(id) {
            Node::Miss => true,
            Node::Rule(rule) => self.rules.get(*rule).is_none_or(|rule| is_exit(rule)),
            Node::Test { .. } => false,
        };
        self.references[id.index()] > 1 && !is_exit
    }

    fn node(&mut self, id: NodeId) {
        match self.diagram.node(id) {
            Node::Miss => {
                self.e.origin(None);
                self.e.exit(UNSPEC);
            }
            Node::Rule(rule) => self.leaf(*rule),
            Node::Test { field, arms } => {
                let spans: Vec<Span> = spans(arms).collect();
                match field.row().place[self.family.index()] {
                    Some(Place::Ip(words)) => self.words(*field, words, 0, &spans),
                    Some(Place::Port(end)) => {
                        self.load_port(end);
                        self.search(*field, None, &whole(&spans));
                    }
                    None => self.e.exit(UNSPEC), // no rule about this family matches on it
                }
            }
        }
    }

    /// A field of several words, from the most significant on: what these are decides, or the next one does.
    fn words(&mut self, field: Field, words: &'static [packet::Field], skip: usize, spans: &[Span]) {
        let Some(word) = words.get(skip) else { return };
        self.e.origin(None);
        self.e.load(KEY, &Window::of_ip_header(self.family.header_len()), *word);
        if words.len() == 1 {
            return self.search(field, None, &whole(spans));
        }
        self.search(field, Some((words, skip)), &by_word(spans, 32 * (words.len() - skip - 1)));
    }

    fn search(
        &mut self,
        field: Field,
        word: Option<(&'static [packet::Field], usize)>,
        runs: &[(u32, Towards)],
    ) {
        // The search wants places that it can compare; those that need more words are told apart by number.
        let mut deeper = Vec::new();
        let mut place = |(last, towards): &(u32, Towards)| {
            let then = match towards {
                Towards::Node(id) => Goal::Node(*id),
                Towards::Next(spans) => {
                    deeper.push(spans.clone());
                    Goal::Next(deeper.len() - 1)
                }
            };
            Run { last: *last, then }
        };
        let runs: Vec<Run<Goal>> = runs.iter().map(&mut place).collect();
        self.e.origin(None);
        search(&mut Test { walk: self, field, word, deeper }, KEY, 0, &runs);
    }

    fn load_port(&mut self, end: End) {
        self.e.origin(None);
        self.e.op(Insn::mov32(KEY, PORTS));
        match end {
            End::Sport => self.e.op_note(Insn::rsh32(KEY, 16_u32), "sport"),
            End::Dport => self.e.op_note(Insn::and32(KEY, 0xffff_u32), "dport"),
        }
    }

    fn leaf(&mut self, number: usize) {
        self.e.origin(Some(number));
        // Without one, this is a diagram of another ruleset: no rule, no action.
        let Some(rule) = self.rules.get(number) else { return self.e.exit(UNSPEC) };
        let variant = Variant { mark: rule.mark, counted: rule.counter, nat: rule.nat, ..Variant::default() };
        if let Some(counter) = self.routines.counters.get(number).copied().flatten() {
            self.e.choose_counter(counter);
        }
        match &rule.action {
            Action::Accept if variant == Variant::default() => self.e.exit(UNSPEC),
            Action::Accept if !variant.nat.is_none() => {
                self.routine(Verb::Nat, self.proto, self.proto, variant);
            }
            Action::Accept => self.routine(Verb::Accept, self.proto, self.proto, variant),
            Action::Drop => self.routine(Verb::Drop, self.proto, self.proto, variant),
            Action::Funnel(Funnel { outer, sport, dport, flags }) => {
                let ports = (u32::from(*sport) << 16) | u32::from(*dport);
                let note = format!("sport {sport}, dport {dport}");
                self.e.op_note(Insn::mov32(PORTS, ports), &note);
                self.routine(Verb::Funnel, self.proto, *outer, Variant { flags: *flags, ..variant });
            }
            Action::Unfunnel { inner, guard } => {
                let guard = [&guard.sport, &guard.dport]
                    .map(|ports| (!ports.is_universal()).then(|| self.routines.list(ports)));
                self.routine(Verb::Unfunnel, *inner, self.proto, Variant { guard, ..variant });
            }
            Action::Alias { end, port } => {
                self.e.op_note(Insn::mov32(PORTS, *port), &format!("{end} {port}"));
                self.routine(Verb::Alias(*end), self.proto, self.proto, variant);
            }
            Action::Unalias { end, ports } => {
                let list = self.routines.list(ports);
                self.routine(Verb::Unalias(*end, list), self.proto, self.proto, variant);
            }
        }
    }

    fn routine(&mut self, verb: Verb, inner: Proto, outer: Proto, variant: Variant) {
        let routine = Routine { family: self.family, verb, inner, outer, variant };
        let label = self.routines.label(self.e, routine);
        self.e.goto(label);
    }
}

/// Whether nothing but the exit is left to do.
fn is_exit(rule: &Rule) -> bool {
    matches!(rule.action, Action::Accept) && rule.mark.is_none() && !rule.counter && rule.nat.is_none()
}

/// Where a run of a word's values leads.
#[derive(Debug, Clone)]
enum Towards {
    Node(NodeId),
    /// The words behind decide: what is left of the spans.
    Next(Vec<Span>),
}

/// The spans of a field that is one word.
fn whole(spans: &[Span]) -> Vec<(u32, Towards)> {
    spans.iter().map(|span| (low(span.last), Towards::Node(span.then))).collect()
}

/// The spans by the word that is above `shift` other bits.
fn by_word(spans: &[Span], shift: usize) -> Vec<(u32, Towards)> {
    let rest = (1_u128 << shift) - 1;
    let mut runs: Vec<(u32, Towards)> = Vec::new();
    for span in spans {
        let (first, last) = (span.first >> shift, span.last >> shift);
        let (from, to) = (span.first & rest, span.last & rest);
        let mut part = |word: u128, first: u128, last: u128| {
            let span = Span { first, last, then: span.then };
            match runs.last_mut() {
                Some((known, Towards::Next(spans))) if *known == low(word) => spans.push(span),
                _ => runs.push((low(word), Towards::Next(vec![span]))),
            }
        };
        if first == last && (from, to) != (0, rest) {
            part(first, from, to);
            continue;
        }
        if from != 0 {
            part(first, from, rest);
        }
        let inside = first + u128::from(from != 0)..last + u128::from(to == rest);
        if !inside.is_empty() {
            runs.push((low(inside.end - 1), Towards::Node(span.then)));
        }
        if to != rest {
            runs.push((low(last), Towards::Next(vec![Span { first: 0, last: to, then: span.then }])));
        }
    }
    runs
}

fn low(value: u128) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Node(NodeId),
    /// The words behind, by number.
    Next(usize),
}

/// A test of one word of a field.
struct Test<'a, 'b> {
    walk: &'a mut Walk<'b>,
    field: Field,
    /// Of a field of several words: which one.
    word: Option<(&'static [packet::Field], usize)>,
    deeper: Vec<Vec<Span>>,
}

impl Test<'_, '_> {
    fn name(&self) -> String {
        match self.word {
            None => self.field.to_string(),
            Some((_, at)) => format!("{}[{}..{}]", self.field, 32 * at, 32 * at + 31),
        }
    }

    fn show(&self, value: u32) -> String {
        match self.word {
            None => self.field.show(self.walk.family, value.into()),
            Some(_) => format!("{:x}:{:x}", value >> 16, value & 0xffff),
        }
    }
}

impl Search for Test<'_, '_> {
    type Place = Goal;

    fn emit(&mut self) -> &mut Emit {
        self.walk.e
    }

    fn go(&mut self, goal: Goal) {
        match (goal, self.word) {
            (Goal::Node(id), _) => self.walk.go(id),
            (Goal::Next(at), Some((words, skip))) => {
                let spans = std::mem::take(&mut self.deeper[at]);
                self.walk.words(self.field, words, skip + 1, &spans);
            }
            (Goal::Next(_), None) => {}
        }
    }

    fn label(&mut self, goal: Goal) -> Option<Label> {
        match goal {
            Goal::Node(id) => self.walk.known(id),
            Goal::Next(_) => None,
        }
    }

    fn note(&self, op: &str, value: u32) -> String {
        format!("{} {op} {}", self.name(), self.show(value))
    }

    fn other(&mut self, word: &str, value: u32) -> Label {
        let name = format!("{}_{word}_{}", self.name(), self.show(value));
        self.walk.e.label(name)
    }
}
