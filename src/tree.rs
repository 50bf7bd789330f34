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
use crate::ir::{Family, Proto, Rule, Ruleset};

mod boxes;
mod intervals;
mod show;

/// One root a family and protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    tcp: Node,
    udp: Node,
    tcp6: Node,
    udp6: Node,
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

/// The fields a rule can match on besides family and protocol. An IPv6 address is four of them, so
/// that every test is a compare with one number that fits an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Saddr,
    Daddr,
    Saddr6(Word),
    Daddr6(Word),
    Sport,
    Dport,
}

/// 32 bits of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    First,
    Second,
    Third,
    Fourth,
}

impl Word {
    pub const ALL: [Word; 4] = [Word::First, Word::Second, Word::Third, Word::Fourth];

    pub const fn index(self) -> u8 {
        match self {
            Word::First => 0,
            Word::Second => 1,
            Word::Third => 2,
            Word::Fourth => 3,
        }
    }

    /// This part of the address.
    fn of(self, address: u128) -> u32 {
        let [a, b, c, d] = words(address);
        match self {
            Word::First => a,
            Word::Second => b,
            Word::Third => c,
            Word::Fourth => d,
        }
    }
}

fn words(address: u128) -> [u32; 4] {
    let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3] = address.to_be_bytes();
    [[a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3]].map(u32::from_be_bytes)
}

impl Field {
    /// In the order in which ties between equally good splits are broken: destinations tell
    /// packets that matter from those that do not sooner than sources.
    const fn all(family: Family) -> &'static [Field] {
        use Field::{Daddr, Daddr6, Dport, Saddr, Saddr6, Sport};
        use Word::{First, Fourth, Second, Third};
        match family {
            Family::V4 => &[Daddr, Dport, Saddr, Sport],
            Family::V6 => &[
                Daddr6(First),
                Daddr6(Second),
                Daddr6(Third),
                Daddr6(Fourth),
                Dport,
                Saddr6(First),
                Saddr6(Second),
                Saddr6(Third),
                Saddr6(Fourth),
                Sport,
            ],
        }
    }
}

/// The fields of one packet, in host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub proto: Proto,
    pub hosts: Hosts,
    pub sport: u16,
    pub dport: u16,
}

/// Source and destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosts {
    V4 { saddr: u32, daddr: u32 },
    V6 { saddr: u128, daddr: u128 },
}

impl Key {
    fn family(&self) -> Family {
        match self.hosts {
            Hosts::V4 { .. } => Family::V4,
            Hosts::V6 { .. } => Family::V6,
        }
    }

