//! One diagram of a list of rules, or nothing if it would be larger than it may be.
//!
//! A node's problem is the list of rules that are still possible, each with what is left of its sets. A full set is no
//! question any more; a rule without questions matches surely, and ends the list. Two problems that are equal are one
//! node. The work is counted as it is done, and ends where the limit does: no input costs more.

use std::collections::HashMap;

use super::Span;
use super::compress::{Scale, compress};
use super::sets::{EMPTY, FULL, Sets};
use crate::matches::Matches;
use crate::protocol::Family;

/// A diagram on its own: arms are places in it.
#[derive(Debug)]
pub(super) struct Graph {
    pub scales: Vec<Scale>,
    pub nodes: Vec<Local>,
    pub root: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Local {
    /// For each list of rules, the place of the one that matches first, if any does.
    Leaf([Option<u32>; 2]),
    /// The scale, and for each arm its last rank and where it leads.
    Test(usize, Box<[(u32, u32)]>),
}

impl Graph {
    /// The arms of a test, by value.
    pub fn spans<'a>(&'a self, scale: usize, arms: &'a [(u32, u32)]) -> impl Iterator<Item = Span<u32>> + 'a {
        let scale = &self.scales[scale];
        let mut first = 0_u128;
        arms.iter().map(move |&(rank, child)| {
            let last = scale.last(rank);
            Span { first: std::mem::replace(&mut first, last.saturating_add(1)), last, then: child }
        })
    }
}

/// What a diagram may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// Arms of all tests together.
    pub arms: usize,
    /// Rules looked at in all problems together, and ranges of their sets.
    pub work: usize,
}

/// What is asked.
pub(super) struct Question<'a> {
    pub family: Family,
    /// The packets that it is about.
    pub packets: &'a Matches,
    /// One list of rules, or two that are to be compared.
    pub lists: [&'a [(usize, &'a Matches)]; 2],
    /// What becomes of two leaves that mean the same.
    pub leaf: &'a dyn Fn([Option<u32>; 2]) -> [Option<u32>; 2],
}

/// For each rule that is possible: its place in its list, counted on from the first list to the second, then a set for
/// each scale.
type Problem = Box<[u32]>;

/// Takes what it has cost off the limit.
pub(super) fn build(question: &Question<'_>, limit: &mut Limit) -> Option<Graph> {
    let mut sets = Sets::default();
    let [first, second] = question.lists;
    let rules = first.iter().chain(second).map(|(_, matches)| *matches);
    let (scales, numbered) = compress(rules, question.packets, question.family, &mut sets);
    let entries = (0_u32..).zip(numbered).filter_map(|(at, sets)| Some((at, sets?)));
    let entries = entries.flat_map(|(at, sets)| std::iter::once(at).chain(sets)).collect();
    let mut builder = Builder {
        width: scales.len() + 1,
        second: u32::try_from(first.len()).ok()?,
        leaf: question.leaf,
        sets,
        costs: scales.iter().map(|scale| scale.words(question.family)).collect(),
        left: *limit,
        nodes: Vec::new(),
        unique: HashMap::new(),
        problems: HashMap::new(),
    };
    let root = builder.node(entries, usize::MAX);
    *limit = if root.is_some() { builder.left } else { Limit { arms: 0, work: 0 } };
    let root = root?;
    Some(Graph { scales, nodes: builder.nodes, root })
}

struct Builder<'a> {
    /// Numbers in a problem for each rule.
    width: usize,
    /// Where the second list begins.
    second: u32,
    leaf: &'a dyn Fn([Option<u32>; 2]) -> [Option<u32>; 2],
    sets: Sets,
    /// For each scale, how much more a test of its field costs than one of a single word.
    costs: Vec<usize>,
    left: Limit,
    nodes: Vec<Local>,
    unique: HashMap<Local, u32>,
    problems: HashMap<Problem, u32>,
}

/// How to go on with a problem.
enum Choice {
    /// Two sides, the second from this rank on.
    Cut(usize, u32),
    /// All ranks of a scale that any rule tells apart, at once: where each of them begins.
    Whole(usize, Vec<u32>),
}

