//! Sets as written to sets as numbers, and what is odd about how they were written.
//!
//! Overlaps are merged, with a warning. Never refuses a set: the parser has seen to its values.

use std::fmt;
use std::net::IpAddr;

use range_set_blaze::RangeSetBlaze;

use crate::diag::Diagnostic;
use crate::syntax::ast::{Item, Set};

/// Overlaps in one set: who has made one mistake a thousand times need not be told as often.
const MOST_TOLD: usize = 20;

/// The ports of a set, or all others.
pub(super) fn ports(set: &Set<u16>, negated: bool) -> RangeSetBlaze<u16> {
    let ports = RangeSetBlaze::from_iter(set.items.iter().map(|item| item.first..=item.last));
    if negated { !ports } else { ports }
}

/// The addresses of a set, or all others.
pub(super) fn addresses(set: &Set<IpAddr>, negated: bool) -> RangeSetBlaze<u32> {
    let ranges = set.items.iter().filter_map(|item| match (item.first, item.last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Some(first.to_bits()..=last.to_bits()),
        _ => None,
    });
    let addresses = RangeSetBlaze::from_iter(ranges);
    if negated { !addresses } else { addresses }
}

/// Elements that others hold already, in part or wholly.
pub(super) fn overlaps<T: Copy + Ord + Shown>(set: &Set<T>) -> Vec<Diagnostic> {
    let mut sorted: Vec<&Item<T>> = set.items.iter().collect();
    sorted.sort_by_key(|item| (item.first, std::cmp::Reverse(item.last)));
    let mut found = Vec::new();
    let mut sorted = sorted.into_iter();
    let Some(mut widest) = sorted.next() else { return found };
    for item in sorted {
        if item.first <= widest.last {
            if found.len() < MOST_TOLD {
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
fn overlap<T: Copy + Ord + Shown>(a: &Item<T>, b: &Item<T>) -> Diagnostic {
    let (earlier, later) = if a.span.start < b.span.start { (a, b) } else { (b, a) };
    let inside = |inner: &Item<T>, outer: &Item<T>| outer.first <= inner.first && inner.last <= outer.last;
    let shown = |item: &Item<T>| T::shown(item.first, item.last);
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
    let both = T::shown(a.first.min(b.first), a.last.max(b.last));
    Diagnostic::warning("two elements of the set overlap", later.span, "this one")
        .with(earlier.span, "and this one")
        .help(format!("write `{both}` instead of both"))
}

/// Values as one writes them.
pub(super) trait Shown {
    fn shown(first: Self, last: Self) -> String;
}

impl Shown for u16 {
    fn shown(first: u16, last: u16) -> String {
        range(first, last)
    }
}

impl Shown for IpAddr {
    fn shown(first: IpAddr, last: IpAddr) -> String {
        if let (IpAddr::V4(from), IpAddr::V4(to)) = (first, last) {
            let host_bits = from.to_bits() ^ to.to_bits();
            let is_prefix = host_bits.trailing_ones() == u32::BITS - host_bits.leading_zeros();
            if first != last && is_prefix && from.to_bits() & host_bits == 0 {
                return format!("{first}/{}", host_bits.leading_zeros());
            }
        }
        range(first, last)
    }
}

fn range<T: fmt::Display + PartialEq>(first: T, last: T) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}
