//! Rules that are never reached: earlier ones, alone or together, take all their packets.
//!
//! Legal rules go in, warnings come out. Exact, and bounded: where finding out would cost too much, nothing is said.

use std::collections::BTreeSet;

use super::Meaning;
use crate::diag::Diagnostic;
use crate::diagram::question::ask;
use crate::ir::{Family, Rule, about};
use crate::matches::Matches;

/// Larger rulesets are written by programs, where a warning is of no use.
const MOST_RULES: usize = 20_000;
/// More reports than this do not help.
const MOST_REPORTED: usize = 1000;
/// Pairs of rules that are compared to find those that take another one's packets.
const MOST_COMPARED: usize = 4_000_000;
/// Rules looked at to answer all questions.
const EFFORT: usize = 5_000_000;
/// Rules that are named as those that take a rule's packets together.
const MOST_NAMED: usize = 4;

/// Rules that earlier rules cover completely.
pub(super) fn shadowed(meaning: &Meaning) -> Vec<Diagnostic> {
    let ruleset = &meaning.ruleset;
    if ruleset.rules.len() > MOST_RULES {
        return Vec::new();
    }
    let reached = Family::ALL.map(|family| meaning.diagram().first_leaves(family));
    let mut left = (MOST_COMPARED, EFFORT);
    let mut found = Vec::new();
    for (index, rule) in ruleset.rules.iter().enumerate() {
        if found.len() == MOST_REPORTED {
            break;
        }
        // A leaf of the first part is reached. One of another part may be covered by the parts before it.
        if rule.each().any(|(family, _)| reached[family.index()].contains(&index)) {
            continue;
        }
        let earlier = &ruleset.rules[..index];
        if let Some(takers) = takers(rule, earlier, &mut left) {
            found.push(warning(rule, &takers.into_iter().map(|taker| &earlier[taker]).collect::<Vec<_>>()));
        }
    }
    found
}

/// The earlier rules that take all packets of this one; nothing if some packet is left, or that cannot be found out.
fn takers(rule: &Rule, earlier: &[Rule], (pairs, effort): &mut (usize, usize)) -> Option<BTreeSet<usize>> {
    let mut takers = BTreeSet::new();
    for (family, packets) in rule.each() {
        *pairs = pairs.checked_sub(earlier.len())?;
        let of_kind = about(earlier, family, rule.proto);
        let meeting: Vec<(usize, &Matches)> = of_kind.filter(|(_, matches)| matches.meets(packets)).collect();
        // One that covers it all is the answer that people look for.
        if let Some((one, _)) = meeting.iter().find(|(_, matches)| matches.covers(packets)) {
            takers.insert(*one);
            continue;
        }
        let answer = ask(packets, family, &meeting, effort)?;
        if answer.misses() {
            return None;
        }
        takers.extend(answer.rules());
    }
    Some(takers)
}

fn warning(rule: &Rule, takers: &[&Rule]) -> Diagnostic {
    let warning = Diagnostic::warning("the rule is never reached", rule.span, "matches nothing that is left");
    let warning = match takers {
        [one] => warning.with(one.span, "takes all its packets first"),
        several => {
            let (named, more) = several.split_at(several.len().min(MOST_NAMED));
            let mut warning = warning;
            for (at, taker) in named.iter().enumerate() {
                let label = match (at + 1 == named.len(), more.len()) {
                    (false, _) => "takes some of its packets first".to_owned(),
                    (true, 0) => "takes the rest of them".to_owned(),
                    (true, more) => format!("takes some, and {more} more rules the rest"),
                };
                warning = warning.with(taker.span, label);
            }
            warning
        }
    };
    warning.help("remove it, or move it up")
}
