//! The rules of two listings: which of one are which of the other, and what they are called.
//!
//! Listings have the text of each rule that has instructions. Equal texts, in order, are one rule; between them, those
//! are that share most words.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use similar::{Algorithm, DiffOp, diff_ratio};

use super::place::Place;
use super::steps;

/// Pairs of texts that are compared word by word.
const MOST_COMPARED: usize = 10_000;

/// A rule of one of the listings, by its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    Old(usize),
    New(usize),
}

/// By number, the texts.
pub(super) type Texts = BTreeMap<usize, String>;

pub(super) struct Rules {
    old: Texts,
    new: Texts,
    /// From old to new.
    pairs: BTreeMap<usize, usize>,
}

impl Rules {
    pub fn pair(old: Texts, new: Texts) -> Self {
        let texts = |texts: &Texts| texts.values().cloned().collect::<Vec<_>>();
        let numbers = |texts: &Texts| texts.keys().copied().collect::<Vec<_>>();
        let (old_numbers, new_numbers) = (numbers(&old), numbers(&new));
        let mut pairs = BTreeMap::new();
        // Where nothing moved, there is nothing to find out.
        if old_numbers == new_numbers {
            pairs.extend(old_numbers.iter().map(|number| (*number, *number)));
        } else {
            for op in steps(Algorithm::Patience, &texts(&old), &texts(&new), None) {
                let (from, to) = (&old_numbers[op.old_range()], &new_numbers[op.new_range()]);
                match op {
                    DiffOp::Replace { .. } if from.len() * to.len() <= MOST_COMPARED => {
                        let best = |of: &usize, to: &[usize]| closest(&old[of], to, &new);
                        pairs.extend(in_order(from, to, best));
                    }
                    DiffOp::Equal { .. } | DiffOp::Replace { .. } => {
                        pairs.extend(from.iter().copied().zip(to.iter().copied()));
                    }
                    DiffOp::Delete { .. } | DiffOp::Insert { .. } => {}
                }
            }
        }
        Rules { old, new, pairs }
    }

    /// The rule by its number in the new listing, if it is there.
    pub fn as_new(&self, rule: Rule) -> Rule {
        match rule {
            Rule::Old(number) => self.pairs.get(&number).map_or(rule, |new| Rule::New(*new)),
            Rule::New(_) => rule,
        }
    }

    /// What stands above the lines of a place.
    pub fn head(&self, place: &Place<Rule>) -> String {
        let (mut text, rules, more) = match place {
            Place::Common => return "what all packets go through\n".to_owned(),
            Place::Rules(rules, more) => (String::new(), rules, more),
            Place::Routine(label, rules, more) => (format!("{label}, for\n"), rules, more),
        };
        for rule in rules {
            let _ = match rule {
                Rule::Old(number) => writeln!(text, "rule {number}, which is gone: {}", self.old[number]),
                Rule::New(number) => writeln!(text, "rule {number}: {}", self.new[number]),
            };
            let was = self.pairs.iter().find(|(_, new)| Rule::New(**new) == *rule);
            if let (Some((old, _)), Rule::New(new)) = (was, rule)
                && self.old[old] != self.new[new]
            {
                let _ = writeln!(text, "  was: rule {old}: {}", self.old[old]);
            }
        }
        if *more {
            text += "and other rules\n";
        }
        text
    }
}

/// Pairs each of `from` with the best of `to` after the one before.
fn in_order(
    from: &[usize],
    mut to: &[usize],
    best: impl Fn(&usize, &[usize]) -> Option<usize>,
) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for (at, old) in from.iter().enumerate() {
        // As many are left as there are rules that still want one.
        let choice = to.len().saturating_sub(from.len() - at - 1).max(1).min(to.len());
        let Some(found) = best(old, &to[..choice]) else { break };
        pairs.push((*old, to[found]));
        to = &to[found + 1..];
    }
    pairs
}

/// Which of these rules has most of a text's words.
fn closest(text: &str, rules: &[usize], texts: &Texts) -> Option<usize> {
    let own: Vec<&str> = text.split(' ').collect();
    let likeness = |rule: &usize| {
        let other: Vec<&str> = texts[rule].split(' ').collect();
        diff_ratio(&steps(Algorithm::Myers, &own, &other, None), own.len(), other.len())
    };
    let scores = rules.iter().map(likeness).enumerate();
    scores.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(at, _)| at)
}
