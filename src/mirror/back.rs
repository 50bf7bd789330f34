//! The way back: the same hook at the other end, where packets have source and destination swapped.
//!
//! Takes rules, gives rules of the same kind. Drops addresses where NAT makes them unknown, but never
//! where that would change which rule a packet meets.

use super::{Mirrored, conflict, elsewhere, local_fields, names_addresses};
use crate::diag::Diagnostic;
use crate::ir::{Action, Rule};

/// The rules for the answers. `keep`: with addresses.
pub(super) fn reverse(from: &Mirrored, keep: bool) -> Result<Mirrored, Vec<Diagnostic>> {
    let mut faults = Vec::new();
    let mut back = Mirrored::default();
    // Rules of `from` that are mirrored, in the order of `back`.
    let mut kept: Vec<&Rule> = Vec::new();
    for rule in &from.rules {
        match &rule.action {
            Action::Drop => {
                back.note(rule, "dropped there, never answered");
                continue;
            }
            Action::Accept if !local_fields(rule).is_empty() => {
                faults.push(local_exception(rule));
                continue;
            }
            Action::Accept if !keep && names_addresses(rule) => {
                faults.push(address_of_exception(rule));
                continue;
            }
            _ => {}
        }
        let there = swap(&elsewhere(rule, keep));
        for (earlier, mirrored) in kept.iter().zip(&back.rules) {
            let local = local_fields(earlier);
            let widened = !local.is_empty() || !keep && names_addresses(earlier);
            if widened && mirrored.meets(&there) && !conflict::same_effect(mirrored, &there) {
                faults.push(match local.first() {
                    Some(field) => conflict::same_without(*field, earlier, rule),
                    None => conflict::same_at_other_end(earlier, rule),
                });
                break;
            }
        }
        let known = back.rules.iter().any(|known| conflict::same(known, &there));
        if !known {
            kept.push(rule);
            back.push(there);
        }
    }
    if faults.is_empty() { Ok(back) } else { Err(faults) }
}

fn swap(rule: &Rule) -> Rule {
    Rule { action: rule.action.reversed(), ..rule.clone().with(|_, matches| matches.reversed()) }
}

fn address_of_exception(rule: &Rule) -> Diagnostic {
    Diagnostic::error(
        "an exception by address cannot be mirrored",
        rule.span,
        "NAT may change the addresses on the way to the other end",
    )
    .help("say `--no-nat` if nothing does; or leave the addresses out of `accept`, and put them into the other rules")
}

fn local_exception(rule: &Rule) -> Diagnostic {
    let field = local_fields(rule).first().map_or("", |field| field.keyword());
    Diagnostic::error(
        format!("an exception by `{field}` cannot be mirrored"),
        rule.span,
        format!("`{field}` says nothing about packets at other places"),
    )
    .help(format!("leave `{field}` out of `accept`, and match on it in the other rules"))
}
