//! Rules that are never reached.
//!
//! Legal rules as sets go in, warnings come out. Work is bounded, whatever the ruleset.

use range_set_blaze::{Integer, RangeSetBlaze};

use crate::diag::Diagnostic;
use crate::ir::Rule;
use crate::syntax::ast;

/// Pairs of rules are compared up to this many rules: two million pairs, some milliseconds.
/// Larger rulesets are written by programs, and for those a warning helps nobody.
const MOST_COMPARED: usize = 2000;

pub(super) type Pair<'a> = (&'a ast::Rule, Rule);

/// Rules that one earlier rule covers completely.
pub(super) fn shadowed(rules: &[Pair<'_>]) -> Vec<Diagnostic> {
    if rules.len() > MOST_COMPARED {
        return Vec::new();
    }
    let outlines: Vec<_> = rules.iter().map(|(_, rule)| outline(rule)).collect();
    let mut found = Vec::new();
    for (index, (_, rule)) in rules.iter().enumerate() {
        let covers = |&earlier: &usize| {
            may_cover(&outlines[earlier], &outlines[index]) && covers(&rules[earlier].1, rule)
        };
        if let Some(earlier) = (0..index).find(covers) {
            found.push(
                Diagnostic::warning("the rule is never reached", rule.span, "matches nothing that is left")
                    .with(rules[earlier].1.span, "takes all its packets first")
                    .help("remove it, or move it up"),
            );
        }
    }
    found
}

fn covers(earlier: &Rule, rule: &Rule) -> bool {
    earlier.proto == rule.proto
        && rule.dport.is_subset(&earlier.dport)
        && rule.sport.is_subset(&earlier.sport)
        && rule.daddr.is_subset(&earlier.daddr)
        && rule.saddr.is_subset(&earlier.saddr)
}

/// The first and last value in a set, and the first and last one that is not: enough to tell for
/// nearly all pairs, in a few nanoseconds, that one set does not hold the other.
struct Outline {
    inside: Option<(u128, u128)>,
    outside: Option<(u128, u128)>,
}

fn outline(rule: &Rule) -> [Outline; 6] {
    fn of<T: Integer + Into<u128>>(set: &RangeSetBlaze<T>) -> Outline {
        let ends = |set: &RangeSetBlaze<T>| Some((set.first()?.into(), set.last()?.into()));
        Outline { inside: ends(set), outside: ends(&!set) }
    }
    let Rule { saddr, daddr, sport, dport, .. } = rule;
    [of(dport), of(sport), of(&daddr.v4), of(&daddr.v6), of(&saddr.v4), of(&saddr.v6)]
}

fn may_cover(earlier: &[Outline; 6], rule: &[Outline; 6]) -> bool {
    let within = |inner: Option<(u128, u128)>, outer: Option<(u128, u128)>| match (inner, outer) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(inner), Some(outer)) => outer.0 <= inner.0 && inner.1 <= outer.1,
    };
    earlier
        .iter()
        .zip(rule)
        .all(|(earlier, rule)| within(rule.inside, earlier.inside) && within(earlier.outside, rule.outside))
}
