//! The decision tree: what the rules say, first match first, as compares on one field at a time.
//!
//! Takes the [`Ruleset`], gives a [`Tree`] for [`codegen`](crate::codegen) to walk. A packet's
//! cost grows with the logarithm of the number of rules. Never drops or reorders an outcome:
//! `lookup` of any key is what a scan of the rules from the top would find.
//!
//! A node stands for a box, one interval a field. Rules that miss the box are gone, and so are
//! those below the first rule that covers it. Two invariants follow, on which the emitter stands:
//! every compare can go either way (verifier rule V2: what the verifier can decide it removes,
//! slowly), and no leaf tests anything again.
//!
//! Splitting a box copies the rules that lie on both sides. Where that would get out of hand
//! (many rules, each wide in another field) the rules are cut in two halves instead, and a miss
//! in the first half goes on in the second: [`Node::Chain`].

use std::cmp::Reverse;

use range_set_blaze::RangeSetBlaze;

use self::intervals::{Fields, Intervals};
use crate::ir::{Proto, Rule, Ruleset};

mod intervals;
mod show;

/// One root a protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    tcp: Node,
    udp: Node,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// No rule matches.
    Miss,
    /// This rule, by its index in the ruleset.
    Rule(usize),
    /// Two-way branches.
    Test { test: Test, yes: Box<Node>, no: Box<Node> },
    /// A miss in `first` goes on in `then`.
    Chain { first: Box<Node>, then: Box<Node> },
}

/// What a branch asks about one field of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    pub field: Field,
    pub op: Op,
    pub value: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Equal,
    AtMost,
}

/// The fields a rule can match on besides the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Saddr,
    Daddr,
    Sport,
    Dport,
}

impl Field {
    /// In the order in which ties between equally good splits are broken: destinations tell
    /// packets that matter from those that do not sooner than sources.
    const ALL: [Field; 4] = [Field::Daddr, Field::Dport, Field::Saddr, Field::Sport];
}

/// The fields of one packet, in host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub proto: Proto,
    pub saddr: u32,
    pub daddr: u32,
    pub sport: u16,
    pub dport: u16,
}

impl Key {
    fn get(&self, field: Field) -> u32 {
        match field {
            Field::Saddr => self.saddr,
            Field::Daddr => self.daddr,
            Field::Sport => u32::from(self.sport),
            Field::Dport => u32::from(self.dport),
        }
    }
}

impl Test {
    fn holds(&self, value: u32) -> bool {
        match self.op {
            Op::Equal => value == self.value,
            Op::AtMost => value <= self.value,
        }
    }
}

impl Tree {
    /// The subtree for packets of this protocol.
    pub fn root(&self, proto: Proto) -> &Node {
        match proto {
            Proto::Tcp => &self.tcp,
            Proto::Udp => &self.udp,
        }
    }

    /// The index of the first rule that matches.
    pub fn lookup(&self, key: &Key) -> Option<usize> {
        self.root(key.proto).lookup(key)
    }
}

impl Node {
    fn can_miss(&self) -> bool {
        match self {
            Node::Miss => true,
            Node::Rule(_) => false,
            Node::Test { yes, no, .. } => yes.can_miss() || no.can_miss(),
            Node::Chain { then, .. } => then.can_miss(),
        }
    }

    fn lookup(&self, key: &Key) -> Option<usize> {
        match self {
            Node::Miss => None,
            Node::Rule(rule) => Some(*rule),
            Node::Test { test, yes, no } => {
                let side = if test.holds(key.get(test.field)) { yes } else { no };
                side.lookup(key)
            }
            Node::Chain { first, then } => first.lookup(key).or_else(|| then.lookup(key)),
        }
    }
}

/// The tree that decides like the ruleset.
pub fn build(ruleset: &Ruleset) -> Tree {
    let root = |proto| {
        let rules: Vec<Candidate> = ruleset
            .rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.proto == proto)
            .map(|(index, rule)| Candidate::new(index, rule))
            .collect();
        subtree(&rules)
    };
    Tree { tcp: root(Proto::Tcp), udp: root(Proto::Udp) }
}

/// A rule, its sets as sorted, disjoint intervals.
struct Candidate {
    index: usize,
    sets: Fields,
}

