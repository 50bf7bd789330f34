//! Chains and services: which list each rule belongs to, and what is wrong with the chains themselves.
//!
//! Legal rules go in, lists of them come out. Never looks into a rule.

use super::Pair;
use crate::diag::{Diagnostic, Span};
use crate::ir::{Ruleset, Rulesets, Side};
use crate::syntax::ast::{Ast, Chain, Head, Rule};

/// Without a side: the rules outside of chains.
pub(super) type List<'a> = (Option<Side>, Vec<Pair<'a>>);

/// Chains that are repeated, empty, or beside a service, and rules outside of them.
pub(super) fn heads(ast: &Ast, faults: &mut Vec<Diagnostic>) {
    for (index, head) in ast.chains.iter().enumerate() {
        let Head { span, chain } = *head;
        let name = chain.keywords();
        let is_service = chain == Chain::Service;
        let before = &ast.chains[..index];
        if let Some(other) = before.iter().find(|other| (other.chain == Chain::Service) != is_service) {
            let error = Diagnostic::error("a service and a chain in one ruleset", span, "second kind")
                .with(other.span, "first kind");
            faults.push(
                error.help("attach the service alone; `sfunnel mirror` writes the chains that it stands for"),
            );
        } else if let Some(first) = before.iter().find(|first| first.chain == chain && !is_service) {
            let error = Diagnostic::error(format!("`{name}` is repeated"), span, "second one")
                .with(first.span, "first one");
            faults.push(error.help(format!("write all rules of the hook in one `{name}`")));
        } else if !ast.unread && !ast.rules.iter().any(|rule| rule.chain == Some(chain)) {
            let kind = if is_service { "service" } else { "chain" };
            let error = Diagnostic::error(format!("the {kind} has no rules"), span, "nothing to attach");
            faults.push(error.help(format!("write its rules between the braces, or leave `{name}` out")));
        }
    }
    let outside = |rule: &&Rule| rule.chain.is_none() && !rule.damaged;
    if let (Some(head), Some(rule)) = (ast.chains.first(), ast.rules.iter().find(outside)) {
        faults.push(if head.chain == Chain::Service {
            Diagnostic::error("a rule outside of the service", rule.span, "belongs to no service")
                .with(head.span, "where there is a service, all rules are in it")
                .help("move it into `service`")
        } else {
            Diagnostic::error("a rule outside of the chains", rule.span, "belongs to no chain")
                .with(head.span, "where there are chains, all rules are in them")
                .help("move it into `chain ingress`, `chain egress`, or both")
        });
    }
}

/// Each chain's rules, ingress first; or all.
pub(super) fn split<'a>(ast: &Ast, rules: Vec<Pair<'a>>) -> Vec<List<'a>> {
    if !ast.chains.iter().any(|head| head.chain != Chain::Service) {
        return vec![(None, rules)];
    }
    let (mut ingress, mut egress) = (Vec::new(), Vec::new());
    for (written, rule) in rules {
        match written.chain {
            Some(Chain::Ingress) => ingress.push((written, rule)),
            Some(Chain::Egress) => egress.push((written, rule)),
            Some(Chain::Service) | None => {}
        }
    }
    let lists = [(Some(Side::Ingress), ingress), (Some(Side::Egress), egress)];
    lists.into_iter().filter(|(_, rules)| !rules.is_empty()).collect()
}

pub(super) fn rulesets(ast: &Ast, lists: Vec<List<'_>>) -> Rulesets {
    let mut anywhere = Ruleset::default();
    let mut chains = Vec::new();
    for (side, rules) in lists {
        let ruleset = Ruleset { rules: rules.into_iter().map(|(_, rule)| rule).collect() };
        match side {
            None => anywhere = ruleset,
            Some(side) => chains.push((side, ruleset)),
        }
    }
    match ast.chains.first() {
        Some(Head { chain: Chain::Service, .. }) => Rulesets::Service(anywhere),
        Some(_) => Rulesets::Chains(chains),
        None => Rulesets::Anywhere(anywhere),
    }
}

/// Chains, where one list of rules is wanted.
pub(super) fn unwanted<'a>(rulesets: impl Iterator<Item = &'a Ruleset>) -> Diagnostic {
    let rules = rulesets.flat_map(|ruleset| &ruleset.rules);
    let span = rules.map(|rule| rule.span).min_by_key(|span| span.start).unwrap_or(Span::default());
    Diagnostic::error("a chain, where one list of rules is wanted", span, "is the first rule of a chain")
        .help("give the rules of one chain, without `chain` and its braces")
}
