//! `unfunnel` without a guard lets anyone who can reach the funnel reach every port behind it, bypassing port
//! filters on the way.
//!
//! Legal rules go in, advice comes out: it may be meant, and the original's rules cannot say it otherwise.
//! Suggests only ports that the same ruleset funnels the other way: `drop` and `accept` do not say which. Of a
//! service, whose `unfunnel` is derived, it says where no guard can be.

use range_set_blaze::RangeSetBlaze;

use super::Pair;
use super::actions::main;
use super::alias::MOST_TOLD;
use crate::diag::{Diagnostic, Span};
use crate::field::Field;
use crate::ir::{Action, End, Family, Funnel, Guard, Proto, Rule};
use crate::syntax::ast;
use crate::value_text;

/// Ports of a remedy: of more, an example is said.
const MOST_SHOWN: usize = 16;

pub(super) fn unguarded(rules: &[Pair<'_>]) -> Vec<Diagnostic> {
    let open = rules.iter().filter_map(|(written, rule)| Some((written, rule, inner(rule)?)));
    open.take(MOST_TOLD)
        .map(|(written, rule, inner)| {
            let help = match other_way(rules, written, rule, inner) {
                Some(guard) => format!(
                    "write `unfunnel {inner}{guard}`: this is funneled in the opposite direction; `dport 1-65535` is every port"
                ),
                None => format!(
                    "say which ports may be reached, such as `unfunnel {inner} dport {}`, or `sport` for answers; \
                     `dport 1-65535` is every port",
                    example(inner)
                ),
            };
            let action = main(written).map_or(rule.span, |action| action.span);
            Diagnostic::warning("`unfunnel` without a guard", action, "any inner port is reached through this")
                .with(entrance(written), "by whoever can send here")
                .help(help)
        })
        .collect()
}

/// What a service sends with one header gets one guard: a set of source ports, and one of destination ports. Where
/// one flow names the one and another the other, or a flow names neither, nothing is left of both.
pub(super) fn services(rules: &[Pair<'_>]) -> Vec<Diagnostic> {
    let mut headers: Vec<(Proto, Funnel, Vec<&Rule>)> = Vec::new();
    for (_, rule) in rules {
        let Action::Funnel(funnel) = rule.action else { continue };
        match headers.iter_mut().find(|(inner, known, _)| (*inner, *known) == (rule.proto, funnel)) {
            Some((_, _, flows)) => flows.push(rule),
            None => headers.push((rule.proto, funnel, vec![rule])),
        }
    }
    let advice = headers.iter().filter_map(|(inner, _, flows)| {
        let any_source = flows.iter().find(|flow| !flow.matches_on(Field::SPORT))?;
        let any_destination = flows.iter().find(|flow| !flow.matches_on(Field::DPORT))?;
        let advice = Diagnostic::warning(
            "a service without a guard",
            any_destination.span,
            "goes to any port, so any inner port comes through at the far end",
        );
        Some(if any_source.span == any_destination.span {
            advice.help(format!("name the ports: `{inner} dport {}`", example(*inner)))
        } else {
            advice
                .with(any_source.span, "comes from any port, with the same header")
                .help("give one of them a header of its own: another `sport` after `funnel`, in a service of its own")
        })
    });
    advice.take(MOST_TOLD).collect()
}

/// The protocol below, if any of its ports is reached. `dnat` to a port leaves one.
fn inner(rule: &Rule) -> Option<Proto> {
    match &rule.action {
        Action::Unfunnel { inner, guard } if *guard == Guard::default() && rule.nat.dport.is_none() => {
            Some(*inner)
        }
        _ => None,
    }
}

/// Where packets come in: the port, or all that is matched.
fn entrance(rule: &ast::Rule) -> Span {
    let all = || Some(rule.matches.first()?.span.to(rule.matches.last()?.span));
    rule.matched(Field::DPORT).map(|m| m.span).or_else(all).unwrap_or(rule.span)
}

/// The guard for what the ruleset funnels the other way, as it is written.
fn other_way(rules: &[Pair<'_>], written: &ast::Rule, rule: &Rule, inner: Proto) -> Option<String> {
    let mut guard = Guard { sport: RangeSetBlaze::new(), dport: RangeSetBlaze::new() };
    let others = rules.iter().filter(|(other, _)| written.chain.is_none() || other.chain != written.chain);
    for (_, other) in others.filter(|(_, other)| other.proto == inner) {
        let Action::Funnel(funnel) = other.action else { continue };
        let answers = |family| {
            let sent = other.of(family)?.funneled(family, funnel.sport, funnel.dport);
            Some(rule.of(family)?.meets(&sent.reversed()))
        };
        if funnel.outer == rule.proto && Family::ALL.into_iter().any(|family| answers(family) == Some(true)) {
            guard.sport |= &other.ports(End::Dport);
            guard.dport |= &other.ports(End::Sport);
        }
    }
    let sides = [("sport", guard.sport), ("dport", guard.dport)];
    let known = sides.into_iter().filter(|(_, ports)| !ports.is_empty() && !ports.is_universal());
    let known: Vec<_> = known.filter(|(_, ports)| ports.ranges_len() <= MOST_SHOWN).collect();
    let words = known.iter().map(|(word, ports)| format!(" {word} {}", value_text::ports(ports)));
    (!known.is_empty()).then(|| words.collect())
}

fn example(inner: Proto) -> u16 {
    match inner {
        Proto::Tcp => 443,
        Proto::Udp => 4739,
    }
}