impl Candidate {
    fn new(index: usize, rule: &Rule) -> Self {
        let wide = |set: &RangeSetBlaze<u32>| set.ranges().map(|r| (*r.start(), *r.end())).collect();
        let narrow = |set: &RangeSetBlaze<u16>| {
            set.ranges().map(|r| (u32::from(*r.start()), u32::from(*r.end()))).collect()
        };
        let sets = Fields {
            saddr: Intervals(wide(&rule.saddr)),
            daddr: Intervals(wide(&rule.daddr)),
            sport: Intervals(narrow(&rule.sport)),
            dport: Intervals(narrow(&rule.dport)),
        };
        Candidate { index, sets }
    }

    fn covers(&self, space: &Fields) -> bool {
        Field::ALL.iter().all(|f| self.sets.get(*f).covers(space.get(*f)))
    }
}

/// Nodes a rule may cost on average before the rules are cut in halves instead.
const NODES_PER_RULE: usize = 16;

fn subtree(rules: &[Candidate]) -> Node {
    let mut budget = match rules.len() {
        0 | 1 => usize::MAX,
        n => n.saturating_mul(NODES_PER_RULE).saturating_add(64),
    };
    if let Some(node) = grow(rules.iter().collect(), &Fields::everything(), &mut budget) {
        return node;
    }
    let (upper, lower) = rules.split_at(rules.len() / 2);
    let first = subtree(upper);
    if !first.can_miss() {
        return first;
    }
    Node::Chain { first: Box::new(first), then: Box::new(subtree(lower)) }
}

/// The subtree of one box, or `None` when the budget is used up.
fn grow(mut rules: Vec<&Candidate>, space: &Fields, budget: &mut usize) -> Option<Node> {
    *budget = budget.checked_sub(1)?;
    if let Some(last) = rules.iter().position(|rule| rule.covers(space)) {
        rules.truncate(last + 1); // first match: nothing below it can win here
        if let [only] = rules.as_slice() {
            return Some(Node::Rule(only.index));
        }
    }
    // No rule left, and so no field to split.
    let Some(Split { test, yes, no, yes_rules, no_rules }) = best_split(&rules, space) else {
        return Some(Node::Miss);
    };
    drop(rules);
    let yes = grow(yes_rules, &space.with(test.field, yes), budget)?;
    let no = grow(no_rules, &space.with(test.field, no), budget)?;
    Some(Node::Test { test, yes: Box::new(yes), no: Box::new(no) })
}

/// A test, with the field's values and the rules on either side of it.
struct Split<'a> {
    test: Test,
    yes: Intervals,
    no: Intervals,
    yes_rules: Vec<&'a Candidate>,
    no_rules: Vec<&'a Candidate>,
}

/// The split after which the larger side has the fewest rules. One that leaves no rule on a side
/// is a question every rule asks, and goes first: asked once, it need not be copied below.
fn best_split<'a>(rules: &[&'a Candidate], space: &Fields) -> Option<Split<'a>> {
    Field::ALL.iter().filter_map(|field| split(rules, space, *field)).min_by_key(|split| {
        let (yes, no) = (split.yes_rules.len(), split.no_rules.len());
        let gate = yes.min(no) == 0;
        (Reverse(gate), yes.max(no), yes + no)
    })
}

/// The field's split at the median of the places where some rule begins or ends.
fn split<'a>(rules: &[&'a Candidate], space: &Fields, field: Field) -> Option<Split<'a>> {
    let values = space.get(field);
    let mut cuts = Vec::new();
    for rule in rules {
        rule.sets.get(field).cuts(values, &mut cuts);
    }
    cuts.sort_unstable();
    let median = *cuts.get(cuts.len() / 2)?;
    cuts.dedup();
    // A single value between two cuts, or between a cut and an end, is one equality.
    let (op, value) = match cuts.as_slice() {
        [cut] if values.after(values.first()?) == Some(*cut) => (Op::Equal, values.first()?),
        [cut] if values.last() == Some(*cut) => (Op::Equal, *cut),
        [cut, next] if values.after(*cut) == Some(*next) => (Op::Equal, *cut),
        _ => (Op::AtMost, median.checked_sub(1)?),
    };
    let test = Test { field, op, value };
    let (yes, no) = values.split(test);
    let side =
        |side: &Intervals| rules.iter().copied().filter(|rule| rule.sets.get(field).meets(side)).collect();
    let (yes_rules, no_rules) = (side(&yes), side(&no));
    Some(Split { test, yes, no, yes_rules, no_rules })
}
