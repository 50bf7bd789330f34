//! Which actions may stand in one rule.
//!
//! One of them says where the packet goes: `accept`, `drop`, `funnel`, `unfunnel`, `alias` or `unalias`.
//! `mark` and `counter` may stand beside it, or alone, which is then `accept`. A rule's actions go in, what is
//! wrong with them comes out.

use crate::diag::Diagnostic;
use crate::ir;
use crate::syntax::ast::{Action, ActionKind, Guard, Rule, Side};
use crate::syntax::repeated;

use super::set;

/// The action that says where the packet goes; one of the others, if there is none.
pub(super) fn main(rule: &Rule) -> Option<&Action> {
    rule.actions.iter().find(|action| !is_extra(action)).or(rule.actions.first())
}

fn is_extra(action: &Action) -> bool {
    matches!(action.kind, ActionKind::Mark { .. } | ActionKind::Counter)
}

/// What `mark set` says.
pub(super) fn mark(rule: &Rule) -> Option<u32> {
    rule.actions.iter().find_map(|action| match action.kind {
        ActionKind::Mark { value } => Some(value),
        _ => None,
    })
}

/// Whether it says `counter`.
pub(super) fn counter(rule: &Rule) -> bool {
    rule.actions.iter().any(|action| action.kind == ActionKind::Counter)
}

/// Actions that do not go together.
pub(super) fn combination(rule: &Rule, faults: &mut Vec<Diagnostic>) {
    for (at, again) in rule.actions.iter().enumerate().filter(|(_, action)| is_extra(action)) {
        let word = again.kind.keyword();
        let first = rule.actions.iter().take(at).find(|action| action.kind.keyword() == word);
        faults.extend(first.map(|first| repeated(word, first.span, again.span)));
    }
    let mut mains = rule.actions.iter().filter(|action| !is_extra(action));
    let Some(first) = mains.next() else { return };
    for extra in mains {
        faults.push(
            Diagnostic::error("a rule has one action", extra.span, "would never run")
                .with(first.span, "ends the processing")
                .help(format!("keep `{}` or `{}`", first.kind.keyword(), extra.kind.keyword())),
        );
    }
    if first.kind == ActionKind::Drop
        && let Some(mark) = rule.actions.iter().find(|action| matches!(action.kind, ActionKind::Mark { .. }))
    {
        faults.push(
            Diagnostic::error("`mark` and `drop` in one rule", mark.span, "nobody will see the mark")
                .with(first.span, "ends the packet")
                .help("keep `drop`, or write `accept` instead of it"),
        );
    }
}

/// The guards of `unfunnel` as sets.
pub(super) fn guard(guards: &[Guard], faults: &mut Vec<Diagnostic>) -> ir::Guard {
    let mut result = ir::Guard::default();
    for Guard { side, negated, set, .. } in guards {
        faults.extend(set::overlaps(set));
        let ports = set::ports(set, *negated);
        match side {
            Side::Source => result.sport = ports,
            Side::Destination => result.dport = ports,
        }
    }
    result
}
