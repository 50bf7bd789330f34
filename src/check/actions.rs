//! Which actions may stand in one rule.
//!
//! One of them says where the packet goes: `accept`, `drop`, `funnel`, `unfunnel`, `alias`, `unalias`, `bypass` or `unbypass`.
//! `counter`, `dnat`, `snat` and `mark set` may stand beside it, or alone, which is then `accept`. A rule's actions go in, what is
//! wrong with them comes out.

use crate::diag::Diagnostic;
use crate::ir;
use crate::settings::Settings;
use crate::syntax::ast::{Action, ActionKind, Ast, Guard, Rule, Side};
use crate::syntax::repeated;

use super::{Matches, alias, bypass, proto, set};

/// The action that says where the packet goes; one of the others, if there is none.
pub(super) fn main(rule: &Rule) -> Option<&Action> {
    rule.actions.iter().find(|action| !action.kind.stands_beside()).or(rule.actions.first())
}

/// What that action means; nothing if it makes no sense, or if there is none.
pub(super) fn meaning(
    rule: &Rule,
    matches: &Matches,
    (ast, table): (&Ast, &bypass::Table),
    faults: &mut Vec<Diagnostic>,
) -> Option<ir::Action> {
    Some(match &main(rule)?.kind {
        // Only what may stand beside an action: the packet goes on.
        ActionKind::Accept | ActionKind::Set { .. } | ActionKind::Counter | ActionKind::Nat { .. } => {
            ir::Action::Accept
        }
        ActionKind::Drop => ir::Action::Drop,
        ActionKind::Funnel { outer, sport, dport, flags } => ir::Action::Funnel(ir::Funnel {
            outer: proto(*outer),
            sport: *sport,
            dport: *dport,
            flags: flags.map_or(ir::Funnel::SYN, |flags| flags.bits),
        }),
        ActionKind::Unfunnel { inner, guards } => {
            ir::Action::Unfunnel { inner: proto(*inner), guard: guard(guards, faults) }
        }
        ActionKind::Alias { side, port } => alias::alias(rule, matches, *side, *port, faults)?,
        ActionKind::Unalias { ports } => {
            faults.extend(set::overlaps(ports));
            alias::unalias(rule, matches, set::ports(ports, false), faults)?
        }
        ActionKind::Bypass { .. } | ActionKind::Unbypass { .. } => {
            bypass::action(rule, matches, ast, table, faults)?
        }
    })
}

/// What `mark set` and the like say.
pub(super) fn settings(rule: &Rule) -> Settings {
    let mut settings = Settings::default();
    for action in &rule.actions {
        if let ActionKind::Set { field, value } = action.kind {
            settings.set(field, value);
        }
    }
    settings
}

/// Whether it says `counter`.
pub(super) fn counter(rule: &Rule) -> bool {
    rule.actions.iter().any(|action| action.kind == ActionKind::Counter)
}

/// Actions that do not go together.
pub(super) fn combination(rule: &Rule, faults: &mut Vec<Diagnostic>) {
    for (at, again) in rule.actions.iter().enumerate().filter(|(_, action)| action.kind.stands_beside()) {
        let word = again.kind.keyword();
        let first = rule.actions.iter().take(at).find(|action| action.kind.keyword() == word);
        faults.extend(first.map(|first| repeated(word, first.span, again.span)));
    }
    let mut mains = rule.actions.iter().filter(|action| !action.kind.stands_beside());
    let Some(first) = mains.next() else { return };
    for extra in mains {
        if extra.kind.keyword() == first.kind.keyword() {
            faults.push(repeated(first.kind.keyword(), first.span, extra.span));
            continue;
        }
        faults.push(
            Diagnostic::error("a rule has one action", extra.span, "would never run")
                .with(first.span, "ends the processing")
                .help(format!("keep `{}` or `{}`", first.kind.keyword(), extra.kind.keyword())),
        );
    }
    faults.extend(rule.actions.iter().find_map(|action| against_nat(first, action)));
    if first.kind == ActionKind::Drop
        && let Some(set) = rule.actions.iter().find(|action| matches!(action.kind, ActionKind::Set { .. }))
    {
        let word = set.kind.keyword();
        let label = format!("nobody will see the {word}");
        faults.push(
            Diagnostic::error(format!("`{word}` and `drop` in one rule"), set.span, label)
                .with(first.span, "ends the packet")
                .help("keep `drop`, or write `accept` instead of it"),
        );
    }
}

/// Why an action cannot have `dnat` or `snat` beside it.
fn against_nat(main: &Action, nat: &Action) -> Option<Diagnostic> {
    let ActionKind::Nat { port, .. } = nat.kind else { return None };
    let (word, other) = (nat.kind.keyword(), main.kind.keyword());
    let error = |label: &str, span| {
        Diagnostic::error(format!("`{word}` and `{other}` in one rule"), nat.span, label)
            .with(main.span, span)
    };
    match main.kind {
        ActionKind::Drop => Some(
            error("there is no packet to send elsewhere", "ends the packet")
                .help(format!("keep `{other}` or `{word}`")),
        ),
        ActionKind::Alias { .. } | ActionKind::Unalias { .. } => Some(
            error("not together in this version", "changes a port")
                .help("give the packet its address at another hook"),
        ),
        ref kind if bypass::is_direct(kind) => Some(
            error("not together", "sends the packet on as it is")
                .help(format!("keep `{other}`, or give the packet its address where it comes from its pod")),
        ),
        ActionKind::Bypass { .. } | ActionKind::Unbypass { .. } => Some(
            error("not together", "changes the addresses")
                .help(format!("keep `{other}`: it leaves the pods' addresses as they are, at the far end")),
        ),
        ActionKind::Funnel { .. } if port.is_some() => Some(
            error("which port: inside or outside?", "writes the ports outside")
                .help(format!("leave the port out: `{word}` with `funnel` takes an address only")),
        ),
        _ => None,
    }
}

/// What `dnat` and `snat` say.
pub(super) fn nat(rule: &Rule) -> ir::Nat {
    let mut nat = ir::Nat::default();
    for action in &rule.actions {
        let ActionKind::Nat { side, address, port } = &action.kind else { continue };
        *side.of(&mut nat.saddr, &mut nat.daddr) = Some(address.first);
        *side.of(&mut nat.sport, &mut nat.dport) = *port;
    }
    nat
}

/// The guards of `unfunnel` as sets.
fn guard(guards: &[Guard], faults: &mut Vec<Diagnostic>) -> ir::Guard {
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
