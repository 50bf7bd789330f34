//! Sets as written to sets as numbers, and what is odd about how they were written.
//!
//! Overlaps are merged, with a warning. Never refuses a set: the parser has seen to its values.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::diag::Diagnostic;
use crate::field::{Field, Notation};
use crate::matches::{self, Ports, Set};
use crate::protocol::Family;
use crate::syntax::ast::{self, Item, Value};

/// Overlaps reported of one set. More reports of one mistake do not help.
const MOST_TOLD: usize = 20;

/// Values of a field by family, IPv4 first. `None`: no packet of that family has one of them.
pub(super) type ByFamily = [Option<Arc<Set>>; 2];

/// The ports of a set, or all others.
pub(super) fn ports(set: &ast::Set, negated: bool) -> Ports {
    let ports = matches::ports(Some(&numbers(set)));
    if negated { !ports } else { ports }
}

/// The values of a set, or all others.
///
/// Of addresses, the others are those of the versions of IP that are in the set: `!= 10.0.0.1` is about IPv4.
pub(super) fn values(field: Field, set: &ast::Set, negated: bool) -> ByFamily {
    Family::ALL.map(|family| {
        let listed = match field.row().notation {
            Notation::Address => addresses(set, family),
            Notation::Number(_) | Notation::Flags => numbers(set),
        };
        if !field.is_in(family) || listed.is_empty() {
            return None;
        }
        let any = matches::universe(field, family);
        let left = if negated { any - listed } else { any & listed };
        (!left.is_empty()).then(|| Arc::new(left))
    })
}

fn numbers(set: &ast::Set) -> Set {
    let range = |item: &Item| match (item.first, item.last) {
        (Value::Number(first), Value::Number(last)) => Some(first.into()..=last.into()),
        _ => None,
    };
    set.items.iter().filter_map(range).collect()
}

fn addresses(set: &ast::Set, family: Family) -> Set {
    let range = |item: &Item| match (item.first, item.last) {
        (Value::Address(IpAddr::V4(first)), Value::Address(IpAddr::V4(last))) if family == Family::V4 => {
            Some(first.to_bits().into()..=last.to_bits().into())
        }
        (Value::Address(IpAddr::V6(first)), Value::Address(IpAddr::V6(last))) if family == Family::V6 => {
            Some(first.to_bits()..=last.to_bits())
        }
        _ => None,
    };
    set.items.iter().filter_map(range).collect()
}

/// Elements that others hold already, in part or wholly.
pub(super) fn overlaps(set: &ast::Set) -> Vec<Diagnostic> {
    let mut sorted: Vec<&Item> = set.items.iter().collect();
    sorted.sort_by_key(|item| (item.first, std::cmp::Reverse(item.last)));
    let mut found = Vec::new();
    let mut sorted = sorted.into_iter();
    let Some(mut widest) = sorted.next() else { return found };
    for item in sorted {
        // What a name stands for is looked at where it is defined.
        if item.first <= widest.last {
            if item.span != widest.span && found.len() < MOST_TOLD {
                found.push(overlap(widest, item));
            }
            if item.last <= widest.last {
                continue;
            }
        }
        widest = item;
    }
    found
}

/// `a` begins no later than `b`, and reaches into it.
fn overlap(a: &Item, b: &Item) -> Diagnostic {
    let (earlier, later) = if a.span.start < b.span.start { (a, b) } else { (b, a) };
    let inside = |inner: &Item, outer: &Item| outer.first <= inner.first && inner.last <= outer.last;
    let shown = |item: &Item| shown(item.first, item.last);
    if inside(later, earlier) || inside(earlier, later) {
        let (inner, outer) = if inside(later, earlier) { (later, earlier) } else { (earlier, later) };
        let message = match inside(outer, inner) {
            true => format!("`{}` is repeated", shown(inner)),
            false => format!("`{}` is in the set already", shown(inner)),
        };
        return Diagnostic::warning(message, inner.span, "says nothing new")
            .with(outer.span, "holds it")
            .help(format!("remove `{}`", shown(inner)));
    }
    let both = self::shown(a.first.min(b.first), a.last.max(b.last));
    Diagnostic::warning("two elements of the set overlap", later.span, "this one")
        .with(earlier.span, "and this one")
        .help(format!("write `{both}` instead of both"))
}

/// Values as one writes them.
fn shown(first: Value, last: Value) -> String {
    match (first, last) {
        (Value::Number(first), Value::Number(last)) => range(first, last),
        (Value::Address(first), Value::Address(last)) => addresses_shown(first, last),
        // A range has values of one kind.
        _ => String::new(),
    }
}

fn addresses_shown(first: IpAddr, last: IpAddr) -> String {
    // On top of 128 bits, so that the leading zeros are the prefix's length for both.
    let (from, to) = match (first, last) {
        (IpAddr::V6(from), IpAddr::V6(to)) => (from.to_bits(), to.to_bits()),
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            (u128::from(from.to_bits()) << 96, u128::from(to.to_bits()) << 96 | u128::MAX >> 32)
        }
        _ => return range(first, last),
    };
    let host_bits = from ^ to;
    let is_prefix = host_bits.trailing_ones() == u128::BITS - host_bits.leading_zeros();
    if first != last && is_prefix && from & host_bits == 0 {
        return format!("{first}/{}", host_bits.leading_zeros());
    }
    range(first, last)
}

pub(super) fn range<T: fmt::Display + PartialEq>(first: T, last: T) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}
