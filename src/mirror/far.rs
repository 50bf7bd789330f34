//! The far end of the way: what undoes there what was done here, and the reverse.
//!
//! `funnel` becomes `unfunnel` and `alias` becomes `unalias`; back again only where the rules say which
//! ports are hidden. What is not hidden here is not let in there: `unfunnel` gets a guard, `unalias` its list.
//! Refuses what would arrive in a way that two rules claim.

use super::{Mirrored, Role, bypasses, conflict, elsewhere};
use crate::action::PortChange;
use crate::diag::Diagnostic;
use crate::field::Field;
use crate::ir::{Action, Effect, End, Funnel, Guard, Proto, Rule};
use crate::matches::Ports;

/// Ports that one `unalias` may list: a rule that hides more than this has not named any.
const MOST_LISTED: usize = 1000;

/// The rules for the far end of the way. `written`: where the user's rules are; `keep`: with addresses.
pub(super) fn invert(from: &Mirrored, written: Role, keep: bool) -> Result<Mirrored, Vec<Diagnostic>> {
    let mut faults = Vec::new();
    let mut far = Mirrored { rules: Vec::new(), notes: from.notes.clone() };
    // What each rule sends, and the rules that restore it, with the rule that both come from.
    let mut sent: Vec<(&Rule, Rule, Rule)> = Vec::new();
    for rule in &from.rules {
        let bare = elsewhere(rule, keep);
        match &rule.action {
            Action::Drop => far.note(rule, "dropped there, never sent"),
            action if action.is_bypass() => faults.push(bypasses(rule)),
            action if action.port_change() == PortChange::Kept => {
                far.note(rule, "an exception of the other end, nothing to undo");
            }
            _ => match undone(rule, &bare, written) {
                Ok(Some((arrives, restores))) => sent.push((rule, arrives, restores)),
                Ok(None) => far.note(rule, "renames nothing"),
                Err(fault) => faults.push(fault),
            },
        }
    }
    let (mut groups, members) = grouped(sent);
    join(&mut groups);
    for (rule, arrives, group) in &members {
        faults.extend(first_of(&groups, *group, rule, arrives));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    groups.into_iter().for_each(|(_, restores)| far.push(restores));
    Ok(far)
}

/// What a rule that hides or restores ports sends, and the rule that undoes it at the far end. `None`: nothing.
fn undone(rule: &Rule, bare: &Rule, written: Role) -> Result<Option<(Rule, Rule)>, Diagnostic> {
    match &rule.action {
        Action::Funnel(Funnel { outer, sport, dport, .. }) => {
            let guard = Guard { sport: rule.ports(End::Sport), dport: rule.ports(End::Dport) };
            let arrives = Rule {
                proto: *outer,
                action: Action::Unfunnel { inner: rule.proto, guard },
                ..bare.clone().with(|family, matches| matches.funneled(family, *sport, *dport))
            };
            Ok(Some((arrives.clone(), arrives)))
        }
        Action::Alias { end, port } => unalias(rule, bare, *end, *port),
        Action::Unfunnel { .. } => Err(unguarded(rule, written)),
        Action::Unalias { end, ports } => Ok(alias(bare, *end, ports).map(|alias| (alias.clone(), alias))),
        other => {
            Err(Diagnostic::error(format!("`{other}` cannot be mirrored"), rule.span, "nothing undoes it"))
        }
    }
}

/// A rule that restores, and the first of those that it restores from.
type Group<'a> = (&'a Rule, Rule);

/// Rules that restore from the same packets are one, with the ports of all. Each rule, what it sends, and the group
/// that restores it.
fn grouped<'a>(sent: Vec<(&'a Rule, Rule, Rule)>) -> (Vec<Group<'a>>, Vec<(&'a Rule, Rule, usize)>) {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let members = sent.into_iter().map(|(rule, arrives, restores)| {
        let known =
            |(_, known): &Group<'_>| conflict::same_packets(known, &restores) && are_kin(known, &restores);
        let group = groups.iter().position(known).unwrap_or(groups.len());
        match groups.get_mut(group) {
            Some((_, known)) => add(known, &restores),
            None => groups.push((rule, restores)),
        }
        (rule, arrives, group)
    });
    let members = members.collect();
    (groups, members)
}

