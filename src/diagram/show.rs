//! The diagram as text, for `sfunnel compile --emit diagram` and the goldens.
//!
//! One line for all values of a field that lead to the same node, what follows indented below it, `else` for the values
//! that are left. A node to which several ways lead is shown once, by its number, after the rest.

use std::collections::BTreeSet;
use std::fmt;

use super::{Arm, Diagram, Node, NodeId, by_target, spans};
use crate::ir::{Family, Proto};
use crate::matches::Set;
use crate::value_text;

impl fmt::Display for Diagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dual = Proto::ALL.iter().any(|proto| self.root(Family::V6, *proto).is_some());
        let references = self.references();
        for family in Family::ALL.into_iter().take(if dual { 2 } else { 1 }) {
            for proto in Proto::ALL {
                let name = if dual { format!("{family} {proto}") } else { proto.to_string() };
                let Some(root) = self.root(family, proto) else {
                    writeln!(f, "{name} -> miss")?;
                    continue;
                };
                let mut show =
                    Show { diagram: self, family, references: &references, shared: BTreeSet::new() };
                show.node(f, 0, &name, root, true)?;
                // Parents have larger numbers than their children.
                while let Some(next) = show.shared.pop_last() {
                    show.node(f, 0, &format!("{next}"), next, true)?;
                }
            }
        }
        Ok(())
    }
}

impl Diagram {
    /// What a test's values lead to, in the order of the first value of each, and what all others do; of a leaf, none.
    pub fn groups(&self, id: NodeId) -> Option<(Vec<(NodeId, Set)>, NodeId)> {
        match self.node(id) {
            Node::Test { field, arms } => Some(groups(field.smallest(self.family(id)), arms)),
            Node::Miss | Node::Rule(_) => None,
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

struct Show<'a> {
    diagram: &'a Diagram,
    family: Family,
    references: &'a [usize],
    shared: BTreeSet<NodeId>,
}

impl Show<'_> {
    fn node(
        &mut self,
        f: &mut fmt::Formatter<'_>,
        depth: usize,
        head: &str,
        id: NodeId,
        first: bool,
    ) -> fmt::Result {
        write!(f, "{:indent$}{head}", "", indent = depth * 2)?;
        match self.diagram.node(id) {
            Node::Miss => writeln!(f, " -> miss"),
            Node::Rule(rule) => writeln!(f, " -> rule {rule}"),
            Node::Test { .. } if self.references[id.0] > 1 && !first => {
                self.shared.insert(id);
                writeln!(f, " -> {id}")
            }
            Node::Test { field, arms } => {
                writeln!(f)?;
                let (groups, rest) = groups(field.smallest(self.family), arms);
                for (then, values) in groups {
                    let head = format!("{field} {}", value_text::elements(*field, self.family, &values));
                    self.node(f, depth + 1, &head, then, false)?;
                }
                self.node(f, depth + 1, "else", rest, false)
            }
        }
    }
}

/// The nodes that arms lead to, each with its values, in the order of the first of them; and the node of all other
/// values, which is that of the most arms, the first one of several.
fn groups(min: u128, arms: &[Arm]) -> (Vec<(NodeId, Set)>, NodeId) {
    let mut groups = by_target(spans(min, arms));
    let most = (0..groups.len()).rev().max_by_key(|place| groups[*place].1.len()).unwrap_or_default();
    let rest = if groups.is_empty() { NodeId(0) } else { groups.remove(most).0 };
    (groups.into_iter().map(|(then, ranges)| (then, Set::from_iter(ranges))).collect(), rest)
}
