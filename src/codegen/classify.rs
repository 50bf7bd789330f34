//! The diagram as compares and jumps, all of them forward.
//!
//! Comes from [`diagram`](crate::diagram); knows fields and rules, no header but what the registers hold. A node that one
//! way leads to stands right there (V1); one that several lead to stands after the last node that leads to it. Leaves
//! and exits have as many copies as it takes for the jumps to them to be short (V3).
//!
//! Forward only: jumps back to code of which the kernel's JIT knows the size already make it shrink and grow others in
//! turn, until it gives up ("unexpected jmp_cond padding", arch/x86/net/bpf_jit_comp.c).

use std::collections::{BTreeSet, VecDeque};

use asm::{Label, Reg, Reg::R2};

use super::bits;
use super::emit::{Emit, UNSPEC};
use super::fetch;
use super::routine::{self, Routines};
use super::runs::{Towards, by_word, low, whole};
use super::search::{Run, Search, search};
use super::tags::Kept;
use crate::diagram::{Diagram, Node, NodeId, Span, spans};
use crate::field::{Field, Notation};
use crate::ir::{Family, Proto, Rule};
use crate::packet;

/// The field that is being looked at, in host byte order. Loaded anew by each test: where ways meet, the verifier should
/// know nothing about it, or it would look at what follows once for each way.
const KEY: Reg = R2;

/// How many instructions after a jump to a leaf there is a copy of it.
const NEAR: usize = 8_000;

pub(super) fn emit(
    e: &mut Emit,
    diagram: &Diagram,
    (family, proto): (Family, Proto),
    rules: &[Rule],
    routines: &mut Routines,
) {
    let parents = diagram.nodes().map(|_| 0).collect();
    let (awaited, known) = (vec![None; diagram.size()], vec![None; diagram.size()]);
    let order = VecDeque::new();
    let unchanged = diagram.nodes().find(|(_, node)| matches!(node, Node::Miss)).map(|(id, _)| id);
    let mut walk =
        Walk { e, diagram, family, proto, rules, routines, parents, awaited, order, known, unchanged };
    walk.count_parents();
    let parts = diagram.parts(family, proto);
    for part in parts.iter().skip(1) {
        // What misses in the part in front jumps here.
        walk.known[part.index()] = Some(walk.e.label("next_rules"));
    }
    for part in parts {
        if let Some(label) = walk.known[part.index()] {
            walk.e.bind(label);
        }
        walk.node(*part);
        walk.copy_leaves(0);
    }
    e.place(None);
    e.origin(None);
}

struct Walk<'a> {
    e: &'a mut Emit,
    diagram: &'a Diagram,
    family: Family,
    proto: Proto,
    rules: &'a [Rule],
    routines: &'a mut Routines,
    /// For each node, how many that lead to it have not been emitted yet.
    parents: Vec<usize>,
    /// For each leaf, where jumps to its next copy go.
    awaited: Vec<Option<Label>>,
    /// The leaves with such a label, each with how many instructions there were at its first jump.
    order: VecDeque<(usize, NodeId)>,
    /// The labels of nodes that stand on their own.
    known: Vec<Option<Label>>,
    /// Of the leaves, one that changes nothing.
    unchanged: Option<NodeId>,
}

