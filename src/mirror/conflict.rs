//! Pairs of rules that could be told apart where they were written, and cannot be where they are mirrored to.
//!
//! Takes rules; gives yes or no, and diagnostics that name both.

use crate::diag::Diagnostic;
use crate::field::Field;
use crate::ir::{Action, Effect, Rule};

/// Whether they are one and the same, wherever they come from.
pub(super) fn same(a: &Rule, b: &Rule) -> bool {
    same_effect(a, b) && same_packets(a, b)
}

/// Whether they do the same to a packet. Which of them counts it is no matter.
pub(super) fn same_effect(a: &Rule, b: &Rule) -> bool {
    Effect { counter: false, ..a.effect() } == Effect { counter: false, ..b.effect() }
}

/// Whether they match the same packets.
pub(super) fn same_packets(a: &Rule, b: &Rule) -> bool {
    a.proto == b.proto && a.matches == b.matches
}

/// Two rules that differ in their addresses only, where addresses are not known.
pub(super) fn same_at_other_end(earlier: &Rule, rule: &Rule) -> Diagnostic {
    Diagnostic::error(
        "without addresses, the other end cannot tell these two apart",
        rule.span,
        "NAT may change the addresses",
    )
    .with(earlier.span, "takes its packets first")
    .help(
        "say `--no-nat` if nothing changes addresses on the way; or mirror the rules of one Service at a time",
    )
}

/// Two rules that differ in a field that says nothing at the other end.
pub(super) fn same_without(field: Field, earlier: &Rule, rule: &Rule) -> Diagnostic {
    Diagnostic::error(
        format!("without `{field}`, the other end cannot tell these two apart"),
        rule.span,
        format!("`{field}` says nothing about packets at other places"),
    )
    .with(earlier.span, "takes its packets first")
    .help("let the two differ in ports or protocol, or mirror them one at a time")
}

/// Two rules whose packets arrive alike.
pub(super) fn same_on_arrival(earlier: &Rule, rule: &Rule) -> Diagnostic {
    Diagnostic::error(
        "the far end cannot tell what these two have sent apart",
        rule.span,
        format!("arrives as {}", arrival(rule)),
    )
    .with(earlier.span, format!("arrives as {}", arrival(earlier)))
    .help(match (&earlier.action, &rule.action) {
        (Action::Funnel(_), Action::Funnel(_)) => {
            "give one of them another source port: that is how the far end tells what is inside".to_owned()
        }
        (Action::Funnel(funnel), _) | (_, Action::Funnel(funnel)) => format!(
            "keep the funnel's ports out of the other rule, by `sport != {}` or `dport != {}`, or funnel through others",
            funnel.sport, funnel.dport
        ),
        (earlier, action) if earlier == action => "set the same mark in both, or none".to_owned(),
        _ => "keep the port that one of them writes out of the other's matches".to_owned(),
    })
}

fn arrival(rule: &Rule) -> String {
    match &rule.action {
        Action::Funnel(funnel) => {
            format!("{} from port {} to port {}", funnel.outer, funnel.sport, funnel.dport)
        }
        Action::Alias { end, port } => format!("tcp with {end} {port}"),
        Action::Unfunnel { inner, .. } => format!("{inner} with ports of its own"),
        _ => "what it was".to_owned(),
    }
}