impl Builder<'_> {
    /// The node of a problem. `parent`: the scale that was tested last.
    fn node(&mut self, mut problem: Vec<u32>, parent: usize) -> Option<u32> {
        if let Some(leaf) = self.cut(&mut problem) {
            return self.unique(Local::Leaf((self.leaf)(leaf)));
        }
        if let Some(known) = self.problems.get(problem.as_slice()) {
            return Some(*known);
        }
        self.left.work = self.left.work.checked_sub(problem.len())?;
        let choice = self.choose(&problem, parent)?;
        let node = match choice {
            Choice::Cut(scale, cut) => {
                let below = self.side(&problem, scale, |sets, set| sets.below(scale, set, cut));
                let from = self.side(&problem, scale, |sets, set| sets.from(scale, set, cut));
                let arms = [(cut - 1, self.node(below, scale)?), (u32::MAX, self.node(from, scale)?)];
                self.test(scale, arms.to_vec())?
            }
            Choice::Whole(scale, cuts) => self.whole(&problem, scale, &cuts)?,
        };
        self.problems.insert(problem.into_boxed_slice(), node);
        Some(node)
    }

    /// Takes away what cannot win: of each list, the rules after one that matches surely. The leaf, if no question is
    /// left.
    fn cut(&self, problem: &mut Vec<u32>) -> Option<[Option<u32>; 2]> {
        let width = self.width;
        let is_sure = |rule: &[u32]| rule[1..].iter().all(|set| *set == FULL);
        let split = problem.chunks(width).position(|rule| rule[0] >= self.second).map(|at| at * width);
        let split = split.unwrap_or(problem.len());
        let sure = |list: &[u32]| list.chunks(width).position(is_sure).map(|at| (at + 1) * width);
        if let Some(end) = sure(&problem[split..]) {
            problem.truncate(split + end);
        }
        let kept = sure(&problem[..split]).unwrap_or(split);
        problem.drain(kept..split);
        let decided = |list: &[u32], start: u32| match list {
            [] => Some(None),
            [rule, sets @ ..] if sets[..width - 1].iter().all(|set| *set == FULL) => Some(Some(rule - start)),
            _ => None,
        };
        Some([decided(&problem[..kept], 0)?, decided(&problem[kept..], self.second)?])
    }

    fn unique(&mut self, node: Local) -> Option<u32> {
        if let Some(known) = self.unique.get(&node) {
            return Some(*known);
        }
        if let Local::Test(_, arms) = &node {
            self.left.arms = self.left.arms.checked_sub(arms.len())?;
        }
        let number = u32::try_from(self.nodes.len()).ok()?;
        self.nodes.push(node.clone());
        self.unique.insert(node, number);
        Some(number)
    }

    /// A test whose neighbouring arms may lead to the same node.
    fn test(&mut self, scale: usize, mut arms: Vec<(u32, u32)>) -> Option<u32> {
        arms.dedup_by(|next, arm| {
            let same = next.1 == arm.1;
            if same {
                arm.0 = next.0;
            }
            same
        });
        match arms.as_slice() {
            [(_, only)] => Some(*only),
            _ => self.unique(Local::Test(scale, arms.into_boxed_slice())),
        }
    }

    /// The problem on one side of a cut.
    fn side(&mut self, problem: &[u32], scale: usize, left: impl Fn(&mut Sets, u32) -> u32) -> Vec<u32> {
        let mut side = Vec::new();
        for rule in problem.chunks(self.width) {
            let set = left(&mut self.sets, rule[scale + 1]);
            if set != EMPTY {
                let at = side.len();
                side.extend_from_slice(rule);
                side[at + scale + 1] = set;
            }
        }
        side
    }

    /// Every rank gets the rules that have it, with no question about this scale left.
    fn whole(&mut self, problem: &[u32], scale: usize, cuts: &[u32]) -> Option<u32> {
        let mut rules: Vec<Vec<u32>> = vec![Vec::new(); cuts.len() + 1];
        for rule in problem.chunks(self.width) {
            let set = rule[scale + 1];
            let mut add = |at: std::ops::RangeInclusive<usize>| {
                for list in rules.get_mut(at).unwrap_or_default() {
                    let start = list.len();
                    list.extend_from_slice(rule);
                    list[start + scale + 1] = FULL;
                }
            };
            if set == FULL {
                add(0..=cuts.len());
                continue;
            }
            for (first, last) in self.sets.ranges(set) {
                let place = |rank: &u32| cuts.partition_point(|cut| cut <= rank);
                add(place(first)..=place(last));
            }
        }
        let lasts = cuts.iter().map(|cut| cut - 1).chain([u32::MAX]);
        let mut arms = Vec::new();
        for (last, rules) in lasts.zip(rules) {
            arms.push((last, self.node(rules, scale)?));
        }
        self.test(scale, arms)
    }

    /// The scale that is decided at once, if one can be without copying rules all over; else the cut after which the
    /// two sides have the fewest rules together, then the smaller larger side, then one of the scale above: or sets on
    /// several fields multiply.
    fn choose(&mut self, problem: &[u32], parent: usize) -> Option<Choice> {
        let count = problem.len() / self.width;
        let mut whole: Option<((usize, usize), Choice)> = None;
        let mut best: Option<((usize, usize, bool), Choice)> = None;
        let mut cuts = Vec::new();
        for scale in 0..self.width - 1 {
            cuts.clear();
            let sets = problem.iter().skip(scale + 1).step_by(self.width);
            sets.clone().for_each(|set| self.sets.cuts(scale, *set, &mut cuts));
            if cuts.is_empty() {
                continue;
            }
            self.left.work = self.left.work.checked_sub(cuts.len())?;
            cuts.sort_unstable();
            let median = cuts[cuts.len() / 2];
            let mut distinct = cuts.clone();
            distinct.dedup();
            let spread: usize = sets.clone().map(|set| self.spread(*set, &distinct)).sum();
            if spread <= 2 * count + distinct.len() + 1 {
                // What asking now saves, against asking once for each rule.
                let score = (
                    spread,
                    usize::MAX - (cuts.len() * self.costs[scale]).saturating_sub(2 * distinct.len()),
                );
                if whole.as_ref().is_none_or(|(known, _)| score < *known) {
                    whole = Some((score, Choice::Whole(scale, distinct)));
                }
                continue;
            }
            let (mut below, mut from) = (0, 0);
            for set in sets {
                let (left, right) = self.sets.sides(*set, median);
                below += usize::from(left);
                from += usize::from(right);
            }
            let score = (below + from, below.max(from), scale != parent);
            if best.as_ref().is_none_or(|(known, _)| score < *known) {
                best = Some((score, Choice::Cut(scale, median)));
            }
        }
        whole.map(|(_, choice)| choice).or(best.map(|(_, choice)| choice))
    }

    /// How many of the runs between the cuts a set is in.
    fn spread(&self, set: u32, cuts: &[u32]) -> usize {
        if set == FULL {
            return cuts.len() + 1;
        }
        let place = |rank: u32| cuts.partition_point(|cut| *cut <= rank);
        self.sets.ranges(set).iter().map(|(first, last)| place(*last) - place(*first) + 1).sum()
    }
}
