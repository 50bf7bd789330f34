//! From the rules of one end and hook, the rules of the other three.
//!
//! Takes a checked [`Ruleset`] and where it belongs; gives rules and notes about what was left out, or
//! diagnostics where the rules do not say enough. Guesses nothing. Pure.
//!
//! ```text
//!               the client                            the pod
//! requests   egress: funnel, alias    ──invert──▶  ingress: unfunnel, unalias
//!                  │ reverse                             │ reverse
//! replies    ingress: unfunnel, unalias  ◀──invert──  egress: funnel, alias
//! ```
//!
//! Two steps, each its own inverse, lead anywhere: [`back::reverse`] swaps source and destination (the hook
//! stays what it is, the end changes), [`far::invert`] undoes at the far end of the way what was done here.

mod back;
mod conflict;
mod far;

use std::fmt;

use crate::action::PortChange;
use crate::diag::{Diagnostic, Source, Span};
use crate::field::{Field, Reply};
use crate::ir::{Action, End, Rule, Ruleset, Side};
use crate::{check, rule_text};

/// Where a list of rules is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    ClientEgress,
    PodIngress,
    PodEgress,
    ClientIngress,
}

impl Role {
    /// In the order in which a packet and its answer pass them.
    pub const ALL: [Role; 4] = [Role::ClientEgress, Role::PodIngress, Role::PodEgress, Role::ClientIngress];

    pub fn is_egress(self) -> bool {
        matches!(self, Role::ClientEgress | Role::PodEgress)
    }

    /// The hook.
    pub fn side(self) -> Side {
        if self.is_egress() { Side::Egress } else { Side::Ingress }
    }

    pub fn is_client(self) -> bool {
        matches!(self, Role::ClientEgress | Role::ClientIngress)
    }

    /// The way from client to pod, not back.
    fn is_request(self) -> bool {
        matches!(self, Role::ClientEgress | Role::PodIngress)
    }

    fn from(egress: bool, request: bool) -> Role {
        match (egress, request) {
            (true, true) => Role::ClientEgress,
            (false, true) => Role::PodIngress,
            (true, false) => Role::PodEgress,
            (false, false) => Role::ClientIngress,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::ClientEgress => "client, egress",
            Role::PodIngress => "pod, ingress",
            Role::PodEgress => "pod, egress",
            Role::ClientIngress => "client, ingress",
        })
    }
}

/// The rules for another place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mirrored {
    pub rules: Vec<Rule>,
    /// What the new rules do not say although the old ones do.
    pub notes: Vec<Note>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The rule that it is about; `None`: all of them.
    pub rule: Option<Span>,
    pub text: String,
}

impl Mirrored {
    /// The rules, one a line.
    pub fn text(&self) -> String {
        self.rules.iter().map(|rule| format!("{}\n", rule.text)).collect()
    }

    fn push(&mut self, rule: Rule) {
        self.rules.push(Rule { text: rule_text::rule(&rule), ..rule });
    }

    fn note(&mut self, rule: &Rule, text: impl Into<String>) {
        self.notes.push(Note { rule: Some(rule.span), text: text.into() });
    }
}

/// Where the rules belong, if they tell.
pub fn infer(ruleset: &Ruleset) -> Result<Role, Vec<Diagnostic>> {
    let egress = hook(ruleset)?;
    let votes: Vec<bool> = ruleset.rules.iter().filter_map(is_request).collect();
    match votes.first() {
        Some(first) if votes.iter().all(|vote| vote == first) => Ok(Role::from(egress, *first)),
        _ => {
            let (a, b) =
                if egress { ("client-egress", "pod-egress") } else { ("pod-ingress", "client-ingress") };
            let span = ruleset.rules.first().map_or(Span::default(), |rule| rule.span);
            Err(vec![
                Diagnostic::error("whose rules are these?", span, "could be the client's or the pod's")
                    .help(format!("add `--from {a}` or `--from {b}`")),
            ])
        }
    }
}

fn bypasses(rule: &Rule) -> Diagnostic {
    let error = Diagnostic::error("there is nothing to mirror", rule.span, "is the same on every node");
    error.help("give each node the rules as they are: what undoes `bypass` there follows from them")
}

/// Whether these are rules of egress, which hide ports, and not of ingress, which restore them.
fn hook(ruleset: &Ruleset) -> Result<bool, Vec<Diagnostic>> {
    if let Some(rule) = ruleset.rules.iter().find(|rule| rule.action.is_bypass()) {
        return Err(vec![bypasses(rule)]);
    }
    let one = |change| ruleset.rules.iter().find(|rule| rule.action.port_change() == change);
    let (hides, restores) = (one(PortChange::Hidden), one(PortChange::Restored));
    match (hides, restores) {
        (Some(_), None) => Ok(true),
        (None, Some(_)) => Ok(false),
        (Some(hides), Some(restores)) => Err(vec![
            Diagnostic::error(
                "rules of egress and of ingress in one list",
                restores.span,
                "restores ports: ingress",
            )
            .with(hides.span, "hides ports: egress")
            .help("mirror one of the two lists, the rest follows from it"),
        ]),
        (None, None) => {
            let span = ruleset.rules.first().map_or(Span::default(), |rule| rule.span);
            Err(vec![
                Diagnostic::error("there is nothing to mirror", span, "no rule changes a packet")
                    .help("`mirror` is for rulesets with `funnel`, `unfunnel`, `alias` or `unalias`"),
            ])
        }
    }
}

