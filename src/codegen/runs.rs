//! A test's spans as runs of the values of one word.
//!
//! Takes spans of a field's values, gives runs for [`search`](super::search). Emits nothing.

use crate::diagram::{NodeId, Span};

/// Where a run of a word's values leads.
#[derive(Debug, Clone)]
pub(super) enum Towards {
    Node(NodeId),
    /// The next words decide: what is left of the spans.
    Next(Vec<Span>),
}

/// The spans of a field that is one word.
pub(super) fn whole(spans: &[Span]) -> Vec<(u32, Towards)> {
    spans.iter().map(|span| (low(span.last), Towards::Node(span.then))).collect()
}

/// The spans by the word that is above `shift` other bits.
pub(super) fn by_word(spans: &[Span], shift: usize) -> Vec<(u32, Towards)> {
    let rest = (1_u128 << shift) - 1;
    let mut runs: Vec<(u32, Towards)> = Vec::new();
    for span in spans {
        let (first, last) = (span.first >> shift, span.last >> shift);
        let (from, to) = (span.first & rest, span.last & rest);
        let mut part = |word: u128, first: u128, last: u128| {
            let span = Span { first, last, then: span.then };
            match runs.last_mut() {
                Some((known, Towards::Next(spans))) if *known == low(word) => spans.push(span),
                _ => runs.push((low(word), Towards::Next(vec![span]))),
            }
        };
        if first == last && (from, to) != (0, rest) {
            part(first, from, to);
            continue;
        }
        if from != 0 {
            part(first, from, rest);
        }
        let inside = first + u128::from(from != 0)..last + u128::from(to == rest);
        if !inside.is_empty() {
            runs.push((low(inside.end - 1), Towards::Node(span.then)));
        }
        if to != rest {
            runs.push((low(last), Towards::Next(vec![Span { first: 0, last: to, then: span.then }])));
        }
    }
    runs
}

pub(super) fn low(value: u128) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
