//! Exact questions about rules: which of them is the first for some of these packets, and for which of them?
//!
//! Lists of rules and a set of packets go in, rules and sets of packets come out, or nothing if finding out would cost
//! more than it may. All that anybody says about how rules overlap is asked here.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::build::{Graph, Limit, Local, Question, build};
use super::by_target;
use crate::matches::{Matches, Set};
use crate::protocol::Family;

/// The most that one of several questions may cost.
const MOST: usize = 200_000;

/// What it costs to bring a rule to the packets that are asked about, beside the questions themselves.
const ENTRY: usize = 64;

/// What becomes of some packets.
#[derive(Debug)]
pub struct Answer<'a> {
    graph: Graph,
    packets: &'a Matches,
    lists: [&'a [(usize, &'a Matches)]; 2],
    family: Family,
}

/// The rule of each list that is the first to match, by its index.
pub type Outcome = [Option<usize>; 2];

/// What the rules, each with its index, make of the packets. `effort` bounds the work, in rules looked at; what this
/// question has cost, which is at most [`MOST`], is taken off.
pub fn ask<'a>(
    packets: &'a Matches,
    family: Family,
    rules: &'a [(usize, &'a Matches)],
    effort: &mut usize,
) -> Option<Answer<'a>> {
    let mut own = MOST.min(*effort);
    *effort -= own;
    let answer = ask_both(packets, family, [rules, &[]], &|_| false, &mut own);
    *effort += own;
    answer
}

/// What two lists of rules make of the packets. Outcomes that are the `same` are not told apart: they come out as
/// `[None, None]`.
pub fn ask_both<'a>(
    packets: &'a Matches,
    family: Family,
    lists: [&'a [(usize, &'a Matches)]; 2],
    same: &dyn Fn(Outcome) -> bool,
    effort: &mut usize,
) -> Option<Answer<'a>> {
    let [first, second] = lists;
    let outcome = |leaf: [Option<u32>; 2]| outcome(&[first, second], leaf);
    let leaf = |leaf| if same(outcome(leaf)) { [None, None] } else { leaf };
    let question = Question { family, packets, lists, leaf: &leaf };
    *effort = effort.checked_sub(ENTRY * (first.len() + second.len()))?;
    let mut limit = Limit { arms: *effort, work: *effort };
    let graph = build(&question, &mut limit);
    *effort = limit.work;
    let graph = graph?;
    Some(Answer { graph, packets, lists, family })
}

fn outcome(lists: &[&[(usize, &Matches)]; 2], leaf: [Option<u32>; 2]) -> Outcome {
    let of = |list: &[(usize, &Matches)], rule: Option<u32>| Some(list.get(rule? as usize)?.0);
    [of(lists[0], leaf[0]), of(lists[1], leaf[1])]
}

impl Answer<'_> {
    /// Each rule of the first list that is the first to match some packet, in order.
    pub fn rules(&self) -> BTreeSet<usize> {
        self.outcomes().filter_map(|[rule, _]| rule).collect()
    }

    /// Whether no rule of the first list matches some packet.
    pub fn misses(&self) -> bool {
        self.outcomes().any(|[rule, _]| rule.is_none())
    }

    /// All leaves are reached: what a rule cannot be asked any more is no question.
    fn outcomes(&self) -> impl Iterator<Item = Outcome> {
        self.graph.nodes.iter().filter_map(|node| match node {
            Local::Leaf(leaf) => Some(outcome(&self.lists, *leaf)),
            Local::Test(..) => None,
        })
    }

    /// Sets of packets, none of which is in two of them, with an outcome that is `wanted`; no more than `most`.
    pub fn packets(&self, wanted: &dyn Fn(Outcome) -> bool, most: usize) -> Vec<(Matches, Outcome)> {
        let wanted = self.leads_to(wanted);
        let mut found = Vec::new();
        if wanted[self.graph.root as usize] && most > 0 {
            self.walk(self.graph.root, self.packets.clone(), &wanted, most, &mut found);
        }
        found
    }

    /// For each node, whether a wanted leaf is below it: children are made before their parents.
    fn leads_to(&self, wanted: &dyn Fn(Outcome) -> bool) -> Vec<bool> {
        let mut leads: Vec<bool> = Vec::with_capacity(self.graph.nodes.len());
        for node in &self.graph.nodes {
            leads.push(match node {
                Local::Leaf(leaf) => wanted(outcome(&self.lists, *leaf)),
                Local::Test(_, arms) => arms.iter().any(|(_, child)| leads[*child as usize]),
            });
        }
        leads
    }

    /// Follows only what is `wanted`, so that no more ways are looked at than sets are found.
    fn walk(
        &self,
        at: u32,
        packets: Matches,
        wanted: &[bool],
        most: usize,
        found: &mut Vec<(Matches, Outcome)>,
    ) {
        let (scale, arms) = match &self.graph.nodes[at as usize] {
            Local::Leaf(leaf) => {
                return found.push((packets, outcome(&self.lists, *leaf)));
            }
            Local::Test(scale, arms) => (*scale, arms),
        };
        let field = self.graph.scales[scale].field;
        let children = by_target(self.graph.spans(scale, arms).filter(|span| wanted[span.then as usize]));
        for (child, values) in children {
            if found.len() == most {
                return;
            }
            let here = Matches::default().with(field, self.family, Arc::new(Set::from_iter(values)));
            if let Some(left) = packets.intersection(&here) {
                self.walk(child, left, wanted, most, found);
            }
        }
    }
}