    /// 0 for a field of the other family, which no test of this one's tree asks for.
    fn get(&self, field: Field) -> u32 {
        match (field, self.hosts) {
            (Field::Saddr, Hosts::V4 { saddr, .. }) => saddr,
            (Field::Daddr, Hosts::V4 { daddr, .. }) => daddr,
            (Field::Saddr6(word), Hosts::V6 { saddr, .. }) => word.of(saddr),
            (Field::Daddr6(word), Hosts::V6 { daddr, .. }) => word.of(daddr),
            (Field::Sport, _) => u32::from(self.sport),
            (Field::Dport, _) => u32::from(self.dport),
            _ => 0,
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
    /// The subtree for packets of this family and protocol.
    pub fn root(&self, family: Family, proto: Proto) -> &Node {
        match (family, proto) {
            (Family::V4, Proto::Tcp) => &self.tcp,
            (Family::V4, Proto::Udp) => &self.udp,
            (Family::V6, Proto::Tcp) => &self.tcp6,
            (Family::V6, Proto::Udp) => &self.udp6,
        }
    }

    /// The index of the first rule that matches.
    pub fn lookup(&self, key: &Key) -> Option<usize> {
        self.root(key.family(), key.proto).lookup(key)
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
    let root = |family, proto| {
        let rules = ruleset.rules.iter().enumerate();
        let rules = rules.filter(|(_, rule)| rule.proto == proto && rule.is_about(family));
        let candidates: Vec<Candidate> =
            rules.flat_map(|(index, rule)| Candidate::all(index, rule, family)).collect();
        subtree(&candidates, family)
    };
    Tree {
        tcp: root(Family::V4, Proto::Tcp),
        udp: root(Family::V4, Proto::Udp),
        tcp6: root(Family::V6, Proto::Tcp),
        udp6: root(Family::V6, Proto::Udp),
    }
}

/// A rule's packets, or a part of them: a set of values for each field, any combination of which is
/// meant. A set of IPv4 addresses is one set of values, a set of IPv6 addresses a few boxes of words.
struct Candidate {
    index: usize,
    sets: Fields,
}

impl Candidate {
    fn all(index: usize, rule: &Rule, family: Family) -> Vec<Candidate> {
        let wide = |set: &RangeSetBlaze<u32>| Intervals(set.ranges().map(|r| r.into_inner()).collect());
        let narrow = |set: &RangeSetBlaze<u16>| {
            Intervals(set.ranges().map(|r| (u32::from(*r.start()), u32::from(*r.end()))).collect())
        };
        let ports = Fields::everything(family)
            .with(Field::Sport, narrow(&rule.sport))
            .with(Field::Dport, narrow(&rule.dport));
        let sets = match family {
            Family::V4 => {
                vec![ports.with(Field::Saddr, wide(&rule.saddr.v4)).with(Field::Daddr, wide(&rule.daddr.v4))]
            }
            Family::V6 => {
                let sources = boxes::of(&rule.saddr.v6);
                let destinations = boxes::of(&rule.daddr.v6);
                let with = |fields: &Fields, field: fn(Word) -> Field, part: &[Intervals; 4]| {
                    Word::ALL
                        .iter()
                        .zip(part)
                        .fold(fields.clone(), |fields, (word, set)| fields.with(field(*word), set.clone()))
                };
                let both = |source: &[Intervals; 4]| {
                    let from = with(&ports, Field::Saddr6, source);
                    destinations.iter().map(|to| with(&from, Field::Daddr6, to)).collect::<Vec<_>>()
                };
                sources.iter().flat_map(both).collect()
            }
        };
        sets.into_iter().map(|sets| Candidate { index, sets }).collect()
    }

    fn covers(&self, space: &Fields) -> bool {
        Field::all(space.family).iter().all(|f| self.sets.get(*f).covers(space.get(*f)))
    }
}

/// Nodes a rule may cost on average before the rules are cut in halves instead.
const NODES_PER_RULE: usize = 16;

fn subtree(rules: &[Candidate], family: Family) -> Node {
    let mut budget = match rules.len() {
        0 | 1 => usize::MAX,
        n => n.saturating_mul(NODES_PER_RULE).saturating_add(64),
    };
    if let Some(node) = grow(rules.iter().collect(), &Fields::everything(family), &mut budget) {
        return node;
    }
    let (upper, lower) = rules.split_at(rules.len() / 2);
    let first = subtree(upper, family);
    if !first.can_miss() {
        return first;
    }
    Node::Chain { first: Box::new(first), then: Box::new(subtree(lower, family)) }
}

/// The subtree of one box, or `None` when the budget is used up.
fn grow(mut rules: Vec<&Candidate>, space: &Fields, budget: &mut usize) -> Option<Node> {
    *budget = budget.checked_sub(1)?;
    if let Some(last) = rules.iter().position(|rule| rule.covers(space)) {
        rules.truncate(last + 1); // first match: nothing below it can win here
        // Or parts of one rule.
        if let [first, rest @ ..] = rules.as_slice()
            && rest.iter().all(|part| part.index == first.index)
        {
            return Some(Node::Rule(first.index));
        }
    }
    // No rule left, and so no field to split.
    let Some(Split { test, yes, no, yes_rules, no_rules }) = best_split(&rules, space) else {
        return Some(Node::Miss);
    };
    drop(rules);
    let yes = grow(yes_rules, &space.with(test.field, yes), budget)?;
    let no = grow(no_rules, &space.with(test.field, no), budget)?;
    // Parts of one rule that are more together than each of them.
    if let (Node::Rule(yes), Node::Rule(no)) = (&yes, &no)
        && yes == no
    {
        return Some(Node::Rule(*yes));
    }
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
    Field::all(space.family).iter().filter_map(|field| split(rules, space, *field)).min_by_key(|split| {
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