impl Walk<'_> {
    fn count_parents(&mut self) {
        let references = self.diagram.references();
        for (_, node) in self.diagram.nodes() {
            let Node::Test { field, .. } = node else { continue };
            // A value of several words is looked at word by word, and flags bit by bit, which may lead to the same node
            // several times.
            let is_long = field.largest(self.family) > u128::from(u32::MAX)
                || matches!(field.row().notation, Notation::Flags);
            for child in children(node).filter(|child| is_test(self.diagram.node(*child))) {
                self.parents[child.index()] += 1;
                if self.known[child.index()].is_none() && (is_long || references[child.index()] > 1) {
                    self.known[child.index()] = Some(self.e.label(format!("node_{}", child.index())));
                }
            }
        }
    }

    /// Goes on at a node: jumps there, or emits it.
    fn go(&mut self, id: NodeId) {
        match self.known[id.index()] {
            Some(label) => {
                self.e.origin(None);
                self.e.goto(label);
            }
            None => self.node(id),
        }
    }

    /// Where to jump for a node.
    fn label(&mut self, id: NodeId) -> Option<Label> {
        if self.known[id.index()].is_some() {
            return self.known[id.index()];
        }
        let name = match self.diagram.node(id) {
            Node::Miss => "miss".to_owned(),
            Node::Rule(rule) => format!("rule_{rule}"),
            Node::Test { .. } => return None,
        };
        if self.awaited[id.index()].is_none() {
            self.awaited[id.index()] = Some(self.e.label(name));
            self.order.push_back((self.e.position(), id));
        }
        self.awaited[id.index()]
    }

    /// Emits leaves to which jumps go from farther back than this, where nothing falls through.
    fn copy_leaves(&mut self, near: usize) {
        while let Some((at, id)) = self.order.front().copied() {
            if self.awaited[id.index()].is_some() {
                if self.e.position() - at < near {
                    return;
                }
                self.node(id);
            }
            self.order.pop_front();
        }
    }

    fn node(&mut self, id: NodeId) {
        if let Some(label) = self.awaited[id.index()].take() {
            self.e.bind(label);
        }
        self.e.place(place(id));
        let node = self.diagram.node(id);
        match node {
            Node::Miss => {
                self.e.origin(None);
                self.e.exit(UNSPEC);
            }
            Node::Rule(rule) => self.leaf(*rule),
            Node::Test { field, arms } => {
                let min = field.smallest(self.family);
                let spans: Vec<Span> = spans(min, arms).collect();
                match field.row().place[self.family.index()] {
                    Some(place) if place.words.len() > 1 => self.words(id, *field, (place.words, 0), &spans),
                    Some(place) => {
                        self.e.origin(None);
                        fetch::emit(self.e, KEY, self.family, place, field.keyword());
                        self.search(id, *field, None, low(min), &whole(&spans));
                    }
                    None => self.e.exit(UNSPEC), // no rule about this family matches on it
                }
                self.emit_children(node);
            }
        }
    }

    /// The nodes that stand on their own, once all that lead to them have been emitted.
    fn emit_children(&mut self, node: &Node) {
        for child in children(node).filter(|child| is_test(self.diagram.node(*child))) {
            let left = &mut self.parents[child.index()];
            *left = left.saturating_sub(1);
            if let (0, Some(label)) = (*left, self.known[child.index()])
                && !self.diagram.parts(self.family, self.proto).contains(&child)
            {
                self.e.bind(label);
                self.node(child);
            }
        }
        self.copy_leaves(NEAR);
    }

    /// A field of several words, from the most significant on: what these are decides, or the next one does.
    fn words(&mut self, id: NodeId, field: Field, (words, skip): Word, spans: &[Span]) {
        let Some(word) = words.get(skip) else { return };
        self.e.origin(None);
        self.e.place(place(id));
        fetch::word(self.e, KEY, self.family, *word);
        self.search(id, field, Some((words, skip)), 0, &by_word(spans, 32 * (words.len() - skip - 1)));
    }

    fn search(&mut self, id: NodeId, field: Field, word: Option<Word>, first: u32, runs: &[(u32, Towards)]) {
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
        let mut test = Test { walk: self, id, field, word, deeper };
        match field.row().notation {
            Notation::Flags => bits::search(&mut test, KEY, &runs),
            Notation::Address | Notation::Number(_) => search(&mut test, KEY, first, &runs),
        }
    }

    fn leaf(&mut self, number: usize) {
        self.e.origin(Some(number));
        // Without one, this is a diagram of another ruleset: no rule, no action.
        let Some(rule) = self.rules.get(number) else { return self.e.exit(UNSPEC) };
        match self.unchanged.filter(|_| routine::does_nothing(rule) && self.e.kept == Kept::Register) {
            Some(id) => self.pass(id),
            None => self.routines.leaf(self.e, (self.family, self.proto), number, rule),
        }
    }

    /// As with what no rule matches. Where a tag may have to be put back, one copy of the exit does for many leaves.
    fn pass(&mut self, unchanged: NodeId) {
        match self.label(unchanged) {
            Some(label) => self.e.goto(label),
            None => self.e.exit(UNSPEC),
        }
    }
}

/// The words of a field, and how many of them have been looked at.
type Word = (&'static [packet::Field], usize);

/// The tag of a node's instructions.
fn place(id: NodeId) -> Option<u32> {
    u32::try_from(id.index()).ok()
}

fn is_test(node: &Node) -> bool {
    matches!(node, Node::Test { .. })
}

/// The nodes that a test leads to, each once, the last of them first: the jump to it may fall through.
fn children(node: &Node) -> impl Iterator<Item = NodeId> + use<> {
    let arms = match node {
        Node::Test { arms, .. } => arms.as_slice(),
        Node::Miss | Node::Rule(_) => &[],
    };
    let children: BTreeSet<NodeId> = arms.iter().map(|arm| arm.then).collect();
    children.into_iter().rev()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Node(NodeId),
    /// The next words, by number.
    Next(usize),
}

/// A test of one word of a field.
struct Test<'a, 'b> {
    walk: &'a mut Walk<'b>,
    id: NodeId,
    field: Field,
    /// Of a field of several words: which one.
    word: Option<Word>,
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
        // Between two compares of a test stands what the first of them leads to.
        self.walk.e.place(place(self.id));
        self.walk.e.origin(None);
        self.walk.e
    }

    fn go(&mut self, goal: Goal) {
        match (goal, self.word) {
            (Goal::Node(id), _) => self.walk.go(id),
            (Goal::Next(at), Some((words, skip))) => {
                let spans = std::mem::take(&mut self.deeper[at]);
                self.walk.words(self.id, self.field, (words, skip + 1), &spans);
            }
            (Goal::Next(_), None) => {}
        }
    }

    fn label(&mut self, goal: Goal) -> Option<Label> {
        match goal {
            Goal::Node(id) => self.walk.label(id),
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
