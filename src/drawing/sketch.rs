//! What is drawn, before it has places.
//!
//! Takes a diagram, gives boxes and lines. Within its limits it has all of the diagram; beyond, boxes say that there is
//! more. Leaves without a rule stand once for each line that leads to them, so that lines need not cross.

use std::collections::{HashMap, VecDeque};

use super::Kind;
use crate::diagram::{Diagram, Node, NodeId};
use crate::ir::{Family, Proto, Ruleset};
use crate::value_text;

/// How much of a diagram is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Tests of one drawing.
    tests: usize,
    /// Lines that leave a test.
    arms: usize,
}

impl Limits {
    /// As much as an eye takes in.
    pub(super) const FOLDED: Limits = Limits { tests: 24, arms: 10 };
    pub(super) const ALL: Limits = Limits { tests: usize::MAX, arms: usize::MAX };
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sketch {
    pub(super) families: Vec<Family>,
    pub(super) proto: Proto,
    pub(super) boxes: Vec<Box>,
    pub(super) arms: Vec<Arm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Box {
    pub(super) kind: Kind,
    pub(super) text: String,
    pub(super) nodes: Vec<usize>,
    pub(super) rule: Option<usize>,
    pub(super) after: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arm {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) values: String,
}

impl Sketch {
    /// `TCP over IPv4 and IPv6`
    pub(super) fn title(&self) -> String {
        let families: Vec<&str> = self.families.iter().map(|family| family.name()).collect();
        format!("{} over {}", self.proto.to_string().to_uppercase(), families.join(" and "))
    }

    /// Whether both say the same, of nodes of different numbers.
    fn looks_like(&self, other: &Sketch) -> bool {
        let look = |shape: &Box| (shape.kind, shape.text.clone(), shape.rule, shape.after);
        self.proto == other.proto
            && self.arms == other.arms
            && self.boxes.iter().map(look).eq(other.boxes.iter().map(look))
    }
}

/// One for each protocol that rules are about, or for each version of IP of it.
pub(super) fn sketches(diagram: &Diagram, ruleset: &Ruleset, limits: Limits) -> Vec<Sketch> {
    let mut all: Vec<Sketch> = Vec::new();
    for proto in Proto::ALL {
        for family in Family::ALL {
            let Some(root) = diagram.root(family, proto) else { continue };
            let sketch = Sketcher::new(diagram, ruleset, limits).sketch(family, proto, root);
            match all.iter_mut().find(|known| known.looks_like(&sketch)) {
                Some(known) => {
                    known.families.push(family);
                    for (known, same) in known.boxes.iter_mut().zip(sketch.boxes) {
                        known.nodes.extend(same.nodes);
                    }
                }
                None => all.push(sketch),
            }
        }
    }
    all
}

struct Sketcher<'a> {
    diagram: &'a Diagram,
    ruleset: &'a Ruleset,
    limits: Limits,
    boxes: Vec<Box>,
    arms: Vec<Arm>,
    known: HashMap<NodeId, usize>,
    /// Tests whose arms are still to be drawn.
    waiting: VecDeque<(usize, NodeId)>,
    tests: usize,
}

impl<'a> Sketcher<'a> {
    fn new(diagram: &'a Diagram, ruleset: &'a Ruleset, limits: Limits) -> Self {
        let (boxes, arms, known) = (Vec::new(), Vec::new(), HashMap::new());
        Sketcher { diagram, ruleset, limits, boxes, arms, known, waiting: VecDeque::new(), tests: 0 }
    }

    /// Breadth first: what is near the root is drawn before what is far from it.
    fn sketch(mut self, family: Family, proto: Proto, root: NodeId) -> Sketch {
        self.of(root);
        while let Some((from, id)) = self.waiting.pop_front() {
            self.test(family, from, id);
        }
        Sketch { families: vec![family], proto, boxes: self.boxes, arms: self.arms }
    }

    fn test(&mut self, family: Family, from: usize, id: NodeId) {
        let (Node::Test { field, .. }, Some((groups, rest))) =
            (self.diagram.node(id), self.diagram.groups(id))
        else {
            return;
        };
        let shown = if groups.len() < self.limits.arms { groups.len() } else { self.limits.arms - 2 };
        for (then, values) in groups.iter().take(shown) {
            let to = self.of(*then);
            self.arms.push(Arm { from, to, values: value_text::elements(*field, family, values) });
        }
        if shown < groups.len() {
            let text = format!("{} more", groups.len() - shown);
            let (nodes, after) = (vec![id.index()], Some(shown));
            let to = self.push(Box { kind: Kind::More, text, nodes, rule: None, after });
            self.arms.push(Arm { from, to, values: "other values".to_owned() });
        }
        let to = self.of(rest);
        self.arms.push(Arm { from, to, values: "else".to_owned() });
    }

    /// The box of a node: there already, new, or folded.
    fn of(&mut self, id: NodeId) -> usize {
        if let Some(known) = self.known.get(&id) {
            return *known;
        }
        let nodes = vec![id.index()];
        let place = match self.diagram.node(id) {
            Node::Miss => {
                return self.push(Box {
                    kind: Kind::Miss,
                    text: "no rule".to_owned(),
                    nodes,
                    rule: None,
                    after: None,
                });
            }
            Node::Rule(rule) => {
                let action = self.ruleset.rules.get(*rule).map(|rule| rule.action.to_string());
                let text = format!("rule {rule}: {}", action.unwrap_or_default());
                self.push(Box { kind: Kind::Rule, text, nodes, rule: Some(*rule), after: None })
            }
            Node::Test { .. } if self.tests == self.limits.tests => self.push(Box {
                kind: Kind::More,
                text: "more tests".to_owned(),
                nodes,
                rule: None,
                after: None,
            }),
            Node::Test { field, .. } => {
                self.tests += 1;
                let text = field.keyword().to_owned();
                let place = self.push(Box { kind: Kind::Test, text, nodes, rule: None, after: None });
                self.waiting.push_back((place, id));
                place
            }
        };
        self.known.insert(id, place);
        place
    }

    fn push(&mut self, shape: Box) -> usize {
        self.boxes.push(shape);
        self.boxes.len() - 1
    }
}
