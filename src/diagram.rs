//! The decision diagram: what the rules say, first match first, as tests of one field at a time.
//!
//! Takes the [`Ruleset`], gives a [`Diagram`] for [`codegen`](crate::codegen) to walk. It is a directed acyclic graph:
//! equal questions are one node, however they are reached, so that sets on several fields cost their sum.
//! Never drops or reorders an outcome: `lookup` of any key is what a scan of the rules from the top would find.
//!
//! Two invariants follow from how it is built, and the emitter relies on them: every arm of a test can be taken (verifier
//! rule V2: what the verifier can decide it removes, slowly), and no leaf tests anything again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::ops::RangeInclusive;

use crate::field::Field;
use crate::ir::{Family, Proto, Ruleset, about};
use crate::matches::{Key, Matches};

mod build;
mod compress;
mod parts;
pub mod question;
mod sets;
mod show;

/// Nodes, children before parents, and where to begin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagram {
    nodes: Vec<Node>,
    /// For each family and protocol, the roots of its parts: a miss in one goes on in the next. None: no rule is about
    /// such packets.
    parts: [[Vec<NodeId>; 2]; 2],
    /// The nodes for IPv4, before those for IPv6.
    v4: usize,
}

/// A node's place in its diagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(usize);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// No rule matches.
    Miss,
    /// This rule, by its index in the ruleset.
    Rule(usize),
    /// The arms hold all values that the field can have, in ascending order; neighbours lead to different nodes.
    Test { field: Field, arms: Vec<Arm> },
}

/// From the value after the previous arm's last, or the field's smallest, up to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Arm {
    pub last: u128,
    pub then: NodeId,
}

/// An arm with both of its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span<T = NodeId> {
    pub first: u128,
    pub last: u128,
    pub then: T,
}

/// The arms as spans, from the field's smallest value on.
pub fn spans(min: u128, arms: &[Arm]) -> impl Iterator<Item = Span> {
    let firsts = std::iter::once(min).chain(arms.iter().map(|arm| arm.last.saturating_add(1)));
    arms.iter().zip(firsts).map(|(arm, first)| Span { first, last: arm.last, then: arm.then })
}

/// The nodes that spans lead to, each once and with its values, in the order of the first of them.
fn by_target<T: Copy + Eq + Hash>(
    spans: impl Iterator<Item = Span<T>>,
) -> Vec<(T, Vec<RangeInclusive<u128>>)> {
    let mut targets: Vec<(T, Vec<RangeInclusive<u128>>)> = Vec::new();
    let mut places = HashMap::new();
    for Span { first, last, then } in spans {
        let place = *places.entry(then).or_insert_with(|| {
            targets.push((then, Vec::new()));
            targets.len() - 1
        });
        targets[place].1.push(first..=last);
    }
    targets
}

impl NodeId {
    pub fn index(self) -> usize {
        self.0
    }
}

