//! What rules do to each other: a funnel that matches what it made, rules that are never reached.
//!
//! Legal rules as sets go in, diagnostics come out. Work is bounded, whatever the ruleset.

use crate::diag::Diagnostic;
use crate::ir::{Action, Funnel, Rule};
use crate::syntax::ast;

/// Pairs of rules are compared up to this many rules: two million pairs, well under a second.
/// Larger rulesets are written by programs, and for those a warning helps nobody.
const MOST_COMPARED: usize = 2000;

type Pair<'a> = (&'a ast::Rule, Rule);

/// Funnels whose output they would funnel again, at the next hook it passes.
pub(super) fn own_output(rules: &[Pair<'_>]) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (index, (written, rule)) in rules.iter().enumerate() {
        let Action::Funnel(funnel) = rule.action else { continue };
        let earlier = &rules[..index.min(MOST_COMPARED)];
        if takes(rule, funnel) && !earlier.iter().any(|(_, earlier)| takes_first(earlier, rule, funnel)) {
            found.push(own_output_error(written, rule, funnel));
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
    let mut found = Vec::new();
    for (index, (_, rule)) in rules.iter().enumerate() {
        if let Some((_, earlier)) = rules[..index].iter().find(|(_, earlier)| covers(earlier, rule)) {
            found.push(
                Diagnostic::warning("the rule is never reached", rule.span, "matches nothing that is left")
                    .with(earlier.span, "takes all its packets first")
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
