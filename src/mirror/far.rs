//! The far end of the way: what undoes there what was done here, and the reverse.
//!
//! `funnel` becomes `unfunnel` and `alias` becomes `unalias`; back again only where the rules say which
//! ports are hidden. Refuses what would arrive in a way that two rules claim.

use range_set_blaze::RangeSetBlaze;

use super::{Mirrored, Role, conflict, without_addresses};
use crate::diag::Diagnostic;
use crate::ir::{Action, End, Funnel, Guard, Proto, Rule};

/// Ports that one `unalias` may list: who hides more than this has not named any.
const MOST_LISTED: usize = 1000;

/// The rules for the far end of the way. `written`: where the user's rules are; `keep`: with addresses.
pub(super) fn invert(from: &Mirrored, written: Role, keep: bool) -> Result<Mirrored, Vec<Diagnostic>> {
    let mut faults = Vec::new();
    let mut far = Mirrored { rules: Vec::new(), notes: from.notes.clone() };
    // What each rule sends, and the rules that restore it, with the rule that both come from.
    let mut sent: Vec<(&Rule, Rule, Rule)> = Vec::new();
    for rule in &from.rules {
        let bare = if keep { rule.clone() } else { without_addresses(rule) };
        match &rule.action {
            Action::Accept => far.note(rule, "an exception of the other end, nothing to undo"),
            Action::Drop => far.note(rule, "dropped there, never sent"),
            Action::Funnel(Funnel { outer, sport, dport, .. }) => {
                let arrives = Rule {
                    proto: *outer,
                    sport: only(*sport),
                    dport: only(*dport),
                    action: Action::Unfunnel { inner: rule.proto, guard: Guard::default() },
                    ..bare
                };
                sent.push((rule, arrives.clone(), arrives));
            }
            Action::Alias { end, port } => match unalias(rule, &bare, *end, *port) {
                Ok(Some((arrives, restores))) => sent.push((rule, arrives, restores)),
                Ok(None) => far.note(rule, "renames nothing"),
                Err(fault) => faults.push(fault),
            },
            Action::Unfunnel { .. } => faults.push(unguarded(rule, written)),
            Action::Unalias { end, ports } => {
                if let Some(alias) = alias(&bare, *end, ports) {
                    sent.push((rule, alias.clone(), alias));
                }
            }
        }
    }
    join_lists(&mut sent);
    // The rules that are kept, by their place in `sent`.
    let mut kept: Vec<usize> = Vec::new();
    for (index, (rule, arrives, restores)) in sent.iter().enumerate() {
        if let Some(known) = kept.iter().find(|known| conflict::same(&sent[**known].2, restores)) {
            // Restored by the earlier one, unless a third stands in front of it.
            faults.extend(first_of(&kept, *known, &sent, rule, arrives));
            continue;
        }
        faults.extend(first_of(&kept, index, &sent, rule, arrives));
        kept.push(index);
        far.push(restores.clone());
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(far)
}

/// What is wrong if a rule in front of the one at `own` takes what arrives.
fn first_of(
    kept: &[usize],
    own: usize,
    sent: &[(&Rule, Rule, Rule)],
    rule: &Rule,
    arrives: &Rule,
) -> Option<Diagnostic> {
    let (_, _, mine) = &sent[own];
    let earlier = kept.iter().take_while(|index| **index < own).map(|index| &sent[*index]);
    let mut wrong =
        earlier.filter(|(_, _, other)| other.action != mine.action && conflict::meet(other, arrives));
    wrong.next().map(|(other, _, _)| conflict::same_on_arrival(other, rule))
}

/// Rules that restore from the same port, of packets that could be each other's, all have the ports of all:
/// the first of them takes every packet.
fn join_lists(sent: &mut [(&Rule, Rule, Rule)]) {
    let all: Vec<Rule> = sent.iter().map(|(_, _, restores)| restores.clone()).collect();
    for (_, _, restores) in sent.iter_mut() {
        let Action::Unalias { end, .. } = restores.action else { continue };
        let mut joined = RangeSetBlaze::new();
        for other in &all {
            match &other.action {
                Action::Unalias { end: same, ports } if *same == end && conflict::meet(other, restores) => {
                    joined |= ports;
                }
                _ => {}
            }
        }
        restores.action = Action::Unalias { end, ports: joined };
    }
}

/// What an aliased packet arrives as, and the rule that restores it.
fn unalias(rule: &Rule, bare: &Rule, end: End, port: u16) -> Result<Option<(Rule, Rule)>, Diagnostic> {
    let matched = match end {
        End::Sport => &rule.sport,
        End::Dport => &rule.dport,
    };
    let hidden = matched - &only(port);
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
    let arrives = with_port(bare, end, only(port));
    // `unalias` goes by the port that was written alone.
    let other = match end {
        End::Sport => End::Dport,
        End::Dport => End::Sport,
    };
    let restores = with_port(&arrives, other, RangeSetBlaze::universe());
    let action = Action::Unalias { end, ports: hidden };
    Ok(Some((Rule { action: action.clone(), ..arrives }, Rule { action, ..restores })))
}

/// The rule that hides what this one restores.
fn alias(rule: &Rule, end: End, ports: &RangeSetBlaze<u16>) -> Option<Rule> {
    let matched = match end {
        End::Sport => &rule.sport,
        End::Dport => &rule.dport,
    };
    let port = matched.first()?;
    let hidden = ports - &only(port);
    Some(Rule { action: Action::Alias { end, port }, ..with_port(rule, end, hidden) })
}

fn with_port(rule: &Rule, end: End, ports: RangeSetBlaze<u16>) -> Rule {
    let mut rule = Rule { proto: Proto::Tcp, ..rule.clone() };
    match end {
        End::Sport => rule.sport = ports,
        End::Dport => rule.dport = ports,
    }
    rule
}

fn only(port: u16) -> RangeSetBlaze<u16> {
    RangeSetBlaze::from_iter([port])
}

fn unguarded(rule: &Rule, written: Role) -> Diagnostic {
    let instead = if written.is_client() { "pod-ingress" } else { "client-ingress" };
    Diagnostic::error("what did this funnel carry?", rule.span, "does not say which ports are inside").help(format!(
        "mirror the rules that funnel instead; of these, only `--to {instead}` can be had, since it need not know"
    ))
}