/// What is wrong if a rule before the one that is to restore takes what arrives.
fn first_of(groups: &[Group<'_>], own: usize, rule: &Rule, arrives: &Rule) -> Option<Diagnostic> {
    let (_, mine) = &groups[own];
    let mut wrong = groups[..own].iter().filter(|(_, other)| {
        // Where kin meet, their ports are those of both.
        !are_kin(other, mine) && other.meets(arrives)
    });
    wrong.next().map(|(other, _)| conflict::same_on_arrival(other, rule))
}

/// Rules that restore from the same port or pop the same header, of packets that could be each other's, all have
/// the ports of all: the first of them takes every packet.
fn join(groups: &mut [Group<'_>]) {
    let all: Vec<Rule> = groups.iter().map(|(_, restores)| restores.clone()).collect();
    for (_, restores) in groups {
        for other in &all {
            if other.meets(restores) {
                add(restores, other);
            }
        }
    }
}

/// Whether two rules that restore do the same, but for the ports that they restore and whether they count.
fn are_kin(a: &Rule, b: &Rule) -> bool {
    let same_action = match (&a.action, &b.action) {
        (Action::Unfunnel { inner: a, .. }, Action::Unfunnel { inner: b, .. }) => a == b,
        (Action::Unalias { end: a, .. }, Action::Unalias { end: b, .. }) => a == b,
        (a, b) => a == b,
    };
    let action = &a.action;
    same_action
        && Effect { action, counter: false, ..a.effect() } == Effect { action, counter: false, ..b.effect() }
}

/// Lets `to` restore what `from` does, too, if they are kin.
fn add(to: &mut Rule, from: &Rule) {
    if !are_kin(to, from) {
        return;
    }
    to.counter |= from.counter;
    match (&mut to.action, &from.action) {
        (Action::Unfunnel { guard, .. }, Action::Unfunnel { guard: more, .. }) => {
            guard.sport |= &more.sport;
            guard.dport |= &more.dport;
        }
        (Action::Unalias { ports, .. }, Action::Unalias { ports: more, .. }) => *ports |= more,
        _ => {}
    }
}

/// What an aliased packet arrives as, and the rule that restores it.
fn unalias(rule: &Rule, bare: &Rule, end: End, port: u16) -> Result<Option<(Rule, Rule)>, Diagnostic> {
    let hidden = &rule.ports(end) - &only(port);
    let hidden = &hidden - &only(0); // an urgent pointer of 0 means that nothing is hidden
    if hidden.is_empty() {
        return Ok(None);
    }
    if hidden.iter().nth(MOST_LISTED).is_some() {
        return Err(Diagnostic::error(
            "which ports does this hide?",
            rule.span,
            format!("the far end needs a list of them, and this matches too many by {end}"),
        )
        .help(format!("match the ports by `{end}`: what is not on the list stays out of reach")));
    }
    let arrives = tcp(bare).with_ports(end, &only(port));
    // `unalias` goes by the port that was written alone.
    let restores = arrives.clone().with(|_, matches| matches.without(Field::of(end.other())));
    let action = Action::Unalias { end, ports: hidden };
    Ok(Some((Rule { action: action.clone(), ..arrives }, Rule { action, ..restores })))
}

/// The rule that hides what this one restores.
fn alias(rule: &Rule, end: End, ports: &Ports) -> Option<Rule> {
    let port = rule.ports(end).first()?;
    let hidden = ports - &only(port);
    Some(Rule { action: Action::Alias { end, port }, ..tcp(rule).with_ports(end, &hidden) })
}

fn tcp(rule: &Rule) -> Rule {
    Rule { proto: Proto::Tcp, ..rule.clone() }
}

fn only(port: u16) -> Ports {
    Ports::from_iter([port])
}

fn unguarded(rule: &Rule, written: Role) -> Diagnostic {
    let instead = if written.is_client() { "pod-ingress" } else { "client-ingress" };
    Diagnostic::error("what did this funnel carry?", rule.span, "lets packets in, whatever is sent").help(format!(
        "mirror the rules that funnel instead; of these, only `--to {instead}` can be had, since it need not know"
    ))
}
