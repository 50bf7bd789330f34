//! Which rules a line of a listing is about: its own, those that a test leads to, or those that a routine is for.
//!
//! Found by following the jumps of the listing, within a limit.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::lines::{Kind, Line};
use super::rules::Texts;

/// Rules that are named.
const MOST_NAMED: usize = 3;
/// Lines looked at to find them.
const MOST_STEPS: usize = 2_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place<Rule> {
    /// The rules that the line belongs to or leads to, and whether there are more.
    Rules(Vec<Rule>, bool),
    /// A routine, the rules that jump there, and whether there are more.
    Routine(String, Vec<Rule>, bool),
    Common,
}

impl<Rule> Place<Rule> {
    pub fn map<To: Ord>(self, to: impl Fn(Rule) -> To) -> Place<To> {
        let all = |rules: Vec<Rule>| {
            let rules: BTreeSet<To> = rules.into_iter().map(to).collect();
            rules.into_iter().collect()
        };
        match self {
            Place::Rules(rules, more) => Place::Rules(all(rules), more),
            Place::Routine(label, rules, more) => Place::Routine(label, all(rules), more),
            Place::Common => Place::Common,
        }
    }
}

pub(super) struct Places<'a> {
    lines: &'a [Line<'a>],
    labels: HashMap<&'a str, usize>,
    /// For each line that is a rule's own, the rule.
    owners: Vec<Option<usize>>,
    /// The labels that rules jump to, and these.
    routines: HashMap<&'a str, BTreeSet<usize>>,
}

impl<'a> Places<'a> {
    pub fn new(lines: &'a [Line<'a>]) -> Self {
        let mut places = Places {
            lines,
            labels: HashMap::new(),
            owners: Vec::with_capacity(lines.len()),
            routines: HashMap::new(),
        };
        // What a rule does by itself begins below its text, and has no label further down.
        let (mut owner, mut fresh) = (None, false);
        for (at, line) in lines.iter().enumerate() {
            match line.kind {
                Kind::Title(title) => (owner, fresh) = (rule(title).map(|(number, _)| number), true),
                Kind::Label(label) => {
                    owner = owner.filter(|_| fresh);
                    places.labels.insert(label, at);
                }
                Kind::Instruction | Kind::Rest => fresh = false,
            }
            places.owners.push(owner);
            if let (Some(rule), Some(target)) = (owner, line.target()) {
                places.routines.entry(target).or_default().insert(rule);
            }
        }
        places
    }

    /// The rules that have instructions of their own.
    pub fn rules(&self) -> Texts {
        let titles = self.lines.iter().filter_map(|line| match line.kind {
            Kind::Title(title) => rule(title),
            _ => None,
        });
        titles.map(|(number, text)| (number, text.to_owned())).collect()
    }

    pub fn of(&self, at: usize) -> Place<usize> {
        if let Some(rule) = self.owners[at] {
            return Place::Rules(vec![rule], false);
        }
        if let Some((label, rules)) = self.routine(at) {
            let named = rules.iter().copied().take(MOST_NAMED).collect();
            return Place::Routine(label.to_owned(), named, rules.len() > MOST_NAMED);
        }
        match self.led_to(at) {
            (rules, false) if rules.is_empty() => Place::Common,
            (rules, more) => Place::Rules(rules.into_iter().collect(), more),
        }
    }

    /// The routine that a line is in: they stand after all rules of their programs.
    fn routine(&self, at: usize) -> Option<(&'a str, &BTreeSet<usize>)> {
        let before = (0..=at).rev().take_while(|at| self.owners[*at].is_none());
        let mut labels = before.filter_map(|at| match self.lines[at].kind {
            Kind::Label(label) => Some(label),
            _ => None,
        });
        labels.find_map(|label| Some((label, self.routines.get(label)?)))
    }

    /// The rules that the line may lead to, and whether there are more.
    fn led_to(&self, at: usize) -> (BTreeSet<usize>, bool) {
        let (mut found, mut seen) = (BTreeSet::new(), HashSet::new());
        let mut stack = self.where_it_holds(at);
        while let Some(at) = stack.pop() {
            if !seen.insert(at) {
                continue;
            }
            if seen.len() > MOST_STEPS || found.len() > MOST_NAMED {
                return (found.into_iter().take(MOST_NAMED).collect(), true);
            }
            match self.owners.get(at) {
                Some(Some(rule)) => {
                    found.insert(*rule);
                }
                Some(None) => stack.extend(self.next(at)),
                None => {}
            }
        }
        (found, false)
    }

    fn next(&self, at: usize) -> Vec<usize> {
        let line = &self.lines[at];
        let target = line.target().and_then(|label| self.labels.get(label)).copied();
        target.into_iter().chain(line.falls_through().then_some(at + 1)).collect()
    }

    /// What follows. Of a test for one value, only where the field has it: elsewhere the test says nothing.
    fn where_it_holds(&self, at: usize) -> Vec<usize> {
        let next = self.next(at);
        match (self.lines[at].code(), next.as_slice()) {
            (code, [_, through]) if code.contains(" != ") => vec![*through],
            (code, [target, _]) if code.contains(" == ") => vec![*target],
            _ => next,
        }
    }
}

/// A title that names a rule.
fn rule(title: &str) -> Option<(usize, &str)> {
    let (number, text) = title.strip_prefix("rule ")?.split_once(": ")?;
    Some((number.parse().ok()?, text))
}