/// Whether the rule is about the way from client to pod, not back; `None` if it does not tell.
fn is_request(rule: &Rule) -> Option<bool> {
    match &rule.action {
        Action::Alias { end, .. } | Action::Unalias { end, .. } => Some(*end == End::Dport),
        Action::Funnel(_) => match (rule.matches_on(Field::SPORT), rule.matches_on(Field::DPORT)) {
            (false, true) => Some(true),
            (true, false) => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// The rules for `to`, from those for `from`. `nat`: addresses may not be the same at both ends.
pub fn mirror(ruleset: &Ruleset, from: Role, to: Role, nat: bool) -> Result<Mirrored, Vec<Diagnostic>> {
    if hook(ruleset)? != from.is_egress() {
        let span = ruleset.rules.first().map_or(Span::default(), |rule| rule.span);
        let wrong = if from.is_egress() { "no rule hides a port" } else { "no rule restores a port" };
        return Err(vec![
            Diagnostic::error(format!("these are not the rules of `{from}`"), span, wrong)
                .help("leave `--from` out, or name the other hook"),
        ]);
    }
    if let Some(rule) = ruleset.rules.iter().find(|rule| !rule.nat.is_none()) {
        return Err(vec![
            Diagnostic::error("`dnat` and `snat` cannot be mirrored", rule.span, "changes addresses").help(
                "mirror the rules without them; the way back needs the reverse, such as `snat` to the old address",
            ),
        ]);
    }
    let keep = !nat || from.is_client() == to.is_client();
    let mut mirrored = Mirrored::default();
    ruleset.rules.iter().cloned().for_each(|rule| mirrored.push(rule));
    if from.is_request() != to.is_request() {
        mirrored = back::reverse(&mirrored, keep)?;
    }
    if from.is_egress() != to.is_egress() {
        mirrored = far::invert(&mirrored, from, keep)?;
    }
    refused(&mirrored)?;
    if !keep && ruleset.rules.iter().any(names_addresses) {
        let text = "addresses are left out: NAT on the way may change them (`--no-nat` keeps them)";
        mirrored.notes.insert(0, Note { rule: None, text: text.to_owned() });
    }
    if from != to {
        for rule in &ruleset.rules {
            for field in local_fields(rule) {
                let text = format!("`{field}` is left out: it says nothing about packets at other places");
                mirrored.note(rule, text);
            }
        }
    }
    Ok(mirrored)
}

/// The lists of one end, ingress first, from what a client sends; a list without rules is left out.
pub fn end(service: &Ruleset, client: bool) -> Result<Vec<(Side, Ruleset)>, Vec<Diagnostic>> {
    let mut faults = Vec::new();
    let mut lists = Vec::new();
    for role in Role::ALL.into_iter().filter(|role| role.is_client() == client) {
        match mirror(service, Role::ClientEgress, role, true) {
            Ok(Mirrored { rules, .. }) if rules.is_empty() => {}
            Ok(Mirrored { rules, .. }) => lists.push((role.side(), Ruleset { rules })),
            Err(more) => faults.extend(more),
        }
    }
    lists.sort_by_key(|(side, _)| *side);
    if faults.is_empty() { Ok(lists) } else { Err(faults) }
}

fn names_addresses(rule: &Rule) -> bool {
    rule.matches_on(Field::SADDR) || rule.matches_on(Field::DADDR)
}

fn without_addresses(rule: &Rule) -> Rule {
    rule.clone().with(|_, matches| matches.without(Field::SADDR).without(Field::DADDR))
}

/// What is known of the rule's packets at another place. `keep`: addresses, too.
fn elsewhere(rule: &Rule, keep: bool) -> Rule {
    let known = rule.clone().with(|_, matches| matches.elsewhere());
    if keep { known } else { without_addresses(&known) }
}

/// The fields that the rule matches on and that say nothing at other places.
fn local_fields(rule: &Rule) -> Vec<Field> {
    Field::all().filter(|field| rule.matches_on(*field) && field.row().reply == Reply::Unknown).collect()
}

/// What `check` would say against the new rules, at the rules that they come from.
fn refused(mirrored: &Mirrored) -> Result<(), Vec<Diagnostic>> {
    let text = mirrored.text();
    let Err(faults) = check::read(&Source::new("mirrored", text.as_str())) else { return Ok(()) };
    let span = |at: usize| {
        let line = text.get(..at).map_or(0, |before| before.matches('\n').count());
        mirrored.rules.get(line).map_or(Span::default(), |rule| rule.span)
    };
    Err(faults
        .into_iter()
        .map(|fault| {
            let at = fault.primary.span.start;
            let line = mirrored.rules.iter().map(|rule| rule.text.as_str());
            let line = line.zip(&mirrored.rules).find(|(_, rule)| rule.span == span(at));
            let label = line.map_or(String::new(), |(text, _)| format!("would be `{text}`"));
            let error = Diagnostic::error(format!("at the other end: {}", fault.message), span(at), label);
            match fault.help {
                Some(help) => error.help(help),
                None => error,
            }
        })
        .collect())
}