impl Diagram {
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// How many nodes there are.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// All nodes, children before parents.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(index, node)| (NodeId(index), node))
    }

    /// Where packets of this family and protocol begin; `None` if no rule is about them.
    pub fn root(&self, family: Family, proto: Proto) -> Option<NodeId> {
        self.parts(family, proto).first().copied()
    }

    /// The roots of the parts that the rules were cut into, where one diagram of all would have been too large.
    pub fn parts(&self, family: Family, proto: Proto) -> &[NodeId] {
        &self.parts[family.index()][proto_index(proto)]
    }

    /// What packets come to this node.
    pub fn family(&self, id: NodeId) -> Family {
        if id.0 < self.v4 { Family::V4 } else { Family::V6 }
    }

    /// The index of the first rule that matches.
    pub fn lookup(&self, key: &Key) -> Option<usize> {
        let mut at = self.root(key.family, key.proto)?;
        loop {
            match self.node(at) {
                Node::Miss => return None,
                Node::Rule(rule) => return Some(*rule),
                Node::Test { field, arms } => {
                    let value = key.get(*field);
                    at = arms.get(arms.partition_point(|arm| arm.last < value))?.then;
                }
            }
        }
    }

    /// The nodes that a packet passes, from the root to a leaf.
    pub fn way(&self, key: &Key) -> Vec<NodeId> {
        let mut way: Vec<NodeId> = self.root(key.family, key.proto).into_iter().collect();
        while let Some(Node::Test { field, arms }) = way.last().map(|id| self.node(*id)) {
            let value = key.get(*field);
            match arms.get(arms.partition_point(|arm| arm.last < value)) {
                Some(arm) => way.push(arm.then),
                None => break,
            }
        }
        way
    }

    /// The rules that are leaves of a family's first parts.
    pub fn first_leaves(&self, family: Family) -> BTreeSet<usize> {
        let mut leaves = BTreeSet::new();
        for proto in Proto::ALL {
            let parts = self.parts(family, proto);
            let mut seen: HashSet<NodeId> = parts.iter().skip(1).copied().collect();
            let mut stack: Vec<NodeId> = parts.first().copied().into_iter().collect();
            while let Some(id) = stack.pop() {
                match self.node(id) {
                    _ if !seen.insert(id) => {}
                    Node::Miss => {}
                    Node::Rule(rule) => {
                        leaves.insert(*rule);
                    }
                    Node::Test { arms, .. } => stack.extend(arms.iter().map(|arm| arm.then)),
                }
            }
        }
        leaves
    }

    /// Every rule that one of the packets may reach; some of those that are found may be out of reach all the same.
    /// `None`: it would take more than these steps.
    pub fn reached(
        &self,
        family: Family,
        proto: Proto,
        packets: &Matches,
        steps: &mut usize,
    ) -> Option<BTreeSet<usize>> {
        let mut rules = BTreeSet::new();
        let mut seen = HashSet::new();
        let mut stack: Vec<NodeId> = self.root(family, proto).into_iter().collect();
        while let Some(id) = stack.pop() {
            if !seen.insert(id) {
                continue;
            }
            match self.node(id) {
                Node::Miss => {}
                Node::Rule(rule) => {
                    rules.insert(*rule);
                }
                Node::Test { field, arms } => match packets.get(*field) {
                    None => {
                        *steps = steps.checked_sub(arms.len())?;
                        stack.extend(arms.iter().map(|arm| arm.then));
                    }
                    Some(set) => {
                        for range in set.ranges() {
                            let first = arms.partition_point(|arm| arm.last < *range.start());
                            let last = arms.partition_point(|arm| arm.last < *range.end());
                            *steps = steps.checked_sub(1 + last - first)?;
                            let met = arms.iter().take(last + 1).skip(first);
                            stack.extend(met.map(|arm| arm.then));
                        }
                    }
                },
            }
        }
        Some(rules)
    }

    /// Compares on the longest way to a leaf, through all parts, if each of them halves a test's arms.
    pub fn depth(&self, family: Family, proto: Proto) -> usize {
        let mut depths: Vec<u32> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            depths.push(match node {
                Node::Miss | Node::Rule(_) => 0,
                Node::Test { arms, .. } => {
                    let below = arms.iter().filter_map(|arm| depths.get(arm.then.0)).max().copied();
                    below.unwrap_or_default() + usize::BITS - arms.len().saturating_sub(1).leading_zeros()
                }
            });
        }
        let depth = self.root(family, proto).and_then(|root| depths.get(root.0)).copied();
        depth.and_then(|depth| usize::try_from(depth).ok()).unwrap_or_default()
    }

    /// How many arms lead to each node, and how many roots are it.
    pub fn references(&self) -> Vec<usize> {
        let mut counts = vec![0; self.nodes.len()];
        let arms = self.nodes.iter().flat_map(|node| match node {
            Node::Test { arms, .. } => arms.as_slice(),
            Node::Miss | Node::Rule(_) => &[],
        });
        let roots = self.parts.iter().flatten().flatten();
        arms.map(|arm| arm.then).chain(roots.copied()).for_each(|id| counts[id.0] += 1);
        counts
    }
}

const fn proto_index(proto: Proto) -> usize {
    match proto {
        Proto::Tcp => 0,
        Proto::Udp => 1,
    }
}

/// The diagram that decides like the ruleset.
pub fn build(ruleset: &Ruleset) -> Diagram {
    let mut diagram = Diagram::default();
    for family in Family::ALL {
        for proto in Proto::ALL {
            let rules: Vec<(usize, &Matches)> = about(&ruleset.rules, family, proto).collect();
            if !rules.is_empty() {
                let parts = parts::build(&rules, family, &mut diagram.nodes);
                diagram.parts[family.index()][proto_index(proto)] = parts;
            }
        }
        if family == Family::V4 {
            diagram.v4 = diagram.nodes.len();
        }
    }
    diagram
}
