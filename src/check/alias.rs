//! What `alias` and `unalias` ask of a rule, and of each other.
//!
//! A rule's parts go in, its action or what is wrong with it come out. A ruleset is one end's, often
//! one direction's only: that the way back is missing altogether is nothing to warn about here.

use std::collections::BTreeMap;

use range_set_blaze::RangeSetBlaze;

use super::Matches;
use super::Pair;
use super::set::range;
use crate::diag::{Diagnostic, Span};
use crate::field::Field;
use crate::ir::{Action, End};
use crate::syntax::ast::{self, MatchKind, Side};

/// Diagnostics of one kind. More reports of one mistake do not help.
pub(super) const MOST_TOLD: usize = 20;

/// `alias`, if the rule is about TCP and the port may be another one.
pub(super) fn alias(
    rule: &ast::Rule,
    matches: &Matches,
    side: Side,
    port: u16,
    faults: &mut Vec<Diagnostic>,
) -> Option<Action> {
    let word = side.port_keyword();
    if let Some(wrong) = not_tcp(rule, matches, KEEPS) {
        faults.push(wrong.help(carry(&format!("funnel udp sport 540 dport {port}"))));
        return None;
    }
    if matches.ports(side).as_ref().and_then(only) == Some(port) {
        let error =
            Diagnostic::error("the rule renames a port to itself", span(rule), format!("to port {port}"));
        let error = match place(rule, side) {
            Some(place) => error.with(place, format!("from port {port}")),
            None => error,
        };
        faults.push(error.help(format!("write `actions accept`, or another port after `alias {word}`")));
        return None;
    }
    Some(Action::Alias { end: end(side), port })
}

/// `unalias`, if the rule is about TCP and says by one single port which end is meant.
pub(super) fn unalias(
    rule: &ast::Rule,
    matches: &Matches,
    ports: RangeSetBlaze<u16>,
    faults: &mut Vec<Diagnostic>,
) -> Option<Action> {
    if let Some(wrong) = not_tcp(rule, matches, KEEPS) {
        faults.push(wrong.help(carry("unfunnel udp")));
        return None;
    }
    let [sport, dport] =
        [Side::Source, Side::Destination].map(|side| matches.ports(side).as_ref().and_then(only));
    let side = match (sport, dport) {
        (Some(_), None) => Side::Source,
        (None, Some(_)) => Side::Destination,
        (None, None) => {
            faults.push(
                Diagnostic::error(
                    "which port does `unalias` restore?",
                    span(rule),
                    "no single port is matched",
                )
                .help(
                    "match the port that `alias` has written: `dport N` towards the server, `sport N` \
                         for its replies",
                ),
            );
            return None;
        }
        (Some(_), Some(_)) => {
            let mut error =
                Diagnostic::error("which port does `unalias` restore?", span(rule), "two ports are matched");
            for side in [Side::Source, Side::Destination] {
                if let Some(place) = place(rule, side) {
                    error = error.with(place, "this one?");
                }
            }
            faults
                .push(error.help("keep the match on the port that `alias` has written, leave out the other"));
            return None;
        }
    };
    Some(Action::Unalias { end: end(side), ports })
}

const KEEPS: &str = "keeps the port in a field of the TCP header";

fn carry(instead: &str) -> String {
    format!("write `{instead}` to carry UDP, or match `tcp`")
}

/// Only TCP has a field to spare, and the action `keeps` something there.
pub(super) fn not_tcp(rule: &ast::Rule, matches: &Matches, keeps: &str) -> Option<Diagnostic> {
    if matches.protocol? == ast::Protocol::Tcp {
        return None;
    }
    let keyword = rule.actions.first()?.kind.keyword();
    let error = Diagnostic::error(format!("`{keyword}` is for TCP only"), span(rule), keeps);
    let udp = rule.matches.iter().find(|m| m.kind == MatchKind::Protocol(ast::Protocol::Udp));
    Some(match udp {
        Some(udp) => error.with(udp.span, "UDP has no such field"),
        None => error,
    })
}

