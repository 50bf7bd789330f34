//! What rules do to each other: a funnel that matches what it made, rules that are never reached.
//!
//! Legal rules as sets go in, diagnostics come out. Work is bounded, whatever the ruleset.

use range_set_blaze::{Integer, RangeSetBlaze};

use crate::diag::Diagnostic;
use crate::ir::{Action, Funnel, Rule};
use crate::syntax::ast;

/// Pairs of rules are compared up to this many rules: two million pairs, some milliseconds.
/// Larger rulesets are written by programs, and for those a warning helps nobody.
const MOST_COMPARED: usize = 2000;

/// Who has this many funnels that eat their own output will fix them all alike.
const MOST_TOLD: usize = 1000;

pub(super) type Pair<'a> = (&'a ast::Rule, Rule);

/// Funnels whose output they would funnel again, at the next hook it passes.
///
/// A rule that takes the output first must be among the first [`MOST_COMPARED`]: the remedy says
/// to put it on top.
pub(super) fn own_output(rules: &[Pair<'_>]) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (index, (written, rule)) in rules.iter().enumerate() {
        let Action::Funnel(funnel) = rule.action else { continue };
        let earlier = &rules[..index.min(MOST_COMPARED)];
        if takes(rule, funnel) && !earlier.iter().any(|(_, earlier)| takes_first(earlier, rule, funnel)) {
            found.push(own_output_error(written, rule, funnel));
            if found.len() == MOST_TOLD {
                break;
            }
        }
    }
    found
}

/// Whether `rule` matches what `funnel` makes, its addresses aside.
fn takes(rule: &Rule, funnel: Funnel) -> bool {
    rule.proto == funnel.outer && rule.sport.contains(funnel.sport) && rule.dport.contains(funnel.dport)
}

/// Whether `earlier` takes all that `rule` makes before `rule` sees it again.
fn takes_first(earlier: &Rule, rule: &Rule, funnel: Funnel) -> bool {
    takes(earlier, funnel) && rule.saddr.is_subset(&earlier.saddr) && rule.daddr.is_subset(&earlier.daddr)
}

fn own_output_error(written: &ast::Rule, rule: &Rule, funnel: Funnel) -> Diagnostic {
    let Funnel { outer, sport, dport } = funnel;
    let span = written.actions.first().map_or(rule.span, |action| action.span);
    let matches = written.matches.first().map_or(rule.span, |first| {
        first.span.to(written.matches.last().map_or(first.span, |last| last.span))
    });
    Diagnostic::error("the rule matches its own output and would funnel it again", span, "makes such packets")
        .with(matches, format!("matches {outer} from port {sport} to port {dport}"))
        .help(format!("put this rule first: `{outer} sport {sport} dport {dport} actions accept`"))
}

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
