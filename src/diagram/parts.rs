//! Rules cut into ranges of priority, where one diagram of all of them would be too large.
//!
//! Takes the rules of a family and protocol; appends to a diagram's nodes, and gives the roots of the parts: a miss in
//! one goes on in the next. How large a part may be is known before it is built, from the number of places where its
//! rules begin or end; building ends where that is passed.

use super::build::{self, Graph, Limit, Local, Question};
use super::{Arm, Node, NodeId, Span};
use crate::matches::Matches;
use crate::protocol::Family;

/// Arms of all tests together that a rule may cost, for each end of a range in its sets.
const ARMS_PER_END: usize = 3;
/// The same of what is looked at on the way.
const WORK_PER_END: usize = 150;
/// Small lists need not be economical: arms and work that every part may cost.
const FREE: (usize, usize) = (256, 20_000);

pub(super) fn build(rules: &[(usize, &Matches)], family: Family, nodes: &mut Vec<Node>) -> Vec<NodeId> {
    let mut graphs: Vec<(Graph, &[(usize, &Matches)])> = Vec::new();
    let mut rest = rules;
    let mut count = rest.len();
    while !rest.is_empty() {
        count = count.clamp(1, rest.len());
        let (part, after) = rest.split_at(count);
        match build::build(&question(part, family), &mut limit(part)) {
            Some(graph) => {
                rest = if can_miss(&graph) { after } else { &[] };
                graphs.push((graph, part));
                count += count / 2;
            }
            None => count = (count * 2 / 3).min(count - 1),
        }
    }
    let mut roots = Vec::new();
    let mut miss = None;
    for (graph, part) in graphs.iter().rev() {
        let root = place(graph, part, miss, nodes);
        roots.push(root);
        miss = Some(root);
    }
    roots.reverse();
    roots
}

fn question<'a>(part: &'a [(usize, &'a Matches)], family: Family) -> Question<'a> {
    Question { family, packets: Matches::all(), lists: [part, &[]], leaf: &|leaf| leaf }
}

fn limit(part: &[(usize, &Matches)]) -> Limit {
    if part.len() == 1 {
        return Limit { arms: usize::MAX, work: usize::MAX }; // linear: each of its fields is decided once
    }
    let ends: usize = part.iter().map(|(_, matches)| 1 + ends(matches)).sum();
    Limit {
        arms: ends.saturating_mul(ARMS_PER_END).saturating_add(FREE.0),
        work: ends.saturating_mul(WORK_PER_END).saturating_add(FREE.1),
    }
}

fn ends(matches: &Matches) -> usize {
    matches.sets().map(|(_, set)| 2 * set.ranges_len()).sum()
}

fn can_miss(graph: &Graph) -> bool {
    let mut stack = vec![graph.root];
    let mut seen = vec![false; graph.nodes.len()];
    while let Some(at) = stack.pop() {
        if std::mem::replace(&mut seen[at as usize], true) {
            continue;
        }
        match &graph.nodes[at as usize] {
            Local::Leaf([None, _]) => return true,
            Local::Leaf(_) => {}
            Local::Test(_, arms) => stack.extend(arms.iter().map(|arm| arm.1)),
        }
    }
    false
}

/// Adds a part's nodes, in their order, to those that are there. Tests of one field that follow each other are one,
/// where only one way leads to the second.
fn place(graph: &Graph, part: &[(usize, &Matches)], miss: Option<NodeId>, nodes: &mut Vec<Node>) -> NodeId {
    let (order, references) = reachable(graph);
    let mut placed: Vec<Option<NodeId>> = vec![None; graph.nodes.len()];
    let mut joined: Vec<Vec<Arm>> = vec![Vec::new(); graph.nodes.len()];
    for at in order {
        let node = match &graph.nodes[at] {
            Local::Leaf([None, _]) => match miss {
                Some(next) => {
                    placed[at] = Some(next);
                    continue;
                }
                None => Node::Miss,
            },
            Local::Leaf([Some(rule), _]) => Node::Rule(part[*rule as usize].0),
            Local::Test(scale, local) => {
                let mut arms: Vec<Arm> = Vec::new();
                let mut add = |last, then| match arms.last_mut() {
                    Some(arm) if arm.then == then => arm.last = last,
                    _ => arms.push(Arm { last, then }),
                };
                for Span { first, last, then: child } in graph.spans(*scale, local) {
                    match placed[child as usize] {
                        Some(then) => add(last, then),
                        // A test of the same field that is not placed: it is joined to this one.
                        None => {
                            let inside = joined[child as usize].iter().filter(|arm| arm.last >= first);
                            for arm in inside {
                                add(arm.last.min(last), arm.then);
                                if arm.last >= last {
                                    break;
                                }
                            }
                        }
                    }
                }
                let same_field =
                    |parent: &usize| matches!(&graph.nodes[*parent], Local::Test(of, _) if of == scale);
                if let [parent] = references[at].as_slice()
                    && same_field(parent)
                {
                    joined[at] = arms;
                    continue;
                }
                Node::Test { field: graph.scales[*scale].field, arms }
            }
        };
        placed[at] = Some(NodeId(nodes.len()));
        nodes.push(node);
    }
    placed[graph.root as usize].unwrap_or(NodeId(0))
}

/// The nodes that can be reached, children first, and for each node the parents of all arms that lead to it.
fn reachable(graph: &Graph) -> (Vec<usize>, Vec<Vec<usize>>) {
    let mut reached = vec![false; graph.nodes.len()];
    let mut parents: Vec<Vec<usize>> = vec![Vec::new(); graph.nodes.len()];
    reached[graph.root as usize] = true;
    // A child is made before its parent.
    for at in (0..graph.nodes.len()).rev().filter(|at| *at <= graph.root as usize) {
        if let (true, Local::Test(_, arms)) = (reached[at], &graph.nodes[at]) {
            for (_, child) in arms {
                reached[*child as usize] = true;
                parents[*child as usize].push(at);
            }
        }
    }
    ((0..graph.nodes.len()).filter(|at| reached[*at]).collect(), parents)
}