/// The lists of `unalias`, against the port they are for and against the ruleset's own aliases.
pub(super) fn lists(rules: &[Pair<'_>]) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    // For each port that is restored from: all that may be restored, and by which rule first.
    let mut restored: BTreeMap<u16, (RangeSetBlaze<u16>, usize)> = BTreeMap::new();
    for (index, (written, rule)) in rules.iter().enumerate() {
        let Action::Unalias { end, ports } = &rule.action else { continue };
        let Some(shared) = rule.ports(*end).first() else { continue };
        if ports.contains(shared) && found.len() < MOST_TOLD {
            let warning = Diagnostic::warning(
                format!("port {shared} is on its own list"),
                span(written),
                "`alias` never puts it there",
            );
            let warning = match place(written, side(*end)) {
                Some(place) => warning.with(place, "the port that packets come with"),
                None => warning,
            };
            let others = ports - &RangeSetBlaze::from_iter([shared]);
            found.push(match others.is_empty() {
                true => warning.help("list the ports that `alias` takes packets from"),
                false => warning.help(format!("write `unalias {}`", show(&others))),
            });
        }
        let entry = restored.entry(shared).or_insert_with(|| (RangeSetBlaze::new(), index));
        entry.0 |= ports;
    }
    found.extend(missing(rules, &restored));
    found
}

/// Ports that the ruleset's own `alias` rules hide and none of its `unalias` rules brings back, though
/// some is there for the same port.
fn missing(rules: &[Pair<'_>], restored: &BTreeMap<u16, (RangeSetBlaze<u16>, usize)>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (written, rule) in rules {
        let Action::Alias { end, port } = &rule.action else { continue };
        let from = rule.ports(*end);
        // Chains are known to belong together: see `return_path`.
        if written.chain.is_some() {
            continue;
        }
        let (Some((listed, first)), Some(from)) = (restored.get(port), only(&from)) else { continue };
        if listed.contains(from) {
            continue;
        }
        let list = &(listed | &RangeSetBlaze::from_iter([from])) - &RangeSetBlaze::from_iter([*port]);
        found.push(
            Diagnostic::warning(
                format!("port {from} is aliased, but not restored"),
                span(written),
                format!("hides port {from}"),
            )
            .with(span(rules[*first].0), "does not list it")
            .help(format!("if both are of the same flows, write `unalias {}`", show(&list))),
        );
        if found.len() == MOST_TOLD {
            break;
        }
    }
    found
}

/// The ports as one writes them; long lists are shortened.
pub(super) fn show(list: &RangeSetBlaze<u16>) -> String {
    const LONGEST: usize = 16;
    let mut ports: Vec<String> =
        list.ranges().take(LONGEST).map(|ports| range(*ports.start(), *ports.end())).collect();
    if list.ranges_len() > LONGEST {
        ports.push("...".into());
    }
    match &ports[..] {
        [one] => one.clone(),
        many => format!("{{ {} }}", many.join(", ")),
    }
}

pub(super) fn only(set: &RangeSetBlaze<u16>) -> Option<u16> {
    set.first().filter(|first| set.last() == Some(*first))
}

fn end(side: Side) -> End {
    match side {
        Side::Source => End::Sport,
        Side::Destination => End::Dport,
    }
}

fn side(end: End) -> Side {
    match end {
        End::Sport => Side::Source,
        End::Dport => Side::Destination,
    }
}

/// Where the action stands.
pub(super) fn span(rule: &ast::Rule) -> Span {
    rule.actions.first().map_or(rule.span, |action| action.span)
}

/// Where the port on this side is matched.
fn place(rule: &ast::Rule, wanted: Side) -> Option<Span> {
    rule.matched(Field::of(end(wanted))).map(|m| m.span)
}
